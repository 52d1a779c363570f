"""Whatever is falsified in a study is found, at the right link, by the right name; what is not false alarms nobody."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from chord.audit import audit
from chord.cluster import snakemake
from chord.provenance import lineage
from chord.provenance.manifest import JobSpec, Manifest
from tests import mini_study as mini
from tests.faults import tampers as t
from tests.faults.tampers import ANSWERS, CELL, GRPO, LEDGER, SCORES, SFT

pytestmark = pytest.mark.usefixtures("rules_read_once")
MODEL, WEIGHTS, RECIPE = f"{GRPO}/model", f"{GRPO}/model/model.safetensors", f"{GRPO}/run.json"
TRAINED, TRACES = f"{GRPO}/train.manifest.json", "data/traces/expert.jsonl"
PROBLEMS, BENCHMARK = "data/problems/train.jsonl", "data/benchmarks/other-skill.jsonl"
OTHER_SCORES, OTHER_RUN = SCORES.replace("grpo", "sft-light"), GRPO.replace("seed-1", "seed-2")
OTHER_ANSWERS = ANSWERS.replace("grpo", "sft-light")
NOBODY = "0" * 64


class Tamper(NamedTuple):
    """One falsification: its name, the first bad link that must be named and its status, how it is made."""

    name: str
    link: str
    status: str
    make: t.Falsify


TAMPERS = [
    # numbers
    Tamper("mean in the table", "table1.json", "altered", t.cell(mean=88.8)),
    Tamper("standard error in the table", "table1.json", "altered", t.cell(se=0.1)),
    Tamper("n in the table", "table1.json", "altered", t.cell(n_problems=800)),
    Tamper("the paper's number in the table", "table1.json", "altered", t.cell(paper=1.0)),
    Tamper("the table as text", "table1.md", "altered", t.text("table1.md", "GRPO", "GRP0")),
    Tamper("the table as a page", "table1.html", "altered", t.text("table1.html", "GRPO", "GRP0")),
    Tamper("points of a figure", "figure9.json", "altered", t.text("figure9.json", "0.0", "0.1")),
    Tamper("a figure as SVG", "figure9.svg", "altered", t.text("figure9.svg", "<path d=", "<path  d=")),
    Tamper("a figure as PNG", "figure9.png", "altered", lambda r: t.flip_in_place(r / "figure9.png")),
    Tamper("the page", "report.html", "altered", t.text("report.html", "CHORD", "Chord")),
    Tamper("mean of a score", SCORES, "altered", t.values(SCORES, mean=0.9)),
    Tamper("an outcome, and all sums of it", SCORES, "altered", lambda r: t.other_outcome(r / SCORES)),
    Tamper("text of an answer", ANSWERS, "altered", t.answer(text="=7")),
    Tamper("finish of an answer", ANSWERS, "altered", t.answer(finish="length")),
    Tamper("order of answers", ANSWERS, "altered", t.lines(ANSWERS, lambda all: all[::-1])),
    Tamper("metrics", f"{GRPO}/metrics.jsonl", "altered", lambda r: t.another_step(r / GRPO / "metrics.jsonl")),
    Tamper("timings", f"{GRPO}/timing.jsonl", "altered", t.lines(f"{GRPO}/timing.jsonl", lambda all: all[:-1])),
    # numbers that every record agrees with: only computing them again tells
    Tamper("a forged table, recorded as made", "table1.json", "altered", t.forged_table),
    Tamper("a forged mean of a score, recorded as made", SCORES, "altered", t.forged_score),
    Tamper("a forged pass@k of a score, recorded as made", SCORES, "altered", t.forged_count),
    Tamper("a forged figure, recorded as made", "figure9.json", "altered", t.forged_figure),
    # models
    Tamper("one bit of a model, same size and time", MODEL, "altered", lambda r: t.flip_in_place(r / WEIGHTS)),
    Tamper("a file more in a model", MODEL, "altered", lambda r: (r / MODEL / "more.txt").write_text("")),
    Tamper("a file less in a model", MODEL, "altered", lambda r: (r / MODEL / "generation_config.json").unlink()),
    Tamper("empty weights", MODEL, "altered", lambda r: (r / WEIGHTS).write_bytes(b"")),
    Tamper(
        "models of two arms exchanged", f"{SFT}/model", "altered", lambda r: t.exchange(r / MODEL, r / SFT / "model")
    ),
    Tamper("a model that is gone", MODEL, "missing", lambda r: shutil.rmtree(r / MODEL)),
    # recipes
    Tamper("seed in run.json", RECIPE, "altered", t.values(RECIPE, seed=7)),
    Tamper("mu in run.json", RECIPE, "altered", t.values(RECIPE, recipe__mu__value=0.5)),
    Tamper("a run.json that is no recipe", RECIPE, "altered", lambda r: (r / RECIPE).write_text("no")),
    Tamper(
        "another recipe in config/",
        RECIPE,
        "stale",
        t.text("../../config/studies/demo.yaml", "rl_steps: 4", "rl_steps: 3"),
    ),
    # data
    Tamper("a trace changed", TRACES, "altered", t.lines(TRACES, lambda all: [all[0].replace("=", "=1"), *all[1:]])),
    Tamper("a trace added", TRACES, "altered", t.lines(TRACES, lambda all: [*all, all[0]])),
    Tamper("a trace removed", TRACES, "altered", t.lines(TRACES, lambda all: all[:-1])),
    Tamper("traces in another order", TRACES, "altered", t.lines(TRACES, lambda all: all[::-1])),
    Tamper("problems", PROBLEMS, "altered", t.lines(PROBLEMS, lambda all: all[1:])),
    Tamper("problems of a benchmark", BENCHMARK, "altered", t.text(BENCHMARK, "~", "~a")),
    # the ledger
    Tamper("the ledger deleted", LEDGER, "missing", lambda r: (r / LEDGER).unlink()),
    Tamper("a line edited", LEDGER, "altered", t.text(LEDGER, '"host": "', '"host": "x')),
    Tamper("a line removed", LEDGER, "altered", t.lines(LEDGER, lambda all: all[:6] + all[7:])),
    Tamper("a line added", LEDGER, "altered", t.lines(LEDGER, lambda all: [*all[:6], all[5], *all[6:]])),
    Tamper("two lines exchanged", LEDGER, "altered", t.lines(LEDGER, lambda all: [*all[:6], all[7], all[6], *all[8:]])),
    Tamper("text among its lines", LEDGER, "altered", t.lines(LEDGER, lambda all: [*all[:6], "by hand\n", *all[6:]])),
    Tamper("its last line removed", "report.manifest.json", "altered", t.lines(LEDGER, lambda all: all[:-1])),
    Tamper("a line edited, the chain made anew", "*.manifest.json", "altered", t.edited_and_rechained),
    Tamper("an attempt removed, the chain made anew", "*.manifest.json", "altered", t.removed_and_rechained),
    Tamper("a second end of an attempt", "table1.manifest.json", "altered", t.second_end),
    # manifests
    Tamper("the manifest of another run", TRAINED, "altered", t.copied_manifest),
    # Every manifest below the run is another one; which of them is told first does not matter.
    Tamper("the whole run of another seed", "runs/grpo/seed-1/*.manifest.json", "altered", t.copied_run),
    Tamper("an input in a manifest", TRAINED, "altered", t.values(TRAINED, inputs__run__sha256=NOBODY)),
    Tamper("a seed in a manifest", TRAINED, "altered", t.values(TRAINED, seeds__run=9)),
    Tamper("code in a manifest", TRAINED, "altered", t.values(TRAINED, code__digest=NOBODY)),
    Tamper("an answer and its manifest", f"{CELL}/answers.manifest.json", "altered", t.output_and_manifest),
    Tamper(
        "a manifest that is none", "table1.json", "untracked", lambda r: (r / "table1.manifest.json").write_text("{")
    ),
    Tamper("a manifest deleted", f"{GRPO}/*", "untracked", lambda r: (r / TRAINED).unlink()),
    Tamper("the table's manifest deleted", "table1.json", "untracked", lambda r: (r / "table1.manifest.json").unlink()),
    # what stands there is another file, or none
    Tamper("a score that is a link to another", SCORES, "altered", lambda r: t.linked_to(r / SCORES, r / OTHER_SCORES)),
    Tamper("a model that is a link to another", MODEL, "altered", lambda r: t.linked_to(r / MODEL, r / SFT / "model")),
    Tamper("a run that is a link to another", f"{GRPO}/*", "untracked", lambda r: t.linked_to(r / GRPO, r / OTHER_RUN)),
    Tamper("weights behind a link changed", MODEL, "altered", lambda r: t.flip_in_place(t.to_link(r / WEIGHTS))),
    Tamper("a model that is a link to nothing", MODEL, "altered", lambda r: shutil.rmtree(t.to_link(r / MODEL))),
    Tamper("a model with a link back in it", MODEL, "altered", lambda r: (r / MODEL / "up").symlink_to("..")),
    Tamper("a folder in the place of a score", SCORES, "altered", lambda r: t.to_folder(r / SCORES)),
    Tamper("empty answers", ANSWERS, "altered", lambda r: (r / ANSWERS).write_text("")),
    Tamper(
        "answers of two arms exchanged", OTHER_ANSWERS, "altered", lambda r: t.exchange(r / ANSWERS, r / OTHER_ANSWERS)
    ),
    Tamper("scores that are gone", SCORES, "missing", lambda r: (r / SCORES).unlink()),
    # what was true once
    Tamper("metrics made again, the figure not", "figure9.json", "stale", t.metrics_made_again),
    Tamper("a score made again, the table not", "table1.json", "stale", t.score_made_again),
    Tamper("an old score put back", SCORES, "altered", t.old_score_put_back),
    Tamper("an old score and its manifest put back", f"{CELL}/scores.manifest.json", "altered", t.old_attempt_put_back),
    Tamper("other code of the statistics", "table1.json", "stale", t.text(f"../../{t.STATISTICS}", "ddof=1", "ddof=0")),
    Tamper(
        "another number of the paper in config/", "table1.json", "stale", t.text(f"../../{t.TABLE}", "43.8", "43.9")
    ),
    Tamper("another pin of the report", "*", "stale", t.other_pin),
    # what a rule says otherwise
    Tamper(
        "another seed in a rule",
        "runs/*/answers.jsonl",
        "stale",
        t.text(t.EVALUATE, "--seed {wildcards.seed}", "--seed 7"),
    ),
    Tamper(
        "a file that trainings read",
        "runs/*/model",
        "stale",
        t.text(
            t.COMMON,
            "in_results(paths) for name, paths in",
            "in_results(paths.replace('/validation.', '/train.') if name == 'validation' and 'arm' in wildcards.keys()"
            " else paths) for name, paths in",
        ),
    ),
    Tamper(
        "the recipe that a rule writes",
        "runs/*/run.json",
        "stale",
        t.text(
            t.COMMON,
            "dag.run_text(dict(wildcards.items()))",
            "dag.run_text(dict(wildcards.items())).replace('\"seed\": 1', '\"seed\": 2')",
        ),
    ),
]


def audited(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of an audit."""
    capsys.readouterr()
    code = audit.main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def bad(told: dict[str, Any]) -> list[tuple[str, str]]:
    """Status and path of each finding that breaks the chain."""
    return [(one["status"], one["path"]) for one in told["findings"] if one["status"] not in ("dirty tree", "unpinned")]


