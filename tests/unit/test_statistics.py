"""What a mean and its standard error promise: known answers by hand, and coverage on simulated data."""

import math

import numpy as np
import pytest

from chord.findings.statistics import moving_mean, one_way, seeds_needed, student_quantile, two_way
from tests.draws import at_least, at_most, shifted

pytestmark = pytest.mark.numbers


ROW = [0.0, 0.25, 1.0, 0.5, 0.75]
BY_HAND = {
    # Rows are seeds: means 0.5 and 1.0, variance 0.125; problem means 1.0 and 0.5, variance 0.125; grand mean 0.75.
    # Residuals are +-0.25, so their variance on (2-1)(2-1) degrees of freedom is 4 * 0.0625 = 0.25.
    # 0.125 / 2 + 0.125 / 2 - 0.25 / 4 = 0.0625, whose root is 0.25.
    "two by two": ([[1.0, 0.0], [1.0, 1.0]], 0.25),
    # Problem values 0, 0, 1, 1: variance 1/3, over 4 problems 1/12.
    "one seed has the error over problems": ([[0.0, 0.0, 1.0, 1.0]], math.sqrt(1 / 12)),
    # The same row three times: no seed effect, no residual, so three seeds tell what one tells.
    "seeds that repeat each other add no certainty": ([ROW] * 3, two_way(np.array([ROW])).se),
    # Seed means and problem means are all 1/2, so the plain sum would be below zero; the residuals are +-0.5, their
    # variance on one degree of freedom 4 * 0.25 = 1, over four outcomes 0.25, whose root is 0.5.
    "what agrees by luck leaves the error of the residual": ([[1.0, 0.0], [0.0, 1.0]], 0.5),
    # Values 0 and 1: variance 1/2, over two problems 1/4, root 1/2.
    "two problems of one seed": ([[0.0, 1.0]], 0.5),
    "nothing varies": ([[0.0] * 5] * 3, 0.0),
    "nothing varies in one seed": ([[1.0] * 4], 0.0),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_the_error_is_the_one_worked_out_by_hand(case):
    outcomes, error = BY_HAND[case]
    found = two_way(np.array(outcomes))
    assert math.isclose(found.se, error, abs_tol=1e-12) and found.mean == np.mean(outcomes)
    low, high = found.interval
    if case == "two by two":
        # the residual's 0.25 / 4 is all that the seeds' 0.125 / 2 holds, so the error is that of the problems.
        assert math.isclose(found.se_problems, 0.25) and found.se_seeds == 0
    if case == "two problems of one seed":
        assert high - low > 6  # Student's quantile is 12.7
    if error == 0:
        assert low == high == found.mean


def simulated(rng, runs, seeds, problems, seed_sd, problem_sd, noise_sd):
    """`runs` tables of outcomes around a true mean of zero: seed effect + problem effect + noise."""
    by_seed = rng.normal(0, seed_sd, (runs, seeds, 1))
    by_problem = rng.normal(0, problem_sd, (runs, 1, problems))
    return by_seed + by_problem + rng.normal(0, noise_sd, (runs, seeds, problems))


def covered(tables, truth=0.0):
    """In how many tables the 95 % interval holds the truth, and of how many; fewer draws than in use, for speed."""
    found = [two_way(table, resamples=600).interval for table in tables]
    return sum(low <= truth <= high for low, high in found), len(found)


def answered(rng, runs, seeds, problems, samples, seed_sd, noise_sd, problem_sd=1.0):
    """`runs` tables of shares right of `samples` answers; effects are in log-odds around even odds, so 1/2 is true."""
    log_odds = simulated(rng, runs, seeds, problems, seed_sd, problem_sd, noise_sd)
    return rng.binomial(samples, 1 / (1 + np.exp(-log_odds))) / samples


# 600 simulated studies each. The bounds are for the true coverage; the share that is found may be 4.9 standard errors
# (of 0.9 points at 95 %) beyond them.
@pytest.mark.parametrize(
    ("seeds", "problems", "samples", "seed_sd", "low", "high"),
    [
        (3, 128, 4, 0.0, 0.95, 1.00),  # seeds that differ by noise alone: careful, since three cannot show it
        (3, 128, 4, 0.3, 0.92, 0.98),  # much as the demo's arms
        (3, 128, 4, 1.0, 0.91, 0.97),  # seeds decide nearly all
        (3, 128, 32, 0.3, 0.92, 0.98),  # many samples of each problem
        (3, 30, 32, 0.3, 0.92, 0.99),  # AIME: few problems, many samples
        (1, 128, 4, 0.0, 0.92, 0.97),  # one seed, where seeds do not differ
        (2, 128, 4, 0.3, 0.92, 0.99),
        (5, 128, 4, 0.3, 0.92, 0.98),
        (40, 50, 1, 0.3, 0.92, 0.97),
    ],
)
def test_the_interval_holds_the_truth_about_95_percent_of_the_time(seeds, problems, samples, seed_sd, low, high):
    tables = answered(np.random.default_rng(shifted(7)), 600, seeds, problems, samples, seed_sd, 0.3)
    found = covered(tables, 0.5)
    assert at_least(*found, low) and at_most(*found, high)


def test_one_seed_covers_new_problems_and_not_new_seeds():
    # the error of one seed is for this model alone; where seeds differ, its interval must not be taken for more.
    tables = answered(np.random.default_rng(shifted(7)), 300, 1, 128, 4, 1.0, 0.3)
    assert at_most(*covered(tables, 0.5), 0.6)
    found = two_way(tables[0])
    assert math.isnan(found.se_seeds) and found.se == found.se_problems and found.n_seeds == 1


@pytest.mark.parametrize(("seeds", "seed_sd"), [(3, 0.0), (3, 0.3), (5, 0.3)])
def test_paired_differences_of_correlated_arms_are_covered_and_narrower_than_unpaired_ones(seeds, seed_sd):
    rng = np.random.default_rng(shifted(11))
    hard = rng.normal(0, 1.5, (400, 1, 100))  # both arms find the same problems hard
    arms = []
    for _ in range(2):
        log_odds = hard + rng.normal(0, seed_sd, (400, seeds, 1)) + rng.normal(0, 0.3, (400, seeds, 100))
        arms.append(rng.binomial(4, 1 / (1 + np.exp(-log_odds))) / 4)
    assert at_least(*covered(arms[0] - arms[1]), 0.92)
    some = list(zip(*arms, strict=True))[:100]
    paired = np.mean([two_way(a - b, resamples=1).se for a, b in some])
    apart = [math.hypot(two_way(a, resamples=1).se, two_way(b, resamples=1).se) for a, b in some]
    assert paired < 0.9 * np.mean(apart)


def test_the_error_is_that_of_means_over_many_studies():
    # seed effects of sd 0.2 over 10 seeds, problem effects of 0.5 over 60, noise of 0.4 over all 600.
    tables = simulated(np.random.default_rng(shifted(5)), 2000, 10, 60, 0.2, 0.5, 0.4)
    truth = math.sqrt(0.2**2 / 10 + 0.5**2 / 60 + 0.4**2 / 600)
    assert math.isclose(tables.mean(axis=(1, 2)).std(), truth, rel_tol=0.08)  # 1 / sqrt(2 x 2000) = 0.016 is its error
    squares = [two_way(table, resamples=1).se ** 2 for table in tables]
    assert math.isclose(math.sqrt(np.mean(squares)), truth, rel_tol=0.02)  # its error is 0.003


def test_the_same_outcomes_give_the_same_interval_and_fewer_draws_nearly_the_same():
    outcomes = simulated(np.random.default_rng(shifted(2)), 1, 3, 128, 0.1, 0.4, 0.3)[0]
    first = two_way(outcomes)
    assert first.interval == two_way(outcomes.copy()).interval
    assert np.allclose(
        two_way(outcomes, resamples=5000).interval, first.interval, atol=0.5 * first.se
    )  # sd 0.07 over other outcomes


def test_one_value_a_seed_has_students_interval_and_p_and_p_is_never_zero():
    # values 1, 2, 3: mean 2, error sqrt(1 / 3); t with two degrees of freedom is 4.303 at 97.5 %.
    found = one_way(np.array([1.0, 2.0, 3.0]))
    assert math.isclose(found.se, math.sqrt(1 / 3))
    assert np.allclose(found.interval, [2 - 4.303 * found.se, 2 + 4.303 * found.se], atol=0.1)
    assert (found.n_seeds, found.n_problems) == (3, None)
    alone = one_way(np.array([1.0]))
    assert math.isnan(alone.se) and alone.interval is None and alone.p_not_above(0.0) == 1.0
    # t = 2 / sqrt(1/3) = 3.464 with two degrees of freedom: P(T > t) = 0.0371.
    assert math.isclose(found.p_not_above(0.0), 0.0371, rel_tol=0.1)
    assert math.isclose(found.p_not_below(0.0), 1 - 0.0371, rel_tol=0.01)
    assert math.isclose(found.p_not_below(4.0), found.p_not_above(0.0), rel_tol=0.2)
    assert 0 < two_way(np.full((3, 5), 0.5)).p_not_above(0.0) < 0.001


# --- Student's distribution, seeds needed --------------------------------------------------------


@pytest.mark.parametrize(
    ("freedom", "p", "expected"),  # from printed tables of Student's distribution
    [(1, 0.975, 12.7062), (2, 0.975, 4.30265), (3, 0.975, 3.18245), (4, 0.975, 2.77645), (5, 0.995, 4.03214),
     (10, 0.8, 0.87906), (30, 0.9975, 3.0298), (120, 0.975, 1.97993), (3000, 0.975, 1.96076)],
)  # fmt: skip
def test_students_quantiles_are_those_of_printed_tables(freedom, p, expected):
    assert math.isclose(student_quantile(p, freedom), expected, rel_tol=1e-4)


def test_the_seeds_that_would_decide_are_worked_out_by_hand():
    # values -1, 1, 3: mean 1, variance 4, error 2 / sqrt(n). With n = 127, Student's quantiles (126 degrees of freedom)
    # are 1.97897 at 0.975 and 0.84424 at 0.8: 2.82321 * 2 / sqrt(127) = 0.50104, more than 0.5. With n = 128 it is
    # (1.97882 + 0.84422) * 2 / sqrt(128) = 0.49905, less.
    found = one_way(np.array([-1.0, 1.0, 3.0]))
    assert seeds_needed(found, 0.05, beyond=0.5) == 128
    assert seeds_needed(found, 0.05, beyond=-0.5) is None
    assert seeds_needed(found, 0.001, beyond=0.5) > 250  # stricter for more claims: 0.9995 instead of 0.975


def test_the_seeds_that_would_show_that_an_effect_is_small_count_both_bounds():
    # In the middle of bounds 0.5 away each of the two tests may miss in one study of ten: Student's quantiles with 138
    # degrees of freedom are 1.6560 at 0.95 and 1.2880 at 0.9, together 2.9440; 2.9440 * 2 / sqrt(139) = 0.49941.
    found = one_way(np.array([-1.0, 1.0, 3.0]))
    assert seeds_needed(found, 0.05, within=(0.5, 0.5)) == 139
    # Far from one bound only the other counts: 1.6573 + 0.8446 = 2.5019; times 2 / sqrt(101) it is 0.4979.
    assert seeds_needed(found, 0.05, within=(0.5, 5.0)) == 101
    assert seeds_needed(found, 0.05, within=(-0.1, 5.0)) is None
    assert seeds_needed(found, 0.05, beyond=0.5, within=(0.5, 5.0)) == 101


def test_no_number_of_seeds_decides_what_the_problems_leave_open():
    rng = np.random.default_rng(shifted(4))
    outcomes = rng.normal(0, 1.0, (1, 20)) + rng.normal(0, 0.01, (3, 20))
    assert seeds_needed(two_way(outcomes), 0.05, beyond=0.1) is None
    assert seeds_needed(two_way(outcomes), 0.05, beyond=3.0) == 2
    assert seeds_needed(two_way(outcomes[:1]), 0.05, beyond=3.0) is None  # one seed: how much they differ is unknown
    assert seeds_needed(two_way(outcomes), 0.05, beyond=0.0) is None


def test_four_in_five_studies_with_the_seeds_that_are_needed_decide():
    rng = np.random.default_rng(shifted(6))
    pilot = one_way(np.array([-1.0, 1.0, 0.0]))  # mean 0, variance 1
    seeds = seeds_needed(pilot, 0.05, beyond=0.8)
    decided = [one_way(rng.normal(0.8, 1.0, seeds)).p_not_above(0.0) <= 0.025 for _ in range(400)]
    assert at_least(sum(decided), 400, 0.78) and at_most(sum(decided), 400, 0.84)


# --- curves --------------------------------------------------------------------


def test_outcomes_of_one_problem_are_refused():
    with pytest.raises(ValueError, match=r"two problems or more"):
        two_way(np.zeros((3, 1)))


def test_a_moving_mean_is_centered_and_shorter_at_the_ends():
    # windows: (1, 2) (1, 2, 6) (2, 6, 7) (6, 7)
    assert moving_mean(np.array([[1.0, 2.0, 6.0, 7.0]]), 3).tolist() == [[1.5, 3.0, 5.0, 6.5]]
    assert moving_mean(np.array([1.0, 2.0]), 1).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="odd"):
        moving_mean(np.array([1.0, 2.0]), 4)
