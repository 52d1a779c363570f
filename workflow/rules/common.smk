# What the rules look up: the checked configuration, what is stale and why, and which files a job reads.
# Results are named by the paths in the rules; functions here only choose among them.
import os
import re
import shlex
import signal
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from chord.cluster import sizing
from chord.config.project import load
from chord.config.paper import benchmarks_of
from chord.config.project import refusal
from chord.config.sets import started_from
from chord.errors import ConfigError, UserError
from chord.provenance import commands, freshness
from chord.provenance.cli import settle_output
from chord.cluster.snakemake import answer, is_asked, told_by
from chord.provenance.files import SNAKEMAKE_IN
from chord.steps import FOLDERS, STEPS, Dag

settle_output()


def checked_project(given):
    """All of config/ with what `--config` changed. If it cannot be run, Snakemake ends here: reasons, and no trace."""
    try:
        # A job of a cluster or a container was told to run: what became of other studies since then must not end it.
        return load(Path("."), given=given, others=workflow.is_main_process)
    except ConfigError as error:
        end_here(str(error))


def end_here(reason):
    """End Snakemake with these words alone; nothing is left on disk."""
    for log in workflow.logger_manager.get_logfile():
        with suppress(OSError):
            os.remove(log)
            os.removedirs(os.path.dirname(log))
    sys.exit(reason)


project = checked_project(config)
dag = Dag(project)

# By this `chord resume` finds what a killed Snakemake left running.
if workflow.is_main_process:
    os.environ[SNAKEMAKE_IN] = os.path.realpath(".")

# `.venv/bin/snakemake` starts jobs with its own Python, activated or not. With conda or containers they bring theirs.
if not workflow.deployment_settings.deployment_method:
    shell.prefix(f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; ")


wildcard_constraints:
    study=re.escape(project.study.name),


# Slurm tells a whole job that its time is nearly up; only the training may answer, which saves and ends by itself.
if not workflow.is_main_process:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)

# --- what is stale -----------------------------------------------------------------------------


def looked_over():
    """What of results/ the present code, settings, rules, pins and files would not make again, by manifest; says so."""
    if not workflow.is_main_process:
        return {}  # a job of a cluster or a container: it was told to run
    results = Path("results", project.study.name)
    expected, recipes = dag.specs, dag.run_texts
    wanted = [key for key in (*expected, *recipes) if is_asked() or (results / key).exists()]
    told = told_by(workflow, str(results), wanted)
    if is_asked():
        answer(told)
    try:
        found = freshness.survey(results, expected, recipes | commands.texts(told))
    except UserError as error:
        raise WorkflowError(str(error))
    commands.add_changes(found, told, results)
    for line in freshness.summary(found):
        print(line, file=sys.stderr)
    return found


def because(rule):
    """Among the inputs of a rule, no file: where its manifest is stale, Snakemake is told to run the job again."""

    def told(wildcards):
        key = dag.job(rule, wildcards).key
        if key in stale:
            workflow.dag.forcefiles.add(f"results/{project.study.name}/{key}")
        return []

    return told


stale = {}  # filled at the end of the Snakefile, when all rules are known


def clocks_decide_nothing():
    """Turns off where Snakemake compares times of files, for which it has no option.

    An input that is newer than what was made of it need not be another one, and an older one need not be the same: what
    changed is in `stale`. And what a job made is whole though the clock of its machine, or of who wrote an input, is
    wrong; Snakemake would delete it. What reads the output of a job that runs still runs after it.
    """

    from snakemake import __version__ as version  # here, since Snakemake has loaded them in its own order
    from snakemake.dag import DAG
    from snakemake.io import _IOFile

    async def is_newer(file, time):
        return False

    async def check_output_mtime(dag, job, outputs):
        return None

    for place, ours in ((_IOFile, is_newer), (DAG, check_output_mtime)):
        if not callable(getattr(place, ours.__name__, None)):
            found = f"found Snakemake {version}, whose {place.__name__} has no {ours.__name__}"
            raise WorkflowError(f"{found}, expected the version of envs/workflow.txt; install it")
        setattr(place, ours.__name__, ours)


clocks_decide_nothing()

# A job that was told to stop (exit code 75), killed, or lost its machine goes on from what it saved; one that failed for
# a reason of its own fails again there, soon. Where jobs are sent to a cluster its profile says how often; a job that was
# sent does not begin again by itself, but ends and is sent again, with more time.
RETRIES = 3 if workflow.is_main_process and workflow.resource_settings.nodes is None else None


def environment(step):
    """The conda file of a step that computes with models; the one with vLLM and DeepSpeed where the study names them."""
    execution = project.study.execution
    named = execution.sampler == "vllm" or execution.zero.stage > 0 or execution.answers == "vllm"
    return f"../../envs/{'engines' if named else step}.yaml"


# --- what a job asks of a cluster ---------------------------------------------------------------

OVERRIDES = workflow.resource_settings.overwrite_resources