@pytest.mark.parametrize("tamper", TAMPERS, ids=lambda tamper: tamper.name)
def test_what_is_falsified_is_found_at_the_right_link(
    mini_copy: Path, capsys: pytest.CaptureFixture[str], tamper: Tamper
) -> None:
    results = mini_copy / "results/demo"
    tamper.make(results)
    code, told = audited(capsys, results)
    # The claims read every score and every run: they are stale beside whatever is.
    status, path = next(one for one in bad(told) if one != ("stale", "results/demo/claims.json"))
    assert (code, status) == (1, tamper.status)
    assert fnmatch(path, f"results/demo/{tamper.link}"), bad(told)


@pytest.mark.parametrize("pair", [(ANSWERS, OTHER_ANSWERS), (MODEL, f"{SFT}/model")], ids=["answers", "models"])
def test_both_of_two_exchanged_files_are_named_with_the_place_of_their_bytes(
    mini_copy: Path, capsys: pytest.CaptureFixture[str], pair: tuple[str, str]
) -> None:
    results = mini_copy / "results/demo"
    t.exchange(results / pair[0], results / pair[1])
    _, told = audited(capsys, results)
    assert sorted(bad(told)) == sorted(("altered", f"results/demo/{one}") for one in pair)
    found = {one["path"]: one["found"] for one in told["findings"]}
    assert all(f"results/demo/{pair[1 - i]}" in found[f"results/demo/{pair[i]}"] for i in (0, 1))


