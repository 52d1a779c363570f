"""What a target would cost before anything is bought: jobs, hours, memory, disk, tokens. Runs and changes nothing.

    chord plan table1 --study math --machine h100-80gb --devices 8
    chord plan table1 --study demo --machine cpu-core --devices 1 --against results/demo

Estimates from the model's shape, the budgets, and config/planning.yaml, which says where its own numbers are from.
`--against` puts what a finished study measured beside them. Exit codes: 0, or 1 if a training does not fit.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from chord.cluster.costs import Bench, Cost, named, parameters, saved_gb
from chord.cluster.sizing import Estimates, Layout, Work
from chord.cluster.snakemake import Planned, planned
from chord.config.project import load
from chord.config.sets import start_models
from chord.config.study import Planning
from chord.errors import UserError
from chord.provenance.cli import Number
from chord.provenance.manifest import read_manifest
from chord.records import split_lines

# --- what a finished study took, by its own records, beside what was estimated for it ---

MEASURED = ("train_base", "train_sft", "train", "generate")


def compared(results: Path, jobs: list[dict[str, Any]], memory: dict[str, Any]) -> dict[str, Any]:
    """For each rule: measured and estimated seconds of the same jobs; and the memory of trainings. Raises UserError."""
    found: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for job in jobs:
        if record := _record(results, job):
            found[job["rule"]].append((*record, job["seconds"]))
    if not found:
        raise UserError(f"{results}: found no measured job of those planned, expected a finished study (and --all)")
    rules = {}
    for rule, rows in found.items():
        measured, _, estimated = map(sum, zip(*rows, strict=True))
        rules[rule] = {"jobs": len(rows), "measured_seconds": measured, "estimated_seconds": estimated}
    held = [memory_gb for _, memory_gb, _ in found.get("train", ())]
    # On a processor the device's memory is the host's: samplers and learners live one after the other in one process.
    most = max(sum(memory[moment]["device_gb"].values()) for moment in ("training", "sampling"))
    return {"rules": rules, "memory": {"measured_gb": median(held) if held else None, "estimated_gb": most}}


def _record(results: Path, job: dict[str, Any]) -> tuple[float, float] | None:
    """Seconds and the most memory (10^9 bytes) of a job, by its manifest; with what another job did of it ahead."""
    file = results / Path(*Path(job["place"]).parts[2:])  # after results/STUDY
    if job["rule"] not in MEASURED or not file.is_file():
        return None
    manifest = read_manifest(file)
    ahead: Any = manifest.extra.get("made_ahead_by") or {}
    peak_mb = manifest.peak_memory_mb or 0.0
    if (timing := file.with_name("timing.jsonl")).is_file():  # of a GPU, where there is one
        peak_mb = max(json.loads(line)["peak_memory_mb"] for line in split_lines(timing.read_bytes().decode()))
    return manifest.seconds + ahead.get("seconds", 0.0), peak_mb / 1000


def measured_lines(found: dict[str, Any]) -> Iterator[str]:
    """The comparison in lines."""
    yield f"{'against what was measured':28}{'jobs':>6}{'measured s':>12}{'estimated s':>12}{'ratio':>8}"
    for rule, one in found["rules"].items():
        measured, estimated = one["measured_seconds"], one["estimated_seconds"]
        ratio = estimated / max(1e-9, measured)
        yield f"{rule:28}{one['jobs']:>6}{measured:>12.1f}{estimated:>12.1f}{ratio:>8.2f}"
    measured, estimated = found["memory"]["measured_gb"], found["memory"]["estimated_gb"]
    if measured:
        yield f"{'memory of a training, GB':34}{measured:>12.2f}{estimated:>12.2f}{estimated / measured:>8.2f}"


# --- the estimate ---

SUMS = ("jobs", "hours", "device_hours", "learned_tokens", "sampled_tokens")


def estimated(estimates: Estimates, layout: Layout, jobs: Iterable[Planned]) -> dict[str, Any]:
    """All numbers of the plan, as plain data."""
    works = {job: Work.of_job(job.rule, job.outputs[0]) for job in jobs}
    shapes = estimates.shapes(works.values()) or {"base": estimates.shape("base")}
    costs = [(job.rule, job.outputs[-1], estimates.cost(work, layout)) for job, work in works.items()]
    names = {start: model.name for start, model in start_models(estimates.project.study).items()}
    models = {
        start: _model(names[start], estimates.bench(shape, layout.machine, layout.devices))
        for start, shape in shapes.items()
    }
    return _as_data(estimates, layout, costs, models) | {"disk_gb": estimates.disk(works.values(), shapes)}


def of_unbuilt(estimates: Estimates, layout: Layout, name: str) -> dict[str, Any]:
    """As `estimated`, of a table or figure that no study builds, from what config/planning.yaml says of its training.

    The judge, where there is one, grades on as many devices as learn.
    """
    planning, target = estimates.planning, estimates.planning.unbuilt[name]
    project = load(estimates.root, target.study, estimates.project.choice.seeds or ())
    rollouts = target.model_dump(include={"prompts_per_step", "per_prompt", "max_prompt_tokens", "max_response_tokens"})
    study = project.study.model_copy(update={"rollouts": project.study.rollouts.model_copy(update=rollouts)})
    learner = Bench(study, named(target.model, planning), layout.machine, target.lengths, layout.devices)
    costs: list[tuple[str, str, Cost]] = []
    for arm in target.arms:
        recipe, graded = project.arms[arm].recipe, float(target.answers)
        length = target.lengths.of(arm) if recipe else target.lengths.base
        if recipe:
            if recipe.needs_rollouts:
                recipe = recipe.model_copy(update={"steps": target.steps})
                graded += target.steps * target.prompts_per_step * target.per_prompt
            costs.append(("train", arm, learner.training(arm, recipe, target.expert_rows_per_step)))
        costs.append(("generate", arm, replace(learner, devices=layout.answering).answering(target.answers, length)))
        if judge := target.judge:
            words = target.lengths.model_copy(update={"prompt": judge.prompt + length})
            bench = replace(learner, shape=named(judge.model, planning), lengths=words)
            costs.append(("judge", arm, bench.answering(round(graded), judge.verdict)))
    costs *= len(project.seeds)
    size = saved_gb(learner.shape, learner.dtype)
    disk = {"models": size * sum(rule == "train" for rule, _, _ in costs), "one_training_in_progress": 5 * size}
    found = _as_data(Estimates(project, planning), layout, costs, {target.model: _model(target.model, learner)})
    return found | {"disk_gb": disk, "not_built": f"{name} is not built: {project.why_not(name)}"}


def _as_data(
    estimates: Estimates, layout: Layout, costs: list[tuple[str, str, Cost]], models: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The plan of jobs (rule, place, cost); the numbers of "base", else of the first model, stand on top."""
    first = models.get("base") or next(iter(models.values()))
    rules: dict[str, dict[str, Any]] = {}
    for rule, _, cost in costs:
        sums = rules.setdefault(rule, {"rule": rule} | dict.fromkeys(SUMS, 0))
        hours = cost.seconds / 3600
        each = (1, hours, hours * cost.devices, cost.learned_tokens, cost.sampled_tokens)
        sums |= {name: sums[name] + one for name, one in zip(SUMS, each, strict=True)}
    return {
        "study": estimates.project.study.name,
        "machine": layout.name,
        "devices": layout.devices,
        "parameters": first["parameters"],
        "rules": list(rules.values()),
        "jobs": [{"rule": rule, "place": place, **asdict(cost)} for rule, place, cost in costs],
        "models": models,
        "memory": first["memory"],
        "fits": all(model["fits"] for model in models.values()),
        "verdict": first["verdict"],
    }


