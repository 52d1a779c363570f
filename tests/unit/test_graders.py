"""Each grader says right, wrong, unparsable, too long or killed, and nothing else."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from chord.config.study import Grading
from chord.errors import UserError
from chord.grading import math_checker
from chord.grading.graders import MOST_TRAPS, Grader, grade, reward
from chord.grading.math_checker import MathChecker
from chord.records import Outcome

RIGHT, WRONG, UNPARSABLE, TOO_LONG = Outcome.RIGHT, Outcome.WRONG, Outcome.UNPARSABLE, Outcome.TOO_LONG
UNEVALUATED, KILLED = Outcome.UNEVALUATED, Outcome.KILLED
DATA = Path(__file__).parents[1] / "data"
TRAP = "{" * 30 + "1" + "}" * 30 + "x"  # the parser of LaTeX needs minutes for it
MARKED = Grading(grader="marked-text", mark="=", reward="paper-math")
LAST = Grading(grader="last-number", reward="last-number-format")
MATH = Grading(grader="math", reward="paper-math")
TOOLS = Grading(grader="tool-call", reward="binary")


def checker_of(grader: Grader) -> MathChecker:
    return grader._reading.close.__self__


@pytest.fixture(scope="module")
def math_grader() -> Iterator[Grader]:
    with Grader(MATH) as grader:
        yield grader


def each(table: dict[tuple[str, Outcome], list[str]]) -> list[tuple[str, str, Outcome]]:
    """Text, answer, and outcome of each text of the table."""
    return [(text, answer, outcome) for (answer, outcome), texts in table.items() for text in texts]


MARKED_TEXTS = {
    ("623", RIGHT): ["=623", ">8+5+0:13=623", "=623 \n", "=1=623"],  # the last mark counts
    ("623", WRONG): ["=623=1"],
    ("623", UNPARSABLE): ["=62 3", "=623.", "623", "=", "", "=\u0666\u0662\u0663"],  # int() would read Arabic digits
    ("7", RIGHT): ["=007"],
    ("7", WRONG): ["=-7"],
    ("7", UNPARSABLE): ["=" + "0" * 64 + "7"],  # over 64 digits
    ("0", RIGHT): ["=-0"],
    ("600", UNPARSABLE): ["=6e2"],
    ("1000", UNPARSABLE): ["=1_000"],  # int() would read it
    ("noen", RIGHT): ["=noen"],
    ("noen", WRONG): ["=Noen", "=neon"],
    ("noen", UNPARSABLE): ["=no\u200ben", "=" + "n" * 1001],  # a space of no width
}


@pytest.mark.parametrize(("text", "answer", "outcome"), each(MARKED_TEXTS))
def test_marked_text_is_all_that_follows_the_last_mark(text: str, answer: str, outcome: Outcome) -> None:
    assert grade(text, "stop", answer, MARKED) is outcome


LAST_NUMBERS = {
    ("47", RIGHT): ["The answer is 47.", "47.0", "047"],
    ("47", WRONG): ["47, not 48"],
    ("47", UNPARSABLE): ["none", "\u0664\u0667", "9" * 65],
    ("47.5", RIGHT): ["47.50"],
    ("-47", RIGHT): ["x = -47"],
    ("3", RIGHT): ["50-3"],  # a subtraction, not a negative number
    ("-3", RIGHT): ["(-3)"],
    ("-3", WRONG): ["50 - 3"],
    ("1234", RIGHT): ["1,234"],
    ("23", RIGHT): ["1,23"],  # not thousands: a list
    ("6789", RIGHT): ["12,345,6789"],
}


@pytest.mark.parametrize(("text", "answer", "outcome"), each(LAST_NUMBERS))
def test_the_last_number_of_the_reply_is_its_answer(text: str, answer: str, outcome: Outcome) -> None:
    assert grade(text, "stop", answer, LAST) is outcome


@pytest.mark.parametrize(
    ("form", "text", "outcome"),
    [
        (MARKED, "=47", TOO_LONG),  # 471 might have followed
        (MARKED, ">8+5", TOO_LONG),
        (LAST, "it is 47", TOO_LONG),
        (LAST, "it is 47.", TOO_LONG),
        (LAST, "it is 47 because", RIGHT),
        (LAST, "it is 48 because", WRONG),
        (LAST, "it", TOO_LONG),
        (MATH, "\\boxed{47} and so", RIGHT),
        (MATH, "\\boxed{41} and so", WRONG),
        (MATH, "let x be", TOO_LONG),
        (MATH, "\\boxed{4", TOO_LONG),
    ],
)
def test_an_answer_that_a_cut_text_ends_in_may_have_gone_on(form: Grading, text: str, outcome: Outcome) -> None:
    assert grade(text, "length", "47", form) is outcome


@pytest.mark.parametrize(
    ("form", "answer", "said"),
    [(LAST, "noen", "'noen', expected a number"), (TOOLS, "623", "expected a JSON list of calls")],
)
def test_a_problem_whose_answer_the_grader_cannot_read_is_refused(form: Grading, answer: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        grade("47", "stop", answer, form)


BOXES = {  # the last one counts
    ("42", RIGHT): [r"\boxed{1} \boxed{42}.", r"\boxed{\boxed{42}}", r"\boxed{042}", r"\boxed{\frac{84}{2}}"],
    ("42", WRONG): [r"\boxed{\frac{85}{2}}", r"\boxed{\text{forty two}}", r"\boxed{42} or \boxed{1}"],
    ("42", UNEVALUATED): [r"\boxed{40+2}"],
    ("42", UNPARSABLE): ["42", r"\boxed{}", "\\boxed{4\u202e2}", r"\boxed{42} \boxed{4"],
    (r"\frac{1}{2}", RIGHT): [r"\boxed{0.5}"],
    ("1000", RIGHT): [r"\boxed{1,000}", r"\boxed{$1000$}"],
    ("x^2+2x+1", RIGHT): [r"\boxed{(x+1)^2}"],
    (r"\{1, 2\}", RIGHT): [r"\boxed{\{2, 1\}}"],
    (r"\}", RIGHT): [r"\boxed{\}}"],  # an escaped brace does not close the box
    (r"\text{}", UNPARSABLE): [r"\boxed{$ $}", r"\boxed{\,}"],  # formatting alone is no answer
}


@pytest.mark.parametrize(("text", "answer", "outcome"), each(BOXES))
def test_mathematics_reads_the_last_box(math_grader: Grader, text: str, answer: str, outcome: Outcome) -> None:
    assert math_grader.grade(text, "stop", answer) is outcome


def pairs(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.parametrize("name", ["math_answers.tsv", "math_pairs.tsv"])
def test_each_publicly_reported_pair_and_each_of_ours_has_its_verdict(name: str, math_grader: Grader) -> None:
    rows = pairs(name)
    outcomes = math_grader.grade_all([(f"so \\boxed{{{row['given']}}}.", "stop", row["reference"]) for row in rows])
    if name == "math_pairs.tsv":
        assert {row["outcome"] for row in rows} == {"right", "wrong", "unevaluated"}
        found = [one == row["outcome"] for row, one in zip(rows, outcomes, strict=True)]
    else:
        assert len(rows) == 75 and KILLED not in outcomes
        found = [(one is RIGHT) == (row["right"] == "yes") for row, one in zip(rows, outcomes, strict=True)]
    assert [row for row, fits in zip(rows, found, strict=True) if not fits] == []


def test_an_answer_to_an_integer_never_reaches_the_child_process() -> None:
    given = ["42", "43", "42.0", "\\frac{84}{2}", "41+1", "x=41=42", "42, 43"]
    given += ["\\sqrt{1764}", "\\text{forty two}", TRAP]
    with Grader(MATH) as grader:
        outcomes = grader.grade_all([(f"\\boxed{{{text}}}", "stop", "42") for text in given])
        assert checker_of(grader)._worker is None
    assert outcomes == [RIGHT, WRONG, RIGHT, RIGHT, UNEVALUATED, UNEVALUATED, WRONG, UNEVALUATED, WRONG, WRONG]


STATES = [
    ("0<f(x)<1", "(0,1)"),
    ("(2,12) \\cup (12,102)", "(2,102) \\setminus \\{12\\}"),
    ("x\\le 5", "(-\\infty,5]"),
    ("\\sqrt{2}", "\\int_0^1 \\sqrt{2} dx"),
    ("\\sqrt{2}", "\\lim_{n\\to\\infty} \\sqrt{2}"),
    ("2x+4y-3=0", "y = -\\frac{1}{2}x + \\frac{3}{4}"),
    ("\\tan^2(y)+1", "\\sec^2(y)"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\3\\end{pmatrix}"),
    ("\\sqrt{2}", "\\sum_{n=0}^{\\infty} 2^{-n}"),
    ("\\sqrt{2}", TRAP),
    ("\\frac{1}{1+i}", "\\frac{1-i}{2}"),
]


def test_a_grade_depends_on_no_cache_of_the_installation_and_on_nothing_graded_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [(f"\\boxed{{{given}}}", "stop", wanted) for wanted, given in STATES]
    expected = [RIGHT] * 7 + [WRONG] * 2 + [KILLED] + [RIGHT]
    empty = tmp_path / "bytecode"
    empty.mkdir(mode=0o500)
    for prefix, processors in ((None, 2), (str(empty), 1)):
        if prefix:
            monkeypatch.setenv("PYTHONPYCACHEPREFIX", prefix)
        monkeypatch.setattr(math_checker.os, "sched_getaffinity", lambda _process, most=processors: range(most))
        with Grader(MATH) as grader:
            cold, again = grader.grade_all(answers), grader.grade_all(answers)
            backwards = grader.grade_all(answers[::-1])[::-1]
        assert (cold, again, backwards) == (expected, expected, expected), prefix


def test_the_child_loads_all_that_comparing_imports_before_it_compares() -> None:
    program = (
        "import csv, sys; from chord.grading import math_worker as w; from chord.grading.math_reading import plain;"
        "from chord.grading.math_reading import verdict; w.load(); loaded = set(sys.modules)\n"
        "for name in sys.argv[1:]:\n"
        "    for row in csv.reader(open(name), delimiter='\\t', quoting=csv.QUOTE_NONE):\n"
        "        asked = verdict(plain(row[0]), plain(row[1]))\n"
        "        isinstance(asked, tuple) and w.equal(*asked)\n"
        "w.equal('\\\\frac{\\\\pi}{4}', '\\\\int_0^1 \\\\sqrt{1-x^2} dx')\n"
        "print(sorted(set(sys.modules) - loaded))"
    )
    files = [str(DATA / name) for name in ("math_answers.tsv", "math_pairs.tsv")]
    ended = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, timeout=600)
    assert ended.stdout == "[]\n", ended.stderr


def test_one_problems_traps_in_a_step_end_what_is_compared_for_it_in_the_order_of_its_answers(
    math_grader: Grader,
) -> None:
    given = ("7^{1/2}", TRAP, "\\sqrt 7")
    same, trap, text = ((f"\\boxed{{{one}}}", "stop", "\\sqrt{7}") for one in given)
    assert MOST_TRAPS == 2
    first, second, third = [same, trap, same, trap, same, text], [trap, trap, trap, same, same, same], [same] * 6
    together = math_grader.grade_all([*first, *second, *third], per_problem=6)
    assert together[:6] == [RIGHT, KILLED, RIGHT, KILLED, KILLED, RIGHT]  # the last one needs no algebra
    assert together[6:12] == [KILLED] * 6
    assert together[12:] == [RIGHT] * 6
    apart = [math_grader.grade_all(group, per_problem=6) for group in (first, second, third)]  # as on three ranks
    assert together == [*apart[0], *apart[1], *apart[2]]
    assert math_grader.grade_all([trap, trap, same]) == [KILLED, KILLED, RIGHT]  # outside of a training's step


def calls_a(**given: object) -> dict[str, object]:
    return {"name": "a", "arguments": {"x": 1, "y": [1, 2]} | given}


A = calls_a()
B = {"name": "b", "arguments": {}}


def reply(calls: object, thought: str = "<think>t</think>") -> str:
    return f"{thought} <tool_call>{json.dumps(calls)}</tool_call>"


REPLIES = {
    RIGHT: [
        *(reply([A, B]), reply([B, A]), reply([B, {"arguments": {"y": [1, 2], "x": 1}, "name": "a", "id": 7}])),
        reply([A]) + reply([A, B], thought=""),  # the last list counts
    ],
    WRONG: [
        *(reply(calls) for calls in ([A, B, B], [A], [], [A, {"name": "b", "arguments": {"z": None}}])),
        *(reply([B, calls_a(x=x)]) for x in (1.0, True)),
        reply([B, calls_a(y=[2, 1])]),
        reply([calls_a(x=int("9" * 64))]),
    ],
    UNPARSABLE: [
        *(reply(calls) for calls in (A, ["a"], [{"name": "a"}])),
        *(reply([{"name": name, "arguments": given}]) for name, given in ((["a"], {}), ("a", "{}"))),
        *(reply([calls_a(x=int("9" * 65))]), reply([calls_a(x=0.1)]).replace("0.1", "0." + "1" * 63)),
        *(reply([A, B], thought) for thought in ("", "<think>t", "</think><think>", "<think>t</think><think></think>")),
        reply([A, B], thought="") + "<think>t</think>",  # thinks after it calls
        *("<think>t</think>" + json.dumps([A, B]), "<think>t</think></tool_call><tool_call>[]"),
        "<think>t</think><tool_call>[{'name': 'a', 'arguments': {}}]</tool_call>",  # Python, not JSON
        '<think>t</think><tool_call>[{"name": "a", "name": "b", "arguments": {}}]</tool_call>',
        '<think>t</think><tool_call>[{"name": "a", "arguments": {"x": NaN}}]</tool_call>',
    ],
}  # fmt: skip


@pytest.mark.parametrize(("text", "outcome"), [(text, outcome) for outcome in REPLIES for text in REPLIES[outcome]])
def test_a_reply_calls_the_wanted_tools_in_any_order_after_one_thought(text: str, outcome: Outcome) -> None:
    assert grade(text, "stop", json.dumps([A, B]), TOOLS) is outcome


def test_a_cut_tool_reply_is_too_long_unless_its_calls_are_whole() -> None:
    whole = reply([A, B])
    assert grade(whole + " and", "length", json.dumps([A, B]), TOOLS) is RIGHT
    assert grade(whole[:-5], "length", json.dumps([A, B]), TOOLS) is TOO_LONG


def test_a_way_to_finish_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 'stop' or 'length'"):
        grade("=1", "eos", "1", MARKED)


# --- rewards -----------------------------------------------------------------------------------

THOUGHT = "<think>a</think> b"
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (RIGHT, [1.0, 1.0, 1.0, 1.0]),
        (WRONG, [0.0, 0.0, 0.0, 0.0]),
        (UNEVALUATED, [0.0, 0.0, 0.0, 0.0]),
        (UNPARSABLE, [-0.1, 0.0, -0.1, 0.0]),
        (TOO_LONG, [-1.0, 0.0, -0.1, 0.0]),
        (KILLED, [-0.1, 0.0, -0.1, 0.0]),
    ],
)
def test_each_outcome_has_its_reward(outcome: Outcome, expected: list[float]) -> None:
    names = ("paper-math", "shipped-math", "last-number-format", "binary")
    assert [reward(outcome, THOUGHT, name) for name in names] == expected


BADLY = ["no thought", "<think>not closed", "not opened</think>", "</think>the wrong way round<think>"]
BADLY += ["<think>twice</think><think></think>", "<think>closed twice</think></think>"]


@pytest.mark.parametrize("text", BADLY)
def test_the_shipped_reward_takes_a_tenth_for_bad_thinking_whatever_the_outcome(text: str) -> None:
    # paper.md, section 2: a correct but badly tagged answer gets 0.9
    assert reward(Outcome.RIGHT, text, "shipped-math") == pytest.approx(0.9)
    assert reward(Outcome.WRONG, text, "shipped-math") == pytest.approx(-0.1)
    assert reward(Outcome.RIGHT, text, "paper-math") == 1.0


def test_an_unknown_reward_is_refused() -> None:
    with pytest.raises(ValueError, match="expected `paper-math`"):
        reward(Outcome.RIGHT, "", "paper-mth")


ADDED = """
@REWARDS.entry("always")
def _always(_outcome: Outcome, _text: str) -> float:
    return 1.0

@GRADERS.entry("none")
def _none(_form: AnswerForm) -> Reading:
    raise NotImplementedError
"""


def test_a_reward_and_a_grader_in_their_module_alone_may_be_named_by_a_study(tmp_path: Path) -> None:
    """In a copy of the package, since this one is loaded already."""
    copy = shutil.copytree(ROOT / "chord", tmp_path / "chord", ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "grading" / "graders.py").open("a") as file:
        file.write(ADDED)
    code = "from chord.config.study import Grading; print(Grading(grader='none', reward='always').reward)"
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert told.stdout == "always\n", told.stderr
    with pytest.raises(ValidationError, match="'binary'"):
        Grading(grader="last-number", reward="always")
