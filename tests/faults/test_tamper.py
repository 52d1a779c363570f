"""Whatever is falsified in a study is found, at the right link, by the right name; what is not false alarms nobody."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from chord.audit import audit
from chord.cluster import snakemake
from chord.provenance import lineage
from chord.provenance.manifest import JobSpec, Manifest
from tests.faults import tampers as t
from tests.faults.tampers import ANSWERS, CELL, GRPO, LEDGER, SCORES, SFT, Falsify
from tests.projects import ROOT, git, printed

pytestmark = pytest.mark.usefixtures("rules_read_once")
MODEL, WEIGHTS, RECIPE = f"{GRPO}/model", f"{GRPO}/model/model.safetensors", f"{GRPO}/run.json"
METRICS, TIMING, TRAINED = f"{GRPO}/metrics.jsonl", f"{GRPO}/timing.jsonl", f"{GRPO}/train.manifest.json"
TRACES, PROBLEMS = "data/traces/expert.jsonl", "data/problems/train.jsonl"
BENCHMARK = "data/benchmarks/other-skill.jsonl"
OTHER_RUN, OTHER_MODEL = GRPO.replace("seed-1", "seed-2"), f"{SFT}/model"
OTHER_SCORES, OTHER_ANSWERS = SCORES.replace("grpo", "sft-light"), ANSWERS.replace("grpo", "sft-light")
NOBODY = "0" * 64
COMMON, EVALUATE = (f"../../workflow/rules/{name}.smk" for name in ("common", "evaluate"))


def audited(*arguments: object) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of an audit."""
    code, text = printed(audit.main, *arguments, "--json")
    return code, json.loads(text)


def bad(told: dict[str, Any]) -> list[tuple[str, str]]:
    """Status and path in results/demo of each finding that breaks the chain."""
    broken = [one for one in told["findings"] if one["status"] not in ("dirty tree", "unpinned")]
    return [(one["status"], one["path"].removeprefix("results/demo/")) for one in broken]


# --- outputs that are no longer what their job made --------------------------------------------

ALTERED: dict[str, list[Falsify]] = {  # ways to falsify each output
    "table1.json": [t.cell(mean=88.8)],
    "table1.md": [t.text("table1.md", "GRPO", "GRP0")],
    "table1.html": [t.text("table1.html", "GRPO", "GRP0")],
    "figure9.json": [t.text("figure9.json", "0.0", "0.1")],
    "figure9.svg": [t.text("figure9.svg", "<path d=", "<path  d=")],
    "figure9.png": [lambda r: t.flip_in_place(r / "figure9.png")],
    "report.html": [t.text("report.html", "CHORD", "Chord")],
    SCORES: [
        lambda r: t.other_outcome(r / SCORES),  # and all sums of it
        lambda r: t.linked_to(r / SCORES, r / OTHER_SCORES),
        lambda r: t.to_folder(r / SCORES),
    ],
    ANSWERS: [
        t.answer(text="=7"),
        lambda r: (r / ANSWERS).write_text(""),
    ],
    METRICS: [lambda r: t.another_step(r / METRICS)],
    TIMING: [t.lines(TIMING, lambda all: all[:-1])],
    MODEL: [
        lambda r: t.flip_in_place(r / WEIGHTS),
        lambda r: (r / MODEL / "more.txt").write_text(""),
        lambda r: t.linked_to(r / MODEL, r / OTHER_MODEL),
        lambda r: t.flip_in_place(t.to_link(r / WEIGHTS)),
        lambda r: shutil.rmtree(t.to_link(r / MODEL)),  # a link to nothing
        lambda r: (r / MODEL / "up").symlink_to(".."),  # a link back
    ],
    RECIPE: [t.values(RECIPE, recipe__mu__value=0.5), lambda r: (r / RECIPE).write_text("no recipe")],
    TRACES: [t.lines(TRACES, lambda all: all[::-1])],
    PROBLEMS: [t.lines(PROBLEMS, lambda all: all[1:])],
    BENCHMARK: [t.text(BENCHMARK, "~", "~a")],
}


