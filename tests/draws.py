"""What tests that draw share: seeds that can be shifted, and bounds that chance breaks once in a million at most.

A test of random draws either fixes them or says, by one of these bounds, that it fails by chance at most once in a
million with the code right. `CHORD_TEST_SEED=3 make unit ARGS="-m numbers"` draws others.
"""

import os
from collections.abc import Sequence

import numpy as np
from scipy import stats

CHANCE = 1e-6  # how often a bound may be broken by draws alone
FEWEST = int(2 * np.log(2 / CHANCE)) + 1  # pairs, of which the largest difference is beyond that
SHIFT = int(os.environ.get("CHORD_TEST_SEED", "0"))


def shifted(number: int) -> int:
    """The seed to draw with in the place of `number`: itself, or another one where CHORD_TEST_SEED is set."""
    return number + 1_000_003 * SHIFT


def at_least(hits: int, tries: int, share: float) -> bool:
    """Whether `hits` of `tries` may come from a true share of `share` or more (exact binomial)."""
    return bool(stats.binom.cdf(hits, tries, share) > CHANCE)


def at_most(hits: int, tries: int, share: float) -> bool:
    """Whether `hits` of `tries` may come from a true share of `share` or less (exact binomial)."""
    return bool(stats.binom.sf(hits - 1, tries, share) > CHANCE)


def may_follow(counts: Sequence[int], shares: Sequence[float]) -> bool:
    """Whether these counts may have been drawn with these shares (chi-square; rare kinds are counted together).

    A kind of share 0 that was drawn all the same is refused.
    """
    found, wanted = np.asarray(counts, float), np.asarray(shares, float)
    if found[wanted == 0].any():
        return False
    expected = wanted / wanted.sum() * found.sum()
    often = expected >= 5
    if not often.all():
        found = np.append(found[often], found[~often].sum())
        expected = np.append(expected[often], expected[~often].sum())
    kept = expected > 0
    return bool(stats.chisquare(found[kept], expected[kept]).pvalue > CHANCE)


def may_agree(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether paired values, such as scores of the same problems, may be draws of one distribution a pair.

    Then each pair's difference is as likely as its negative, whatever the distributions. By Hoeffding's inequality a
    sum of randomly signed differences is as far from zero as the one found with probability 2 exp(-sum^2 / (2 sum of
    squares)) at most, for any number of pairs. Broken by a shift of 5.4 standard errors or more.
    """
    differences = np.asarray(one, float) - np.asarray(other, float)
    if len(differences) < FEWEST:
        raise ValueError(f"found {len(differences)} pairs, expected {FEWEST} or more: fewer cannot disagree")
    squares = float((differences**2).sum())
    return squares == 0 or 2 * np.exp(-(differences.sum() ** 2) / (2 * squares)) > CHANCE


def all_but_one_at_most(found: Sequence[object], expected: Sequence[object]) -> bool:
    """Whether two lists of sampled rows differ in one row at most.

    For samples of float32 policies that are computed in batches of another size: probabilities then differ by some
    1e-7, so that a draw falls on the other side of a border once in some million tokens. Of a few hundred tokens one
    draw does so once in 10^4 machines, and two once in 10^8.
    """
    return len(found) == len(expected) and sum(a != b for a, b in zip(found, expected, strict=True)) <= 1
