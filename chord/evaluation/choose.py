"""Trained candidates -> the weights that were best on the validation set, or, where asked for, on a benchmark.

chord choose --candidates RUN_DIR ... --model OUT --metrics OUT --validation OUT --chosen OUT --manifest OUT

Chooses among all validated steps of all runs: `validation.json` has their results, `candidates/` their weights.
The paper chose its SFT-best on the test sets. With `--scores`, those of each candidate's last weights on a benchmark,
that is done here too: a rule that looks at the answers it is judged by, kept to show what difference it makes.
"""

import argparse
import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chord.errors import UserError
from chord.provenance.files import TIMESTAMP, atomic_folder, write_atomically
from chord.provenance.manifest import Manifest
from chord.records import candidate_name
from chord.steps import of_choice

RULE = "the highest validation accuracy after any update; among equals the earlier candidate, and its earlier step"
ON_TEST = "the highest mean on the benchmark of the weights after the last update; among equals the earlier candidate"
PARTS = ("model", "candidates", "metrics.jsonl", "validation.json")


@dataclass(frozen=True)
class Candidate:
    """A training run and the best validation accuracy along it; or its last step, and the accuracy on a benchmark."""

    run: str
    step: int
    accuracy: float


def main() -> None:
    """Choose among finished runs; writes the winner's model, metrics and validation, and what it won against."""
    args = _arguments()
    with Manifest.recording(
        args.manifest,
        of_choice(
            [run.absolute().parent.name for run in args.candidates],
            args.scores[0].absolute().parent.name if args.scores else None,
        ),
        inputs={f"{name} of {run}": run / name for run in args.candidates for name in PARTS}
        | {f"scores of {run}": file for run, file in zip(args.candidates, args.scores, strict=False)},
        outputs={name: getattr(args, name) for name in ("model", "metrics", "validation", "chosen")},
    ):
        candidates = [read_candidate(run) for run in args.candidates]
        if args.scores:
            candidates = tested(candidates, args.scores)
        winner = choose(candidates)
        run = Path(winner.run)
        with atomic_folder(args.model) as folder:
            if args.scores:
                copy_whole_model(run, folder)
            else:
                copy_model(run, winner.step, folder)
        write_atomically(args.metrics, (run / "metrics.jsonl").read_bytes())
        write_atomically(args.validation, (run / "validation.json").read_bytes())
        rule = ON_TEST if args.scores else RULE
        told = {"rule": rule, "chosen": asdict(winner), "candidates": [asdict(candidate) for candidate in candidates]}
        write_atomically(args.chosen, json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def choose(candidates: list[Candidate]) -> Candidate:
    """The candidate with the highest validation accuracy; among equals the earlier in the list."""
    return max(candidates, key=lambda candidate: candidate.accuracy)


def tested(candidates: list[Candidate], scores: list[Path]) -> list[Candidate]:
    """The candidates with the mean of their last weights on a benchmark. UserError unless each has its scores."""
    if len(scores) != len(candidates):
        raise UserError(f"--scores: found {len(scores)} files, expected one for each of {len(candidates)} candidates")
    found = []
    for candidate, file in zip(candidates, scores, strict=True):
        remedy = "expected what chord score writes; delete it and score again"
        try:
            mean = float(json.loads(file.read_text(encoding="utf-8"))["mean"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: found {type(error).__name__}: {error}, {remedy}") from None
        last = max(step for step, _ in _validations(Path(candidate.run) / "validation.json"))
        found.append(Candidate(candidate.run, last, mean))
    return found


def copy_whole_model(run: Path, folder: Path) -> None:
    """The run's model as it is: the weights after its last update."""
    for path in (run / "model").iterdir():
        if path.name != TIMESTAMP:
            shutil.copyfile(path, folder / path.name)


def copy_model(run: Path, step: int, folder: Path) -> None:
    """The run's model with the weights that it had after `step`: its settings and tokenizer are those of any step."""
    for path in (run / "model").iterdir():
        if path.name != TIMESTAMP and not path.name.endswith((".safetensors", ".safetensors.index.json")):
            shutil.copyfile(path, folder / path.name)
    shutil.copyfile(run / "candidates" / candidate_name(step), folder / "model.safetensors")


def read_candidate(run: Path) -> Candidate:
    """The best validation result of a run. Raises UserError for a run that is not whole."""
    if not (run / "model" / "config.json").is_file():
        raise UserError(f"{run / 'model'}: found no config.json, expected the model of a finished run; train it")
    results = _validations(run / "validation.json")
    for step, _ in results:
        weights = run / "candidates" / candidate_name(step)
        if not weights.is_file():
            raise UserError(
                f"{weights}: found no such file, expected the weights after each validated step; train again"
            )
    step, accuracy = max(results, key=lambda result: (result[1], -result[0]))
    return Candidate(str(run), step, accuracy)


def _validations(file: Path) -> list[tuple[int, float]]:
    """(step, accuracy) of each validation after an update; step 0 is no trained model."""
    remedy = "expected what chord validate writes of a finished run; delete it and validate again"
    try:
        rows: Any = json.loads(file.read_text(encoding="utf-8"))["steps"]
        results = [(int(row["step"]), float(row["accuracy"])) for row in rows]
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, UnicodeDecodeError):
        raise UserError(f"{file}: found no such text file, {remedy}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: found {type(error).__name__}: {error}, {remedy}") from None
    for step, accuracy in results:
        if not (math.isfinite(accuracy) and 0 <= accuracy <= 1):
            raise UserError(f"{file}, step {step}: found accuracy {accuracy}, expected a number from 0 to 1")
    after = [(step, accuracy) for step, accuracy in results if step > 0]
    if not after:
        raise UserError(f"{file}: found no validation after step 0, expected at least one; train with validation")
    return after


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chord choose", description="Choose a trained run by its validation accuracy."
    )
    parser.add_argument(
        "--candidates", type=Path, nargs="+", required=True, metavar="RUN_DIR", help="runs to choose from"
    )
    parser.add_argument(
        "--scores", type=Path, nargs="+", default=[], metavar="FILE", help="scores.json of each: choose by a benchmark"
    )
    parser.add_argument("--model", type=Path, required=True, help="folder that becomes a copy of the winner's model")
    parser.add_argument("--metrics", type=Path, required=True, help="file that becomes a copy of the winner's metrics")
    parser.add_argument(
        "--validation", type=Path, required=True, help="file that becomes a copy of its validation.json"
    )
    parser.add_argument("--chosen", type=Path, required=True, help="JSON: the winner, all candidates, the rule")
    parser.add_argument("--manifest", type=Path, required=True, help="JSON: where all of it comes from")
    return parser.parse_args()
