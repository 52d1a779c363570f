"""Records: equal ones give equal bytes, what is written is read back, damage is told by file and line."""

import pytest

from chord.records import Problem, RecordError, Trace, read_lines, write_lines

TRACE = Trace("t1", "p1", "1+2", ">120:3=3", "scripted expert")
PROBLEM = Problem("p1", "sum-1", "1+2", "3", {"dataset": "chain_sum", "é": [1, {"a": None}]})


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(write_lines([PROBLEM, PROBLEM]), encoding="utf-8")
    assert read_lines(path, Problem) == [PROBLEM, PROBLEM]
    path.write_text(write_lines([TRACE]), encoding="utf-8")
    assert read_lines(path, Trace) == [TRACE]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "empty file"),
        (write_lines([TRACE])[:-1], "cut off"),
        (write_lines([TRACE]) + '{"id": "t2\n', "line 2: found text that is not JSON"),
        ("[1, 2]\n", "line 1: found no JSON object"),
        (write_lines([PROBLEM]), "expected the fields"),
        (write_lines([TRACE]).replace('"t1"', "7"), "found id = 7, expected: Input should be a valid string"),
        (write_lines([TRACE]).replace('"expert"', '"teacher"'), "expected the fields"),
    ],
)
def test_damage_is_told_by_file_and_line(tmp_path, content, told):
    path = tmp_path / "x.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(RecordError, match=r"x\.jsonl") as error:
        read_lines(path, Trace)
    assert told in str(error.value)


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(RecordError, match=str(path)):
            read_lines(path, Trace)


def test_bytes_that_are_not_text_are_told(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match="other than text"):
        read_lines(path, Trace)
