"""Which jobs Snakemake would run for a target, by its own summary. Runs none of them."""

import subprocess
import sys
from typing import NamedTuple

from chord.provenance.files import UserError

LAST_OUTPUTS = (".manifest.json", "/run.json")  # of every rule, one of these is the last


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
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise UserError(f"snakemake --summary {' '.join(arguments)}: {' '.join(said[-3:]) or 'said nothing'}")
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


def _by_job(rows: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    """The rows of Snakemake's summary, job by job: outputs of a job stand together, and its manifest is the last."""
    jobs: list[list[dict[str, str]]] = []
    for row in rows:
        last = jobs[-1][-1] if jobs else None
        if last is None or last["rule"] != row["rule"] or last["output_file"].endswith(LAST_OUTPUTS):
            jobs.append([])
        jobs[-1].append(row)
    return jobs
