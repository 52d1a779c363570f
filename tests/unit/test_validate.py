"""Answers to the validation set, written by a training, become accuracies by step; damage is named."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from chord.records import Problem, ValidationAnswer, write_lines
from tests.projects import ROOT
from tests.unit.small_study import run

PROBLEMS = [Problem(f"p{n}", "sum", f"{n}+1", str(n + 1), {}) for n in range(3)]


def answers(step: int, *texts: str) -> list[ValidationAnswer]:
    """One answer to each of the first problems; `!` at the end of a text says that it was cut."""
    return [
        ValidationAnswer(step, PROBLEMS[n].id, 0, text.rstrip("!"), "length" if "!" in text else "stop", len(text))
        for n, text in enumerate(texts)
    ]


def validate(folder: Path, written: list[ValidationAnswer]) -> subprocess.CompletedProcess[str]:
    (folder / "problems.jsonl").write_text(write_lines(PROBLEMS))
    (folder / "validation.jsonl").write_text(write_lines(written))
    flags = {"study": ROOT / "config/studies/demo.yaml", "answers": folder / "validation.jsonl"}
    flags |= {"problems": folder / "problems.jsonl", "validation": folder / "out/validation.json"}
    flags |= {"manifest": folder / "out/validation.manifest.json"}
    return run("validate", *(word for name, path in flags.items() for word in (f"--{name}", path)))


def test_each_step_has_its_accuracy_its_outcomes_and_its_length(tmp_path: Path) -> None:
    # answers are 1, 2, 3; the mark of the demo is "="
    written = answers(0, "1", "x=7", "=3!") + answers(10, "=1", ">2=2", "=9")
    told = validate(tmp_path, written)
    assert told.returncode == 0, told.stderr
    first, second = json.loads((tmp_path / "out/validation.json").read_text())["steps"]
    assert first == {
        "step": 0,
        "accuracy": 0.0,
        "response_tokens": pytest.approx((1 + 3 + 3) / 3),
        "outcomes": {"right": 0, "wrong": 1, "unparsable": 1, "too_long": 1, "killed": 0, "unevaluated": 0},
    }
    assert (second["step"], second["accuracy"]) == (10, pytest.approx(2 / 3))
    manifest = json.loads((tmp_path / "out/validation.manifest.json").read_text())
    assert manifest["decided_by"] == {"grading": {"grader": "marked-text", "mark": "="}}
    assert manifest["step"] == "evaluate"


def test_a_step_may_have_more_samples_of_each_problem_than_another(tmp_path: Path) -> None:
    once, twice = answers(0, "=1", "=9"), answers(10, "=1", "=9")
    twice = [replace(one, sample=sample) for one in twice for sample in (0, 1)]
    told = validate(tmp_path, once + twice)
    assert told.returncode == 0, told.stderr
    steps = json.loads((tmp_path / "out/validation.json").read_text())["steps"]
    assert [(step["accuracy"], step["outcomes"]["right"]) for step in steps] == [(0.5, 1), (0.5, 2)]


GOOD = answers(0, "=1", "=2") + answers(10, "=1", "=2")
BAD = {
    "found answers to 'other'": [replace(one, problem="other") for one in GOOD],
    "found 1 answers after step 10": GOOD[:-1],
    "found 2 answers after step 10, expected each sample": [*GOOD[:3], replace(GOOD[3], problem="p2")],
    "found 2 answers after step 0, expected each sample": [GOOD[0], GOOD[0]],
    "found 3 answers after step 10, expected each sample": [*GOOD, replace(GOOD[3], sample=1)],
    "found step 0 after 10": GOOD + answers(0, "=1", "=2"),
    "found an empty file": [],
}


@pytest.mark.parametrize("said", BAD)
def test_answers_that_are_not_whole_are_refused_and_nothing_is_written(said: str, tmp_path: Path) -> None:
    told = validate(tmp_path, BAD[said])
    assert told.returncode == 2
    assert told.stderr.startswith(f"chord validate: {tmp_path / 'validation.jsonl'}: {said}")
    assert told.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "validation.json").exists()
