"""Which rows a step reads: whole epochs, a pure function of position, different by seed and purpose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chord.training.rollouts import rows_at


@given(st.integers(1, 30), st.integers(0, 5), st.integers(0, 2**40))
def test_each_epoch_holds_every_row_once(size, epoch, seed):
    assert sorted(rows_at(epoch * size, size, size, seed, "prompts")) == list(range(size))


@given(st.integers(1, 30), st.integers(0, 100), st.integers(1, 70), st.integers(0, 70))
def test_reading_in_any_portions_gives_the_same_stream(size, position, count, cut):
    def rows(start: int, number: int) -> list[int]:
        return rows_at(start, number, size, 7, "experts")

    cut = min(cut, count)
    assert rows(position, cut) + rows(position + cut, count - cut) == rows(position, count)


def test_seeds_purposes_and_epochs_have_orders_of_their_own():
    asked = [(0, 1, "prompts"), (0, 2, "prompts"), (0, 1, "experts"), (50, 1, "prompts")]
    orders = [rows_at(position, 50, 50, seed, purpose) for position, seed, purpose in asked]
    assert len({tuple(order) for order in orders}) == 4


def test_a_stream_over_nothing_is_refused():
    with pytest.raises(ValueError, match="expected at least one"):
        rows_at(0, 3, 0, 1, "prompts")
