"""Trained candidates -> the weights that were best on the validation set, or, where asked for, on a benchmark.

chord choose --candidates RUN_DIR ... --model OUT --metrics OUT --validation OUT --chosen OUT --manifest OUT

Chooses among all validated steps of all runs: `validation.json` has their results, `candidates/` their weights.
The paper chose its SFT-best on the test sets. With `--scores`, those of each candidate's last weights on a benchmark,
that is done here too: a rule that looks at the answers it is judged by, kept to show what difference it makes.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from chord.errors import UserError
from chord.provenance.files import TIMESTAMP, atomic_folder, write_atomically
from chord.provenance.manifest import Manifest
from chord.records import candidate_name
from chord.steps import of_choice

RULE = "the highest validation accuracy after any update; among equals the earlier candidate, and its earlier step"
ON_TEST = "the highest mean on the benchmark of the weights after the last update; among equals the earlier candidate"
PARTS = ("model", "candidates", "metrics.jsonl", "validation.json")
WEIGHTS = (".safetensors", ".safetensors.index.json")
OUTPUTS = {
    "model": "folder that becomes a copy of the winner's model",
    "metrics": "file that becomes a copy of the winner's metrics",
    "validation": "file that becomes a copy of its validation.json",
    "chosen": "JSON: the winner, all candidates, the rule",
}
Accuracy = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Validated(BaseModel):
    """What is read of one step in a validation.json."""

    step: int
    accuracy: Accuracy


class Validation(BaseModel):
    """What is read of a validation.json."""

    steps: list[Validated]


class Scores(BaseModel):
    """What is read of a scores.json."""

    mean: Accuracy


def main() -> None:
    """Choose among finished runs; writes the winner's model, metrics and validation, and what it won against."""
    args = _arguments()
    runs, scores = args.candidates, args.scores
    benchmark = scores[0].absolute().parent.name if scores else None
    with Manifest.recording(
        args.manifest,
        of_choice([run.absolute().parent.name for run in runs], benchmark),
        inputs={f"{name} of {run}": run / name for run in runs for name in PARTS}
        | {f"scores of {run}": file for run, file in zip(runs, scores, strict=False)},
        outputs={name: getattr(args, name) for name in OUTPUTS},
    ):
        validations = {run: read_validations(run) for run in runs}
        if scores:
            candidates: list[dict[str, Any]] = _tested(validations, scores)
        else:
            best = {run: max(steps, key=lambda one: (one.accuracy, -one.step)) for run, steps in validations.items()}
            candidates = [{"run": str(run), "step": one.step, "accuracy": one.accuracy} for run, one in best.items()]
        winner = max(candidates, key=lambda candidate: candidate["accuracy"])  # among equals the first
        run = Path(winner["run"])
        with atomic_folder(args.model) as folder:
            _copy_model(run, None if scores else winner["step"], folder)
        write_atomically(args.metrics, (run / "metrics.jsonl").read_bytes())
        write_atomically(args.validation, (run / "validation.json").read_bytes())
        told = {"rule": ON_TEST if scores else RULE, "chosen": winner, "candidates": candidates}
        write_atomically(args.chosen, json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def read_validations(run: Path) -> list[Validated]:
    """The validations of a run after its updates; step 0 is no trained model. Raises UserError for no whole run."""
    if not (run / "model" / "config.json").is_file():
        raise UserError(f"{run / 'model'}: found no config.json, expected the model of a finished run; train it")
    file = run / "validation.json"
    steps = _read(file, Validation, "chord validate writes of a finished run; delete it and validate again").steps
    after = [one for one in steps if one.step > 0]
    if not after:
        raise UserError(f"{file}: found no validation after step 0, expected at least one; train with validation")
    for one in after:
        weights = run / "candidates" / candidate_name(one.step)
        if not weights.is_file():
            expected = "expected the weights after each validated step; train again"
            raise UserError(f"{weights}: found no such file, {expected}")
    return after


def _tested(validations: dict[Path, list[Validated]], scores: list[Path]) -> list[dict[str, Any]]:
    """The runs with the mean of their last weights on a benchmark. Raises UserError unless each has its scores."""
    if len(scores) != len(validations):
        raise UserError(f"--scores: found {len(scores)} files, expected one for each of {len(validations)} candidates")
    means = [_read(file, Scores, "chord score writes; delete it and score again").mean for file in scores]
    return [
        {"run": str(run), "step": max(one.step for one in steps), "accuracy": mean}
        for (run, steps), mean in zip(validations.items(), means, strict=True)
    ]


Kind = TypeVar("Kind", Validation, Scores)


def _read(file: Path, kind: type[Kind], remedy: str) -> Kind:
    try:
        return kind.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{file}: found {place}: {first['msg']}, expected what {remedy}") from None


def _copy_model(run: Path, step: int | None, folder: Path) -> None:
    """The run's model as it is, or with the weights that it had after `step`: all else is the same at any step."""
    for path in (run / "model").iterdir():
        if path.name != TIMESTAMP and (step is None or not path.name.endswith(WEIGHTS)):
            shutil.copyfile(path, folder / path.name)
    if step is not None:
        shutil.copyfile(run / "candidates" / candidate_name(step), folder / "model.safetensors")


def _arguments() -> argparse.Namespace:
    about = "Choose a trained run by its validation accuracy."
    parser = argparse.ArgumentParser(prog="chord choose", description=about)
    parser.add_argument(
        "--candidates", type=Path, nargs="+", required=True, metavar="RUN_DIR", help="runs to choose from"
    )
    parser.add_argument(
        "--scores", type=Path, nargs="+", default=[], metavar="FILE", help="scores.json of each: choose by a benchmark"
    )
    for name, what in OUTPUTS.items():
        parser.add_argument(f"--{name}", type=Path, required=True, help=what)
    parser.add_argument("--manifest", type=Path, required=True, help="JSON: where all of it comes from")
    return parser.parse_args()
