"""Answers made ahead by one job are taken by the later ones, once, whole, and only if they are theirs."""

import multiprocessing
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from chord.evaluation.ahead import claimed


def hold(final: Path, held: Event, released: Event) -> None:
    with claimed(final, wait=True) as mine:
        assert mine
        held.set()
        released.wait(60)


def count(final: Path, log: Path, times: int) -> None:
    for _ in range(times):
        with claimed(final, wait=True):
            before = int(log.read_text())
            time.sleep(0.001)
            log.write_text(str(before + 1))


@pytest.mark.parametrize("end", ["released", "killed"])
def test_what_one_process_is_making_no_other_makes_until_it_has_ended_or_was_killed(end: str, tmp_path: Path) -> None:
    final, held, released = tmp_path / "eval" / "answers.jsonl", multiprocessing.Event(), multiprocessing.Event()
    other = multiprocessing.Process(target=hold, args=(final, held, released))
    other.start()
    assert held.wait(20)
    with claimed(final, wait=False) as mine:
        assert not mine
    other.kill() if end == "killed" else released.set()
    other.join(20)
    with claimed(final, wait=False) as mine:
        assert mine
    assert not list(final.parent.iterdir())  # the lock goes with its holder


def test_processes_that_wait_for_the_same_result_again_and_again_are_never_at_it_together(tmp_path: Path) -> None:
    final, log = tmp_path / "scores.json", tmp_path / "count"
    log.write_text("0")
    others = [multiprocessing.Process(target=count, args=(final, log, 50)) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    assert [other.exitcode for other in others] == [0] * 4
    assert log.read_text() == "200"
