"""Snakemake and this project: what its Snakefile does beyond rules, and which jobs and commands it would run."""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from chord.cluster import warm
from chord.cluster.sizing import site_of
from chord.config.project import refusal
from chord.errors import UserError
from chord.provenance.changes import Today, Told
from chord.provenance.check import Finding, summary, survey
from chord.provenance.files import SNAKEMAKE_IN
from chord.steps import Dag

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
    command = [sys.executable, "-m", "snakemake", "--summary", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    if done.returncode or not lines:
        raise UserError(why_refused(done.stderr or done.stdout, f"snakemake --summary {' '.join(arguments)}"))
    jobs: list[Planned] = []
    files: list[dict[str, str]] = []
    for row in lines[1:]:
        files.append(dict(zip(lines[0], row, strict=False)))
        if files[-1]["output_file"].endswith(LAST_OUTPUTS):
            outputs = tuple(file["output_file"] for file in files)
            missing = tuple(file["output_file"] for file in files if file["status"] == "missing")
            if any(file["plan"] != "no update" for file in files):
                jobs.append(Planned(files[0]["rule"], outputs, missing))
            files = []
    return jobs


def why_refused(said: str, command: str) -> str:
    """Why Snakemake would not plan, by what it said: a sentence of the Snakefile alone, else its own last words."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(BEFORE)]
    return lines[0] if len(lines) == 1 else f"{command}: {' '.join(lines[-3:]) or 'said nothing'}"


def last_words(text: str) -> str:
    """The last three lines with anything in them, in one."""
    return " ".join([line.strip() for line in text.splitlines() if line.strip()][-3:])


# --- inside Snakemake, while it reads the rules ---


def listed_paths(paths: str | Iterable[str]) -> list[str]:
    """One path or several, as a list."""
    return [paths] if isinstance(paths, str) else list(paths)


def with_signature(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose signature is found now: Snakemake asks for it many times for each job."""
    cast(Any, function).__signature__ = signature(function)
    return function


def flags_of(files: Any) -> str:
    """The inputs or outputs of a job as flags, `--name FILE ...`; a name without files gives none."""
    listed = {name: shlex.join(listed_paths(paths)) for name, paths in files.items() if name != "because"}
    return " ".join(f"--{name} {words}" for name, words in listed.items() if words)


@contextmanager
def refusals_end(workflow: Any) -> Generator[None]:
    """A UserError ends Snakemake with its words alone; nothing is left on disk."""
    try:
        yield
    except UserError as error:
        for log in workflow.logger_manager.get_logfile():
            with suppress(OSError):
                os.remove(log)
                os.removedirs(os.path.dirname(log))
        sys.exit(str(error))


@dataclass(frozen=True)
class RulesBeingRead:
    """The rules of a Snakefile that is read, and the study that they are for; prepares Snakemake itself for it."""

    workflow: Any
    dag: Dag
    stale: dict[str, list[Finding]] = field(default_factory=dict[str, list[Finding]])  # filled when all rules are known
    _there: dict[str, bool] = field(default_factory=dict[str, bool])  # files that were looked for

    def __post_init__(self) -> None:
        """Settle clocks, signals and the environment of jobs."""
        _clocks_decide_nothing()
        look_for_jobs_when_one_ends()
        if self.workflow.is_main_process:  # by this `chord resume` finds what a killed Snakemake left running
            os.environ[SNAKEMAKE_IN] = os.path.realpath(".")
        else:  # Slurm tells a whole job that its time is nearly up; only the training may answer, which saves and ends
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        if self._runs_jobs_itself:
            _begin_jobs_with()

    @property
    def _runs_jobs_itself(self) -> bool:
        """Whether jobs have the Python of this process: conda and containers bring theirs."""
        return not self.workflow.deployment_settings.deployment_method

    def fork_jobs(self) -> None:
        """From here on jobs are forked, where they run on this machine: see `chord.cluster.warm`."""
        flow, execution = self.workflow, self.dag.project.study.execution
        is_here = flow.is_main_process and flow.local_exec and not flow.touch and self._runs_jobs_itself
        engines = {execution.sampler, execution.answers} - {"transformers"} or execution.zero.stage
        if is_here and not engines and (name := warm.start()):
            _begin_jobs_with(f"export {warm.FORKED_BY}={name}; ")  # this process does not have it, so sends it nowhere

    @property
    def results(self) -> Path:
        """The folder of the study."""
        return Path("results", self.dag.project.study.name)

    def because(self, rule: str) -> Callable[..., list[str]]:
        """Among the inputs of a rule, no file: where its manifest is stale, Snakemake is told to run the job again."""

        def told(wildcards: Any) -> list[str]:
            if self.stale and (key := self.dag.job(rule, wildcards).key) in self.stale:
                self.workflow.dag.forcefiles.add(f"{self.results}/{key}")
            return []

        return with_signature(told)

    def files_of(self, artefact: str) -> list[str]:
        """Files of a table, figure or the claims, and the missing ones behind it, which Snakemake would leave alone."""
        own = [f"{self.results}/{path}" for path in self.dag.artefact(artefact).outputs.values()]
        if not all(map(self._is_there, own)):
            return own
        results = str(self.results)
        behind = (f"{results}/{path}" for path in self.dag.behind(artefact))
        return own + [file for file in behind if not self._is_there(file)]

    def _is_there(self, file: str) -> bool:
        """Whether the file was there when it was first asked for: rules are read before any job runs."""
        if file not in self._there:
            self._there[file] = os.path.exists(file)
        return self._there[file]

    def asked_for(self, artefact: str) -> list[str] | Callable[..., list[str]]:
        """What `snakemake ARTEFACT` wants: its files or, where the study does not build it, an end that says why."""
        from snakemake.exceptions import WorkflowError

        project = self.dag.project

        def refused(wildcards: Any) -> list[str]:
            raise WorkflowError(f"{artefact} is not built in study {project.study.name}: {project.why_not(artefact)}.")

        return self.files_of(artefact) if artefact in (*self.dag.built, "claims") else refused

    def look_over(self) -> None:
        """Find, and say, what of results/ the present code, settings, rules, pins and files would not make again."""
        if not self.workflow.is_main_process:
            return  # a job of a cluster or a container: it was told to run
        from snakemake.exceptions import WorkflowError

        keys, asked_by = [*self.dag.specs, *self.dag.run_texts], os.environ.get(TELL)
        told = self._told(key for key in keys if asked_by or os.path.exists(f"{self.results}/{key}"))
        if asked_by:
            Path(asked_by).write_text(json.dumps(told), encoding="utf-8")
            return
        try:
            self.stale.update(survey(self.results, Today(self.dag.specs, self.dag.run_texts, told)))
        except UserError as error:
            raise WorkflowError(str(error)) from None
        for line in summary(self.stale):
            print(line, file=sys.stderr)

    def _told(self, keys: Iterator[str]) -> dict[str, Told]:
        """What the rules tell the job of each manifest or run.json."""
        from snakemake.iocontainers import ResourceList
        from snakemake.jobs import Job

        def job_id(job: Any) -> int:
            return 0

        # There is no graph of jobs yet, and a command needs none. What a profile gives to a job says where it runs;
        # Snakemake works some of it out later, from files.
        graph: Any = SimpleNamespace(workflow=self.workflow, jobid=job_id)
        nothing = ResourceList(fromdict={"_cores": 1, "_nodes": 1})
        rules = {rule.name: rule for rule in self.workflow.rules}
        found: dict[str, Told] = {}
        for key in keys:
            path, rule = f"{self.results}/{key}", rules.get(self.dag.jobs[key].step.rule)
            if rule and rule.is_producer(path):
                job: Any = Job(rule, graph, rule.get_wildcards(path))
                job._resources = nothing
                if shell := job.shellcmd:
                    found[key] = Told(shell, tuple(map(str, job.input)))
        return found

    def refuse_other_targets(self) -> None:
        """Ends Snakemake where the command line names what none of the rules makes, with the nearest name."""
        if not self.workflow.is_main_process or "snakemake" not in Path(sys.argv[0]).parts[-2:]:
            return  # a job, or a program that plans by itself
        from snakemake import cli

        def is_made(target: str) -> bool:
            path = target if os.path.isabs(target) else os.path.relpath(target)
            return any(rule.name == target or rule.is_producer(path) for rule in self.workflow.rules)

        def every_file() -> set[str]:
            return {f"{self.results}/{path}" for name in self.dag.built for path in self.dag.behind(name)}

        # The workflow learns its targets after the Snakefile is read, so they are read as Snakemake reads them.
        for target in cast(Any, cli).get_argument_parser().parse_known_args(sys.argv[1:])[0].targets:
            if reason := refusal(self.dag.project, target, is_made, every_file):
                with refusals_end(self.workflow):
                    raise UserError(reason)


def look_for_jobs_when_one_ends() -> None:
    """Turns off that Snakemake looks for jobs to start each second, again and again after the end of every job.

    Such a look serves its limit of jobs a second alone, and finds none while all cores are taken; but there are as many
    looks a second as jobs have ended, and after some hundred they take a core.
    """
    from snakemake.scheduling.job_scheduler import JobScheduler

    scheduler, look_again = cast(Any, JobScheduler), JobScheduler._schedule_reevalutation  # pyright: ignore[reportPrivateUsage]

    def look_again_where_limited(self: Any, delay: int) -> None:
        if not (self.job_rate_limiter and self.job_rate_limiter.get_free_jobs()):
            look_again(self, delay)

    scheduler._schedule_reevalutation = look_again_where_limited


def _begin_jobs_with(more: str = "") -> None:
    """`.venv/bin/snakemake` starts jobs with its own Python, activated or not."""
    from snakemake.shell import shell

    shell.prefix(f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; {more}")


def _clocks_decide_nothing() -> None:
    """Turns off where Snakemake compares times of files, for which it has no option.

    An input that is newer than what was made of it need not be another one, and an older one need not be the same: what
    changed is in `stale`. And what a job made is whole though the clock of its machine, or of who wrote an input, is
    wrong; Snakemake would delete it. What reads the output of a job that runs still runs after it.
    """
    from snakemake import __version__ as version
    from snakemake.dag import DAG
    from snakemake.exceptions import WorkflowError
    from snakemake.io import _IOFile  # pyright: ignore[reportPrivateUsage]

    async def is_newer(file: Any, time: Any) -> bool:
        return False

    async def check_output_mtime(dag: Any, job: Any, outputs: Any) -> None:
        return None

    for place, ours in ((_IOFile, is_newer), (DAG, check_output_mtime)):
        if not callable(getattr(place, ours.__name__, None)):
            found = f"found Snakemake {version}, whose {place.__name__} has no {ours.__name__}"
            raise WorkflowError(f"{found}, expected the version of envs/workflow.txt; install it")
        setattr(place, ours.__name__, ours)


# --- what the rules tell each job ---


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
            said = last_words((done.stderr or done.stdout).replace(f"{folder}/", ""))
            raise UserError(f"Snakemake cannot read the rules: {said or 'it said nothing'}")
        return {key: Told(shell, tuple(reads)) for key, (shell, reads) in json.loads(told.read_bytes()).items()}


# --- `chord submissions OUT.json --profile slurm ...`: the sbatch call of each kind of job that would be sent ---

# All jobs are planned anew in a dry run, each is caught where it would start, and given to the functions by which the
# plugin `slurm` makes its calls. So threads, resources, groups and retries are theirs, not a copy. Sends nothing.

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

    _, settings = cast(Any, cli).parse_args(arguments)
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
    plugin = cast(Any, ExecutorPluginRegistry()).get_plugin("slurm").get_settings(settings)
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
        attempts: list[dict[str, Any]] = []
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
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command  # pyright: ignore[reportUnknownVariableType]
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
