"""What a finished study took, out of its own records, beside what was estimated for it."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from chord.provenance.files import UserError
from chord.records import split_lines

BENCHMARKS = {"train_base": "train", "train_sft": "train", "train": "train", "generate": "generate"}


def compared(results: Path, jobs: list[dict[str, Any]], memory: dict[str, Any]) -> dict[str, Any]:
    """For each rule: measured and estimated seconds of the same jobs; and the memory of trainings. Raises UserError."""
    pairs: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    held: list[float] = []
    for job in jobs:
        found = _record(results, job)
        if found is not None:
            pairs[job["rule"]].append((found["seconds"], job["seconds"]))
            if job["rule"] == "train":
                held.append(found["memory_gb"])
    if not pairs:
        raise UserError(f"{results}: found no measured job of those planned, expected a finished study (and --all)")
    rules = {
        rule: {
            "jobs": len(found),
            "measured_seconds": sum(one for one, _ in found),
            "estimated_seconds": sum(other for _, other in found),
        }
        for rule, found in pairs.items()
    }
    # On a processor the device's memory is the host's: samplers and learners live one after the other in one process.
    estimated = max(sum(memory[moment]["device_gb"].values()) for moment in ("training", "sampling"))
    return {"rules": rules, "memory": {"measured_gb": median(held) if held else None, "estimated_gb": estimated}}


def _record(results: Path, job: dict[str, Any]) -> dict[str, float] | None:
    """Seconds and the most memory of a job, by Snakemake's benchmark file beside its outputs."""
    if job["rule"] not in BENCHMARKS:
        return None
    below = Path(*Path(job["place"]).parts[2:]).parent  # after results/STUDY
    file = results / below / f"{BENCHMARKS[job['rule']]}.benchmark.tsv"
    if not file.is_file():
        return None
    with file.open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    timing = results / below / "timing.jsonl"
    peak = float(rows[-1]["max_rss"]) / 1000
    if timing.is_file():  # of a GPU, where there is one
        lines = split_lines(timing.read_bytes().decode())
        peak = max(json.loads(line)["peak_memory_mb"] for line in lines) / 1000
    return {"seconds": float(rows[-1]["s"]), "memory_gb": peak}


def told(found: dict[str, Any]) -> Iterator[str]:
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
