"""Going on after a kill: whose jobs are ended, and which outputs are still taken for finished."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chord.cluster import resume
from chord.errors import UserError
from chord.provenance import ledger
from chord.provenance.files import SNAKEMAKE_IN, job_processes

UUID = "679c34e4-6810-49c6-becf-455bf008fcd9"


def mark(folder: Path, output: str, job: str | None = None) -> Path:
    """Snakemake's own mark that an output is incomplete, and of the Slurm job that was to make it."""
    coded = base64.urlsafe_b64encode(output.encode()).decode()
    path = folder / ".snakemake" / "incomplete" / coded
    if len(coded) > 200:
        path = folder / ".snakemake" / "incomplete" / f"@{coded[:200]}" / coded[200:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"external_jobid": job}))
    return path


def test_what_a_job_finished_is_kept_and_what_it_did_not_is_made_again(mini_copy: Path, monkeypatch) -> None:
    monkeypatch.chdir(mini_copy)
    run = "results/demo/runs/grpo/seed-1"
    whole = [f"{run}/model", f"{run}/metrics.jsonl", f"{run}/train.manifest.json", f"{run}/run.json"]
    edited = f"{run}/eval/in-distribution/scores.json"
    Path(edited).write_text(Path(edited).read_text().replace("0", "1"))
    gone = f"{run}/eval/other-skill/answers.jsonl"
    Path(gone).unlink()
    marks = {output: mark(mini_copy, output) for output in [*whole, edited, gone, "results/demo/unknown.txt"]}
    kept = resume.keep_finished(mini_copy, None)
    assert sorted(map(str, kept)) == sorted(whole)
    assert {output for output, path in marks.items() if path.exists()} == {edited, gone, "results/demo/unknown.txt"}
    assert resume.keep_finished(mini_copy, None) == []


def slurm(folder: Path, monkeypatch, *rows: str) -> Path:
    """A squeue that tells these rows at first and nothing afterwards, and an scancel that writes down its words."""
    told = folder / "told"
    programs = {"squeue": f"f={folder}/rows; cat $f; : > $f", "scancel": f'echo "$@" >> {told}'}
    for name, code in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{code}\n")
        (folder / name).chmod(0o755)
    (folder / "rows").write_text("".join(f"{row}\n" for row in rows))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return told


def test_only_living_jobs_of_this_folder_that_snakemake_sent_are_cancelled(tmp_path: Path, monkeypatch) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    others = (f"COMPLETED\tchord_{UUID}\t{here}", f"RUNNING\tchord_{UUID}\t{other}", f"RUNNING\tmy-own-job\t{here}")
    ours = (f"RUNNING\tchord_{UUID}\t{here}", f"PENDING\t{UUID}\t{here}")
    told = slurm(tmp_path, monkeypatch, *(f"{number}\t{row}" for number, row in enumerate((*others, *ours))))
    resume.end_jobs(here)
    assert told.read_text() == "3 4\n"
    told.unlink()
    resume.end_jobs(here)
    assert not told.exists(), "nothing was left"


