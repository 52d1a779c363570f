"""A config that cannot be run ends `snakemake` at once: reasons, no traceback, and nothing on disk is touched.

What is said of every other mistake is tested without Snakemake in tests/unit/test_config.py.
"""

import shutil
from pathlib import Path

import pytest

from tests.projects import copied, replace
from tests.workflow.tree import snakemake, verb

ARMS, CONFIG = "config/arms.yaml", "config/config.yaml"
HARDER, TOOLS = "config/benchmarks/harder.yaml", "config/studies/tools.yaml"
# What, in which file, instead of what, and what is said after the file's name.
CASES = {
    "an unknown key": (
        ARMS, "peak: <n>,", "peek: 0.9,", ": chord-mu.recipe.mu.peek is not a key here, expected `peak` (nearest)"
    ),
    "another study than the chosen one": (
        TOOLS, "categories: [simple_python,", "categories: [simple_pyton,",
        ": tasks.bfcl.settings.categories names 'simple_pyton', expected",
    ),
    "brackets without end": (
        ARMS, "label: SFT-light\n", f"label: {'[' * 3000}{']' * 3000}\n",
        ", line 10, column 41: found more than 32 levels of lists and mappings, expected fewer",
    ),
    "an empty file": (CONFIG, None, "", ": found nothing, expected a mapping"),
    "text that is not YAML": (
        CONFIG, "artefacts: [", "artefacts: [[", ", line 5, column 1: found text that is not YAML"
    ),
}  # fmt: skip


def everything_below(folder: Path) -> dict[str, bytes]:
    """Every file below the folder with its content, and every folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A project of the test's own, in which Snakemake has never run."""
    return copied(tmp_path / "a tree")


@pytest.mark.parametrize("case", CASES)
def test_nothing_starts_and_the_reason_is_told(case: str, fresh: Path) -> None:
    file, old, new, reason = CASES[case]
    if old is None:
        (fresh / file).write_text(new)
    else:
        replace(fresh / file, old, new)
    before = everything_below(fresh)
    told = snakemake(fresh, "--cores", "1")
    assert told.returncode == 1
    lines = told.stdout.splitlines()
    assert any(line.startswith(file + reason) for line in lines), told.stdout
    assert "Traceback" not in told.stdout and '  File "' not in told.stdout
    assert all(line.startswith(("config/", "Using workflow specific profile")) for line in lines), told.stdout
    assert everything_below(fresh) == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["study=dmeo"], 'study is "dmeo", expected `demo` (nearest) or one of: demo, math, small, tools'),
        (["seeds=[1, 1]", "sead=1"], "sead is not a key here, expected `seeds` (nearest)"),
    ],
)
def test_a_wrong_value_on_the_command_line_is_told_as_such(project: Path, given: list[str], said: str) -> None:
    told = snakemake(project, "--dry-run", "--config", *given)
    assert told.returncode == 1
    assert told.stdout.splitlines()[-1].startswith(f"--config: {said}")


MODEL = "runs/grpo/seed-1/model"
TARGETS = {
    "table9": "is not built in study demo: ",
    "tabel1": "is no target of study demo, expected `table1` (nearest) or one of: ",
    "gpro": "is no target of study demo, expected one of: ",
    "results/demo/tabel1.json": "is no file that study demo makes, expected `results/demo/table1.json` (nearest) or"
    " another one",
    f"results/dmeo/{MODEL}": f"is no file that study demo makes, expected `results/demo/{MODEL}` (nearest) or another"
    " one",
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_that_cannot_be_made_ends_every_command_with_the_same_sentence(target: str, fresh: Path) -> None:
    before = everything_below(fresh)
    told = snakemake(fresh, "--cores", "1", target)
    assert told.returncode == 1
    (sentence,) = [line for line in told.stdout.splitlines() if not line.startswith("Using ")]
    assert sentence.startswith(f"{target} {TARGETS[target]}"), told.stdout
    commands = {"why": [], "plan": [], "resume": ["--cores", "1"]} if target == "tabel1" else {"why": []}
    for name, options in commands.items():
        told = verb(fresh, f"chord {name}", *options, target)
        assert told.returncode == 2
        assert told.stdout.partition(": ")[2] == f"{sentence}\n", (name, told.stdout)
    assert everything_below(fresh) == before


@pytest.mark.parametrize(
    "words",
    [
        ("--", "./results/demo/models/base/model", "all", "everything", "claims", "figure2"),
        ("--config", "seeds=[1]", "--", f"results/demo/{MODEL}"),
    ],
)
def test_what_can_be_made_is_planned_by_any_name_that_snakemake_takes(project: Path, words: tuple[str, ...]) -> None:
    told = snakemake(project, "--dry-run", "--quiet", "all", *words)
    assert told.returncode == 0, told.stdout


@pytest.mark.parametrize("command", ["why", "plan"])
def test_commands_beside_snakemake_say_the_same_and_touch_nothing(command: str, fresh: Path) -> None:
    replace(fresh / HARDER, "doc_to_target: answer", "doc_to_target: answr")
    before = everything_below(fresh)
    told = verb(fresh, f"chord {command}")
    reason = f'{HARDER}: doc_to_target is "answr", expected `answer` (nearest) or one of: answer'
    assert (told.returncode, told.stdout) == (2, f"chord {command}: {reason}\n")
    assert everything_below(fresh) == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("seeds=[1:30]", '--config: seeds.0 is "1:30", expected a whole number'),
        ("seeds=[!!int x]", "--config seeds, line 1, column 2: found 'x' under the tag !!int, expected a value of"),
    ],
)
def test_why_reads_its_command_line_as_config_is_read(project: Path, given: str, said: str) -> None:
    told = verb(project, "chord why", "--config", given)
    assert told.returncode == 2 and told.stdout.startswith(f"chord why: {said}") and told.stdout.count("\n") == 1


def test_a_folder_of_results_that_is_a_link_to_nothing_is_refused_by_name(tree: Path) -> None:
    shutil.move(tree / "results/demo/runs", tree / "runs")
    (tree / "results/demo/runs").symlink_to("no disk")
    for told in (snakemake(tree, "--dry-run"), verb(tree, "chord why")):
        assert told.returncode != 0
        assert "results/demo/runs: found a link to no disk, where there is nothing, expected a folder" in told.stdout
        assert "Traceback" not in told.stdout