@pytest.mark.parametrize("turn", range(max(map(len, ALTERED.values()))))
def test_each_of_many_altered_outputs_is_named_and_nothing_else_is(mini_copy: Path, turn: int) -> None:
    """One audit for the first way to falsify each output, one for the second, and so on."""
    altered = {file: ways[turn] for file, ways in ALTERED.items() if turn < len(ways)}
    for falsify in altered.values():
        falsify(mini_copy / "results/demo")
    code, told = audited(mini_copy / "results/demo")
    assert code == 1
    assert sorted(bad(told)) == sorted(("altered", file) for file in altered)


@pytest.mark.parametrize("pair", [(ANSWERS, OTHER_ANSWERS), (MODEL, OTHER_MODEL)], ids=["answers", "models"])
def test_both_of_two_exchanged_files_are_named_with_the_place_of_their_bytes(
    mini_copy: Path, pair: tuple[str, str]
) -> None:
    results = mini_copy / "results/demo"
    t.exchange(results / pair[0], results / pair[1])
    code, told = audited(results)
    assert code == 1
    assert sorted(bad(told)) == sorted(("altered", one) for one in pair)
    found = {one["path"]: one["found"] for one in told["findings"]}
    assert all(f"results/demo/{pair[1 - i]}" in found[f"results/demo/{pair[i]}"] for i in (0, 1))


# --- whatever else can be falsified: the first bad link that must be named, its status, and how it is made ---

