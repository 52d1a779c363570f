"""Copies of the project in folders of their own, where Snakemake is really run and really plans."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests import warm

ROOT = Path(__file__).resolve().parents[2]
STUB = Path(__file__).with_name("stub")
PARTS = ("Snakefile", "workflow", "profiles", "config", "envs", "chord")


def copied(folder: Path) -> Path:
    """`folder` with the project in it."""
    folder.mkdir(parents=True)
    unwanted = shutil.ignore_patterns("__pycache__")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=unwanted)
        else:
            shutil.copy2(ROOT / part, folder / part)
    return folder


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `snakemake` says in `folder`, standard error in with the rest. Its jobs run stubs in the place of verbs."""
    return run(folder, sys.executable, "-m", "snakemake", *arguments)


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """What a command says in `folder`; verbs that it starts are stubs: they make files and compute nothing."""
    environment = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}
    environment |= {"PYTHONPATH": str(STUB)}
    return warm.run(command, cwd=folder, env=environment, timeout=300, together=True, jobs="stubs")


def planned(folder: Path, *arguments: str) -> set[str]:
    """The files below results/demo that the next `snakemake` would make, manifests left out: every job has one."""
    return planned_and_told(folder, *arguments)[0]


def planned_and_told(folder: Path, *arguments: str) -> tuple[set[str], str]:
    """`planned`, and all that Snakemake says."""
    told = snakemake(folder, "--summary", *arguments)
    assert told.returncode == 0, told.stdout
    lines = [line.split("\t") for line in told.stdout.splitlines()]
    start = next(number for number, line in enumerate(lines) if line[0] == "output_file")
    plan = lines[start].index("plan")
    files = {line[0].removeprefix("results/demo/") for line in lines[start + 1 :] if line[plan] != "no update"}
    return {file for file in files if not file.endswith(".manifest.json")}, told.stdout


def replace(file: Path, old: str, new: str) -> None:
    """Change the first place where `old` stands in the file; <n> in it is any number."""
    pattern = re.escape(old).replace("<n>", r"[-+.\de]+")
    text, count = re.subn(pattern, lambda _: new, file.read_text(encoding="utf-8"), count=1)
    assert count == 1, f"found no {old!r} in {file}"
    file.write_text(text, encoding="utf-8")


def everything_below(folder: Path) -> dict[str, bytes]:
    """Every file below the folder with its content, and every folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }
