"""What a target would cost before anything is bought: jobs, hours, memory, disk, tokens. Runs and changes nothing.

    chord plan table1 --study math --machine h100-80gb --devices 8
    chord plan table1 --study demo --machine cpu-core --devices 1 --against results/demo

Estimates from the model's shape, the budgets, and config/planning.yaml, which says where its own numbers are from.
`--against` puts what a finished study measured beside them. Exit codes: 0, or 1 if a training does not fit.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from chord.config.load import load
from chord.config.planning import Dimensions, Lengths, Planning
from chord.config.project import Project
from chord.config.sets import start_models
from chord.config.study import Study
from chord.planning import fitting, measured, memory
from chord.planning.model import named, parameters
from chord.planning.snakemake import Planned, planned
from chord.planning.telling import told
from chord.planning.unbuilt import as_trained, costs
from chord.planning.work import Bench, Cost
from chord.provenance.files import UserError
from chord.provenance.options import Number
from chord.sizing import Layout, Work, cost, disk, lengths_of, machine_of, shape_of, start_below


def main() -> None:
    """Print the estimate, or with --json all numbers of it."""
    args = _arguments()
    root = Path(".")
    planning = Planning.read(root)
    machine = machine_of(planning, args.machine, "--machine")
    project = load(root, args.study, tuple(args.seeds or ()))
    lengths_of(project.study, planning)
    layout = Layout(args.machine, machine, args.devices, args.answering_devices)
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
    print(json.dumps(estimate, indent=1) if as_json else "\n".join(told(estimate)))
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
    used = dict.fromkeys(start for job in jobs if (start := start_below(project, _work(job)))) or {"base": None}
    shapes = {start: shape_of(study, planning, start, start_models(study)[start]) for start in used}
    costs = [(job, cost(project, planning, layout, _work(job), shapes)) for job in jobs]
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
        "disk_gb": disk(project, shapes, [_work(job) for job in jobs]),
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


def _work(job: Planned) -> Work:
    return Work.of_job(job.rule, job.outputs[0])


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
