"""What a target would cost before anything is bought: jobs, hours, memory, disk, tokens. Runs and changes nothing.

    chord plan table1 --study math --machine h100-80gb --devices 8
    chord plan table1 --study demo --machine cpu-core --devices 1 --against results/demo

Estimates from the model's shape, the budgets, and config/planning.yaml, which says where its own numbers are from.
`--against` puts what a finished study measured beside them. Exit codes: 0, or 1 if a training does not fit.
"""

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

from chord.cluster import costs
from chord.cluster.costs import Bench, Cost, named, parameters
from chord.cluster.sizing import Layout, Work, cost, disk, lengths_of, machine_of, shape_of, shapes_below
from chord.cluster.snakemake import Planned, planned
from chord.config.project import Project, load
from chord.config.sets import start_models
from chord.config.study import Dimensions, Lengths, Planning, Study
from chord.errors import UserError
from chord.provenance.cli import Number
from chord.records import split_lines

# --- what a finished study took, by its own records, beside what was estimated for it ---

BENCHMARKS = {"train_base": "train", "train_sft": "train", "train": "train", "generate": "generate"}


def compared(results: Path, jobs: list[dict[str, Any]], memory: dict[str, Any]) -> dict[str, Any]:
    """For each rule: measured and estimated seconds of the same jobs; and the memory of trainings. Raises UserError."""
    found: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for job in jobs:
        if record := _record(results, job):
            found[job["rule"]].append((*record, job["seconds"]))
    if not found:
        raise UserError(f"{results}: found no measured job of those planned, expected a finished study (and --all)")
    held = [memory_gb for _, memory_gb, _ in found.get("train", ())]
    rules = {}
    for rule, rows in found.items():
        measured, _, estimated = map(sum, zip(*rows, strict=True))
        rules[rule] = {"jobs": len(rows), "measured_seconds": measured, "estimated_seconds": estimated}
    # On a processor the device's memory is the host's: samplers and learners live one after the other in one process.
    most = max(sum(memory[moment]["device_gb"].values()) for moment in ("training", "sampling"))
    return {"rules": rules, "memory": {"measured_gb": median(held) if held else None, "estimated_gb": most}}


def _record(results: Path, job: dict[str, Any]) -> tuple[float, float] | None:
    """Seconds and the most memory (10^9 bytes) of a job, by Snakemake's benchmark file beside its outputs."""
    below = results / Path(*Path(job["place"]).parts[2:]).parent  # after results/STUDY
    file = below / f"{BENCHMARKS.get(job['rule'])}.benchmark.tsv"
    if not file.is_file():
        return None
    with file.open(encoding="utf-8", newline="") as table:
        *_, row = csv.DictReader(table, delimiter="\t")
    peak_mb = float(row["max_rss"])
    if (timing := below / "timing.jsonl").is_file():  # of a GPU, where there is one
        peak_mb = max(json.loads(line)["peak_memory_mb"] for line in split_lines(timing.read_bytes().decode()))
    return float(row["s"]), peak_mb / 1000


def measured_lines(found: dict[str, Any]) -> Iterator[str]:
    """The comparison in lines."""
    yield f"{'against what was measured':28}{'jobs':>6}{'measured s':>12}{'estimated s':>12}{'ratio':>8}"
    for rule, one in found["rules"].items():
        ratio = one["estimated_seconds"] / max(1e-9, one["measured_seconds"])
        yield (
            f"{rule:28}{one['jobs']:>6}{one['measured_seconds']:>12.1f}{one['estimated_seconds']:>12.1f}{ratio:>8.2f}"
        )
    memory = found["memory"]
    if memory["measured_gb"]:
        ratio = memory["estimated_gb"] / memory["measured_gb"]
        numbers = f"{memory['measured_gb']:>12.2f}{memory['estimated_gb']:>12.2f}{ratio:>8.2f}"
        yield f"{'memory of a training, GB':28}{'':>6}{numbers}"


# --- the plan in lines ---

SUMS = ("jobs", "hours", "device_hours", "learned_tokens", "sampled_tokens")


def told(estimate: dict[str, Any]) -> Iterator[str]:
    """The estimate in lines for a terminal."""
    many = f"{estimate['devices']} x {estimate['machine']}"
    yield f"study {estimate['study']}: {estimate['parameters'] / 1e6:,.1f} M parameters, trained on {many}"
    yield from (estimate["not_built"],) if "not_built" in estimate else ()
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
    for start, model in estimate["models"].items() if len(estimate["models"]) > 1 else ():
        yield f"{start}, {model['name']}, {model['parameters'] / 1e6:,.1f} M parameters: {'; '.join(model['verdict'])}"
    if "against" in estimate:
        yield from ("", *measured_lines(estimate["against"]))


def _line(rule: dict[str, Any]) -> str:
    return (
        f"{rule['rule']:18}{rule['jobs']:>6}{rule['hours']:>10.2f}{rule['device_hours']:>10.2f}"
        f"{rule['learned_tokens']:>16,.0f}{rule['sampled_tokens']:>16,.0f}"
    )


# --- plan ---


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
        estimate["against"] = compared(args.against, estimate["jobs"], estimate["memory"])
    _tell(estimate, args.json)


def _tell(estimate: dict[str, Any], as_json: bool) -> NoReturn:
    """Print it and end."""
    print(json.dumps(estimate, indent=1) if as_json else "\n".join(told(estimate)))
    sys.exit(0 if estimate["fits"] else 1)


