"""`chord VERB`: what is listed is there, what is not asked for is not loaded, a number out of range is refused."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chord import VERBS
from chord.__main__ import parser_of

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """
import sys
def main():
    print(sys.argv)
    return 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the package in which `chord audit` only tells its arguments, and no other verb can be loaded."""
    shutil.copytree(ROOT / "chord", tmp_path / "chord", ignore=shutil.ignore_patterns("__pycache__"))
    for name, verb in VERBS.items():
        text = COMMAND if name == "audit" else "raise AssertionError('loaded')\n"
        tmp_path.joinpath(*verb.module.split(".")).with_suffix(".py").write_text(text)
    return tmp_path


def chord(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "chord", *arguments], cwd=folder, capture_output=True, text=True)


def test_a_verb_gets_its_arguments_and_gives_its_exit_code(folder: Path) -> None:
    done = chord(folder, "audit", "results/demo", "--json")
    assert (done.returncode, done.stdout) == (3, "['chord audit', 'results/demo', '--json']\n"), done.stderr


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_verb_all_are_listed_and_none_is_loaded(folder: Path, arguments: list[str]) -> None:
    done = chord(folder, *arguments)
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert (done.returncode, sorted(listed), done.stderr) == (0, sorted(VERBS), "")


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_says_what_it_takes_and_its_options_are_found_without_running_it(verb: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [f"chord {verb}", "--help"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(VERBS[verb].module).main()
    assert (end.value.code, capsys.readouterr().out.startswith(f"usage: chord {verb} ")) == (0, True)
    assert "--help" in parser_of(verb).format_help()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("audti", "`audit` (nearest) or "),
        ("chord.audit.audit", "`audit` (nearest) or "),
        ("resmue", "`resume` (nearest) or "),
        ("traim", "`train` (nearest) or "),
        ("ask_expert", "`ask-expert` (nearest) or "),
        ("zzz", ""),
    ],
)
def test_an_unknown_verb_ends_with_the_nearest_and_all_that_people_type(folder: Path, name: str, near: str) -> None:
    done = chord(folder, name)
    typed = [verb for verb in VERBS if VERBS[verb].is_typed]
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"chord: found command '{name}', expected {near}one of: {', '.join(typed)}\n"


AT_LEAST_0, AT_LEAST_1, ABOVE_0 = "a whole number of at least 0", "a whole number of at least 1", "a number above 0"


@pytest.mark.parametrize(
    ("command", "option", "refused", "expected"),
    [
        ("plan", "--devices", ("0", "-3", "1.5", "many", ""), AT_LEAST_1),
        ("plan", "--answering-devices", ("0",), AT_LEAST_1),
        ("plan", "--seeds", ("-1", "1 2 x"), AT_LEAST_0),
        ("doctor", "--wait", ("0", "-1", "nan", "inf", "long"), ABOVE_0),
        ("watch", "--seconds", ("0", "-2", "nan"), ABOVE_0),
        *((command, "--seeds", ("-1",), AT_LEAST_0) for command in ("watch", "tabulate", "plot", "judge", "report")),
        ("generate", "--seed", ("-1",), AT_LEAST_0),
        *((command, "--threads", ("0",), AT_LEAST_1) for command in ("generate", "ask-expert", "train")),
        ("launch", "--per-node", ("0",), AT_LEAST_1),
        ("train", "--checkpoint-every-steps", ("0", "2.5"), AT_LEAST_1),
        ("train", "--checkpoint-every-minutes", ("0", "-1", "inf"), ABOVE_0),
    ],
)
def test_a_number_out_of_range_is_told_in_one_line(
    command: str, option: str, refused: tuple[str, ...], expected: str, monkeypatch, capsys
) -> None:
    module = importlib.import_module(VERBS[command].module)
    for words in refused:
        monkeypatch.setattr(sys, "argv", ["chord", option, *(words.split() or [words])])
        with pytest.raises(SystemExit) as end:
            module.main()
        found = words.split()[-1] if words else ""
        told = rf"chord( {command})?: {option}: found '{re.escape(found)}', expected {expected}\n"
        assert end.value.code == 2
        assert re.fullmatch(told, capsys.readouterr().err), words


def test_no_command_takes_a_number_without_a_range() -> None:
    for file in (ROOT / "chord").rglob("*.py"):
        assert not re.search(r"\btype=(int|float)\b", file.read_text(encoding="utf-8")), file


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with what completion reads of a project, a table, and a program `chord`."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    table = tmp_path / "results" / "demo" / "table1.json"
    table.parent.mkdir(parents=True)
    table.write_text(json.dumps({"rows": [{"arm": "grpo", "cells": {"harder": {}, "easier": {}}}]}))
    (tmp_path / "chord").write_text(f'#!/bin/sh\nexec {sys.executable} -m chord "$@"\n')
    (tmp_path / "chord").chmod(0o755)
    return tmp_path


BASH = """
eval "$(register-python-argcomplete chord)"
read -ra COMP_WORDS <<< "$1"
[[ $1 == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9
eval "$(complete -p chord | sed 's/.*-F \\([^ ]*\\) .*/\\1/') chord '${COMP_WORDS[-1]}' '${COMP_WORDS[-2]}'"
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("chord au", ["audit"]),
        ("chord --v", ["--version"]),
        ("chord audit --c", ["--cell"]),
        ("chord plan --study ", ["demo", "math", "small", "tools"]),
        ("chord watch sm", ["small"]),
        ("chord plan selec", ["selection"]),
        ("chord plan --machine cpu", ["cpu-core"]),
        ("chord audit results/demo/tab", ["results/demo/table1.json"]),
        ("chord audit results/demo/table1.json --cell grpo/h", ["grpo/harder"]),
        ("chord audit absent.json --cell x", []),
        ("chord why results/demo/tab", ["results/demo/table1.json"]),
        ("chord why --config study=t", ["tools"]),
        ("chord resume --profi", ["--profile"]),
    ],
)
def test_bash_completes_a_verb_an_option_a_name_and_a_file(project: Path, line: str, offered: list[str]) -> None:
    path = os.pathsep.join([str(project), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", BASH, "bash", line], cwd=project, env=environment, capture_output=True, text=True
    )
    assert sorted(done.stdout.split()) == offered, done.stderr


def test_completing_a_verb_loads_none(folder: Path) -> None:
    line = "chord exp"
    asked = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": "out",
    }
    command = [sys.executable, "-X", "importtime", "-m", "chord"]
    done = subprocess.run(command, cwd=folder, env=os.environ | asked, capture_output=True, text=True)
    assert (done.returncode, (folder / "out").read_text().split()) == (0, ["export"]), done.stderr
    assert "argcomplete" in done.stderr and not re.search(r"\| +(torch|snakemake|numpy)\b", done.stderr)


