"""A complete training run of seconds: a tiny blank Llama, single-digit sums, rollouts and experts in every step."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from chord.config.project import Run
from chord.config.study import Recipe
from chord.records import Problem, Trace, write_lines
from tests import warm
from tests.projects import ROOT, set_values

ALPHABET = "0123456789+=>,;"
ARCHITECTURE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
RUN: dict[str, Any] = {
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
        "architecture": ARCHITECTURE | {"num_key_value_heads": 1, "max_position_embeddings": 64},
    },
    "sampling": {"max_response_tokens": 8, "temperature": 1.0},
    "rollouts": {"prompts_per_step": 4, "per_prompt": 4},
    "expert_rows_per_step": 6,
    "grading": {"grader": "marked-text", "mark": "=", "reward": "paper-math"},
    "optimiser": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0}
    | {"max_grad_norm": 1.0, "warmup_steps": 3},
    "policy_loss": {"clip_low": 0.2, "clip_high": 0.2, "advantage_epsilon": 1e-6},
    "validation": {"every_steps": 7, "problems": 14, "samples_per_problem": 1},
    "execution": {"compute_dtype": "float32", "micro_batch_tokens": 64, "sampler_rows": 10}
    | {"logit_chunk_tokens": 16, "deterministic": True},
}


def small_run(folder: Path, **changes: Any) -> Path:
    """Writes run.json and its data into `folder`; `changes` replace values by dotted key (`recipe.steps`)."""
    folder.mkdir(parents=True, exist_ok=True)
    sums = [(a, b) for a in range(8) for b in range(8)]
    problems = [Problem(f"sum-{a}-{b}", "sum-1", f"{a}+{b}", str(a + b), {"expression": f"{a}+{b}"}) for a, b in sums]
    traces = [Trace(f"t-{p.id}", p.id, p.prompt, f">{p.answer}={p.answer}", "scripted expert") for p in problems[:20]]
    files = {"prompts": problems[20:50], "validation": problems[50:], "traces": traces, "solved": problems[:20]}
    for name, records in files.items():
        (folder / f"{name}.jsonl").write_text(write_lines(records))
    run = set_values(json.loads(json.dumps(RUN)), **changes)
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
    files = {name: folder / f"{name}.jsonl" for name in ("prompts", "traces", "solved", "validation")}
    files |= {name: out / f"{name}.jsonl" for name in ("metrics", "timing")}
    files |= {name: out / name for name in ("model", "state", "tensorboard")}
    files |= {"run": folder / "run.json", "manifest": out / "train.manifest.json"}
    if not recipe.needs_rollouts:
        files["validation-answers"] = out / "validation.jsonl"
    if recipe.keep == "every":
        files["candidates"] = out / "candidates"
    words = [word for flag, path in files.items() for word in (f"--{flag}", str(path))]
    return [*words, "--checkpoint-every-steps", "3", "--checkpoint-every-minutes", "60"]


def result(out: Path) -> dict[str, bytes]:
    """What must repeat byte for byte: every file of the model and of the candidates, the metrics, the answers."""
    folders, files = (out / "model", out / "candidates"), (out / "metrics.jsonl", out / "validation.jsonl")
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    found += [file for file in files if file.exists()]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in found}


# --- the run as a process ----------------------------------------------------------------------


def start(folder: Path, out: Path, program: str = "chord train", **environment: str) -> warm.Process:
    """`python -m PROGRAM` at work on the run of `folder`."""
    words = [sys.executable, "-m", *program.split(), *command(folder, out)]
    return warm.start(words, cwd=ROOT, env=os.environ | environment)


def finished(process: warm.Process, code: int = 0) -> str:
    """What the process wrote to standard error, once it has ended with this exit code."""
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == code, stderr[-3000:]
    return stderr


def until(process: warm.Process, text: str) -> None:
    """Waits for a line of standard error that has this text."""
    if not any(text in line for line in process.lines()):
        raise AssertionError(process.said()[1][-3000:])


def descendants(pid: int) -> list[int]:
    """The process and all that it started, children of children too."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in descendants(int(child)))]
