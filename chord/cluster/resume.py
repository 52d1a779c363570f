"""Go on after Snakemake itself was killed: end what it left behind, keep what that finished, start Snakemake again.

    chord resume --cores 2 table1                 on this machine
    chord resume --profile slurm table1           on a cluster

All arguments are Snakemake's. In this order: nothing is done while another Snakemake works in this folder; jobs that a
killed one left in Slurm's queue or running on this machine are ended (a training saves first) and waited for; the
folder is unlocked; files of jobs that ended well while nobody watched are no longer taken for incomplete, if their
manifests and hashes agree with the present project; then `snakemake` runs. So nothing is written twice at a time and
nothing finished is made again. Slurm is asked where it is installed; it must answer only where jobs were sent to it:
Snakemake's records, Slurm's logs or the ledger have one, or the command line names it.
"""

import argparse
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import yaml

from chord.cluster.snakemake import why_refused
from chord.config.project import load
from chord.errors import UserError
from chord.provenance.changes import Today
from chord.provenance.check import survey
from chord.provenance.files import JobProcess, job_processes
from chord.provenance.ledger import read_attempts
from chord.provenance.lineage import read_lineage
from chord.settings import Raw
from chord.steps import Dag

# The plugin names a job PREFIX_UUID, or UUID alone.
NAME = re.compile(r"(\S+_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ENDED = ("CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "DEADLINE")
SHELLS = ("bash", "sh", "dash")
PATIENCE_SECONDS = 300
POLL_SECONDS = 1.0


def main() -> None:
    """End, wait, unlock, then become Snakemake."""
    arguments, here = sys.argv[1:], Path.cwd()
    if arguments in (["-h"], ["--help"]):
        print(f"usage: chord resume [OPTION OF SNAKEMAKE ...] [TARGET ...]\n\n{__doc__}")
        sys.exit(0)
    if others := ", ".join(map(str, snakemakes(here))):
        raise UserError(f"{here}: found Snakemake at work (process {others}), expected none: it goes on by itself")
    end_jobs(here, arguments)
    end_processes(here)
    snakemake = [sys.executable, "-m", "snakemake"]
    unlocked = subprocess.run([*snakemake, "--unlock", *arguments], capture_output=True, text=True, check=False)
    if unlocked.returncode:
        raise UserError(why_refused(unlocked.stderr, f"snakemake --unlock {' '.join(arguments)}"))
    study = next((word.partition("=")[2] for word in arguments if word.startswith("study=")), None)
    for path in keep_finished(here, study):
        _say(f"{path} was finished while nobody watched")
    os.execv(sys.executable, [*snakemake, *arguments])


def _say(words: str) -> None:
    print(f"chord resume: {words}", file=sys.stderr)