def no_slurm(folder: Path, monkeypatch) -> Path:
    """A squeue without a cluster; gives a folder beside it, where nothing was done yet."""
    slurm(folder, monkeypatch)
    (folder / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    here = folder / "here"
    here.mkdir()
    return here


def ledger_of(here: Path, job: str | None, end: bool = False) -> None:
    """A study with one attempt: in this Slurm job or in none, with an end or without."""
    path = here / "results/demo/provenance/ledger.jsonl"
    ledger.append(path, "start", {"attempt": "a", "verb": "chord train", "manifest": "m", "job": job})
    if end:
        ledger.append(path, "end", {"attempt": "a", "outcome": "ok"})


def put(place: str, text: str = "") -> Callable[[Path], object]:
    """What makes a file of this text in a folder."""

    def make(here: Path) -> None:
        (here / place).parent.mkdir(parents=True)
        (here / place).write_text(text)

    return make


# What is there, the command line, and why Slurm must answer; None where it need not.
SLURM = "executor: slurm\njobs: 3\n"
NAMED = "profile mine names it"
CASES = {
    "a mark of a job": (lambda here: mark(here, "x", "7"), (), "job 7 was to make x"),
    "a log of Slurm": (put(".snakemake/slurm_logs/rule_train/7.log"), (), "has logs of its jobs"),
    "an attempt without an end": (lambda here: ledger_of(here, "7"), (), "has no end of what job 7 began"),
    "a profile": (put("mine/config.yaml", SLURM), ("--profile", "mine"), NAMED),
    "a profile of the project": (put("profiles/mine/config.yaml", SLURM), ("--profile=mine",), NAMED),
    "an executor": (lambda here: None, ("table1", "--executor", "slurm"), "the command line names it"),
    "nothing": (lambda here: None, ("--cores", "2", "table1"), None),
    "a mark of a job here": (lambda here: mark(here, "x"), (), None),
    "an attempt here without an end": (lambda here: ledger_of(here, None), (), None),
    "a job of Slurm that ended": (lambda here: ledger_of(here, "7", end=True), (), None),
    "another profile": (put("mine/config.yaml", "executor: local\n"), ("--profile", "mine"), None),
    "an empty folder for logs": (lambda here: (here / ".snakemake/slurm_logs").mkdir(parents=True), (), None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_silent_slurm_stops_only_those_who_sent_it_something(case: str, tmp_path: Path, monkeypatch, capsys) -> None:
    prepare, arguments, reason = CASES[case]
    here = no_slurm(tmp_path, monkeypatch)
    monkeypatch.chdir(here)
    prepare(here)
    if reason is None:
        resume.end_jobs(here, arguments)
        return
    with pytest.raises(UserError, match="squeue: found no answer \\(Unable to contact slurm controller\\)"):
        resume.end_jobs(here, arguments)
    assert reason in capsys.readouterr().err


def orphaned(folder: Path, script: str) -> None:
    """A job of a Snakemake in `folder` whose Snakemake is gone: a shell with a program below it."""
    (folder / "chord.py").write_text(script)
    job = ["bash", "-c", f"{sys.executable} {folder}/chord.py; true"]
    starter = f"import subprocess; subprocess.Popen({job!r}, cwd={str(folder)!r}, start_new_session=True)"
    marked = os.environ | {SNAKEMAKE_IN: str(folder.resolve())}
    subprocess.run([sys.executable, "-c", starter], env=marked, check=True)
    while not (folder / "ready").exists():
        time.sleep(0.01)


SAVES = """
import pathlib, signal, sys, time
def save(number, frame):
    time.sleep(0.5)
    pathlib.Path("saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
pathlib.Path("ready").touch()
time.sleep(300)
"""


def test_what_runs_on_here_without_its_snakemake_saves_and_is_gone(tmp_path: Path, capsys) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    for folder in (here, other):
        folder.mkdir()
        orphaned(folder, SAVES)
    try:
        resume.end_processes(here)
        assert (here / "saved").exists() and not job_processes(here)
        assert len(job_processes(other)) == 2
        assert "ending what the Snakemake before left running: python" in capsys.readouterr().err
    finally:
        resume.end_processes(other)


def test_what_does_not_end_is_told_with_its_number(tmp_path: Path, monkeypatch) -> None:
    orphaned(tmp_path, SAVES.replace("signal.SIGTERM, save", "signal.SIGTERM, signal.SIG_IGN"))
    monkeypatch.setattr(resume, "PATIENCE_SECONDS", 0.3)
    left = job_processes(tmp_path)
    try:
        with pytest.raises(UserError, match=r"still running after 0.3 s, .* kill -9 \d+ \d+"):
            resume.end_processes(tmp_path)
    finally:
        for number in left:
            os.kill(number, signal.SIGKILL)


def test_a_living_snakemake_of_the_same_folder_is_seen_and_of_another_one_is_not(tmp_path: Path) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir()
    other.mkdir()
    (tmp_path / "snakemake").write_text("import time; time.sleep(60)")
    command = [sys.executable, str(tmp_path / "snakemake")]
    inside = [*command, "--mode", "remote"]
    started = [
        subprocess.Popen(words, cwd=place) for words, place in ((command, here), (command, other), (inside, here))
    ]
    try:
        assert list(resume.snakemakes(here)) == [started[0].pid]
    finally:
        for process in started:
            process.kill()
            process.wait()
