"""Verdicts: each by hand, and how often they are wrong in simulated studies whose truth is known."""

from typing import NamedTuple

import numpy as np
import pytest

from chord.findings.rendering import FAILS, HOLDS, NEGLIGIBLE, UNDECIDED
from chord.findings.statistics import LEVEL, one_way, two_way
from chord.findings.verdicts import Decision, Judged, decisions, part
from tests.draws import at_least, at_most, shifted

pytestmark = pytest.mark.numbers
SMALLEST = 0.05


def on_seeds(*values: float, side="above", smallest=1.0) -> Judged:
    """A claim of one part, judged by one value a seed."""
    return Judged((part("x", side, np.array(values), smallest, one_way),), "reward")


def verdict(*judged: Judged, primary=False) -> list[str]:
    return [one.verdict for one in decisions(judged, [primary] * len(judged))]


# Five values around 0 with an error of 0.035; Student's quantile is 2.78.
AROUND = np.array([-0.1, -0.05, 0.0, 0.05, 0.1])


@pytest.mark.parametrize(
    ("mean", "side", "expected"),
    [
        (2.0, "above", HOLDS),
        (2.0, "below", FAILS),
        (-2.0, "below", HOLDS),
        (0.0, "above", NEGLIGIBLE),
        (0.5, "above", HOLDS),  # smaller than the smallest effect too, which does not take the verdict away
        (-0.5, "above", FAILS),
        (0.0, "near", HOLDS),
        (0.95, "near", UNDECIDED),
        (2.0, "near", FAILS),
        (-2.0, "near", FAILS),
        (0.0, "no fall", HOLDS),
        (2.0, "no fall", HOLDS),
        (-0.95, "no fall", UNDECIDED),
        (-2.0, "no fall", FAILS),
    ],
)
def test_a_verdict_follows_from_where_the_interval_lies(mean, side, expected):
    assert verdict(on_seeds(*(mean + AROUND), side=side)) == [expected]


def test_the_three_p_are_those_of_student():
    # Five values with the variance 0.025 / 4 = 0.00625: the error is 0.035355, with 4 degrees of freedom.
    one = on_seeds(*(0.06 + AROUND))
    t = 0.06 / np.sqrt(AROUND.var(ddof=1) / 5)  # 1.697: P(T > t) = 0.0825
    assert t == pytest.approx(1.697, abs=1e-3)
    assert one.p_holds == pytest.approx(2 * 0.0825, rel=0.03) and one.p_fails == 1.0
    # 0.94 below the smallest effect is t = 26.6, whose p of 6e-6 is less than 20,000 draws can show.
    assert one.p_negligible == pytest.approx(1 / 20_001)


def test_all_parts_must_hold_and_one_that_is_against_it_is_enough():
    good, bad = (part(str(mean), "above", mean + AROUND, 1.0, one_way) for mean in (2.0, -2.0))
    small = part("0", "above", AROUND, 1.0, one_way)
    assert verdict(Judged((good, good), "reward")) == [HOLDS]
    assert verdict(Judged((good, small), "reward")) == [NEGLIGIBLE]  # the least effect counts
    both = Judged((good, small, bad), "reward")
    assert verdict(both) == [FAILS] and both.deciding.name == "-2.0"
    assert both.p_fails == pytest.approx(3 * Judged((bad,), "reward").p_fails)


def test_a_smallest_effect_that_is_a_share_is_measured_with_the_rest():
    # The share of each seed's own reference: 10 % of 10 and of 30, so that X is 2 on average.
    reference = np.array([10.0, 30.0, 10.0, 30.0, 20.0])
    found = part("x", "above", 0.0 * reference, 0.1 * reference, one_way)
    assert found.smallest == pytest.approx(2.0)
    assert found.under == pytest.approx(one_way(-0.1 * reference).p_not_below(0.0))


def test_one_seed_decides_nothing():
    assert decisions([on_seeds(5.0)], [True]) == [Decision(UNDECIDED, None, None, 0, LEVEL)]


def test_primary_claims_count_among_themselves_and_others_by_their_rank():
    first, second = (on_seeds(*(mean + AROUND), smallest=0.001) for mean in (0.13, 0.11))
    alone = [decisions([one], [True])[0].p for one in (first, second)]
    assert LEVEL / 2 < alone[1] < LEVEL and alone[0] < alone[1]
    assert verdict(first, second, primary=True) == [HOLDS, UNDECIDED]
    # Benjamini and Hochberg: two p that are both below LEVEL are both enough.
    assert verdict(first, second) == [HOLDS, HOLDS]
    assert [one.corrected for one in decisions([first, second], [False] * 2)] == pytest.approx([alone[1]] * 2)
    mixed = decisions([first, second], [True, False])
    assert [one.corrected for one in mixed] == pytest.approx(alone) and [one.among for one in mixed] == [1, 1]


def test_a_primary_claim_leaves_the_count_once_it_is_not_nothing_and_not_large():
    weak = on_seeds(*(0.12 + AROUND), smallest=0.001)
    assert LEVEL / 2 < weak.p <= LEVEL
    small, large = (on_seeds(*(0.1 + AROUND / 100), smallest=size) for size in (5.0, 0.01))
    assert small.p_both < LEVEL / 2 < large.p_both  # both hold; the second may still be as large as its X
    assert verdict(weak, small, primary=True) == [HOLDS, HOLDS]
    assert verdict(weak, large, primary=True) == [UNDECIDED, HOLDS]
    nothing = on_seeds(*(AROUND / 100), smallest=5.0)
    assert verdict(weak, nothing, primary=True) == [UNDECIDED, NEGLIGIBLE]
    assert verdict(weak, small, small, primary=True) == [HOLDS, HOLDS, HOLDS]