def snakemakes(folder: Path) -> Iterator[int]:
    """Processes on this machine that are a Snakemake of this folder; those inside its jobs have a `--mode`."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
            is_here = (place / "cwd").resolve() == folder.resolve() and int(place.name) != os.getpid()
            if is_here and _is_snakemake(words) and "--mode" not in words:
                yield int(place.name)


def _is_snakemake(command: Sequence[str]) -> bool:
    return any(Path(word).name == "snakemake" for word in command[:3])


def end_processes(folder: Path) -> None:
    """End what a Snakemake of this folder left running on this machine, and wait until it is gone.

    A verb is told first and the shell or Snakemake around it ends with it, so that a training saves and what it started
    ends in order. Raises UserError if something is still there after five minutes.
    """
    told: set[int] = set()
    end = time.monotonic() + PATIENCE_SECONDS
    while left := job_processes(folder):
        programs = {number for number, process in left.items() if not _is_around(process.command)} or set(left)
        listed = ", ".join(f"{_name(left[number].command)} (process {number})" for number in sorted(programs))
        if not told:
            _say(f"ending what the Snakemake before left running: {listed}")
        for number in {one for one in programs if not programs & set(_above(one, left))} - told:
            told.add(number)
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)
        if time.monotonic() > end:
            raise UserError(
                f"{folder}: found {listed} still running after {PATIENCE_SECONDS} s, expected them to end;"
                f" end them yourself: kill -9 {' '.join(map(str, left))}"
            )
        time.sleep(POLL_SECONDS / 10)


def _is_around(command: Sequence[str]) -> bool:
    """Whether it is a shell or a Snakemake, which ends when the program below it does."""
    return Path(command[0]).name in SHELLS or _is_snakemake(command)


def _above(number: int, left: Mapping[int, JobProcess]) -> Iterator[int]:
    while (number := left[number].parent) in left:
        yield number


def _name(command: Sequence[str]) -> str:
    return next((f"chord {verb}" for word, verb in pairwise(command) if word == "chord"), Path(command[0]).name)


def end_jobs(folder: Path, arguments: Sequence[str] = ()) -> None:
    """Cancel the jobs that a Snakemake of this folder left in Slurm's queue, and wait until they are gone.

    Raises UserError if they are still there after five minutes, or if Slurm does not answer though it was used here.
    """
    if not shutil.which("squeue"):
        return
    try:
        left = _queued(folder)
    except UserError:
        if used := why_slurm(folder, arguments):
            _say(f"Slurm must answer, since {used}")
            raise
        return
    if not left:
        return
    _say(f"cancelling {len(left)} jobs of the Snakemake before: {' '.join(left)}")
    subprocess.run(["scancel", *left], check=True)
    end = time.monotonic() + PATIENCE_SECONDS
    while left := _queued(folder):
        if time.monotonic() > end:
            listed = " ".join(left)
            raise UserError(f"found jobs {listed} still in the queue after {PATIENCE_SECONDS} s, expected them to end")
        time.sleep(POLL_SECONDS)


def _queued(folder: Path) -> list[str]:
    """Ids of this user's jobs that a Snakemake started from this folder and that have not ended."""
    command = ["squeue", "--me", "--noheader", "--states=all", "--format=%i\t%T\t%j\t%Z"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip()
        raise UserError(f"squeue: found no answer ({said}), expected the queue; try again when Slurm is back")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [
        number
        for number, state, name, place in rows
        if state not in ENDED and NAME.fullmatch(name) and Path(place).resolve() == folder.resolve()
    ]


def why_slurm(folder: Path, arguments: Sequence[str]) -> str | None:
    """What says that jobs of this folder were, or are to be, sent to Slurm; None where nothing does."""
    given = argparse.ArgumentParser(add_help=False)
    given.add_argument("--profile", default=os.environ.get("SNAKEMAKE_PROFILE"))
    given.add_argument("--executor", "-e")
    named, _ = given.parse_known_args(arguments)
    if named.executor == "slurm":
        return "the command line names it"
    for profile in (Path(named.profile), Path("profiles", named.profile)) if named.profile else ():
        for file in profile.glob("config*.yaml"):
            settings: Raw = yaml.safe_load(file.read_text(encoding="utf-8"))
            if isinstance(settings, dict) and settings.get("executor") == "slurm":
                return f"profile {named.profile} names it"
    logs = folder / ".snakemake" / "slurm_logs"
    if any(logs.rglob("*.log")):
        return f"{logs} has logs of its jobs"
    for output, mark in _marks(folder).items():
        with suppress(ValueError):
            if number := json.loads(mark.read_bytes()).get("external_jobid"):
                return f"job {number} was to make {output}"
    for path in sorted((folder / "results").glob("*/provenance/ledger.jsonl")):
        attempts = read_attempts(path)
        for start in attempts.starts.values():
            if start.get("job") and start.get("attempt") not in attempts.ends:
                return f"{path.relative_to(folder)} has no end of what job {start['job']} began"
    return None


def keep_finished(folder: Path, study: str | None) -> list[Path]:
    """Outputs that Snakemake takes for incomplete though their job wrote its manifest last; it no longer does."""
    marks = _marks(folder)
    if not marks:
        return []
    project = load(folder, study)
    results = Path("results", project.study.name)
    dag = Dag(project)
    stale = survey(results, Today(dag.specs, dag.run_texts))
    finished = {str(results / key) for key in dag.run_texts if (results / key).exists() and key not in stale}
    for job in read_lineage(results, (key for key in dag.specs if key not in stale)).jobs.values():
        finished |= {os.path.relpath(path) for path in (job.path, *job.outputs)}
    kept = [Path(path) for path in marks if path in finished]
    for path in kept:
        marks[str(path)].unlink()
    return kept


def _marks(folder: Path) -> dict[str, Path]:
    """Each output that is marked incomplete, with Snakemake's mark: its path in base 64, long ones cut into folders."""
    found, incomplete = dict[str, Path](), folder / ".snakemake" / "incomplete"
    for mark in (one for one in incomplete.rglob("*") if one.is_file()):
        coded = "".join(part.removeprefix("@") for part in mark.relative_to(incomplete).parts)
        with suppress(ValueError):
            found[base64.urlsafe_b64decode(coded).decode()] = mark
    return found
