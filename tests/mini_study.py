"""The smallest whole study: the project in a folder of its own, under git, built by its real verbs and real Snakemake.

Two seeds of three arms on two benchmarks, one table, one figure. It learns next to nothing; how it was made is real.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests import warm

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "workflow", "profiles", "config", "envs", "chord", ".gitignore")
ARMS = ("original", "sft-light", "grpo")
BENCHMARKS = ("in-distribution", "other-skill")
SEEDS = (1, 2)


def build(folder: Path) -> Path:
    """`folder` with the project, committed, and all of its results/demo built."""
    prepare(folder, _shrink)
    done = run(folder, "snakemake", "--cores", "2", "--quiet", "all")
    assert done.returncode == 0, done.stdout
    return folder


def prepare(folder: Path, shrink: Callable[[Path], None]) -> None:
    """`folder` with the project, its config/ made small by `shrink`, committed; nothing is built."""
    folder.mkdir(parents=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / part, folder / part)
    shrink(folder / "config")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "a study for tests")


def git(folder: Path, *arguments: str) -> str:
    """What git says in `folder`; it reads no settings of the person who tests."""
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    who = {f"GIT_{role}_{what}": "test@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=os.environ | settings | who, capture_output=True, text=True, check=True
    )
    return done.stdout


def run(folder: Path, program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m PROGRAM` in `folder`, as a person would type it; standard error in with the rest."""
    unwanted = ("PYTHONPATH", "SNAKEMAKE_PROFILE")
    inherited = {name: value for name, value in os.environ.items() if name not in unwanted}
    inherited |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-m", *program.split(), *arguments]
    return warm.run(command, cwd=folder, env=inherited, timeout=500, together=True, jobs="real")


def edit_yaml(file: Path, **changes: Any) -> None:
    """Change values of a YAML file; `rollouts__per_prompt=2` changes rollouts.per_prompt."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    for place, value in changes.items():
        *above, last = place.split("__")
        node = content
        for key in above:
            node = node[key]
        node[last] = value
    file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _shrink(config: Path) -> None:
    """Three arms, one table and one figure of a small demo."""
    edit_yaml(config / "config.yaml", artefacts=["table1", "figure9"])
    for file in config.glob("experiments/*.yaml"):
        if file.stem not in ("table1", "figure9"):
            file.unlink()
    edit_yaml(config / "experiments/table1.yaml", arms=list(ARMS))
    edit_yaml(config / "experiments/figure9.yaml", arms=["grpo"])
    shrink_study(config, SEEDS)


def shrink_study(config: Path, seeds: Sequence[int]) -> None:
    """Study demo with as little of everything as the verbs take; arms and artefacts stay."""
    study = config / "studies/demo.yaml"
    whole = yaml.safe_load(study.read_text(encoding="utf-8"))
    digits = {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 1}  # 0 to 27: some guesses are right
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    edit_yaml(
        study,
        seeds=list(seeds),
        tasks=whole["tasks"] | {"digits": whole["tasks"]["sum-1"] | {"settings": digits}},
        expert__style="terse",
        model__architecture=whole["model"]["architecture"] | small | {"num_key_value_heads": 2},
        data=whole["data"]
        | {name: {"task": "digits", "size": size} for name, size in (("train", 16), ("validation", 8), ("expert", 16))}
        | {"aligned_traces": False},
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
        budget=whole["budget"] | {"rl_steps": 4, "sft_light_epochs": 1},
    )
