"""Answers made ahead by one job are taken by the later ones, once, whole, and only if they are theirs."""

import multiprocessing
import time
from pathlib import Path

from chord.evaluation.ahead import claimed


def hold(final: Path, held: "multiprocessing.synchronize.Event", seconds: float) -> None:
    with claimed(final, wait=True) as mine:
        assert mine
        held.set()
        time.sleep(seconds)


def count(final: Path, log: Path, times: int) -> None:
    for _ in range(times):
        with claimed(final, wait=True):
            before = int(log.read_text())
            time.sleep(0.001)
            log.write_text(str(before + 1))


def test_what_one_process_is_making_no_other_makes_and_one_that_waits_comes_after_it(tmp_path: Path) -> None:
    final, held = tmp_path / "eval" / "answers.jsonl", multiprocessing.Event()
    other = multiprocessing.Process(target=hold, args=(final, held, 0.7))
    other.start()
    assert held.wait(20)
    with claimed(final, wait=False) as mine:
        assert not mine
    began = time.monotonic()
    with claimed(final, wait=True) as mine:
        assert mine
        assert time.monotonic() - began > 0.3
    other.join(20)
    assert other.exitcode == 0
    with claimed(final, wait=False) as mine:
        assert mine
    assert not list(final.parent.iterdir())  # the lock goes with its holder


def test_the_claim_of_a_killed_process_ends_with_it(tmp_path: Path) -> None:
    final, held = tmp_path / "scores.json", multiprocessing.Event()
    other = multiprocessing.Process(target=hold, args=(final, held, 60))
    other.start()
    assert held.wait(20)
    other.kill()
    other.join(20)
    with claimed(final, wait=False) as mine:
        assert mine


def test_processes_that_claim_the_same_result_again_and_again_are_never_at_it_together(tmp_path: Path) -> None:
    final, log = tmp_path / "scores.json", tmp_path / "count"
    log.write_text("0")
    others = [multiprocessing.Process(target=count, args=(final, log, 50)) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    assert [other.exitcode for other in others] == [0] * 4
    assert log.read_text() == "200"
