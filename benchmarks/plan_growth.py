"""How long a plan takes, against the number of jobs: nothing made, all made, and all made with one function edited.

    python benchmarks/plan_growth.py            # 1, 4, 16 and 64 seeds of study demo; prints a table
    python benchmarks/plan_growth.py 2 8

Copies the project to a temporary folder, makes every job's files and a true manifest for each without running a verb,
and times `snakemake --dry-run`. Seconds are wall clock; the last column is the ratio to the smallest grid, per job.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chord.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "workflow", "profiles", "config", "envs", "chord")
EDITED = ("chord/objective.py", "return p * (1 - p)", "return p * (1 - p) * 1.0")


def main() -> None:
    """Measure each grid and print a line for it."""
    seeds = [int(word) for word in sys.argv[1:]] or [1, 4, 16, 64]
    first: float | None = None
    print("| jobs | nothing made, s | all made, s | phi edited, s | jobs then planned | s per 1,000 made jobs, ratio |")
    print("|---:|---:|---:|---:|---:|---:|")
    for count in seeds:
        with tempfile.TemporaryDirectory(prefix="chord-plan-") as folder:
            tree = copied(Path(folder, "tree"), count)
            none, jobs = timed_plan(tree)
            forge(tree)
            every, left = timed_plan(tree)
            assert left == 0, f"found {left} jobs to do where all is made"
            file, old, new = EDITED
            text = (tree / file).read_text()
            assert old in text, f"{file} no longer says {old}"
            (tree / file).write_text(text.replace(old, new))
            edited, again = timed_plan(tree)
            rate = 1000 * every / jobs
            first = first or rate
            print(
                f"| {jobs:,} | {none:.1f} | {every:.1f} | {edited:.1f} | {again:,} | {rate:.2f}, {rate / first:.2f} |",
                flush=True,
            )


def copied(tree: Path, seeds: int) -> Path:
    """The project in a folder of its own, its demo with so many seeds."""
    tree.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / part, tree / part)
    config = tree / "config" / "config.yaml"
    config.write_text(config.read_text() + f"\nseeds: {list(range(1, seeds + 1))}\n")
    return tree


def timed_plan(tree: Path) -> tuple[float, int]:
    """Seconds of a dry run, and how many jobs it plans."""
    began = time.perf_counter()
    done = subprocess.run(
        [str(Path(sys.executable).with_name("snakemake")), "--dry-run", "--quiet", "rules"],
        cwd=tree, capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    total = re.findall(r"^total\s+(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE)
    return seconds, int(total[-1]) if total else 0


def forge(tree: Path) -> None:
    """Every file of every job of the plan, with the manifest that its verb would leave; verbs are not run."""
    told = subprocess.run(
        [str(Path(sys.executable).with_name("snakemake")), "--dry-run", "--printshellcmds"],
        cwd=tree, capture_output=True, text=True, check=True,
    )  # fmt: skip
    commands = [shlex.split(line) for line in (told.stdout + told.stderr).splitlines() if "python -m chord." in line]
    todo = [command[command.index("-m") + 1 : command.index(">")] for command in commands]
    (tree / "commands.json").write_text(json.dumps(todo))
    environment = os.environ | {"PYTHONPATH": str(tree)}
    subprocess.run([sys.executable, __file__, "--forge"], cwd=tree, env=environment, check=True)


def stand_in_for_all() -> None:
    """In a copy: does what the tests' stub does for one verb, for every command, those first whose inputs are there."""
    from chord.config.project import load
    from chord.steps import Dag

    spec = importlib.util.spec_from_file_location("stub", ROOT / "tests/workflow/stub/sitecustomize.py")
    assert spec and spec.loader
    stub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stub)
    for key, text in Dag(load(Path("."))).run_texts.items():
        path = Path("results/demo", key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    waiting = json.loads(Path("commands.json").read_text())
    while waiting:
        later = []
        for command in waiting:
            try:
                stub.stand_in(command[0].removeprefix("chord."), command[1:])
            except UserError:
                later.append(command)  # what it reads is not made yet
        assert len(later) < len(waiting), later[0]
        waiting = later


if __name__ == "__main__":
    stand_in_for_all() if sys.argv[1:] == ["--forge"] else main()
