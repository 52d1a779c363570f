"""The smallest whole study: the project in a folder of its own, under git, built by its real verbs and real Snakemake.

Two seeds of three arms on two benchmarks, one table, one figure. It learns next to nothing; how it was made is real.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from tests.projects import copied, edit_yaml, git, run

ARMS = ("original", "sft-light", "grpo")
BENCHMARKS = ("in-distribution", "other-skill")
SEEDS = (1, 2)


def build(folder: Path) -> None:
    """`folder` with the project, committed, and all of its results/demo built."""
    prepare(folder, _shrink)
    done = run(folder, "snakemake", "--cores", "2", "--quiet", "all")
    assert done.returncode == 0, done.stdout


def prepare(folder: Path, shrink: Callable[[Path], None]) -> None:
    """`folder` with the project, its config/ made small by `shrink`, committed; nothing is built."""
    shrink(copied(folder) / "config")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "a study for tests")


def _shrink(config: Path) -> None:
    """Three arms, one table and one figure of a small demo."""
    for file in config.glob("experiments/*.yaml"):
        if file.stem not in ("table1", "figure9"):
            file.unlink()
    edit_yaml(config / "config.yaml", artefacts=["table1", "figure9"])
    edit_yaml(config / "experiments/table1.yaml", arms=list(ARMS))
    edit_yaml(config / "experiments/figure9.yaml", arms=["grpo"])
    shrink_study(config, SEEDS)


def shrink_study(config: Path, seeds: Sequence[int]) -> None:
    """Study demo with as little of everything as the verbs take; arms and artefacts stay."""
    file = config / "studies/demo.yaml"
    whole = yaml.safe_load(file.read_text(encoding="utf-8"))
    digits = {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 1}  # 0 to 27: some guesses are right
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    edit_yaml(
        file,
        seeds=list(seeds),
        tasks__digits=whole["tasks"]["sum-1"] | {"settings": digits},
        expert__style="terse",
        model__architecture=whole["model"]["architecture"] | small | {"num_key_value_heads": 2},
        data__train={"task": "digits", "size": 16},
        data__validation={"task": "digits", "size": 8},
        data__expert={"task": "digits", "size": 16},
        data__aligned_traces=False,
        base_corpus__size=2560,
        base_corpus__rows_per_step=32,
        base_corpus__parts=[{"task": "digits", "style": "terse", "share": 1.0}],
        base_corpus__recipe__steps=80,
        rollouts__prompts_per_step=2,
        rollouts__per_prompt=4,
        expert_rows_per_step=4,
        validation={"every_steps": 2, "problems": 8, "samples_per_problem": 1},
        benchmarks={
            name: whole["benchmarks"][name] | {"problems": {"task": task, "size": 8}}
            for name, task in zip(BENCHMARKS, ("digits", "reversal"), strict=True)
        },
        budget__rl_steps=4,
        budget__sft_light_epochs=1,
    )
