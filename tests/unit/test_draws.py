"""The bounds by which tests of random draws judge: kept by what is right, broken by what is wrong, seldom by chance."""

import numpy as np
import pytest

from tests.draws import FEWEST, all_but_one_at_most, at_least, at_most, may_agree, may_follow, shifted

pytestmark = pytest.mark.numbers


def test_bounds_of_a_share_are_exact():
    # of 20 tosses of a fair coin none or one is a head 21 times in 2^20 (2.0e-5), none once in 2^20 (9.5e-7)
    assert at_least(1, 20, 0.5) and not at_least(0, 20, 0.5)
    assert at_most(19, 20, 0.5) and not at_most(20, 20, 0.5)
    assert at_least(20, 20, 0.5) and at_most(0, 20, 0.5)


def test_counts_of_other_shares_are_told_from_counts_of_the_same():
    draw = np.random.default_rng(shifted(1))
    shares = np.array([0.5, 0.3, 0.15, 0.04, 0.006, 0.004])
    assert may_follow(draw.multinomial(4000, shares), shares)
    assert not may_follow(draw.multinomial(4000, shares[::-1]), shares)
    assert not may_follow(draw.multinomial(4000, [0.42, 0.38, 0.15, 0.04, 0.006, 0.004]), shares)
    assert not may_follow([999, 1], [1.0, 0.0])


def test_pairs_of_one_distribution_agree_and_shifted_ones_do_not():
    draw = np.random.default_rng(shifted(2))
    share = draw.uniform(0.1, 0.9, 200)
    one, same, better = (draw.binomial(4, p) / 4 for p in (share, share, np.minimum(share + 0.3, 1)))
    assert may_agree(one, same) and may_agree(one, one)
    assert not may_agree(one, better)


def test_as_few_pairs_as_could_never_disagree_are_refused():
    assert not may_agree([1.0] * FEWEST, [0.0] * FEWEST)
    with pytest.raises(ValueError, match=f"found {FEWEST - 1} pairs"):
        may_agree([1.0] * (FEWEST - 1), [0.0] * (FEWEST - 1))


def test_one_row_may_differ_and_two_may_not():
    assert all_but_one_at_most([1, 2, 3], [1, 2, 3]) and all_but_one_at_most([1, 2, 3], [1, 9, 3])
    assert not all_but_one_at_most([1, 2, 3], [9, 9, 3]) and not all_but_one_at_most([1], [1, 2])
