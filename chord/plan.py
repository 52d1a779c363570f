"""What a target would cost before anything is bought: jobs, hours, memory, disk, tokens. Runs and changes nothing.

    chord plan table1 --study math --machine h100-80gb --devices 8
    chord plan table1 --study demo --machine cpu-core --devices 1 --against results/demo

Estimates from the model's shape, the budgets, and config/planning.yaml, which says where its own numbers are from.
`--against` puts what a finished study measured beside them. Exit codes: 0, or 1 if a training does not fit.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chord.config import Project, load
from chord.config.building import corpus_of_start
from chord.config.planning import Machine, Planning
from chord.planning import fitting, measured, memory
from chord.planning.model import dimensions, parameters
from chord.planning.snakemake import Planned, planned
from chord.planning.work import Bench, Cost, steps_of
from chord.provenance.files import UserError, run_verb
from chord.tasks.benchmarks import read_benchmark

TRAINS = ("train_base", "train_sft", "train")
SUMS = ("jobs", "hours", "device_hours", "learned_tokens", "sampled_tokens")


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
    config = [f"study={project.study.name}", *([f"seeds={args.seeds}"] if args.seeds else [])]
    jobs = planned([*args.targets, *(["--forceall"] if args.all or args.against else []), "--config", *config])
    estimate = estimated(project, planning, layout, jobs)
    if args.against:
        estimate["against"] = measured.compared(args.against, estimate["jobs"], estimate["memory"])
    print(json.dumps(estimate, indent=1, ensure_ascii=False) if args.json else "\n".join(_told(estimate)))
    sys.exit(0 if estimate["fits"] else 1)


def estimated(project: Project, planning: Planning, layout: Layout, jobs: list[Planned]) -> dict[str, Any]:
    """All numbers of the plan, as plain data."""
    study = project.study
    shape = dimensions(study, planning, Path("results", study.name, "models", "base"))
    setting = memory.Setting.of(study, layout.devices)
    lengths = planning.lengths[study.name]
    trains = Bench(study, shape, layout.machine, lengths, layout.devices, setting.recompute)
    answers = Bench(study, shape, layout.machine, lengths, layout.answering)
    costs = [(job, _cost(project, job, trains, answers)) for job in jobs]
    longest = fitting.longest_sequence(study, lengths)
    sentences = fitting.verdict(study, shape, layout.machine, setting, longest)
    peak = memory.training_peak(study, shape, layout.machine, setting)
    sampling = memory.sampling_peak(study, shape, layout.machine, setting, longest)
    return {
        "study": study.name,
        "machine": layout.name,
        "devices": layout.devices,
        "parameters": parameters(shape),
        "rules": [_of_rule(rule, costs) for rule in dict.fromkeys(job.rule for job, _ in costs)],
        "jobs": [{"rule": job.rule, "place": job.outputs[-1], **asdict(cost)} for job, cost in costs],
        "memory": {
            "training": {"device_gb": peak.device, "host_gb": peak.host},
            "sampling": {"device_gb": sampling.device, "host_gb": sampling.host},
            "host_gb": memory.host_gb(shape),
        },
        "disk_gb": _disk(project, shape, jobs),
        "fits": not sentences[0].startswith("does not fit"),
        "verdict": sentences,
    }


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


def _cost(project: Project, job: Planned, trains: Bench, answers: Bench) -> Cost:
    """Of one job; one that needs no device costs its start alone."""
    study, parts = project.study, Path(job.outputs[0]).parts
    if job.rule == "train_base":
        corpus = corpus_of_start(study, parts[parts.index("models") + 1])
        return _of_base(corpus.recipe.steps or 1, corpus.rows_per_step, trains)
    if job.rule in TRAINS:
        arm = parts[parts.index("runs") + 1]
        recipe = project.arms[arm].recipe
        assert recipe is not None, "only arms with a recipe are trained"
        return trains.training(arm, recipe, study.expert_rows_per_step)
    if job.rule == "generate":
        arm, name = parts[parts.index("runs") + 1], parts[parts.index("eval") + 1]
        length = trains.lengths.base if project.arms[arm].same_as else trains.lengths.of(arm)
        samples = read_benchmark(Path("."), study, name).samples_per_problem
        return answers.answering(study.benchmarks[name].problems.size * samples, length)
    return Cost(trains.machine.start_seconds, 0)


def _of_base(steps: int, rows: int, bench: Bench) -> Cost:
    """Training of a start model of the study's own: `rows` texts of an expert's length a step, nothing sampled."""
    seconds = bench.machine.start_seconds + steps * bench.learning(rows, bench.lengths.expert)
    return Cost(seconds, bench.devices, steps * rows * bench.lengths.expert)


def _disk(project: Project, shape: Any, jobs: list[Planned]) -> dict[str, float]:
    """10^9 bytes that stay in results/, and that trainings in progress need besides, each."""
    dtype = project.study.execution.compute_dtype
    model = memory.saved_gb(shape, dtype)
    kept = sum(job.rule in (*TRAINS, "choose") for job in jobs) * model
    for job in jobs:
        if job.rule == "train_sft":
            kept += model * max(1, _validations(project, job))  # its candidates
    return {"models": kept, "one_training_in_progress": 5 * model}


def _validations(project: Project, job: Planned) -> int:
    """How many candidates an arm that keeps every validation leaves."""
    parts = Path(job.outputs[0]).parts
    recipe = project.arms[parts[parts.index("runs") + 1]].recipe
    if recipe is None or recipe.keep != "every":
        return 0
    return -(
        -steps_of(project.study, recipe, project.study.expert_rows_per_step) // project.study.validation.every_steps
    )


def _told(estimate: dict[str, Any]) -> Iterator[str]:
    """The estimate in lines for a terminal."""
    many = f"{estimate['devices']} x {estimate['machine']}"
    yield f"study {estimate['study']}: {estimate['parameters'] / 1e6:,.1f} M parameters, trained on {many}"
    yield ""
    yield f"{'rule':18}{'jobs':>6}{'hours':>10}{'device h':>10}{'tokens learned':>16}{'tokens sampled':>16}"
    total = {"rule": "together"} | dict.fromkeys(SUMS, 0)
    for rule in estimate["rules"]:
        yield _line(rule)
        total |= {key: total[key] + rule[key] for key in SUMS}
    yield _line(total)
    yield ""
    for moment in ("training", "sampling"):
        parts = estimate["memory"][moment]["device_gb"]
        listed = ", ".join(f"{name} {value:.1f}" for name, value in parts.items() if value >= 0.05)
        yield f"memory of a rank while {moment}: {sum(parts.values()):.1f} GB ({listed})"
    host = estimate["memory"]["host_gb"]
    yield (
        f"memory of the host: {host['each rank']:.1f} GB for each rank while it reads the weights,"
        f" {host['the first rank']:.1f} GB for the first while it saves"
    )
    disk = estimate["disk_gb"]
    more = disk["one_training_in_progress"]
    yield f"disk: {disk['models']:.1f} GB of models stay; {more:.1f} GB more for each training in progress"
    yield from ("", *estimate["verdict"])
    if "against" in estimate:
        yield from ("", *measured.told(estimate["against"]))


def _line(rule: dict[str, Any]) -> str:
    return (
        f"{rule['rule']:18}{rule['jobs']:>6}{rule['hours']:>10.2f}{rule['device_hours']:>10.2f}"
        f"{rule['learned_tokens']:>16,.0f}{rule['sampled_tokens']:>16,.0f}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chord plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="a table or figure (default: all of config.yaml)")
    parser.add_argument("--study", help="a file in config/studies/ (default: that of config.yaml)")
    parser.add_argument("--seeds", type=int, nargs="+", help="training seeds (default: the study's)")
    parser.add_argument("--machine", default="h100-80gb", help="a machine of config/planning.yaml (default: h100-80gb)")
    parser.add_argument("--devices", type=int, default=8, help="devices of one training (default: 8)")
    parser.add_argument("--answering-devices", type=int, default=1, help="devices of one answering job (default: 1)")
    parser.add_argument("--all", action="store_true", help="also what is made already; as with --against")
    parser.add_argument("--against", type=Path, metavar="RESULTS", help="a finished study, measured beside estimated")
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    run_verb("chord plan", main)
