"""The sbatch call of each kind of job that a command of Snakemake would send, as Snakemake and its plugin make it.

    chord submissions OUT.json --profile slurm ...

Plans all jobs anew in a dry run, catches each where it would start, and gives it to the functions by which the plugin
`slurm` makes its calls. So threads, resources, groups and retries are theirs, not a copy. Sends nothing.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, cast

from chord.cluster.sizing import site_of

MANY = "100000"  # a dry run takes one core for the limit of every job, unless told otherwise
TOLD = ("slurm_partition", "slurm_account", "runtime", "mem_mb", "gres", "gpu", "nodes", "cpus_per_task")


def main() -> int:
    """Write the settings and kinds of jobs as JSON; Snakemake's exit code."""
    parser = argparse.ArgumentParser(prog="chord submissions", description="Say what Snakemake would submit.")
    parser.add_argument("out", type=Path, help="the JSON that is written")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="options of Snakemake")
    args = parser.parse_args()
    out, arguments = args.out, args.arguments
    from snakemake import cli, workflow
    from snakemake.executors import dryrun
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    _, settings = cli.parse_args(arguments)
    caught: list[Any] = []
    start = dryrun.Executor.run_job

    def catch(executor: Any, job: Any) -> None:
        caught.append(job)
        start(executor, job)

    cast(Any, dryrun.Executor).run_job = catch
    try:
        cli.main([*arguments, "--dry-run", "--forceall", "--nolock", "--cores", MANY, "--quiet", "all"])
    except SystemExit as end:
        if isinstance(end.code, str):  # what the Snakefile says of a configuration that cannot be run
            print(end.code, file=sys.stderr)
            return 1
        if end.code:
            return int(end.code)
    cast(Any, workflow.Workflow).local_exec = property(lambda _: False)  # from here on jobs are those of a cluster
    plugin: Any = ExecutorPluginRegistry().get_plugin("slurm").get_settings(settings)
    told = {
        "executor": settings.executor,
        "status_command": plugin.status_command,
        "init_seconds": plugin.init_seconds_before_status_checks,
        "site": site.model_dump() if (site := site_of(settings.set_resources)) else None,
        "kinds": _kinds([job for job in caught if not job.is_local], plugin),
    }
    out.write_text(json.dumps(told, indent=1), encoding="utf-8")
    return 0


def _kinds(jobs: list[Any], settings: Any) -> list[dict[str, Any]]:
    """Jobs that are sent alike once each: rules, resources and call of each attempt; each job by rule and outputs."""
    kinds: dict[str, dict[str, Any]] = {}
    for job in jobs:
        attempts = []
        for attempt in range(1, job.restart_times + 2):
            job.attempt = attempt
            resources = {name: job.resources.get(name) for name in TOLD if job.resources.get(name) is not None}
            attempts.append({"resources": resources | {"threads": job.threads}, "call": _call(job, settings)})
        kind = {"rules": sorted(set(job.rules)), "attempts": attempts}
        each = [[one.rule.name, list(map(str, one.output))] for one in (job.jobs if job.is_group() else [job])]
        kinds.setdefault(json.dumps(kind), kind | {"jobs": []})["jobs"] += each
    return list(kinds.values())


def _call(job: Any, settings: Any) -> str:
    """The call, without what differs from job to job: name, log, comment."""
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string

    account, partition = (job.resources.get(f"slurm_{name}") for name in ("account", "partition"))
    own = {
        "run_uuid": "chord-doctor",
        "slurm_logfile": "/dev/null",
        "comment_str": "doctor",
        "account": f"-A {account}" if account else "",
        "partition": f"-p {partition}" if partition else "",
        "workdir": os.getcwd(),
    }
    return get_submit_command(job, own, settings=settings) + set_gres_string(job)
