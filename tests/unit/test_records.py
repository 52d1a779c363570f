"""Records: equal ones give equal bytes, what is written is read back, damage is told by file and line."""

from dataclasses import replace

import pytest

from chord.errors import RecordError
from chord.records import Problem, Trace, read_lines, split_lines, write_lines

TRACE = Trace("t1", "p1", "1+2", ">120:3=3", "scripted expert")
PROBLEM = Problem("p1", "sum-1", "1+2", "3", {"dataset": "chain_sum", "é": [1, {"a": None}]})


BREAKS = "\n \r\n \r \x0b \x0c \x1c \x1d \x1e \x85 \u2028 \u2029"
TRACES = [replace(TRACE, response=f"a{one}b", prompt=BREAKS) for one in BREAKS.split(" ")]


@pytest.mark.parametrize("records", [[PROBLEM, PROBLEM], TRACES])
def test_what_is_written_is_read_back_a_record_a_line_whatever_line_breaks_its_texts_hold(tmp_path, records):
    path = tmp_path / "x.jsonl"
    path.write_text(write_lines(records), encoding="utf-8")
    assert read_lines(path, type(records[0])) == records
    assert len(split_lines(write_lines(records))) == len(records)


def test_lines_are_as_many_as_their_ends():
    texts = ("", "\n", "a\u2028b", "a\x85b\n", "a\n\nb\n")
    assert list(map(split_lines, texts)) == [[], [""], ["a\u2028b"], ["a\x85b"], ["a", "", "b"]]


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
        (b"\xff\xfe\x00", "other than text"),
        (None, "found no such file"),
    ],
)
def test_damage_is_told_by_file_and_line_and_so_is_a_folder(tmp_path, content, told):
    path = tmp_path / "x.jsonl"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecordError, match=r"x\.jsonl") as error:
        read_lines(path, Trace)
    assert told in str(error.value)
    with pytest.raises(RecordError, match=str(tmp_path)):
        read_lines(tmp_path, Trace)
