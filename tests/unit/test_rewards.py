"""Each outcome pays what the paper, or its code, says."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from chord.config.study import Grading
from chord.grading.graders import reward
from chord.records import Outcome

THOUGHT = "<think>a</think> b"

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("outcome", "paper", "shipped", "last_number", "binary"),
    [
        (Outcome.RIGHT, 1.0, 1.0, 1.0, 1.0),
        (Outcome.WRONG, 0.0, 0.0, 0.0, 0.0),
        (Outcome.UNEVALUATED, 0.0, 0.0, 0.0, 0.0),
        (Outcome.UNPARSABLE, -0.1, 0.0, -0.1, 0.0),
        (Outcome.TOO_LONG, -1.0, 0.0, -0.1, 0.0),
        (Outcome.KILLED, -0.1, 0.0, -0.1, 0.0),
    ],
)
def test_each_outcome_has_its_reward(
    outcome: Outcome, paper: float, shipped: float, last_number: float, binary: float
) -> None:
    names = ("paper-math", "shipped-math", "last-number-format", "binary")
    assert [reward(outcome, THOUGHT, name) for name in names] == [paper, shipped, last_number, binary]


@pytest.mark.parametrize(
    "text",
    [
        "no thought at all",
        "<think>not closed",
        "not opened</think>",
        "</think>the wrong way round<think>",
        "<think>twice</think><think></think>",
        "<think>closed twice</think></think>",
    ],
)
def test_the_shipped_reward_takes_a_tenth_for_bad_thinking_whatever_the_outcome(text: str) -> None:
    # paper.md, section 2: a correct but badly tagged answer gets 0.9
    assert reward(Outcome.RIGHT, text, "shipped-math") == pytest.approx(0.9)
    assert reward(Outcome.WRONG, text, "shipped-math") == pytest.approx(-0.1)
    assert reward(Outcome.RIGHT, text, "paper-math") == 1.0


@pytest.mark.parametrize("outcome", [Outcome.KILLED, Outcome.UNEVALUATED])
def test_what_cannot_be_graded_or_is_left_to_do_pays_no_more_than_an_honest_wrong_answer(outcome: Outcome) -> None:
    for name in ("paper-math", "shipped-math", "last-number-format", "binary"):
        assert reward(outcome, THOUGHT, name) <= reward(Outcome.WRONG, THOUGHT, name)


def test_an_unknown_reward_is_refused() -> None:
    with pytest.raises(ValueError, match="expected `paper-math`"):
        reward(Outcome.RIGHT, "", "paper-maths")


def test_a_reward_and_a_grader_in_their_module_alone_may_be_named_by_a_study(tmp_path: Path) -> None:
    """In a copy of the package, since this one is loaded already."""
    copy = shutil.copytree(ROOT / "chord", tmp_path / "chord", ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "grading" / "graders.py").open("a") as file:
        file.write(
            '\n\n@REWARDS.entry("always")\ndef _always(_outcome: Outcome, _text: str) -> float:\n    return 1.0\n'
        )
        file.write(
            '\n\n@GRADERS.entry("none")\ndef _none(_form: AnswerForm) -> Reading:\n    raise NotImplementedError\n'
        )
    code = "from chord.config.study import Grading; print(Grading(grader='none', reward='always').reward)"
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert told.stdout == "always\n", told.stderr
    with pytest.raises(ValidationError, match="'binary'"):
        Grading(grader="last-number", reward="always")