def estimated(project: Project, planning: Planning, layout: Layout, jobs: list[Planned]) -> dict[str, Any]:
    """All numbers of the plan, as plain data."""
    study = project.study
    works = [Work.of_job(job.rule, job.outputs[0]) for job in jobs]
    shapes = shapes_below(project, planning, works, Path(".")) or {"base": shape_of(study, planning, "base")}
    starts, lengths = start_models(study), planning.lengths[study.name]
    models = {start: _model(study, lengths, layout, starts[start].name, shape) for start, shape in shapes.items()}
    found = [
        (job.rule, job.outputs[-1], cost(project, planning, layout, work))
        for job, work in zip(jobs, works, strict=True)
    ]
    return _as_data(study, layout, found, models, disk(project, shapes, works))


def _of_unbuilt(project: Project, planning: Planning, layout: Layout, name: str) -> dict[str, Any]:
    """As `estimated`, of a table or figure that no study builds, from what config/planning.yaml says of its training.

    The judge, where there is one, grades on as many devices as learn.
    """
    target = planning.unbuilt[name]
    if project.study.name != target.study:
        project = load(Path("."), target.study, project.choice.seeds or ())
    rollouts = target.model_dump(include={"prompts_per_step", "per_prompt", "max_prompt_tokens", "max_response_tokens"})
    study = project.study.model_copy(update={"rollouts": project.study.rollouts.model_copy(update=rollouts)})
    shape, lengths, machine = named(target.model, planning), target.lengths, layout.machine
    learner = Bench(study, shape, machine, lengths, layout.devices, study.execution.recompute_activations)
    tested = Bench(study, shape, machine, lengths, layout.answering)
    found: list[tuple[str, str, Cost]] = []
    for arm in target.arms:
        recipe, graded = project.arms[arm].recipe, float(target.answers)
        length = lengths.of(arm) if recipe else lengths.base
        if recipe:
            if recipe.needs_rollouts:
                recipe = recipe.model_copy(update={"steps": target.steps})
                graded += target.steps * target.prompts_per_step * target.per_prompt
            found.append(("train", arm, learner.training(arm, recipe, target.expert_rows_per_step)))
        found.append(("generate", arm, tested.answering(target.answers, length)))
        if judge := target.judge:
            words = lengths.model_copy(update={"prompt": judge.prompt + length})
            bench = Bench(study, named(judge.model, planning), machine, words, layout.devices)
            found.append(("judge", arm, bench.answering(round(graded), judge.verdict)))
    found *= len(project.seeds)
    size = costs.saved_gb(shape, study.execution.compute_dtype)
    disk_gb = {"models": size * sum(rule == "train" for rule, _, _ in found), "one_training_in_progress": 5 * size}
    models = {target.model: _model(study, lengths, layout, target.model, shape)}
    return _as_data(study, layout, found, models, disk_gb, f"{name} is not built: {project.why_not(name)}")


def _as_data(
    study: Study,
    layout: Layout,
    jobs: list[tuple[str, str, Cost]],
    models: dict[str, dict[str, Any]],
    disk_gb: dict[str, float],
    not_built: str = "",
) -> dict[str, Any]:
    """The plan of jobs (rule, place, cost); the numbers of "base", else of the first model, stand on top."""
    first, rules = models.get("base") or next(iter(models.values())), dict.fromkeys(rule for rule, _, _ in jobs)
    return {
        "study": study.name,
        "machine": layout.name,
        "devices": layout.devices,
        "parameters": first["parameters"],
        **({"not_built": not_built} if not_built else {}),
        "rules": [_of_rule(rule, [cost for of, _, cost in jobs if of == rule]) for rule in rules],
        "jobs": [{"rule": rule, "place": place, **asdict(cost)} for rule, place, cost in jobs],
        "models": models,
        "memory": first["memory"],
        "disk_gb": disk_gb,
        "fits": all(model["fits"] for model in models.values()),
        "verdict": first["verdict"],
    }


def _model(study: Study, lengths: Lengths, layout: Layout, name: str, shape: Dimensions) -> dict[str, Any]:
    """What training from a model of this shape needs of a rank's memory, and whether a device holds it."""
    setting, longest = costs.Setting.of(study, layout.devices), costs.longest_sequence(study, lengths)
    peaks = {
        "training": costs.training_peak(study, shape, layout.machine, setting),
        "sampling": costs.sampling_peak(study, shape, layout.machine, setting, longest),
    }
    weights = costs.saved_gb(shape, "float32")
    sentences = costs.verdict(study, shape, layout.machine, setting, longest)
    return {
        "name": name,
        "parameters": parameters(shape),
        "memory": {
            **{moment: {"device_gb": peak.device, "host_gb": peak.host} for moment, peak in peaks.items()},
            "host_gb": {"each rank": weights, "the first rank": 3 * weights},  # reading; saving
        },
        "fits": sentences[0].startswith("needs"),
        "verdict": sentences,
    }


def _of_rule(rule: str, costs: list[Cost]) -> dict[str, Any]:
    return {
        "rule": rule,
        "jobs": len(costs),
        "hours": sum(cost.seconds for cost in costs) / 3600,
        "device_hours": sum(cost.device_hours for cost in costs),
        "learned_tokens": sum(cost.learned_tokens for cost in costs),
        "sampled_tokens": sum(cost.sampled_tokens for cost in costs),
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
