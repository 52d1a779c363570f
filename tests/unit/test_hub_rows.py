"""Which rows of a dataset become problems: each filter by itself, hostile rows, and memory that does not grow."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from chord.config.project import load
from chord.config.study import Filters, Study
from chord.data.hub_rows import Lengths, Overlap, Row, Rules, question_key, read_rows, select
from chord.data.problems import Draw
from chord.errors import UserError
from tests import made_up_math
from tests.made_up_math import parquet, row, trace

ROOT = Path(__file__).parents[2]
COLUMNS = {"question": "problem", "answer": "answer", "generations": "generations"}
COLUMNS["verified"] = "correctness_math_verify"
RIGHT = [(trace("one", 7), True), (trace("two", 7), True)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    root = tmp_path_factory.mktemp("project")
    made_up_math.write_study(root)
    return load(root, study="math").study


def chosen(study: Study, *made: dict[str, Any], size: int = 100, **more: Any) -> Draw:
    """The RL set out of these rows; lengths are counted in characters."""
    rules: dict[str, Any] = {"study": study, "name": "practised", "commit": "0" * 40, "apart": frozenset()}
    rules |= {"overlap": None, "lengths": Lengths(len, lambda texts: [len(text) for text in texts])}
    values = [{name: one.get(column) for name, column in COLUMNS.items()} for one in made]
    rows = (Row("data.jsonl", number, one) for number, one in enumerate(values))
    return select(rows, Rules(**(rules | more)), "train", size)


ROW = row("q", "7", RIGHT)
UNUSABLE, FEW = "a row without a usable question", "too few generations"
DROPPED: dict[str, tuple[dict[str, Any], str]] = {
    "no question": (ROW | {"problem": ""}, UNUSABLE),
    "a question that is no text": (ROW | {"problem": ["q"] * 2 + [None]}, UNUSABLE),
    "a null for an answer": (ROW | {"answer": None}, UNUSABLE),
    "a truth value for an answer": (ROW | {"answer": True}, UNUSABLE),
    "an answer that is no number": (ROW | {"answer": float("nan")}, UNUSABLE),
    "half a character": (ROW | {"problem": "q \ud800"}, UNUSABLE),
    "Chinese": (ROW | {"problem": "求 q"}, "a question with Chinese characters"),
    "a fraction": (ROW | {"answer": "7/2"}, "an answer that is no integer"),
    "an answer of endless digits": (ROW | {"answer": "7" * 500}, "an answer that is no integer"),
    "a digit of another script": (ROW | {"answer": "٧"}, "an answer that is no integer"),
    "an endless question": (ROW | {"problem": "q" * 5_000_000}, "prompt over rollouts.max_prompt_tokens"),
    "one right trace": (row("q", "7", [RIGHT[0], (RIGHT[1][0], False)]), FEW),
    "traces that are too long": (row("q", "7", [(trace("x" * 9000, 7), True)] * 2), FEW),
    "traces that are endless": (row("q", "7", [(trace("x" * 9_000_000, 7), True)] * 2), FEW),
    "traces that our grader finds wrong": (row("q", "7", [(trace("one", 8), True)] * 2), FEW),
    "traces without an answer": (row("q", "7", [("<think>\nhm", True)] * 2), FEW),
    "a null for a trace": (ROW | {"generations": [None, None]}, FEW),
    "more verdicts than traces": (ROW | {"correctness_math_verify": [True] * 3}, "as many verdicts"),
    "no verdicts": (ROW | {"correctness_math_verify": None}, "as many verdicts"),
    "verdicts that are words": (ROW | {"correctness_math_verify": ["yes", "yes"]}, FEW),
}


@pytest.mark.parametrize("case", DROPPED)
def test_a_row_that_is_no_problem_is_dropped_by_its_reason(case: str, study: Study) -> None:
    bad, reason = DROPPED[case]
    found = chosen(study, row("How much is it?", "7", RIGHT), bad)
    assert [one.answer for one in found.problems] == ["7"]
    ((told, count),) = found.dropped.items()
    assert told.startswith(reason) and count == 1


def test_an_answer_that_the_grader_of_tool_calls_cannot_read_is_dropped(study: Study) -> None:
    filters = Filters(answers="calls")
    task = study.tasks["practised"].model_copy(update={"filters": filters})
    tools = study.model_copy(update={"tasks": study.tasks | {"practised": task}})
    calls = '[{"name": "f", "arguments": {"x": 1}}]'
    made = [row("Call f.", calls, RIGHT), row("Call g.", "g(x=1)", RIGHT), row("Call h.", calls[1:-1], RIGHT)]
    found = chosen(tools, *made)
    assert [one.answer for one in found.problems] == [calls]
    assert found.dropped == {"an answer that is no list of tool calls (filters.answers)": 2}


def test_braces_and_signs_of_a_question_are_text(study: Study) -> None:
    hostile = "What is {question} of $\\frac{1}{2}$ {0} %s <|im_end|>?"
    (one,) = chosen(study, row(hostile, "-7", [(trace("one", -7), True)] * 2)).problems
    assert one.prompt.endswith(f"\n\n{hostile}") and one.answer == "-7"


def test_a_question_of_another_set_or_twice_or_of_a_benchmark_is_not_taken(study: Study) -> None:
    words = "a snail climbs three rungs of a ladder every day"
    made = [row("First  one?", "7", RIGHT), row("Second one?", "7", RIGHT), row(" Second one? ", "7", RIGHT)]
    made.append(row("Say how high: A snail climbs three rungs, of a LADDER; every day.", "7", RIGHT))
    apart, overlap = frozenset({question_key("First one?")}), Overlap([f"{words} and sleeps"], 8)
    found = chosen(study, *made, apart=apart, overlap=overlap)
    assert [one.source["question"] for one in found.problems] == ["Second one?"]
    assert sorted(found.dropped.values()) == [1, 1, 1]


def test_overlap_is_so_many_words_in_a_row_and_not_one_less() -> None:
    seven, eight = Overlap(["a b c d e f g h i"], 7), Overlap(["a b c d e f g"], 8)
    assert "x b c d e f g h y" in seven and "x b c d e f g y" not in seven
    assert "A, b! c d e f g" in eight  # shorter than eight words: only where it is the whole question
    assert "a b c d e f g h" not in eight and "" not in eight


def test_of_too_many_rows_the_same_are_drawn_in_any_order_and_a_smaller_set_within(study: Study) -> None:
    made = [row(f"How much is number {number}?", "7", RIGHT) for number in range(60)]
    forward, backward = chosen(study, *made, size=20), chosen(study, *made[::-1], size=20)
    names = {one.id for one in forward.problems}
    assert len(names) == 20 and names == {one.id for one in backward.problems}
    assert [one.source["row"] for one in forward.problems] == sorted(one.source["row"] for one in forward.problems)
    assert names != {one.id for one in chosen(study, *made[:20]).problems}
    assert {one.id for one in chosen(study, *made, size=10).problems} < names


def test_files_are_read_in_their_order_and_values_are_what_the_files_say(tmp_path: Path) -> None:
    """`datasets` makes a time of the text in `answer`, a number of "8", and a float of the number of 30 digits."""
    one, two = tmp_path / "one.parquet", tmp_path / "two.jsonl"
    one.write_bytes(parquet(list(made_up_math.rows(70))))
    answers = [7, "8", "2024-01-01", 10**30, 1.5, None, [1, ["é😀", None]], {"x": {"y": 1}}]
    lines = [{"problem": "q", "answer": answer} for answer in answers] + [{"answer": 8, "more": 1}]
    two.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    read = list(read_rows([("one.parquet", one), ("two.jsonl", two)], {"question": "problem", "answer": "answer"}))
    assert [(found.file, found.number) for found in read[69:71]] == [("one.parquet", 69), ("two.jsonl", 0)]
    assert [found.values for found in read[:70]] == [
        {"question": made["problem"], "answer": made["answer"]} for made in made_up_math.rows(70)
    ]
    assert [found.values["answer"] for found in read[70:]] == [*answers, 8]
    assert read[-1].values["question"] is None


PARQUET = parquet(list(made_up_math.rows(70)))
BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "Parquet without the column": ("a.parquet", PARQUET, "found columns problem, .* expected 'proof' among them"),
    "lines without the key": ("a.jsonl", b'{"b": 1}\n{"a": 1}\n', "found columns a, expected 'proof' among them"),
    "Parquet that was cut off": ("a.parquet", PARQUET[:-9] + b"0" * 9, "found no Parquet that can be read"),
    "lines that were cut off": ("a.jsonl", b'{"proof": "q"}\n{"pr', "line 2: found text that is not JSON"),
    "lines of another encoding": ("a.jsonl", b'{"proof": "\xff"}', "line 1: found text that is not JSON"),
    "a number without end": ("a.jsonl", b'{"proof": %s}' % (b"7" * 5000), "line 1: found text that is not JSON"),
    "lists without end": ("a.jsonl", b"[" * 100_000, "line 1: found text that is not JSON"),
    "a list": ("a.jsonl", b'{"proof": "q"}\n[1]', "line 2: found no JSON object, expected one a line"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_missing_column_or_a_damaged_file_is_told(case: str, tmp_path: Path) -> None:
    name, content, said = BAD_FILES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        list(read_rows([(name, tmp_path / name)], {"question": "proof"}))


MEASURE = """
import json, resource, sys
from pathlib import Path
from chord.config.project import load
from chord.data.hub_rows import Lengths, Rules, read_rows, select
study = load(Path(sys.argv[1]), study="math").study
lengths = Lengths(len, lambda texts: [len(text) for text in texts])
rules = Rules(study, "practised", "0" * 40, frozenset(), None, lengths)
peaks = []
for file in sys.argv[2:]:
    rows = read_rows([("data", Path(file))], study.datasets["openr1"].columns)
    found = select(rows, rules, "train", 50)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    peaks.append((len(found.problems) + found.dropped.total(), peak))
print(json.dumps(peaks))
"""


def test_ten_times_the_rows_need_no_more_memory(tmp_path: Path) -> None:
    """Four texts of 8,000 characters a row: the larger file holds 220 MB of them."""
    made_up_math.write_study(tmp_path)
    files = []
    for count in (700, 7000):
        files.append(tmp_path / f"{count}.parquet")
        with pa.OSFile(str(files[-1]), "wb") as out, made_up_math.pq.ParquetWriter(out, made_up_math.SCHEMA) as writer:
            for start in range(0, count, 100):
                texts = [(trace(f"{number} " * 4000, 7), True) for number in range(4)]
                part = [row(f"How much is number {start + place}?", "7", texts) for place in range(100)]
                writer.write_table(pa.Table.from_pylist(part, schema=made_up_math.SCHEMA))
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), *map(str, files)], cwd=ROOT, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    (few, less), (many, more) = json.loads(told.stdout)
    assert (few, many) == (700, 7000)
    assert more - less < 60, f"{less:.0f} MB, then {more:.0f} MB"
