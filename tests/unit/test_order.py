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
    cut = min(cut, count)
    whole = rows_at(position, count, size, 7, "experts")
    assert (
        rows_at(position, cut, size, 7, "experts") + rows_at(position + cut, count - cut, size, 7, "experts") == whole
    )


def test_seeds_purposes_and_epochs_have_orders_of_their_own():
    orders = [
        rows_at(0, 50, 50, 1, "prompts"),
        rows_at(0, 50, 50, 2, "prompts"),
        rows_at(0, 50, 50, 1, "experts"),
        rows_at(50, 50, 50, 1, "prompts"),
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_a_stream_over_nothing_is_refused():
    with pytest.raises(ValueError, match="expected at least one"):
        rows_at(0, 3, 0, 1, "prompts")
