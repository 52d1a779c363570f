"""A made-up results/<study> folder with the shapes of a real one: scores, metrics, manifests. Drawn, not trained."""

import json
import math
from pathlib import Path

import numpy as np

from chord.config.project import Project
from chord.provenance.manifest import JobSpec, Manifest
from chord.settings import derive

# Share right per benchmark at the end, in the order of the study's benchmarks.
ENDS = {
    "original": (0.38, 0.10, 0.92), "sft-light": (0.08, 0.01, 0.60), "sft-best": (0.73, 0.31, 0.20),
    "grpo": (0.85, 0.35, 0.90), "sft-light+rl": (0.86, 0.36, 0.70), "sft-best+rl": (0.88, 0.41, 0.30),
    "chord-mu": (0.92, 0.47, 0.40), "chord-phi": (0.90, 0.46, 0.91),
}  # fmt: skip
PROBLEMS, SAMPLES = 40, 4


def generator(*items):
    return np.random.default_rng(derive(1, "made-up results", *items))


def write_scores(results: Path, project: Project, arms=None, version="1") -> None:
    """Scores of every arm, benchmark and seed, with problems that are hard for all and seeds that differ."""
    for arm in arms or project.artefacts["table1"].arms:
        for column, benchmark in enumerate(project.study.benchmarks):
            hard = generator(benchmark).normal(0, 0.8, PROBLEMS)
            for seed in project.seeds:
                draw = generator(arm, benchmark, seed)
                end = ENDS.get(arm, (0.5, 0.3, 0.5))[min(column, 2)]
                share = 1 / (1 + np.exp(-(math.log(end / (1 - end)) + hard + draw.normal(0, 0.1))))
                right = draw.random((PROBLEMS, SAMPLES)) < share[:, None]
                rows = [
                    {
                        "id": f"{benchmark}-{i:03d}",
                        "outcomes": ["right" if hit else "wrong" for hit in row],
                        "response_tokens": [8 + len(arm) + i % 5] * SAMPLES,
                    }
                    for i, row in enumerate(right)
                ]
                scores = {"benchmark": benchmark, "version": version, "metric": f"avg@{SAMPLES}",
                          "mean": float(right.mean()), "se": None, "n_problems": PROBLEMS,
                          "samples_per_problem": SAMPLES, "problems": rows}  # fmt: skip
                path = results / "runs" / arm / f"seed-{seed}" / "eval" / benchmark / "scores.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(scores))


def accuracy(arm: str, t: float) -> float:
    """A curve of the kind that the prototype showed; t from 0 to 1."""
    rise = 1 - math.exp(-6 * t)
    if arm.startswith("sft"):
        pace = {"sft-lr-low": 0.5, "sft-lr-mid": 1.0, "sft-lr-high": 1.6}.get(arm, 1.0)
        return 0.38 * math.exp(-25 * pace * t) + 0.75 / (1 + math.exp(-12 * pace * (t - 0.55 / pace)))
    if arm == "chord-mu":
        return 0.38 * math.exp(-20 * t) + 0.91 / (1 + math.exp(-16 * (t - 0.28)))
    ends = {"grpo": 0.85, "chord-phi": 0.90, "mu-0.02": 0.86, "mu-0.1": 0.84, "mu-0.5": 0.72}
    return 0.38 + (ends.get(arm, 0.8) - 0.38) * rise


def write_metrics(results: Path, project: Project, arms=None, steps=100, seeds=None) -> None:
    """metrics.jsonl of every trained arm, with the keys and the nulls of a real one; validation.json where due."""
    for arm in arms or [name for name, each in project.arms.items() if not each.same_as]:
        sft = arm.startswith("sft") and not arm.endswith("+rl")
        for seed in seeds or project.seeds:
            draw = generator(arm, seed)
            shift = draw.normal(0, 0.015)
            lines = [_line(arm, step, steps, sft, shift, draw) for step in range(steps + 1)]
            path = results / "runs" / arm / f"seed-{seed}" / "metrics.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            if project.arms[arm].only_imitates or project.arms[arm].choose:
                graded = [{"step": line["step"], **line["validation"]} for line in lines if line["validation"]]
                path.with_name("validation.json").write_text(json.dumps({"steps": graded}))
                for line in lines:
                    line["validation"] = line["validation"] and {"response_tokens": 1.0}
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _line(arm, step, steps, sft, shift, draw) -> dict:
    t = step / steps
    right = min(1.0, max(0.0, accuracy(arm, t) + shift + draw.normal(0, 0.025)))
    entropy = {"mu-0.1": 0.30 + 0.5 * t, "chord-is": 0.30 * math.exp(-3 * t) + 0.02}.get(
        arm, 0.3 * math.exp(-1.5 * t) + 0.08
    )
    length = 8 + 23 * (1 - math.exp(-4 * t)) + (30 * math.exp(-(((t - 0.2) / 0.12) ** 2)) if arm == "chord-mu" else 0)
    mu = {"chord-mu": 0.05 + 0.85 * 0.5 * (1 + math.cos(math.pi * min(1, step / 40)))}.get(arm, 1.0 if sft else 0.1)
    before = step == 0
    rollouts = not sft and not before
    return {
        "step": step, "mu": None if before else mu, "loss": None if before else 1.0,
        "reward": right - 0.05 if rollouts else None,
        "response_tokens": length + draw.normal(0, 0.5) if rollouts else None,
        "policy_entropy": entropy + draw.normal(0, 0.01) if rollouts else None,
        "expert_tokens": 640 if sft and not before else 0, "expert_epochs": 0.125 * step if arm != "grpo" else 0.0,
        "validation": None if step % 10 else {"accuracy": round(right * 128) / 128, "response_tokens": length},
    }  # fmt: skip


def write_history(results: Path, project: Project) -> None:
    """train.manifest.json and timing.jsonl of every trained arm and of the base model: one real manifest, copied."""
    seed = results / "seed.txt"
    seed.parent.mkdir(parents=True, exist_ok=True)
    seed.write_text("made up")
    one = results / "one.manifest.json"
    with Manifest.recording(one, JobSpec("chord.config"), inputs={}, outputs={"made": seed}, extra={"device": "cpu"}):
        pass
    told = json.loads(one.read_text())
    folders = [results / "models" / "base"] + [
        results / "runs" / arm / f"seed-{seed}"
        for arm in project.arms if project.arms[arm].recipe
        for seed in project.seeds
    ]  # fmt: skip
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True, exist_ok=True)
        told |= {"seconds": 60.0 + number, "started": f"2026-01-02T03:{number:02d}:00.000+00:00"}
        (folder / "train.manifest.json").write_text(json.dumps(told))
        seconds = {"sample": 0.4, "reward": 0.01, "learn": 0.15, "validate": 0.03, "save": 0.01}
        lines = [
            {"step": step, "seconds": seconds, "tokens_per_second": 9000.0, "peak_memory_mb": 700 + number}
            for step in range(101)
        ]
        (folder / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