def site_of_profile():
    """Sizes of the study's jobs on what the profile calls `site`; None without one. What is not known ends Snakemake."""
    try:
        site = sizing.site_of(OVERRIDES)
        return site and sizing.Sizing.of(project, Path("."), site)
    except UserError as error:
        end_here(str(error))


site = site_of_profile()


@cache
def need_of(work):
    """What a job needs; with the GPUs and nodes that the profile gives to its rule, where it does."""
    gpus, nodes = (OVERRIDES.get(work.rule, {}).get(name) for name in ("gres", "nodes"))
    nodes = nodes.raw if nodes and isinstance(nodes.raw, int) else 1
    return site.need(work, sizing.gpus_named(gpus.raw) if gpus else None, nodes)


def asked(rule):
    """Resources of the jobs of a rule, by what the plan says that they need; what a profile says of the rule counts more."""

    def planned(name):
        def value(wildcards, attempt):
            of = next(wildcards[key] for key in ("arm", "start", "traces") if key in wildcards.keys())
            return site.resources(need_of(sizing.Work(rule, of, wildcards.get("benchmark", ""))), attempt)[name]

        return value

    resources = {name: planned(name) for name in site.resources_named} if site else {}
    settings = workflow.resource_settings
    to_a_cluster = workflow.is_main_process and settings.nodes is not None and settings.default_resources is not None
    return resources | ({"slurm_extra": told_before_its_end} if to_a_cluster and rule in sizing.TRAINS else {})


def sent_with(wildcards, resources):
    """What a job is sent to Slurm with, for its message: partition, GPUs, memory and minutes; nothing elsewhere."""
    if "slurm_partition" not in resources.keys():
        return ""
    named = {name: resources.get(name) for name in ("slurm_partition", "gres", "nodes", "mem_mb", "runtime")}
    return "; ".join(["", *(f"{name} {value}" for name, value in named.items() if value is not None)])


def told_before_its_end(wildcards, input, attempt, threads, rulename, async_run):
    """`slurm_extra` of all jobs, and that Slurm tells a training five minutes before its time is up."""
    known = {"input": input, "attempt": attempt, "threads": threads, "rulename": rulename, "async_run": async_run}
    extra = workflow.resource_settings.default_resources.get("slurm_extra").evaluate(wildcards, **known).value
    return f"{extra or ''} --signal=USR1@300".lstrip()


# --- what a rule reads and writes, out of the table in chord/steps.py ------------------------------


def in_results(paths):
    """Paths below results/STUDY as rules name them."""
    return f"results/{{study}}/{paths}" if isinstance(paths, str) else [in_results(path) for path in paths]


def reads(rule):
    """What a job of the rule reads, by flag."""

    def told(wildcards):
        return {name: in_results(paths) for name, paths in dag.job(rule, wildcards).reads.items()}

    return told


def made(rule, **shown):
    """What a job of the rule writes, by flag; `shown` says how Snakemake's own report shows one of them."""
    found = {}
    for name, path in STEPS[rule].files.items():
        path = in_results(path)
        if name in shown:
            path = report(path, **shown[name] | {"caption": f"../report/{shown[name]['caption']}.rst"})
        found[name] = directory(path) if name in FOLDERS else path
    return found


def only(rule):
    """Wildcard constraints of the rule: the jobs that the study has."""
    jobs = STEPS[rule].jobs(dag)
    values = {name: dict.fromkeys(job[name] for job in jobs) for name in STEPS[rule].wildcards}
    return {name: "|".join(map(re.escape, found)) or "-" for name, found in values.items()}


def as_flags(files):
    """`--name FILE ...` for each; one without files is left out."""
    listed = {name: [paths] if isinstance(paths, str) else list(paths) for name, paths in files if name != "because"}
    return " ".join(f"--{name} {' '.join(map(shlex.quote, paths))}" for name, paths in listed.items() if paths)


def flags_in(wildcards, input):
    """What a job reads, as flags."""
    return as_flags(input.items())


def flags_out(wildcards, output):
    """What a job writes, as flags."""
    return as_flags(output.items())


def run_text(wildcards):
    """run.json: all that this training is told; labels and the paper's numbers are not in it."""
    return dag.run_text(dict(wildcards.items()))


# --- training ----------------------------------------------------------------------------------


def launcher(wildcards, resources, threads):
    """What goes before the command of a training: a process for each GPU that learns, where there are several."""
    nodes, (gpus, beside) = int(resources.get("nodes", 1)), sizing.divided(
        resources.get("gres"), project.study.execution
    )
    if gpus * nodes - beside == 1:
        return ""
    run = f"runs/{wildcards.arm}/seed-{wildcards.seed}" if "arm" in wildcards.keys() else f"models/{wildcards.start}"
    served = f"--beside {beside} " if beside else ""
    start = f"python -m chord launch --per-node {gpus} {served}--logs results/{wildcards.study}/{run}/ranks -- "
    cpus = resources.get("cpus_per_task", threads)
    each = f"--nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --cpus-per-task={cpus} --kill-on-bad-exit=1"
    return start if nodes == 1 else f"{resources.get('mpi', 'srun')} {each} {start}"


