"""What a target would cost before anything is bought: jobs, hours, memory, disk, tokens. Runs and changes nothing.

    chord plan table1 --study math --machine h100-80gb --devices 8
    chord plan table1 --study demo --machine cpu-core --devices 1 --against results/demo

Estimates from the model's shape, the budgets, and config/planning.yaml, which says where its own numbers are from.
`--against` puts what a finished study measured beside them. Exit codes: 0, or 1 if a training does not fit.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from chord.config import Model, Project, Study, load
from chord.config.building import asked_expert, corpus_of_start, start_models, start_of
from chord.config.planning import Dimensions, Lengths, Machine, Planning
from chord.config.sets import answered, expert_of, split_of
from chord.planning import fitting, measured, memory
from chord.planning.model import dimensions, named, parameters
from chord.planning.snakemake import Planned, planned
from chord.planning.telling import told
from chord.planning.unbuilt import as_trained, costs
from chord.planning.work import Bench, Cost, steps_of
from chord.provenance.files import UserError, run_verb
from chord.provenance.options import Number
from chord.tasks.benchmarks import read_benchmark

TRAINS = ("train_base", "train_sft", "train")


@dataclass(frozen=True)
class Layout:
    """Which machine, and how many of its devices a training and an answering job get."""

    name: str
    machine: Machine
    devices: int
    answering: int


def main() -> None:
    """Print the estimate, or with --json all numbers of it."""
    args = _arguments()
    root = Path(".")
    planning = Planning.read(root)
    if args.machine not in planning.machines:
        raise UserError(f"--machine: found '{args.machine}', expected one of {', '.join(planning.machines)}")
    project = load(root, args.study, tuple(args.seeds or ()))
    if project.study.name not in planning.lengths:
        raise UserError(
            f"config/planning.yaml: lengths has no '{project.study.name}', expected the study's mean lengths"
        )
    layout = Layout(args.machine, planning.machines[args.machine], args.devices, args.answering_devices)
    if unbuilt := [name for name in args.targets if name in planning.unbuilt and project.why_not(name)]:
        if len(args.targets) > 1 or args.against:
            raise UserError(f"{unbuilt[0]}: no study builds it, expected it alone and without --against")
        _tell(_of_unbuilt(project, planning, layout, unbuilt[0]), args.json)
    config = [f"study={project.study.name}", *([f"seeds={args.seeds}"] if args.seeds else [])]
    jobs = planned([*args.targets, *(["--forceall"] if args.all or args.against else []), "--config", *config])
    estimate = estimated(project, planning, layout, jobs)
    if args.against:
        estimate["against"] = measured.compared(args.against, estimate["jobs"], estimate["memory"])
    _tell(estimate, args.json)


def _tell(estimate: dict[str, Any], as_json: bool) -> NoReturn:
    """Print it and end."""
    print(json.dumps(estimate, indent=1, ensure_ascii=False) if as_json else "\n".join(told(estimate)))
    sys.exit(0 if estimate["fits"] else 1)


def _of_unbuilt(project: Project, planning: Planning, layout: Layout, name: str) -> dict[str, Any]:
    """The estimate for a table or figure that no study builds, as that of `estimated`."""
    target = planning.unbuilt[name]
    project = (
        project if project.study.name == target.study else load(Path("."), target.study, project.choice.seeds or ())
    )
    study, shape = as_trained(project.study, target), named(target.model, planning)
    bench = Bench(study, shape, layout.machine, target.lengths, layout.devices, study.execution.recompute_activations)
    found = list(costs(project, planning, target, bench, layout.answering))
    jobs = [(Planned(rule, (arm,), ()), cost) for seed in project.seeds for rule, arm, cost in found]
    model = _of_shape(study, target.lengths, layout, target.model, shape)
    size = memory.saved_gb(shape, study.execution.compute_dtype)
    trainings = sum(job.rule == "train" for job, _ in jobs)
    return {
        "study": study.name,
        "machine": layout.name,
        "devices": layout.devices,
        "parameters": model["parameters"],
        "not_built": f"{name} is not built: {project.why_not(name)}",
        "rules": [_of_rule(rule, jobs) for rule in dict.fromkeys(job.rule for job, _ in jobs)],
        "jobs": [{"rule": job.rule, "place": job.outputs[-1], **asdict(cost)} for job, cost in jobs],
        "models": {target.model: model},
        "memory": model["memory"],
        "disk_gb": {"models": size * trainings, "one_training_in_progress": 5 * size},
        "fits": model["fits"],
        "verdict": model["verdict"],
    }


def estimated(project: Project, planning: Planning, layout: Layout, jobs: list[Planned]) -> dict[str, Any]:
    """All numbers of the plan, as plain data."""
    study = project.study
    used = dict.fromkeys(start for job in jobs if (start := _start(project, job))) or {"base": None}
    shapes = {start: _shape(study, planning, start, start_models(study)[start]) for start in used}
    costs = [(job, _cost(project, planning, layout, job, shapes)) for job in jobs]
    models = {start: _of_model(project, planning, layout, start, shape) for start, shape in shapes.items()}
    first = models.get("base") or next(iter(models.values()))
    return {
        "study": study.name,
        "machine": layout.name,
        "devices": layout.devices,
        "parameters": first["parameters"],
        "rules": [_of_rule(rule, costs) for rule in dict.fromkeys(job.rule for job, _ in costs)],
        "jobs": [{"rule": job.rule, "place": job.outputs[-1], **asdict(cost)} for job, cost in costs],
        "models": models,
        "memory": first["memory"],
        "disk_gb": _disk(project, shapes, jobs),
        "fits": all(one["fits"] for one in models.values()),
        "verdict": first["verdict"],
    }


def _of_model(project: Project, planning: Planning, layout: Layout, start: str, shape: Dimensions) -> dict[str, Any]:
    """What training from this start model needs of a rank's memory, and whether a device holds it."""
    study = project.study
    return _of_shape(study, planning.lengths[study.name], layout, start_models(study)[start].name, shape)


