"""A config that cannot be run ends `snakemake` at once: reasons, no traceback, and nothing on disk is touched.

What is said of every other mistake is tested without Snakemake in tests/unit/test_config.py.
"""

import sys
from pathlib import Path

import pytest

from tests.workflow.tree import copied, everything_below, replace, run, snakemake

CASES = {
    "an unknown key": (
        "config/arms.yaml",
        ("peak: <n>,", "peek: 0.9,"),
        "config/arms.yaml: chord-mu.recipe.mu.peek is not a key here, expected `peak` (nearest)",
    ),
    "a value out of range": (
        "config/arms.yaml",
        ("value: 0.02", "value: 1.02"),
        "config/arms.yaml: mu-0.02.recipe.mu.value is 1.02, expected at most 1",
    ),
    "an arm that is not there": (
        "config/experiments/table1.yaml",
        ("arms: [original, sft-light,", "arms: [original, sft-lite,"),
        "config/experiments/table1.yaml: arms names 'sft-lite', expected `sft-light` (nearest)",
    ),
    "a benchmark that lm-eval could not ask": (
        "config/benchmarks/harder.yaml",
        ("repeats: <n> ", "repeats: 0 "),
        "config/benchmarks/harder.yaml: repeats is 0, expected at least 1",
    ),
    "a key that lm-eval does not know": (
        "config/benchmarks/harder.yaml",
        ("doc_to_text: prompt", "doc_to_txt: prompt"),
        "config/benchmarks/harder.yaml: doc_to_txt is not a key here, expected `doc_to_text` (nearest)",
    ),
    "another study than the chosen one": (
        "config/studies/tools.yaml",
        ("categories: [simple_python,", "categories: [simple_pyton,"),
        "config/studies/tools.yaml: tasks.bfcl.settings.categories names 'simple_pyton', expected",
    ),
    "a budget": (
        "config/studies/demo.yaml",
        ("rl_learning_rate: <n>", "rl_learning_rate: 1000"),
        "config/studies/demo.yaml: budget.rl_learning_rate is 1000, expected at most 1; asked for in config/arms.yaml:",
    ),
    "brackets without end": (
        "config/arms.yaml",
        ("label: SFT-light\n", f"label: {'[' * 3000}{']' * 3000}\n"),
        "config/arms.yaml, line 10, column 41: found more than 32 levels of lists and mappings, expected fewer",
    ),
    "an empty file": ("config/config.yaml", None, "config/config.yaml: found nothing, expected a mapping"),
    "text that is not YAML": (
        "config/config.yaml",
        ("artefacts: [", "artefacts: [["),
        "config/config.yaml, line 5, column 1: found text that is not YAML",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_starts_and_the_reason_is_told(case: str, tmp_path: Path) -> None:
    file, edit, reason = CASES[case]
    tree = copied(tmp_path / "a tree")
    if edit:
        replace(tree / file, *edit)
    else:
        (tree / file).write_text("")
    before = everything_below(tree)
    told = snakemake(tree, "--cores", "1")
    assert told.returncode == 1
    lines = told.stdout.splitlines()
    assert any(line.startswith(reason) for line in lines), told.stdout
    assert "Traceback" not in told.stdout
    assert '  File "' not in told.stdout
    assert all(line.startswith(("config/", "Using workflow specific profile")) for line in lines), told.stdout
    assert everything_below(tree) == before


def test_a_wrong_value_on_the_command_line_is_told_as_such(tmp_path: Path) -> None:
    tree = copied(tmp_path / "a tree")
    told = snakemake(tree, "--dry-run", "--config", "study=dmeo")
    assert told.returncode == 1
    assert (
        told.stdout.splitlines()[-1]
        == '--config: study is "dmeo", expected `demo` (nearest) or one of: demo, math, small, tools'
    )
    told = snakemake(tree, "--dry-run", "--config", "seeds=[1, 1]", "sead=1")
    assert told.stdout.splitlines()[-1].startswith("--config: sead is not a key here, expected `seeds` (nearest)")


TARGETS = {
    "table9": "table9 is not built in study demo: ",
    "tabel1": "tabel1 is no target of study demo, expected `table1` (nearest) or one of: ",
    "claim": "claim is no target of study demo, expected `claims` (nearest) or one of: ",
    "gpro": "gpro is no target of study demo, expected one of: ",
    "results/demo/tabel1.json": "results/demo/tabel1.json is no file that study demo makes, expected"
    " `results/demo/table1.json` (nearest) or another one",
    "results/dmeo/runs/grpo/seed-1/model": "results/dmeo/runs/grpo/seed-1/model is no file that study demo makes,"
    " expected `results/demo/runs/grpo/seed-1/model` (nearest) or another one",
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_that_cannot_be_made_ends_every_command_with_the_same_sentence(target: str, tmp_path: Path) -> None:
    tree = copied(tmp_path / "a tree")
    before = everything_below(tree)
    told = snakemake(tree, "--cores", "1", target)
    assert told.returncode == 1
    (sentence,) = [line for line in told.stdout.splitlines() if not line.startswith("Using ")]
    assert sentence.startswith(TARGETS[target]), told.stdout
    commands = [("why", target)]
    if target == "tabel1":
        commands += [("plan", target), ("resume", "--cores", "1", target)]
    for verb, *arguments in commands:
        told = run(tree, sys.executable, "-m", "chord", verb, *arguments)
        assert told.returncode == 2
        assert told.stdout.partition(": ")[2] == f"{sentence}\n", (verb, told.stdout)
    assert everything_below(tree) == before


def test_what_can_be_made_is_planned_by_any_name_that_snakemake_takes(tmp_path: Path) -> None:
    tree = copied(tmp_path / "a tree")
    targets = ("./results/demo/models/base/model", "all", "everything", "claims", "figure2")
    told = snakemake(tree, "--dry-run", "--quiet", "all", "--", *targets)
    assert told.returncode == 0, told.stdout
    told = snakemake(tree, "--dry-run", "--config", "seeds=[1]", "--", "results/demo/runs/grpo/seed-1/model")
    assert told.returncode == 0, told.stdout


@pytest.mark.parametrize("command", ["why", "plan"])
def test_commands_beside_snakemake_say_the_same_and_touch_nothing(command: str, tmp_path: Path) -> None:
    tree = copied(tmp_path / "a tree")
    replace(tree / "config/benchmarks/harder.yaml", "doc_to_target: answer", "doc_to_target: answr")
    before = everything_below(tree)
    told = run(tree, sys.executable, "-m", "chord", command)
    reason = 'config/benchmarks/harder.yaml: doc_to_target is "answr", expected `answer` (nearest) or one of: answer'
    assert (told.returncode, told.stdout) == (2, f"chord {command}: {reason}\n")
    assert everything_below(tree) == before


def test_why_reads_its_command_line_as_config_is_read(tmp_path: Path) -> None:
    tree = copied(tmp_path / "a tree")
    for given, said in (
        ("seeds=[1:30]", '--config: seeds.0 is "1:30", expected a whole number'),
        (
            "seeds=[!!int x]",
            "--config seeds, line 1, column 2: found 'x' under the tag !!int, expected a value of that kind",
        ),
    ):
        told = run(tree, sys.executable, "-m", "chord", "why", "--config", given)
        assert told.returncode == 2 and told.stdout.startswith(f"chord why: {said}") and told.stdout.count("\n") == 1