def test_seeds_that_are_needed_count_the_verdict_that_is_nearest():
    # Values of variance 0.00625: to be above 0 by 0.02 takes many seeds, to be within 0.1 of it few.
    far, near = (on_seeds(*(0.02 + AROUND), smallest=size) for size in (5.0, 0.1))
    alone = on_seeds(*(0.02 + AROUND), smallest=1e-9).seeds_needed(LEVEL)
    assert alone > 100
    assert far.seeds_needed(LEVEL) == 6  # more than there are
    assert 6 <= near.seeds_needed(LEVEL) < 20
    assert near.seeds_needed(LEVEL / 10) > near.seeds_needed(LEVEL)


# --- how often a verdict is wrong ----------------------------------------------------------------
# Arms answer the same problems with the same seeds; a claim compares one arm with others, so claims that share arms or
# problems go up and down together. All effects are uniform, so that a share right is its arm's mean exactly.


class Claim(NamedTuple):
    """`arm` is `side` of each of the `others`, which are numbers of arms."""

    side: str
    arm: int
    others: tuple[int, ...]


def outcomes(rng, means, seeds, spread, samples, problems=32):
    """Shares right of every arm: (A, S, P). Seeds move all arms, as their base model does, and each arm on its own."""
    arms = len(means)
    share = np.reshape(means, (-1, 1, 1)) + rng.uniform(-0.15, 0.15, problems) + rng.uniform(-0.05, 0.05, (seeds, 1))
    share = share + rng.uniform(-spread, spread, (arms, seeds, 1)) + rng.uniform(-0.02, 0.02, (arms, seeds, problems))
    return rng.binomial(samples, share) / samples


def is_wrong(said, claim, means):
    """Whether the verdict contradicts what is true of the arms."""
    gaps = [means[claim.arm] - means[other] for other in claim.others]
    if claim.side == "near":
        apart = max(map(abs, gaps)) >= SMALLEST
        return said == (HOLDS if apart else FAILS)
    effect = min(-gap if claim.side == "below" else gap for gap in gaps)
    wrong = {HOLDS: effect <= 0, FAILS: effect >= 0, NEGLIGIBLE: abs(effect) >= SMALLEST, UNDECIDED: False}
    return wrong[said]


def simulated(studies, means, claims, seeds, spread, samples, primary, seed):
    """Of each study: wrong verdicts, verdicts, and whether the interval of the first claim holds the truth."""
    rng = np.random.default_rng(shifted(seed))
    found = []
    for _ in range(studies):
        arms = outcomes(rng, means, seeds, spread, samples)
        judged = []
        for side, arm, others in claims:
            gaps = [arms[arm] - arms[other] for other in others]
            parts = tuple(part("x", side, gap, SMALLEST, lambda gap: two_way(gap, resamples=4000)) for gap in gaps)
            judged.append(Judged(parts, "right"))
        said = [one.verdict for one in decisions(judged, [primary] * len(claims))]
        low, high = judged[0].parts[0].estimate.interval
        first = means[claims[0].arm] - means[claims[0].others[0]]
        wrong = sum(is_wrong(*one, means) for one in zip(said, claims, strict=True))
        found.append((wrong, sum(one != UNDECIDED for one in said), low <= first <= high))
    return np.array(found)


SIDES = [Claim("above", 0, (1,)), Claim("above", 2, (3,)), Claim("below", 4, (5,)), Claim("above", 6, (7,))]
NEAR = [Claim("near", arm, (arm + 1,)) for arm in (0, 2, 4, 6)]


@pytest.mark.parametrize(
    ("claims", "seeds", "means", "spread", "samples"),
    [
        (SIDES, 12, [0.5] * 8, 0.03, 64),  # no effect at all, and exact enough to say so
        (NEAR, 12, [0.55, 0.5] * 4, 0.03, 64),  # all effects are as large as the smallest of interest
        (SIDES, 5, [0.5, 0.5, 0.5, 0.5, 0.5, 0.55, 0.6, 0.5], 0.05, 4),  # none, none, the smallest, a large one
    ],
)
def test_a_wrong_verdict_on_any_primary_claim_is_as_rare_as_the_level(claims, seeds, means, spread, samples):
    found = simulated(500, means, claims, seeds, spread, samples, True, 21)
    assert at_most(int((found[:, 0] > 0).sum()), 500, LEVEL)
    assert at_least(int(found[:, 2].sum()), 500, 0.93)


# Twenty claims about ten arms: neighbors, arms farther apart, several rivals, and nearness.
OTHERS = [Claim("above", arm, (arm + 1,)) for arm in range(9)] + [Claim("below", arm, (arm + 2,)) for arm in range(6)]
OTHERS += [Claim("above", 0, (4, 8)), Claim("below", 9, (1, 5)), *(Claim("near", arm, (arm + 5,)) for arm in range(3))]


@pytest.mark.parametrize(
    ("seeds", "means", "spread", "samples"),
    [
        (5, [0.5] * 10, 0.1, 64),  # nothing is there, and little can be said
        (12, [0.5, 0.55] * 5, 0.05, 4),  # nothing, or as large as the smallest of interest
        (12, [0.5] * 6 + [0.55, 0.5, 0.6, 0.4], 0.03, 64),  # some effects are there
    ],
)
def test_of_the_verdicts_on_other_claims_the_level_is_wrong_on_average(seeds, means, spread, samples):
    found = simulated(80, means, OTHERS, seeds, spread, samples, False, 22)
    share = found[:, 0] / np.maximum(found[:, 1], 1)
    assert share.mean() - 4.9 * share.std() / np.sqrt(len(share)) <= LEVEL
    assert at_least(int(found[:, 2].sum()), 80, 0.93)
