"""What Snakemake plans in a copy of the project; the verbs that it starts are stubs."""

import re
import subprocess
from functools import partial
from pathlib import Path

from tests.projects import run

verb = partial(run, stubs=True)  # `python -m PROGRAM` in a folder


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `snakemake` prints in `folder`."""
    return verb(folder, "snakemake", *arguments)


def build(folder: Path, *arguments: str) -> None:
    """Runs `snakemake` to a good end."""
    done = snakemake(folder, "--cores", "2", "--quiet", "all", *arguments)
    assert done.returncode == 0, done.stdout


def planned(folder: Path, *arguments: str) -> set[str]:
    """The files below results/demo that the next `snakemake` would make, without manifests: every job has one."""
    return planned_and_told(folder, *arguments)[0]


def planned_and_told(folder: Path, *arguments: str) -> tuple[set[str], str]:
    """`planned`, and all that Snakemake prints."""
    told = snakemake(folder, "--summary", *arguments)
    assert told.returncode == 0, told.stdout
    lines = [line.split("\t") for line in told.stdout.splitlines()]
    start = next(number for number, line in enumerate(lines) if line[0] == "output_file")
    plan = lines[start].index("plan")
    files = {line[0].removeprefix("results/demo/") for line in lines[start + 1 :] if line[plan] != "no update"}
    return {file for file in files if not file.endswith(".manifest.json")}, told.stdout


def jobs(folder: Path, study: str, *targets: str) -> dict[str, int]:
    """How many jobs of each rule the next `snakemake table1`, or other targets, of the study would run."""
    told = snakemake(folder, "-n", "--config", f"study={study}", "--", *(targets or ("table1",)))
    assert told.returncode == 0, told.stdout
    counted = told.stdout.split("Job stats:", 1)[1].split("\n\n", 1)[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", counted, flags=re.MULTILINE)}
