"""Copies of the project in folders of their own, changes of their files, and commands that run there."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import reduce
from io import StringIO
from operator import getitem
from pathlib import Path
from typing import Any

import yaml

from tests import warm

ROOT = Path(__file__).parents[1]
STUB = ROOT / "tests/workflow/stub"
PARTS = ("Snakefile", "workflow", "profiles", "config", "envs", "chord", ".gitignore")


def copied(folder: Path) -> Path:
    """`folder` with the project in it, bytecode included: what runs there need not be compiled again."""

    def unwanted(place: str, names: list[str]) -> list[str]:
        # Bytecode that is being written has a name such as x.pyc.1234, and is gone a moment later.
        return [name for name in names if ".pyc." in name or (place == str(ROOT) and name not in PARTS)]

    return shutil.copytree(ROOT, folder, ignore=unwanted)


def git(folder: Path, *arguments: str) -> str:
    """What git prints in `folder`; it reads no settings of the person who tests."""
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    who = {f"GIT_{role}_{what}": "test@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=os.environ | settings | who, capture_output=True, text=True, check=True
    )
    return done.stdout


def clean_environment() -> dict[str, str]:
    """The environment of this process without what would lead to another project."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SNAKEMAKE_PROFILE")}


def run(
    folder: Path, program: str, *arguments: object, stubs: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m PROGRAM` in `folder`, as a person would type it; standard error goes into standard output.

    With `stubs`, the verbs that a Snakemake starts make their files but compute nothing.
    """
    own = {"PYTHONPATH": str(STUB)} if stubs else {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *program.split(), *map(str, arguments)]
    own = clean_environment() | own | environment
    return warm.run(command, cwd=folder, env=own, timeout=500, together=True, jobs=True)


def started(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """A new Python at work on this code, in the project; its three streams are pipes."""
    command, env = [sys.executable, "-c", code, *map(str, arguments)], os.environ | environment
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, **pipes)


def printed(main: Callable[[list[str]], int], *arguments: object) -> tuple[int, str]:
    """The exit code of a verb in this process, and what it prints."""
    with redirect_stdout(StringIO()) as out:
        code = main([*map(str, arguments)])
    return code, out.getvalue()


def set_values(content: Any, **changes: Any) -> Any:
    """`content` with other values: `a__b=2`, or `**{"a.b": 2}`, changes content["a"]["b"]."""
    for place, value in changes.items():
        *above, last = re.split(r"__|\.", place)
        reduce(getitem, above, content)[last] = value
    return content


class _Dumper(yaml.SafeDumper):
    """Writes a value that stands in two places twice, so that later changes concern one place alone."""

    def ignore_aliases(self, data: Any) -> bool:
        """Always."""
        return True


def edit_yaml(file: Path, **changes: Any) -> Path:
    """Changes values of a YAML file; see `set_values`."""
    content = set_values(yaml.safe_load(file.read_text(encoding="utf-8")), **changes)
    file.write_text(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file


def study_file(root: Path, study: str, **changes: Any) -> Path:
    """The file of a study with other values, in a copy of config/ under `root`; see `set_values`."""
    shutil.copytree(ROOT / "config", root / "config", dirs_exist_ok=True)
    return edit_yaml(root / f"config/studies/{study}.yaml", **changes)


def replace(file: Path, old: str, new: str) -> None:
    """Changes the first place where `old` is in the file; <n> in it is any number."""
    pattern = re.escape(old).replace("<n>", r"[-+.\de]+")
    text, count = re.subn(pattern, lambda _: new, file.read_text(encoding="utf-8"), count=1)
    assert count == 1, f"found no {old!r} in {file}"
    file.write_text(text, encoding="utf-8")