def test_one_flipped_bit_in_500_megabytes_is_found_and_the_file_read_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, size = tmp_path / "results/big/model", 500_000_000
    model.mkdir(parents=True)
    path = model.parent / "train.manifest.json"
    with Manifest.recording(path, JobSpec("chord.records"), inputs={}, outputs={"model": model}):
        (model / "weights").write_bytes(os.urandom(1 << 20))
        os.truncate(model / "weights", size)
    code, told = audited(capsys, model)
    assert (code, bad(told)) == (0, [])
    records = sum(path.stat().st_size for path in model.parent.glob("*.manifest.json"))
    assert told["bytes_hashed"] == size + records
    before = (model / "weights").stat()
    with (model / "weights").open("r+b") as file:
        file.seek(size - 12_345)
        file.write(b"\x01")
    os.utime(model / "weights", ns=(before.st_atime_ns, before.st_mtime_ns))
    code, told = audited(capsys, model)
    assert (code, bad(told)) == (1, [("altered", "results/big/model")])


# --- no alarm ----------------------------------------------------------------------------------


def untouched(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing at all."""


def moved(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.rename(project.parent / "moved here, with spaces")


def packed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini.git(project, "gc", "-q", "--aggressive", "--prune=now")


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
    for file in (
        "chord/findings/statistics.py",
        "chord/training/train.py",
        "config/studies/demo.yaml",
        "envs/report.txt",
    ):
        with (project / file).open("a") as text:
            text.write("# a comment\n")


def ahead(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (project / "results").rglob("*"):
        os.utime(path, (path.stat().st_mtime + 7200,) * 2)


def linked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly everything lies on other disks, one behind the other; and there is a name for what is looked at often."""
    places = [f"{GRPO}/model", GRPO, "runs", "data/problems/train.jsonl", "", ".."]
    for number, place in enumerate(places):
        path = Path(os.path.normpath(project / "results/demo" / place))
        disk = project.parent / f"disk {number}"
        path.rename(disk)
        path.symlink_to(disk)
    (project / "results/demo/latest").symlink_to("runs/grpo")


QUIET = (
    ahead,
    linked,
    untouched,
    moved,
    packed,
    without_git,
    without_snakemake,
    touched,
    read_only,
    offline,
    commented,
)


@pytest.mark.parametrize("change", QUIET, ids=lambda change: change.__name__)
def test_what_is_not_false_alarms_nobody(
    mini_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    change(mini_copy, monkeypatch)
    project = next(path for path in mini_copy.parent.iterdir() if (path / "results").is_dir())
    for arguments in ((), ("--quick",), ("--strict",)):
        code, told = audited(capsys, project / "results/demo", *arguments)
        assert (code, told["findings"]) == (0, [])
        assert {link["status"] for link in told["links"]} == {"verified"}


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
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rules_read_once: dict[object, object],
    change: Any,
) -> None:
    rules_read_once.clear()
    reason = change(mini_copy, monkeypatch)
    code, told = audited(capsys, mini_copy / "results/demo")
    assert (code, bad(told)) == (0, [("not judged", "workflow/")])
    assert f"same command was not compared: {reason}" in told["findings"][0]["found"]
    assert audited(capsys, mini_copy / "results/demo", "--strict")[0] == 1


def test_no_record_and_no_result_says_where_the_project_lies(mini_study: Path) -> None:
    place, files = str(mini_study).encode(), [*(mini_study / "results").rglob("*")]
    files = [path for path in files if path.is_file() and path.suffix != ".log"]  # a log is what a program said
    assert any("made_ahead_by" in path.read_text() for path in files if path.name.endswith(".manifest.json"))
    assert len(files) > 50
    assert [str(path) for path in files if place in path.read_bytes()] == []


def test_a_run_that_was_repeated_alarms_nobody(mini_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    t.remade(mini_copy / "results/demo", "report.html", lambda page: None)
    assert audited(capsys, mini_copy / "results/demo")[0] == 0


def test_an_audit_imports_no_torch_and_writes_nothing(mini_copy: Path) -> None:
    results = mini_copy / "results/demo"
    before = {path: path.stat().st_mtime_ns for path in mini_copy.rglob("*") if path.is_file()}
    look = (
        "import sys; from chord.audit.audit import main; code = main(sys.argv[1:]); print(*sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", look, str(results)], cwd=mini.ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not set(done.stdout.splitlines()[-1].split()) & {"torch", "transformers", "lm_eval", "datasets"}
    after = {path: path.stat().st_mtime_ns for path in mini_copy.rglob("*") if path.is_file()}
    assert after == before