def _of_shape(study: Study, lengths: Lengths, layout: Layout, name: str, shape: Dimensions) -> dict[str, Any]:
    """As above, of a model of this name and shape."""
    setting, longest = memory.Setting.of(study, layout.devices), fitting.longest_sequence(study, lengths)
    sentences = fitting.verdict(study, shape, layout.machine, setting, longest)
    peak = memory.training_peak(study, shape, layout.machine, setting)
    sampling = memory.sampling_peak(study, shape, layout.machine, setting, longest)
    return {
        "name": name,
        "parameters": parameters(shape),
        "memory": {
            "training": {"device_gb": peak.device, "host_gb": peak.host},
            "sampling": {"device_gb": sampling.device, "host_gb": sampling.host},
            "host_gb": memory.host_gb(shape),
        },
        "fits": not sentences[0].startswith("does not fit"),
        "verdict": sentences,
    }


def _shape(study: Study, planning: Planning, folder: str, model: Model) -> Dimensions:
    """The shape of a model in this folder in models/: its own file's where it is there."""
    return dimensions(model, planning, Path("results", study.name, "models", folder, "model"))


def _start(project: Project, job: Planned) -> str | None:
    """The start model whose shape a job computes with; None for jobs that need no policy."""
    parts = Path(job.outputs[0]).parts
    if job.rule == "train_base":
        return parts[parts.index("models") + 1]
    return start_of(project.arms, _arm(job)) if job.rule in (*TRAINS, "generate", "choose") else None


def _arm(job: Planned) -> str:
    """The arm of a job below runs/."""
    parts = Path(job.outputs[0]).parts
    return parts[parts.index("runs") + 1]


def _of_rule(rule: str, costs: list[tuple[Planned, Cost]]) -> dict[str, Any]:
    """The sum over the jobs of a rule."""
    of_rule = [cost for job, cost in costs if job.rule == rule]
    return {
        "rule": rule,
        "jobs": len(of_rule),
        "hours": sum(cost.seconds for cost in of_rule) / 3600,
        "device_hours": sum(cost.device_hours for cost in of_rule),
        "learned_tokens": sum(cost.learned_tokens for cost in of_rule),
        "sampled_tokens": sum(cost.sampled_tokens for cost in of_rule),
    }