TAMPERS: dict[str, tuple[str, str, Falsify]] = {
    # numbers that every record agrees with: only computing them again tells
    "a forged table, recorded as made": (
        "table1.json", "altered", t.remade("table1.json", lambda table: t.cell(mean=99.0)(table.parent))
    ),
    "a forged mean of a score, recorded as made": (SCORES, "altered", t.remade(SCORES, t.with_values(mean=0.99))),
    "a forged pass@k of a score, recorded as made": (
        SCORES, "altered", t.remade(SCORES, t.with_values(pass_at_k=0.99))
    ),
    "a forged figure, recorded as made": ("figure9.json", "altered", t.remade("figure9.json", t.better_point)),
    # what is gone
    "a model that is gone": (MODEL, "missing", lambda r: shutil.rmtree(r / MODEL)),
    # the ledger
    "the ledger deleted": (LEDGER, "missing", lambda r: (r / LEDGER).unlink()),
    "a line edited": (LEDGER, "altered", t.text(LEDGER, '"host": "', '"host": "x')),
    "its last line removed": ("report.manifest.json", "altered", t.lines(LEDGER, lambda all: all[:-1])),
    "a line edited, the chain made anew": ("*.manifest.json", "altered", t.edited_and_rechained),
    "an attempt removed, the chain made anew": ("*.manifest.json", "altered", t.removed_and_rechained),
    "a second end of an attempt": ("table1.manifest.json", "altered", t.second_end),
    # manifests
    "the manifest of another run": (
        TRAINED, "altered", lambda r: shutil.copyfile(r / TRAINED.replace("seed-1", "seed-2"), r / TRAINED)
    ),
    # Every manifest of the run is another one; which of them is named first does not matter.
    "the whole run of another seed": (f"{GRPO}/*.manifest.json", "altered", t.copied_run),
    "a seed in a manifest": (TRAINED, "altered", t.values(TRAINED, seeds__run=9)),
    "an answer and its manifest": (f"{CELL}/answers.manifest.json", "altered", t.output_and_manifest),
    "a manifest that is none": (
        "table1.json", "untracked", lambda r: (r / "table1.manifest.json").write_text("{")
    ),
    "a manifest deleted": (f"{GRPO}/*", "untracked", lambda r: (r / TRAINED).unlink()),
    "a run that is a link to another": (f"{GRPO}/*", "untracked", lambda r: t.linked_to(r / GRPO, r / OTHER_RUN)),
    # what was true once
    "a score made again, the table not": ("table1.json", "stale", t.remade(SCORES, t.other_outcome)),
    "an old score and its manifest put back": (
        f"{CELL}/scores.manifest.json", "altered",
        t.put_back(t.remade(SCORES, t.other_outcome), SCORES, f"{CELL}/scores.manifest.json"),
    ),
    "another recipe in config/": (
        RECIPE, "stale", t.text("../../config/studies/demo.yaml", "rl_steps: 4", "rl_steps: 3")
    ),
    "other code of the statistics": (
        "table1.json", "stale", t.text("../../chord/findings/statistics.py", "ddof=1", "ddof=0")
    ),
    "another pin of the report": ("*", "stale", t.other_pin),
    # what a rule says otherwise
    "another seed in a rule": (
        "runs/*/answers.jsonl", "stale", t.text(EVALUATE, "--seed {wildcards.seed}", "--seed 7")
    ),
    "the recipe that a rule writes": (
        "runs/*/run.json", "stale",
        t.text(
            COMMON,
            "dag.run_text(dict(wildcards.items()))",
            "dag.run_text(dict(wildcards.items())).replace('\"seed\": 1', '\"seed\": 2')",
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERS)
def test_what_is_falsified_is_found_at_the_right_link(mini_copy: Path, name: str) -> None:
    link, expected, falsify = TAMPERS[name]
    falsify(mini_copy / "results/demo")
    code, told = audited(mini_copy / "results/demo")
    # The claims read every score and every run: they are stale beside whatever is.
    status, path = next(one for one in bad(told) if one != ("stale", "claims.json"))
    assert (code, status) == (1, expected)
    assert fnmatch(path, link), bad(told)


def test_one_flipped_bit_in_500_megabytes_is_found_and_the_file_read_once(tmp_path: Path) -> None:
    model, size = tmp_path / "results/big/model", 500_000_000
    model.mkdir(parents=True)
    path = model.parent / "train.manifest.json"
    with Manifest.recording(path, JobSpec("chord.records"), inputs={}, outputs={"model": model}):
        (model / "weights").write_bytes(os.urandom(1 << 20))
        os.truncate(model / "weights", size)
    code, told = audited(model)
    assert (code, bad(told)) == (0, [])
    records = sum(path.stat().st_size for path in model.parent.glob("*.manifest.json"))
    assert told["bytes_hashed"] == size + records
    before = (model / "weights").stat()
    with (model / "weights").open("r+b") as file:
        file.seek(size - 12_345)
        file.write(b"\x01")
    os.utime(model / "weights", ns=(before.st_atime_ns, before.st_mtime_ns))
    code, told = audited(model)
    assert (code, bad(told)) == (1, [("altered", "results/big/model")])


# --- no alarm ----------------------------------------------------------------------------------

Change = Callable[[Path, pytest.MonkeyPatch], object]


def moved(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.rename(project.parent / "moved here, with spaces")


def packed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(project, "gc", "-q", "--aggressive", "--prune=now")


def without_git(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(project / ".git")
    monkeypatch.setenv("PATH", "")


def without_snakemake(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(project / ".snakemake")
    for mark in project.rglob(".snakemake_timestamp"):
        mark.unlink()


def touched(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (project / "results").rglob("*"):
        os.utime(path)


def ahead(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (project / "results").rglob("*"):
        os.utime(path, (path.stat().st_mtime + 7200,) * 2)


def read_only(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root nothing is read-only to us, so writing fails here as on such a file system."""

    def refuse(path: Path, content: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(lineage, "write_atomically", refuse)
    for path in (project, *project.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)


def offline(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket, "socket", refuse)


def commented(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments in code, in config/ and in pins."""
    code = ("chord/findings/statistics.py", "chord/training/train.py")
    for file in (*code, "config/studies/demo.yaml", "envs/report.txt"):
        with (project / file).open("a") as text:
            text.write("# a comment\n")


def linked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly everything is on other disks, one behind the other; and there is a name for what is looked at often."""
    places = [f"{GRPO}/model", GRPO, "runs", "data/problems/train.jsonl", "", ".."]
    for number, place in enumerate(places):
        path = Path(os.path.normpath(project / "results/demo" / place))
        disk = project.parent / f"disk {number}"
        path.rename(disk)
        path.symlink_to(disk)
    (project / "results/demo/latest").symlink_to("runs/grpo")


@pytest.mark.parametrize(
    "changes",
    [
        (),
        (touched, packed, commented, without_snakemake, moved),
        (ahead, linked),
        (without_git, read_only),
        (offline,),
    ],
    ids=lambda changes: "-".join(change.__name__ for change in changes) or "untouched",
)
def test_what_is_not_false_alarms_nobody(
    mini_copy: Path, monkeypatch: pytest.MonkeyPatch, changes: tuple[Change, ...]
) -> None:
    for change in changes:
        change(mini_copy, monkeypatch)
    project = next(path for path in mini_copy.parent.iterdir() if (path / "results").is_dir())
    for arguments in ((), ("--quick",), ("--strict",)):
        code, told = audited(project / "results/demo", *arguments)
        assert (code, told["findings"]) == (0, [])
        assert {link["status"] for link in told["links"]} == {"verified"}


def test_a_run_that_was_repeated_alarms_nobody(mini_copy: Path) -> None:
    t.remade("report.html", lambda page: None)(mini_copy / "results/demo")
    assert audited(mini_copy / "results/demo")[0] == 0


def without_workflow(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    shutil.rmtree(project / "workflow")
    (project / "Snakefile").unlink()
    return "there is no Snakefile beside results/"


def with_a_broken_rule(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with (project / "Snakefile").open("a") as text:
        text.write("rule x\n")
    return 'Snakemake cannot read the rules: SyntaxError in file "Snakefile", line '


def without_snakemake_installed(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(snakemake, "find_spec", lambda name: None)
    return "Snakemake is not installed"


@pytest.mark.parametrize("change", [without_workflow, with_a_broken_rule, without_snakemake_installed])
def test_where_the_rules_cannot_say_their_commands_an_audit_says_that_it_compared_none(
    mini_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    rules_read_once: dict[object, object],
    change: Callable[[Path, pytest.MonkeyPatch], str],
) -> None:
    rules_read_once.clear()
    reason = change(mini_copy, monkeypatch)
    code, told = audited(mini_copy / "results/demo")
    assert (code, bad(told)) == (0, [("not judged", "workflow/")])
    assert f"same command was not compared: {reason}" in told["findings"][0]["found"]
    assert audited(mini_copy / "results/demo", "--strict")[0] == 1


def test_no_record_and_no_result_says_where_the_project_lies(mini_study: Path) -> None:
    place, files = str(mini_study).encode(), [*(mini_study / "results").rglob("*")]
    files = [path for path in files if path.is_file() and path.suffix != ".log"]  # a log is what a program said
    assert any("made_ahead_by" in path.read_text() for path in files if path.name.endswith(".manifest.json"))
    assert len(files) > 50
    assert [str(path) for path in files if place in path.read_bytes()] == []


def test_an_audit_imports_no_torch_and_writes_nothing(mini_copy: Path) -> None:
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in mini_copy.rglob("*") if path.is_file()}

    before = times()
    look = "import sys; from chord.audit.audit import main; code = main(sys.argv[1:]); print(*sys.modules); exit(code)"
    command = [sys.executable, "-c", look, str(mini_copy / "results/demo")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not set(done.stdout.splitlines()[-1].split()) & {"torch", "transformers", "lm_eval", "datasets"}
    assert times() == before
