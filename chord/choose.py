"""Trained candidates -> the one that was best on the validation set. It never sees a benchmark.

python -m chord.choose --candidates RUN_DIR ... --model OUT --metrics OUT --chosen OUT --manifest OUT

(The paper chose its SFT-best on the test sets; here the validation set chooses, a rule of its own.)
"""

import argparse
import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chord.provenance.files import UserError, atomic_folder, run_verb, write_atomically
from chord.provenance.manifest import Manifest

RULE = "the highest validation accuracy after any update; among equals the earlier step, then the earlier candidate"


@dataclass(frozen=True)
class Candidate:
    """A training run and the best validation accuracy along it, which is what its model was kept at."""

    run: str
    step: int
    accuracy: float


def main() -> None:
    """Choose among finished runs; writes the winner's model and metrics, and what it won against."""
    args = _arguments()
    inputs = {f"{name} of {run}": run / name for run in args.candidates for name in ("model", "metrics.jsonl")}
    outputs = {name: getattr(args, name) for name in ("model", "metrics", "chosen")}
    with Manifest.recording(args.manifest, verb="chord.choose", inputs=inputs, outputs=outputs):
        candidates = [read_candidate(run) for run in args.candidates]
        winner = choose(candidates)
        with atomic_folder(args.model) as folder:
            shutil.copytree(Path(winner.run, "model"), folder, dirs_exist_ok=True)
        write_atomically(args.metrics, Path(winner.run, "metrics.jsonl").read_bytes())
        told = {"rule": RULE, "chosen": asdict(winner), "candidates": [asdict(candidate) for candidate in candidates]}
        write_atomically(args.chosen, json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def choose(candidates: list[Candidate]) -> Candidate:
    """The candidate with the highest validation accuracy; among equals the earlier in the list."""
    return max(candidates, key=lambda candidate: candidate.accuracy)


def read_candidate(run: Path) -> Candidate:
    """The best validation result in a run's metrics. Raises UserError for a run that is not whole."""
    if not any((run / "model").glob("*.safetensors")):
        raise UserError(
            f"{run / 'model'}: found no weights (*.safetensors), expected the model of a finished run; train it"
        )
    results = _validations(run / "metrics.jsonl")
    step, accuracy = max(results, key=lambda result: result[1])
    return Candidate(str(run), step, accuracy)


def _validations(file: Path) -> list[tuple[int, float]]:
    """(step, accuracy) of each line that has a validation result, in order of steps; step 0 is no trained model."""
    remedy = "expected the metrics of a finished run, a JSON object a line; train it again"
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, UnicodeDecodeError):
        raise UserError(f"{file}: found no such text file, {remedy}") from None
    if not text.endswith("\n"):
        raise UserError(f"{file}: found {'a last line without end' if text else 'an empty file'}, {remedy}")
    results = [
        found for number, line in enumerate(text.split("\n")[:-1], 1) if (found := _validation(line, number, file))
    ]
    if not results:
        raise UserError(
            f"{file}: found no validation result after step 0, expected at least one; train with validation"
        )
    return sorted(results)


def _validation(line: str, number: int, file: Path) -> tuple[int, float] | None:
    try:
        row: Any = json.loads(line)
        validation = row["validation"]
        step = int(row["step"])
        if validation is None or step == 0:
            return None
        accuracy = float(validation["accuracy"])
    except (ValueError, KeyError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise UserError(f"{file}, line {number}: found no step and validation.accuracy ({found})") from None
    if not math.isfinite(accuracy):
        raise UserError(f"{file}, line {number}: found validation accuracy {accuracy}, expected a number from 0 to 1")
    return step, accuracy


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chord.choose", description="Choose a trained run by its validation accuracy."
    )
    parser.add_argument(
        "--candidates", type=Path, nargs="+", required=True, metavar="RUN_DIR", help="runs to choose from"
    )
    parser.add_argument("--model", type=Path, required=True, help="folder that becomes a copy of the winner's model")
    parser.add_argument("--metrics", type=Path, required=True, help="file that becomes a copy of the winner's metrics")
    parser.add_argument("--chosen", type=Path, required=True, help="JSON: the winner, all candidates, the rule")
    parser.add_argument("--manifest", type=Path, required=True, help="JSON: where all of it comes from")
    return parser.parse_args()


if __name__ == "__main__":
    run_verb("chord.choose", main)
