"""Go on after Snakemake itself was killed: end what it left behind, keep what that finished, start Snakemake again.

    chord resume --profile slurm table1

All arguments are Snakemake's. In this order: nothing is done while another Snakemake works in this folder; jobs that a
killed one left in Slurm's queue are cancelled (a training saves first) and waited for; the folder is unlocked; files of
jobs that ended well while nobody watched are no longer taken for incomplete, if their manifests and hashes agree with
the present project; then `snakemake` runs. So nothing is written twice at a time and nothing finished is made again.
"""

import base64
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from chord import jobs
from chord.config import load
from chord.provenance import freshness
from chord.provenance.files import UserError, run_verb

# The plugin names a job PREFIX_UUID, or UUID alone.
NAME = re.compile(r"(\S+_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ENDED = ("CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "DEADLINE")
PATIENCE_SECONDS = 300
POLL_SECONDS = 1.0


def main() -> None:
    """End, wait, unlock, then become Snakemake."""
    arguments, here = sys.argv[1:], Path.cwd()
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return
    if others := list(snakemakes(here)):
        raise UserError(
            f"{here}: found Snakemake at work (process {', '.join(map(str, others))}), expected none: it goes on by"
            " itself"
        )
    end_jobs(here)
    snakemake = [sys.executable, "-m", "snakemake"]
    subprocess.run([*snakemake, "--unlock", *arguments], check=True, stdout=subprocess.DEVNULL)
    study = next((word.partition("=")[2] for word in arguments if word.startswith("study=")), None)
    for path in keep_finished(here, study):
        print(f"chord resume: {path} was finished while nobody watched", file=sys.stderr)
    os.execv(sys.executable, [*snakemake, *arguments])


def snakemakes(folder: Path) -> Iterator[int]:
    """Processes on this machine that are a Snakemake of this folder; those inside its jobs have a `--mode`."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
            named = any(Path(word).name == "snakemake" for word in words[:3]) and "--mode" not in words
            if named and (place / "cwd").resolve() == folder.resolve() and int(place.name) != os.getpid():
                yield int(place.name)


def end_jobs(folder: Path) -> None:
    """Cancel the jobs that a Snakemake of this folder left in Slurm's queue, and wait until they are gone.

    Raises UserError if they are still there after five minutes, or if Slurm does not answer.
    """
    if not shutil.which("squeue"):
        return
    left = queued(folder)
    if not left:
        return
    print(f"chord resume: cancelling {len(left)} jobs of the Snakemake before: {' '.join(left)}", file=sys.stderr)
    subprocess.run(["scancel", *left], check=True)
    end = time.monotonic() + PATIENCE_SECONDS
    while left := queued(folder):
        if time.monotonic() > end:
            raise UserError(
                f"found jobs {' '.join(left)} still in the queue after {PATIENCE_SECONDS} s, expected them to end"
            )
        time.sleep(POLL_SECONDS)


def queued(folder: Path) -> list[str]:
    """Ids of this user's jobs that a Snakemake started from this folder and that have not ended."""
    command = ["squeue", "--me", "--noheader", "--states=all", "--format=%i\t%T\t%j\t%Z"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(
            f"squeue: found no answer ({done.stderr.strip()}), expected the queue; try again when Slurm is back"
        )
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [
        number
        for number, state, name, place in rows
        if state not in ENDED and NAME.fullmatch(name) and Path(place).resolve() == folder.resolve()
    ]


def keep_finished(folder: Path, study: str | None) -> list[Path]:
    """Outputs that Snakemake takes for incomplete though their job wrote its manifest last; it no longer does."""
    marks = dict(_marks(folder / ".snakemake" / "incomplete"))
    if not marks:
        return []
    project = load(folder, study)
    results = Path("results", project.study.name)
    expected, texts = jobs.expectations(project), jobs.run_texts(project)
    stale = freshness.survey(results, expected, texts)
    finished = {str(results / key) for key in texts if (results / key).exists() and key not in stale}
    for key in expected:
        if key not in stale and (job := freshness.made(results / key)):
            finished |= {str(job.path), *(os.path.relpath(place.path) for place in job.outputs.values())}
    kept = [Path(path) for path in marks if path in finished]
    for path in kept:
        marks[str(path)].unlink()
    return kept


def _marks(folder: Path) -> Iterator[tuple[str, Path]]:
    """Each output that is marked incomplete, with Snakemake's mark: its path in base 64, long ones cut into folders."""
    for mark in folder.rglob("*"):
        if mark.is_file():
            coded = "".join(part.removeprefix("@") for part in mark.relative_to(folder).parts)
            with suppress(ValueError):
                yield base64.urlsafe_b64decode(coded).decode(), mark


if __name__ == "__main__":
    run_verb("chord resume", main)