def intervals(wildcards, output):
    """How often training saves. A function of `output`: Snakemake does not count that as part of what the job is."""
    steps, minutes = project.study.execution.checkpoint_every_steps, project.study.execution.checkpoint_every_minutes
    return f"--checkpoint-every-steps {steps} --checkpoint-every-minutes {minutes:g}"


def folders_of_models(wildcards, input):
    """The folder of each candidate's run; and their scores, where the arm is chosen on the test set."""
    runs = [os.path.dirname(model) for model in input.models]
    scores = ["--scores", *input.scores] if "scores" in input.keys() else []
    return " ".join(map(shlex.quote, runs + scores))


def training_turn(wildcards):
    """Runs that other arms start from go first, so that the longest chain never waits."""
    return 80 if any(wildcards.arm in started_from(arm) for arm in project.arms.values()) else 70


# --- evaluation --------------------------------------------------------------------------------


def ahead(wildcards, shape):
    """`--ahead` for each other benchmark of the model: the first job does their work too, so that start-up is paid once."""
    data, evaluated = "results/{study}/data/benchmarks", "results/{study}/runs/{arm}/seed-{seed}/eval"
    places = {"data": data.format(**wildcards), "eval": evaluated.format(**wildcards)}
    others = [name for name in shown_benchmarks(wildcards.arm) if name != wildcards.benchmark]
    return " ".join(f"--ahead {shape.format(name=name, **places)}" for name in others)


def shown_benchmarks(arm):
    """The benchmarks that tables of the study show of the arm; others are not asked for its answers."""
    shown = {key for name in HERE if arm in project.artefacts[name].arms for key in columns_of(name)}
    return [name for name in project.study.benchmarks if name in shown]


def answers_ahead(wildcards, output):
    """`ahead` for answers. A function of `output`: Snakemake does not count that as part of what the job is."""
    return ahead(wildcards, "{name}={data}/{name}.jsonl={eval}/{name}/answers.jsonl")


def scores_ahead(wildcards, output):
    """`ahead` for scores. A function of `output`: Snakemake does not count that as part of what the job is."""
    return ahead(wildcards, "{name}={eval}/{name}/answers.jsonl={data}/{name}.jsonl={eval}/{name}/scores.json")


def scoring_turn(wildcards):
    """The same benchmark of every model first: it does the others ahead."""
    return -list(project.study.benchmarks).index(wildcards.benchmark)


def generating_turn(wildcards):
    """As `scoring_turn`, and all answers before the first scores."""
    return 10 + scoring_turn(wildcards)


# --- tables and figures ------------------------------------------------------------------------

HERE = [name for name in project.artefacts if not project.why_not(name)]


def columns_of(artefact):
    """The benchmarks of a table; none for a figure."""
    return benchmarks_of(project.study, project.artefacts[artefact])


def asked_for(artefact):
    """What `snakemake ARTEFACT` wants: its files or, where the study does not build it, an end that says why."""

    def refused(wildcards):
        raise WorkflowError(f"{artefact} is not built in study {project.study.name}: {project.why_not(artefact)}.")

    return files_of(artefact) if artefact in (*HERE, "claims") else refused


def files_of(artefact):
    """Files of a table, figure or the claims; and those far below that are gone: Snakemake misses a file only in use."""
    own = paths_of([dag.artefact(artefact)])
    return (
        own + [file for file in paths_below(artefact) if not os.path.exists(file)]
        if all(map(os.path.exists, own))
        else own
    )


def paths_below(artefact):
    """The files of all jobs that a table, a figure or the claims stand on."""
    names = project.choice.artefacts if artefact == "claims" else [artefact]
    return sorted({*paths_of(dag.below(dag.artefact(name).key for name in names).values())})


def paths_of(jobs):
    """All that these jobs write."""
    return [f"results/{project.study.name}/{path}" for job in jobs for path in job.outputs.values()]


# --- what was asked for ------------------------------------------------------------------------


def refuse_other_targets():
    """Ends Snakemake where the command line names what none of the rules makes, with the nearest name."""
    if not workflow.is_main_process or "snakemake" not in Path(sys.argv[0]).parts[-2:]:
        return  # a job, or a program that plans by itself

    from snakemake.cli import get_argument_parser

    def is_made(target):
        path = target if os.path.isabs(target) else os.path.relpath(target)
        return any(rule.name == target or rule.is_producer(path) for rule in workflow.rules)

    def all_files():
        return {file for name in HERE for file in paths_below(name)}

    # The workflow learns its targets after the Snakefile is read, so they are read off the command line, as Snakemake does.
    for target in get_argument_parser().parse_known_args(sys.argv[1:])[0].targets:
        if reason := refusal(project, target, is_made, all_files):
            end_here(reason)
