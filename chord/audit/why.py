"""Why Snakemake would run what it would run for a target: one sentence a job, with old and new values.

    chord why table1
    chord why results/demo/figure2.svg --config seeds=[1]

Arguments that are not ours are Snakemake's. Runs nothing and changes no result. Exit codes: 0, or 2 if Snakemake
cannot plan the target.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from chord.cluster.snakemake import Planned, asked, planned
from chord.config.project import load
from chord.config.reading import assigned
from chord.provenance.changes import Today
from chord.provenance.check import Finding, survey
from chord.provenance.lineage import read_lineage
from chord.provenance.manifest import ENDING
from chord.steps import Dag

MADE_AGAIN = "reads what is made again"


def main() -> None:
    """Print the sentences, or with --json all that is known."""
    parser = argparse.ArgumentParser(
        prog="chord why", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help="a table, a figure or a file (default: everything)"
    )
    parser.add_argument("--config", nargs="+", default=[], metavar="KEY=VALUE", help="as for snakemake")
    parser.add_argument("--json", action="store_true", help="print a list of jobs with their reasons as JSON")
    args, others = parser.parse_known_args()
    project = load(Path("."), given=assigned(args.config))
    results = Path("results", project.study.name)
    dag = Dag(project)
    stale = survey(results, Today(dag.specs, dag.run_texts, asked(Path("."), args.config)))
    config = ["--config", *args.config] if args.config else []
    reasons = explained(planned([*args.targets, *others, *config]), stale, results)
    if args.json:
        print(json.dumps([{"job": job, "because": why} for job, why in reasons.items()], indent=1))
        return
    for job, why in reasons.items():
        print(f"{job}: {'; '.join(why)}.")
    print(
        f"{len(reasons)} jobs would run." if reasons else "Nothing would run: all is as the present project makes it."
    )


def explained(plan: list[Planned], stale: Mapping[str, list[Finding]], results: Path) -> dict[str, list[str]]:
    """The reasons of each job, causes before what follows: its own; else what it reads and is made again."""
    made_again = {output for job in plan for output in job.outputs}
    causes: dict[str, list[str]] = {}
    follows: dict[str, list[str]] = {}
    for job in plan:
        keys = [Path(output).relative_to(results).as_posix() for output in job.outputs]
        own = [finding.clause for key in keys for finding in stale.get(key, [])]
        if len(job.missing) == len(job.outputs):
            own = ["was never made"]
        elif job.missing and not own:
            own.append(f"{', '.join(job.missing)} is missing")
        if own:
            causes[_name(job, results)] = own
        else:
            follows[_name(job, results)] = [_follows(keys, results, made_again)]
    return causes | follows


def _name(job: Planned, results: Path) -> str:
    """What a person calls the job: its rule, and where its first output lies."""
    first = Path(job.outputs[0])
    place = first.parent if first.parent != results else first.with_suffix("")
    return f"{job.rule} {place.relative_to(results)}"


def _follows(keys: list[str], results: Path, made_again: set[str]) -> str:
    """Which of the files that the job read are made again."""
    lineage = read_lineage(results, (key for key in keys if key.endswith(ENDING)))
    read = [lineage.shown(path) for job in lineage.jobs.values() for path in job.inputs]
    if again := [path for path in read if path in made_again]:
        more = f" and {len(again) - 1} more" if len(again) > 1 else ""
        return f"{MADE_AGAIN}: {Path(again[0]).relative_to(results)}{more}"
    return MADE_AGAIN
