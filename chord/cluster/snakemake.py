"""Which jobs Snakemake would run for a target, by its own summary, and what its rules tell each. Runs none of them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from chord.errors import UserError
from chord.provenance.changes import Told

if TYPE_CHECKING:
    from snakemake.jobs import Job
    from snakemake.workflow import Workflow

TELL = "CHORD_TELL"  # names a file: the Snakefile writes there what its rules tell each job

LAST_OUTPUTS = (".manifest.json", "/run.json")  # of every rule, one of these is the last

BEFORE = ("Using ", "Config file ", "stale: ")  # so begin lines that tell of profiles and of what changed


class Planned(NamedTuple):
    """One job that Snakemake would run."""

    rule: str
    outputs: tuple[str, ...]
    missing: tuple[str, ...]  # of the outputs


def planned(arguments: list[str]) -> list[Planned]:
    """The jobs that Snakemake would run, by its own summary. Raises UserError with its last words if it cannot plan."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--summary", *arguments], capture_output=True, text=True, check=False
    )
    lines = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    if done.returncode or not lines:
        raise UserError(why_refused(done.stderr or done.stdout, f"snakemake --summary {' '.join(arguments)}"))
    heads, *rows = lines
    return [
        Planned(
            files[0]["rule"],
            tuple(row["output_file"] for row in files),
            tuple(row["output_file"] for row in files if row["status"] == "missing"),
        )
        for files in _by_job([dict(zip(heads, row, strict=False)) for row in rows])
        if any(row["plan"] != "no update" for row in files)
    ]


def why_refused(said: str, command: str) -> str:
    """Why Snakemake would not plan, by what it said: a sentence of the Snakefile alone, else its own last words."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(BEFORE)]
    return lines[0] if len(lines) == 1 else f"{command}: {' '.join(lines[-3:]) or 'said nothing'}"


def _by_job(rows: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    """The rows of Snakemake's summary, job by job: outputs of a job stand together, and its manifest is the last."""
    jobs: list[list[dict[str, str]]] = []
    for row in rows:
        last = jobs[-1][-1] if jobs else None
        if last is None or last["rule"] != row["rule"] or last["output_file"].endswith(LAST_OUTPUTS):
            jobs.append([])
        jobs[-1].append(row)
    return jobs


# --- what the rules tell each job --------------------------------------------------------------


class _NoGraph(NamedTuple):
    """Stands for the graph of jobs, which is not there yet while the Snakefile is read; a command needs no more."""

    workflow: "Workflow"

    def jobid(self, job: "Job") -> int:
        """Jobs have no number yet."""
        return 0


def told_by(workflow: "Workflow", results: str, keys: Iterable[str]) -> dict[str, Told]:
    """What the rules of a Snakefile that was read tell the job of each manifest or run.json below `results`."""
    from snakemake.iocontainers import ResourceList
    from snakemake.jobs import Job

    # What a profile gives to a job says where it runs; some of it Snakemake can only work out later, from the files.
    nothing = ResourceList(fromdict={"_cores": 1, "_nodes": 1})
    found = {}
    for key in keys:
        path = f"{results}/{key}"
        for rule in workflow.rules:
            if any(output.match(path) for output in rule.output):
                job = Job(rule, _NoGraph(workflow), rule.get_wildcards(path))
                job._resources = nothing
                if job.shellcmd:
                    found[key] = Told(job.shellcmd, tuple(map(str, job.input)))
    return found


def is_asked() -> bool:
    """Whether `asked` started this Snakemake, so that it should `answer`."""
    return TELL in os.environ


def answer(told: Mapping[str, Told]) -> None:
    """Writes down what `asked` reads."""
    Path(os.environ[TELL]).write_text(json.dumps(told), encoding="utf-8")


def asked(root: Path, config: Sequence[str]) -> dict[str, Told]:
    """What the rules in `root` tell each job, with these `--config` values. Raises UserError where they cannot say.

    Snakemake reads them in a folder of its own without results/, so that it writes nothing in `root`.
    """
    if not (root / "Snakefile").is_file():
        raise UserError("there is no Snakefile beside results/")
    if find_spec("snakemake") is None:
        raise UserError("Snakemake is not installed")
    with TemporaryDirectory(prefix="chord-rules-") as name:
        folder = Path(name)
        for part in root.resolve().iterdir():
            if part.name not in ("results", ".snakemake"):
                (folder / part.name).symlink_to(part)
        told = folder / "told.json"
        options = ["--list-rules", "--profile", "none", "--workflow-profile", "none"]
        options += ["--config", *config] if config else []
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *options],
            cwd=folder,
            # chord/ is a link, so what it compiles would be stored in `root`.
            env=os.environ | {TELL: str(told), "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not told.is_file():
            lines = (done.stderr or done.stdout).replace(f"{folder}/", "").splitlines()
            said = [line for line in lines if line.strip()]
            raise UserError(f"Snakemake cannot read the rules: {' '.join(said[-3:]) or 'it said nothing'}")
        return {key: Told(shell, tuple(reads)) for key, (shell, reads) in json.loads(told.read_bytes()).items()}
