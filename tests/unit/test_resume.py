"""Going on after a kill: whose jobs are ended, and which outputs are still taken for finished."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chord import resume
from chord.provenance.files import UserError

UUID = "679c34e4-6810-49c6-becf-455bf008fcd9"


def mark(folder: Path, output: str) -> Path:
    """Snakemake's own mark that an output is incomplete."""
    coded = base64.urlsafe_b64encode(output.encode()).decode()
    path = folder / ".snakemake" / "incomplete" / coded
    if len(coded) > 200:
        path = folder / ".snakemake" / "incomplete" / f"@{coded[:200]}" / coded[200:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"external_jobid": null}')
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
    for name, code in {
        "squeue": f"f={folder}/rows; cat $f; : > $f",
        "scancel": f'echo "$@" >> {told}',
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{code}\n")
        (folder / name).chmod(0o755)
    (folder / "rows").write_text("".join(f"{row}\n" for row in rows))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return told


def test_only_living_jobs_of_this_folder_that_snakemake_sent_are_cancelled(tmp_path: Path, monkeypatch) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    told = slurm(
        tmp_path,
        monkeypatch,
        f"1\tRUNNING\tchord_{UUID}\t{here}",
        f"2\tPENDING\t{UUID}\t{here}",
        f"3\tCOMPLETED\tchord_{UUID}\t{here}",
        f"4\tRUNNING\tchord_{UUID}\t{other}",
        f"5\tRUNNING\tmy-own-job\t{here}",
    )
    resume.end_jobs(here)
    assert told.read_text() == "1 2\n"


def test_nothing_is_cancelled_where_nothing_was_left_and_a_slurm_that_is_silent_is_told(
    tmp_path: Path, monkeypatch
) -> None:
    told = slurm(tmp_path, monkeypatch)
    resume.end_jobs(tmp_path)
    assert not told.exists()
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    with pytest.raises(UserError, match="squeue: found no answer \\(Unable to contact slurm controller\\)"):
        resume.end_jobs(tmp_path)


def test_a_living_snakemake_of_the_same_folder_is_seen_and_of_another_one_is_not(tmp_path: Path) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    for folder in (here, other):
        folder.mkdir()
    waiting = "import time; time.sleep(60)"
    (tmp_path / "snakemake").write_text(waiting)
    command = [sys.executable, str(tmp_path / "snakemake")]
    inner = [*command, "--mode", "remote"]
    processes = [
        subprocess.Popen(words, cwd=place) for words, place in ((command, here), (command, other), (inner, here))
    ]
    try:
        assert list(resume.snakemakes(here)) == [processes[0].pid]
    finally:
        for process in processes:
            process.kill()
            process.wait()
