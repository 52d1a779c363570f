"""Answers that a training sampled on the validation set -> accuracy after each of its validated steps.

chord validate --study NAME --answers validation.jsonl --problems FILE --validation OUT --manifest OUT

For trainings that only imitate: they write down what they answer and know no grader. Needs no model.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from itertools import groupby, product
from pathlib import Path
from typing import Any

from chord.config.project import add_study, project_of
from chord.errors import RecordError
from chord.grading.graders import Grader
from chord.provenance.files import write_atomically
from chord.provenance.manifest import Manifest
from chord.records import Outcome, Problem, ValidationAnswer, read_lines
from chord.steps import of_validation

VERB = "chord validate"


def main() -> None:
    """Grades one training's answers."""
    args = _arguments()
    study = project_of(args).study
    with Manifest.recording(
        args.manifest,
        of_validation(study),
        inputs={"answers": args.answers, "problems": args.problems},
        outputs={"validation": args.validation},
    ):
        right = {problem.id: problem.answer for problem in read_lines(args.problems, Problem)}
        steps = by_step(args.answers, right)
        with Grader(study.grading.form) as grader:
            results = [_graded(step, answers, right, grader) for step, answers in steps.items()]
        write_atomically(args.validation, json.dumps({"steps": results}, indent=1) + "\n")


def by_step(file: Path, problems: Iterable[str]) -> dict[int, list[ValidationAnswer]]:
    """The answers in the file, by step. Raises RecordError unless each has all samples of the same known problems."""
    known, answers = set(problems), read_lines(file, ValidationAnswer)
    steps: dict[int, list[ValidationAnswer]] = {}
    for step, group in groupby(answers, key=lambda answer: answer.step):
        if step <= max(steps, default=-1):
            raise RecordError(f"{file}: found step {step} after {max(steps)}, expected rising steps; train again")
        steps[step] = list(group)
    if strangers := sorted({answer.problem for answer in answers} - known):
        raise RecordError(
            f"{file}: found answers to '{strangers[0]}' ({len(strangers)} such problems), expected problems out of"
            " the validation set; train again"
        )
    asked = list(dict.fromkeys(answer.problem for answer in steps[min(steps)]))
    for step, group in steps.items():
        samples = range(1 + max(answer.sample for answer in group))
        if [(answer.problem, answer.sample) for answer in group] != [*product(asked, samples)]:
            raise RecordError(
                f"{file}: found {len(group)} answers after step {step}, expected each sample of each of the"
                f" {len(asked)} problems of step {min(steps)} once; train again"
            )
    return steps


def _graded(step: int, answers: list[ValidationAnswer], right: dict[str, str], grader: Grader) -> dict[str, Any]:
    found = Counter(grader.grade_all([(answer.text, answer.finish, right[answer.problem]) for answer in answers]))
    return {
        "step": step,
        "accuracy": found[Outcome.RIGHT] / len(answers),
        "response_tokens": sum(answer.response_tokens for answer in answers) / len(answers),
        "outcomes": {outcome.value: found[outcome] for outcome in Outcome},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=VERB, description="Grade the answers to the validation set of a training.")
    add_study(parser)
    parser.add_argument("--answers", type=Path, required=True, help="validation.jsonl of the training")
    parser.add_argument("--problems", type=Path, required=True, help="the validation problems, JSON lines")
    parser.add_argument("--validation", type=Path, required=True, help="JSON that is written: a result for each step")
    parser.add_argument("--manifest", type=Path, required=True, help="JSON: where it comes from")
    return parser.parse_args()