def _model(name: str, bench: Bench) -> dict[str, Any]:
    """What training from a model needs of a rank's memory, and whether a device holds it."""
    training = bench.training_peak(bench.study.execution.micro_batch_tokens)
    peaks = {"training": training, "sampling": bench.sampling_peak()}
    memory: dict[str, Any] = {
        moment: {"device_gb": peak.device, "host_gb": peak.host} for moment, peak in peaks.items()
    }
    weights = saved_gb(bench.shape, "float32")
    memory["host_gb"] = {"each rank": weights, "the first rank": 3 * weights}  # reading; saving
    known = {"name": name, "parameters": parameters(bench.shape), "memory": memory}
    return known | {"fits": bench.holds, "verdict": bench.verdict()}


# --- the plan in lines ---


def told(estimate: dict[str, Any]) -> Iterator[str]:
    """The estimate in lines for a terminal."""
    many = f"{estimate['devices']} x {estimate['machine']}"
    yield f"study {estimate['study']}: {estimate['parameters'] / 1e6:,.1f} M parameters, trained on {many}"
    yield from (estimate["not_built"],) if "not_built" in estimate else ()
    yield ""
    yield f"{'rule':18}{'jobs':>6}{'hours':>10}{'device h':>10}{'tokens learned':>16}{'tokens sampled':>16}"
    rules = estimate["rules"]
    for sums in (*rules, {"rule": "together"} | {name: sum(rule[name] for rule in rules) for name in SUMS}):
        hours = f"{sums['hours']:>10.2f}{sums['device_hours']:>10.2f}"
        tokens = f"{sums['learned_tokens']:>16,.0f}{sums['sampled_tokens']:>16,.0f}"
        yield f"{sums['rule']:18}{sums['jobs']:>6}{hours}{tokens}"
    yield ""
    for moment in ("training", "sampling"):
        parts = estimate["memory"][moment]["device_gb"]
        listed = ", ".join(f"{name} {value:.1f}" for name, value in parts.items() if value >= 0.05)
        yield f"memory of a rank while {moment}: {sum(parts.values()):.1f} GB ({listed})"
    host, disk = estimate["memory"]["host_gb"], estimate["disk_gb"]
    yield (
        f"memory of the host: {host['each rank']:.1f} GB for each rank while it reads the weights,"
        f" {host['the first rank']:.1f} GB for the first while it saves"
    )
    more = disk["one_training_in_progress"]
    yield f"disk: {disk['models']:.1f} GB of models stay; {more:.1f} GB more for each training in progress"
    yield from ("", *estimate["verdict"])
    for start, model in estimate["models"].items() if len(estimate["models"]) > 1 else ():
        yield f"{start}, {model['name']}, {model['parameters'] / 1e6:,.1f} M parameters: {'; '.join(model['verdict'])}"
    if "against" in estimate:
        yield from ("", *measured_lines(estimate["against"]))


def main() -> int:
    """Print the estimate, or with --json all numbers of it; 1 if a training does not fit."""
    args = _arguments()
    project = load(Path("."), args.study, tuple(args.seeds or ()))
    estimates = Estimates(project, Planning.read(Path(".")))
    machine = estimates.machine(args.machine, "--machine")
    layout = Layout(args.machine, machine, args.devices, args.answering_devices)
    unbuilt = [name for name in args.targets if name in estimates.planning.unbuilt and project.why_not(name)]
    if unbuilt and (len(args.targets) > 1 or args.against):
        raise UserError(f"{unbuilt[0]}: no study builds it, expected it alone and without --against")
    if unbuilt:
        estimate = of_unbuilt(estimates, layout, unbuilt[0])
    else:
        config = [f"study={project.study.name}", *([f"seeds={args.seeds}"] if args.seeds else [])]
        forced = ["--forceall"] if args.all or args.against else []
        estimate = estimated(estimates, layout, planned([*args.targets, *forced, "--config", *config]))
    if args.against:
        estimate["against"] = compared(args.against, estimate["jobs"], estimate["memory"])
    print(json.dumps(estimate, indent=1) if args.json else "\n".join(told(estimate)))
    return 0 if estimate["fits"] else 1


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