def _cost(project: Project, planning: Planning, layout: Layout, job: Planned, shapes: Mapping[str, Dimensions]) -> Cost:
    """Of one job, with the shape of the model that it computes with; one that needs no device costs its start alone."""
    study, machine, start = project.study, layout.machine, _start(project, job)
    lengths, parts = planning.lengths[study.name], Path(job.outputs[0]).parts
    if job.rule == "ask_expert":
        return _of_asking(study, planning, machine, Path(job.outputs[0]).stem)
    if start is None or job.rule == "choose":
        return Cost(machine.start_seconds, 0)
    trains = Bench(study, shapes[start], machine, lengths, layout.devices, study.execution.recompute_activations)
    if job.rule == "train_base":
        corpus = corpus_of_start(study, start)
        return _of_base(corpus.recipe.steps or 1, corpus.rows_per_step, trains)
    arm = _arm(job)
    if job.rule == "generate":
        name = parts[parts.index("eval") + 1]
        length = lengths.base if project.arms[arm].same_as else lengths.of(arm)
        samples = read_benchmark(Path("."), study, name).samples_per_problem
        answers = Bench(study, shapes[start], machine, lengths, layout.answering)
        return answers.answering(study.benchmarks[name].problems.size * samples, length)
    recipe = project.arms[arm].recipe
    assert recipe is not None, "only arms with a recipe are trained"
    return trains.training(arm, recipe, study.expert_rows_per_step)


def _of_asking(study: Study, planning: Planning, machine: Machine, traces: str) -> Cost:
    """Asking a served expert for its traces, on the devices of all its replicas, by its own shape."""
    expert = expert_of(study, traces)
    assert expert.source == "served", "only a served expert is asked"
    shape = _shape(study, planning, asked_expert(study, traces), expert.model)
    lengths, devices = planning.lengths[study.name], expert.tensor_parallel * expert.replicas
    bench = Bench(study, shape, machine, lengths, devices, at_once=expert.requests_at_once)
    questions = split_of(study, answered(study, traces)).size * expert.samples_per_problem
    return bench.answering(questions, lengths.expert)


def _of_base(steps: int, rows: int, bench: Bench) -> Cost:
    """Training of a start model of the study's own: `rows` texts of an expert's length a step, nothing sampled."""
    seconds = bench.machine.start_seconds + steps * bench.learning(rows, bench.lengths.expert)
    return Cost(seconds, bench.devices, steps * rows * bench.lengths.expert)


def _disk(project: Project, shapes: Mapping[str, Dimensions], jobs: list[Planned]) -> dict[str, float]:
    """10^9 bytes that stay in results/, and that trainings in progress need besides, each at most."""
    dtype = project.study.execution.compute_dtype
    sizes = {start: memory.saved_gb(shape, dtype) for start, shape in shapes.items()}
    kept = 0.0
    for job in jobs:
        start = _start(project, job)
        if start and job.rule != "generate":
            candidates = max(1, _validations(project, job)) if job.rule == "train_sft" else 0
            kept += sizes[start] * (1 + candidates)
    return {"models": kept, "one_training_in_progress": 5 * max(sizes.values())}


def _validations(project: Project, job: Planned) -> int:
    """How many candidates an arm that keeps every validation leaves."""
    parts = Path(job.outputs[0]).parts
    recipe = project.arms[parts[parts.index("runs") + 1]].recipe
    if recipe is None or recipe.keep != "every":
        return 0
    return -(
        -steps_of(project.study, recipe, project.study.expert_rows_per_step) // project.study.validation.every_steps
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chord plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="a table or figure (default: all of config.yaml)")
    parser.add_argument("--study", help="a file in config/studies/ (default: that of config.yaml)")
    parser.add_argument("--seeds", action=Number, least=0, nargs="+", help="training seeds (default: the study's)")
    parser.add_argument("--machine", default="h100-80gb", help="a machine of config/planning.yaml (default: h100-80gb)")
    parser.add_argument("--devices", action=Number, default=8, help="devices of one training (default: 8)")
    parser.add_argument(
        "--answering-devices", action=Number, default=1, help="devices of one answering job (default: 1)"
    )
    parser.add_argument("--all", action="store_true", help="also what is made already; as with --against")
    parser.add_argument("--against", type=Path, metavar="RESULTS", help="a finished study, measured beside estimated")
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    run_verb("chord plan", main)
