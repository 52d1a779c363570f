"""A complete training run of seconds: a tiny blank Llama, single-digit sums, rollouts and experts in every step."""

import json
from pathlib import Path

from pydantic import TypeAdapter

from chord.config.project import Run
from chord.config.recipe import Recipe
from chord.records import Problem, Trace, write_lines

ALPHABET = "0123456789+=>,;"


def small_run(folder: Path, **changes) -> Path:
    """Writes run.json and its data into `folder`; `changes` replace values by dotted key (`recipe.steps`)."""
    folder.mkdir(parents=True, exist_ok=True)
    problems = [
        Problem(f"sum-{a}-{b}", "sum-1", f"{a}+{b}", str(a + b), {"expression": f"{a}+{b}"})
        for a in range(8)
        for b in range(8)
    ]
    traces = [Trace(f"t-{p.id}", p.id, p.prompt, f">{p.answer}={p.answer}", "scripted expert") for p in problems[:20]]
    files = {"prompts": problems[20:50], "validation": problems[50:], "traces": traces, "solved": problems[:20]}
    for name, records in files.items():
        (folder / f"{name}.jsonl").write_text(write_lines(records))
    run = {
        "study": "demo",
        "arm": "chord-phi",
        "seed": 5,
        "recipe": {
            "init": "random",
            "mu": {"schedule": "constant", "value": 0.3},
            "expert_tokens": {"weight": "p(1-p)"},
            "steps": 40,
            "learning_rate": 3e-3,
        },
        "model": {
            "source": "random",
            "name": "tiny",
            "alphabet": ALPHABET,
            "architecture": {
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "max_position_embeddings": 64,
            },
        },
        "sampling": {"max_response_tokens": 8, "temperature": 1.0},
        "rollouts": {"prompts_per_step": 4, "per_prompt": 4},
        "expert_rows_per_step": 6,
        "grading": {"grader": "marked-text", "mark": "=", "reward": "paper-math"},
        "optimiser": {
            "beta1": 0.9,
            "beta2": 0.999,
            "epsilon": 1e-8,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "warmup_steps": 3,
        },
        "policy_loss": {"clip_low": 0.2, "clip_high": 0.2, "advantage_epsilon": 1e-6},
        "validation": {"every_steps": 7, "problems": 14, "samples_per_problem": 1},
        "execution": {
            "compute_dtype": "float32",
            "micro_batch_tokens": 64,
            "sampler_rows": 10,
            "logit_chunk_tokens": 16,
            "deterministic": True,
        },
    }
    for key, value in changes.items():
        *path, last = key.split(".")
        place = run
        for part in path:
            place = place[part]
        place[last] = value
    recipe = TypeAdapter(Recipe).validate_python(run["recipe"])
    if not recipe.needs_rollouts:
        run |= {"rollouts": None, "grading": None, "policy_loss": None}
    if not recipe.mixes_experts:
        run["expert_rows_per_step"] = None
    (folder / "run.json").write_text(json.dumps(run))
    Run.read(folder / "run.json")
    return folder


def command(folder: Path, out: Path) -> list[str]:
    """The arguments of `chord train` for this run, with outputs and state under `out`."""
    recipe = Run.read(folder / "run.json").recipe
    inputs = [
        part
        for name in ("prompts", "traces", "solved", "validation")
        for part in (f"--{name}", str(folder / f"{name}.jsonl"))
    ]
    outputs = {
        "model": "model",
        "metrics": "metrics.jsonl",
        "timing": "timing.jsonl",
        "manifest": "train.manifest.json",
        "state": "state",
        "tensorboard": "tensorboard",
    }
    outputs |= {} if recipe.needs_rollouts else {"validation-answers": "validation.jsonl"}
    outputs |= {"candidates": "candidates"} if recipe.keep == "every" else {}
    pairs = [part for flag, name in outputs.items() for part in (f"--{flag}", str(out / name))]
    intervals = ["--checkpoint-every-steps", "3", "--checkpoint-every-minutes", "60"]
    return ["--run", str(folder / "run.json"), *inputs, *pairs, *intervals]


def result(out: Path) -> dict[str, bytes]:
    """What must repeat byte for byte: every file of the model and of the candidates, the metrics, the answers."""
    folders, files = (out / "model", out / "candidates"), (out / "metrics.jsonl", out / "validation.jsonl")
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    found += [file for file in files if file.exists()]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}
