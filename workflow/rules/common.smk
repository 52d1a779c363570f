# Binds the rules to the project. What a job reads, writes and is decided by is in chord/steps.py, what it asks of a
# cluster in chord/cluster/sizing.py, what is stale in chord/provenance. Rules name results by their paths.
import os
import re
import shlex
from pathlib import Path

from chord.cluster.sizing import Requests
from chord.cluster.snakemake import RulesBeingRead, flags_of, listed_paths, refusals_end, with_signature
from chord.config.project import load
from chord.config.sets import started_from
from chord.provenance.cli import settle_output
from chord.steps import FOLDERS, STEPS, Dag

settle_output()

with refusals_end(workflow):
    # A job of a cluster or a container was told to run: what became of other studies since then must not end it.
    project = load(Path("."), given=config, others=workflow.is_main_process)
    requests = Requests.of(project, workflow.resource_settings, workflow.is_main_process)

dag = Dag(project)
rules_read = RulesBeingRead(workflow, dag)
because, files_of, asked_for = rules_read.because, rules_read.files_of, rules_read.asked_for
RESULTS = f"results/{project.study.name}"


wildcard_constraints:
    study=re.escape(project.study.name),


# --- what a rule reads and writes --------------------------------------------------------------


def reads(rule):
    """What a job of the rule reads, by flag."""

    def told(wildcards):
        found = dag.job(rule, wildcards).reads
        return {name: [f"{RESULTS}/{path}" for path in listed_paths(paths)] for name, paths in found.items()}

    return with_signature(told)


def made(rule, **shown):
    """What a job of the rule writes, by flag; `shown` says how Snakemake's own report shows one of them."""
    found = {}
    for name, path in STEPS[rule].files.items():
        path = f"results/{{study}}/{path}"
        if name in shown:
            path = report(path, **shown[name] | {"caption": f"../report/{shown[name]['caption']}.rst"})
        found[name] = directory(path) if name in FOLDERS else path
    return found


def only(rule):
    """Wildcard constraints of the rule: the jobs that the study has."""
    jobs = STEPS[rule].jobs(dag)
    values = {name: dict.fromkeys(job[name] for job in jobs) for name in STEPS[rule].wildcards}
    return {name: "|".join(map(re.escape, found)) or "-" for name, found in values.items()}


@with_signature
def flags_in(wildcards, input):
    """What a job reads, as flags."""
    return flags_of(input)


@with_signature
def flags_out(wildcards, output):
    """What a job writes, as flags."""
    return flags_of(output)


# --- what else rules tell their jobs -----------------------------------------------------------


def environment(rule):
    """The conda file with the packages of the rule's verb; that of vLLM and DeepSpeed has those of other verbs too."""
    alike = [step for step in STEPS.values() if step.verb == STEPS[rule].verb]
    steps = [job.spec.step.split("+")[-1] for step in alike for job in step.jobs(dag)[:1]]
    return f"../../envs/{next(iter(steps), 'data')}.yaml"


@with_signature
def run_text(wildcards):
    """run.json: all that this training is told; labels and the paper's numbers are not in it."""
    return dag.run_text(dict(wildcards.items()))


@with_signature
def intervals(wildcards, output):
    """How often training saves. A function of `output`: Snakemake does not count that as part of what the job is."""
    steps, minutes = project.study.execution.checkpoint_every_steps, project.study.execution.checkpoint_every_minutes
    return f"--checkpoint-every-steps {steps} --checkpoint-every-minutes {minutes:g}"


@with_signature
def folders_of_models(wildcards, input):
    """The folder of each candidate's run; and their scores, where the arm is chosen on the test set."""
    scores = ["--scores", *input.scores] if "scores" in input.keys() else []
    return shlex.join([*map(os.path.dirname, input.models), *scores])


def ahead(rule):
    """`--ahead` for each other benchmark of the model: the first job does their work too, so that start-up is paid once."""

    # A function of `output`: Snakemake does not count that as part of what the job is.
    def told(wildcards, output):
        others = dag.ahead(rule, dict(wildcards.items()))
        listed = ("=".join([name, *(f"{RESULTS}/{path}" for path in paths)]) for name, *paths in others)
        return " ".join(f"--ahead {files}" for files in listed)

    return with_signature(told)


@with_signature
def training_turn(wildcards):
    """Runs that other arms start from go first, so that the longest chain never waits."""
    return 80 if any(wildcards.arm in started_from(arm) for arm in project.arms.values()) else 70


def turn(first):
    """The same benchmark of every model first: it does the others ahead."""

    def told(wildcards):
        return first - list(project.study.benchmarks).index(wildcards.benchmark)

    return with_signature(told)