SAID = """
from chord.provenance.cli import run_verb
import sys
def main():
    print("µ = 0.5 ± 0.1, φ ≤ 1 “naïve” 中 ▁█")
    print("× \\udcff", file=sys.stderr)
run_verb("chord.audit.audit", main)
"""
ASCII = (b'mu = 0.5 +- 0.1, phi <= 1 "naive" \\u4e2d _#\n', b"x \\udcff\n")
UTF8 = ("µ = 0.5 ± 0.1, φ ≤ 1 “naïve” 中 ▁█\n".encode(), None)


@pytest.mark.parametrize(
    ("terminal", "out", "err"),
    [
        *((terminal, *ASCII) for terminal in ("PYTHONIOENCODING=ascii", "PYTHONIOENCODING=ascii:strict")),
        *((terminal, *ASCII) for terminal in ("LC_ALL=C", "LC_ALL=POSIX", "TERM=dumb")),
        *((terminal, *UTF8) for terminal in ("PYTHONIOENCODING=utf-8", "LC_ALL=C PYTHONIOENCODING=utf-8")),
        ("PYTHONIOENCODING=latin-1", 'µ = 0.5 ± 0.1, phi <= 1 "naïve" \\u4e2d _#\n'.encode("latin-1"), None),
    ],
)
def test_a_terminal_without_a_character_gets_another_that_says_the_same(
    terminal: str, out: bytes, err: bytes | None
) -> None:
    left_out = ("LC_ALL", "LC_CTYPE", "LANG", "TERM", "PYTHONIOENCODING", "PYTHONUTF8")
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    given = dict(word.split("=") for word in terminal.split())
    done = subprocess.run([sys.executable, "-c", SAID], cwd=ROOT, env=inherited | given, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == out and (err is None or done.stderr == err)
