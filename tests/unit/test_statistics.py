"""What a mean and its standard error promise: known answers by hand, and coverage on simulated data."""

import math

import numpy as np
import pytest

from chord.findings.statistics import Estimate, difference, moving_mean, over_seeds, two_way


def test_two_by_two_outcomes_give_the_error_worked_out_by_hand():
    # rows are seeds: means 0.5 and 1.0, variance 0.125; problem means 1.0 and 0.5, variance 0.125; grand mean 0.75.
    # residuals are +-0.25, so their variance on (2-1)(2-1) degrees of freedom is 4 * 0.0625 = 0.25.
    # 0.125 / 2 + 0.125 / 2 - 0.25 / 4 = 0.0625, whose root is 0.25.
    found = two_way(np.array([[1.0, 0.0], [1.0, 1.0]]))
    assert found.mean == 0.75
    assert math.isclose(found.se, 0.25)


def test_one_seed_gives_the_error_over_problems():
    # problem values 0, 0, 1, 1: variance 1/3, over 4 problems 1/12.
    assert math.isclose(two_way(np.array([[0.0, 0.0, 1.0, 1.0]])).se, math.sqrt(1 / 12))


def test_seeds_that_repeat_each_other_add_no_certainty():
    # the same row three times: no seed effect, no residual, so three seeds tell what one tells.
    row = np.array([[0.0, 0.25, 1.0, 0.5, 0.75]])
    assert math.isclose(two_way(np.repeat(row, 3, axis=0)).se, two_way(row).se)


def test_seeds_and_problems_that_agree_by_luck_leave_the_error_of_the_residual():
    # seed means and problem means are all 1/2, so the plain sum would be below zero; the residuals are +-0.5, their
    # variance on one degree of freedom 4 * 0.25 = 1, over four outcomes 0.25, whose root is 0.5.
    assert two_way(np.array([[1.0, 0.0], [0.0, 1.0]])).se == 0.5


def simulated(rng, runs, seeds, problems, seed_sd, problem_sd, noise_sd):
    """`runs` tables of outcomes around a true mean of zero: seed effect + problem effect + noise."""
    by_seed = rng.normal(0, seed_sd, (runs, seeds, 1))
    by_problem = rng.normal(0, problem_sd, (runs, 1, problems))
    return by_seed + by_problem + rng.normal(0, noise_sd, (runs, seeds, problems))


def coverage(tables):
    estimates = [two_way(table) for table in tables]
    return sum(abs(found.mean) < 1.96 * found.se for found in estimates) / len(estimates)


@pytest.mark.parametrize(
    ("seeds", "problems", "seed_sd", "problem_sd", "noise_sd"),
    [
        (40, 50, 0.3, 0.3, 0.5),
        (40, 50, 0.0, 0.5, 0.5),
        (40, 50, 0.3, 0.0, 0.5),
        (3, 200, 0.01, 0.4, 0.3),
        (1, 200, 0.0, 0.4, 0.3),
    ],
)
def test_the_true_mean_lies_within_1_96_errors_about_95_percent_of_the_time(
    seeds, problems, seed_sd, problem_sd, noise_sd
):
    tables = simulated(np.random.default_rng(7), 1000, seeds, problems, seed_sd, problem_sd, noise_sd)
    # 1000 simulations have a standard error of 0.7 points at 95 %; with 40 seeds the t distribution costs one point.
    assert 0.92 < coverage(tables) < 0.97


def test_the_error_over_problems_alone_would_be_too_small_where_seeds_differ():
    tables = simulated(np.random.default_rng(7), 500, 40, 50, 0.5, 0.3, 0.5)
    pooled = [Estimate(float(t.mean()), float(t.std(ddof=1)) / math.sqrt(t.size)) for t in tables]
    assert sum(abs(found.mean) < 1.96 * found.se for found in pooled) / 500 < 0.7
    assert coverage(tables) > 0.925


def test_outcomes_that_only_noise_makes_differ_are_covered_at_least_95_percent_of_the_time():
    # what a paired difference of two equal arms is; without the floor of the residual this is covered 78 % of the time.
    tables = simulated(np.random.default_rng(7), 1000, 3, 100, 0.0, 0.0, 0.3)
    assert 0.94 < coverage(tables) < 0.995


def test_three_seeds_that_differ_much_are_covered_less_often_than_95_percent():
    # two degrees of freedom: P(|t| < 1.96) = 0.81. The captions say that three seeds make a rough error; this is why.
    tables = simulated(np.random.default_rng(7), 1000, 3, 50, 1.0, 0.0, 0.1)
    assert 0.77 < coverage(tables) < 0.85


def test_a_paired_difference_cancels_the_problems_that_both_find_hard():
    rng = np.random.default_rng(3)
    hard = rng.normal(0, 1.0, (1, 100))
    ours, other = (hard + rng.normal(shift, 0.1, (3, 100)) for shift in (0.2, 0.0))
    found = difference(ours, other)
    assert found.se < 0.05 < math.hypot(two_way(ours).se, two_way(other).se)
    assert abs(found.mean - 0.2) < 0.06
    assert not found.undecided


def test_a_difference_within_two_errors_or_of_exactly_zero_is_undecided():
    assert Estimate(0.10, 0.06).undecided  # 1.96 * 0.06 = 0.1176
    assert not Estimate(-0.12, 0.06).undecided
    assert Estimate(0.0, 0.0).undecided


def test_outcomes_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"two problems or more"):
        two_way(np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"expected equal ones"):
        difference(np.zeros((3, 4)), np.zeros((3, 5)))


def test_the_error_over_seeds_is_unknown_with_one_seed_and_known_with_more():
    mean, se = over_seeds(np.array([[1.0, 2.0]]))
    assert mean.tolist() == [1.0, 2.0]
    assert np.isnan(se).all()
    # values 1, 2, 3: variance 1, over three seeds 1/3.
    mean, se = over_seeds(np.array([[1.0], [2.0], [3.0]]))
    assert mean.tolist() == [2.0]
    assert math.isclose(se[0], math.sqrt(1 / 3))


def test_a_moving_mean_is_centred_and_shorter_at_the_ends():
    # windows: (1, 2) (1, 2, 6) (2, 6, 7) (6, 7)
    assert moving_mean(np.array([[1.0, 2.0, 6.0, 7.0]]), 3).tolist() == [[1.5, 3.0, 5.0, 6.5]]
    assert moving_mean(np.array([1.0, 2.0]), 1).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="odd"):
        moving_mean(np.array([1.0, 2.0]), 4)
