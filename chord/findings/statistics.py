"""Means with standard errors, intervals and tests. Knows arrays of outcomes; knows no files, arms or benchmarks.

S seeds, P problems. Both are samples of something larger: another replication, another problem of the same kind. A
replication is all that a study draws anew for a seed: the trainings at least, and the base model and the expert set
where the study gives each seed its own. The two are crossed: every seed answers the same problems, and one outcome is
the mean of all samples of its seed and problem.

How far a mean may be from the truth is resampled, with a fixed seed. Problems are drawn again with replacement, each as
a whole with all its seeds and samples (a bootstrap by clusters); its deviations are widened by sqrt(P / (P - 1)) and by
the ratio of Student's to the normal quantile, which few problems need (Hesterberg, arXiv:1411.5279).
Seeds are too few to be drawn again: from three, the bootstrap finds two thirds of their variance on average. Each draw
adds a normal deviation with a variance that the seeds allow: that of the seed means, which is known up to a chi-square
with S - 1 degrees of freedom, less the residual that they hold, never below zero (generalized confidence intervals,
Weerahandi 1993). Where seeds differ much more than noise makes them, that is Student's distribution.
tests/unit/test_statistics.py has the coverage of these intervals.
"""

import math
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

Array = NDArray[np.float64]

RESAMPLES = 20_000
RESAMPLING_SEED = 20261124
LEVEL = 0.05  # intervals hold the truth in 1 - LEVEL of all studies
POWER = 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Estimate:
    """A mean and how far it may be from the truth, in the unit of the outcomes; NaN is an error that cannot be known.

    se² = se_seeds² + se_problems². The error of a single seed covers problems alone: `se_seeds` is NaN, `se` is
    `se_problems`. Without single problems (a curve) `n_problems` is None and `se_problems` 0. `shared` is the part of
    se_problems² that more seeds would not take away. `draws` are resampled means, none if the error is unknown.
    """

    mean: float
    se: float
    se_seeds: float
    se_problems: float
    shared: float
    n_seeds: int
    n_problems: int | None
    draws: Array = field(repr=False, compare=False)  # (RESAMPLES,) or (0,)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the middle 95 % of the draws lie."""
        if not len(self.draws):
            return None
        low, high = np.quantile(self.draws, [LEVEL / 2, 1 - LEVEL / 2])
        return float(low), float(high)

    def p_not_above(self, bar: float) -> float:
        """The share of draws that are not above `bar`, one-sided: small where the truth is above it; 1 if unknown."""
        return self._share(self.draws <= bar)

    def p_not_below(self, bar: float) -> float:
        """The share of draws that are not below `bar`, one-sided: small where the truth is below it; 1 if unknown."""
        return self._share(self.draws >= bar)

    def _share(self, against: NDArray[np.bool_]) -> float:
        """Never 0: no number of draws shows that something is impossible."""
        return (1 + int(against.sum())) / (1 + len(against)) if len(against) else 1.0

    def moved(self, by: float) -> "Estimate":
        """The same with every outcome larger by so much."""
        return replace(self, mean=self.mean + by, draws=self.draws + by)


def two_way(outcomes: Array, resamples: int = RESAMPLES) -> Estimate:
    """Mean of `outcomes` (S, P) with its error for new seeds and new problems together.

    Of two arms give their differences: what both find hard cancels out.

    var_seed / S + var_problem / P - var_residual / (S P): the first two terms are the variances of the seed means and
    of the problem means, each of which holds the residual once, so it is taken off once, from the seeds. Neither term
    may fall below the residual that it must hold: else a few seeds that agree by luck would make an error close to
    zero. With one seed it is the error over problems. Raises ValueError for fewer than two problems.
    """
    if outcomes.ndim != 2 or outcomes.shape[0] < 1 or outcomes.shape[1] < 2:
        raise ValueError(f"found outcomes of shape {outcomes.shape}, expected (seeds, two problems or more)")
    seeds, problems = outcomes.shape
    mean = float(outcomes.mean())
    of_problem = outcomes.mean(axis=0)  # (P,)
    over_problems = float(of_problem.var(ddof=1)) / problems
    if seeds == 1:
        draws = mean + _resampled(of_problem, over_problems, resamples)
        error = math.sqrt(over_problems)
        return Estimate(mean, error, math.nan, error, over_problems, 1, problems, draws)
    of_seed = outcomes.mean(axis=1)  # (S,)
    over_seeds = float(of_seed.var(ddof=1)) / seeds
    residual = outcomes - of_seed[:, None] - of_problem[None, :] + mean  # (S, P)
    both = float((residual**2).sum()) / ((seeds - 1) * (problems - 1)) / (seeds * problems)
    of_seeds, of_problems = max(over_seeds - both, 0.0), max(over_problems, both)
    draws = mean + _resampled(of_problem, of_problems, resamples)
    draws += _of_seeds(seeds, over_seeds, both, resamples)
    error, shared = math.sqrt(of_seeds + of_problems), max(over_problems - both, 0.0)
    return Estimate(mean, error, math.sqrt(of_seeds), math.sqrt(of_problems), shared, seeds, problems, draws)


def one_way(values: Array) -> Estimate:
    """Mean of one value a seed, `values` (S,): Student's interval. The error of one seed is unknown."""
    seeds, mean = len(values), float(values.mean())
    if seeds == 1:
        return Estimate(mean, math.nan, math.nan, 0.0, 0.0, 1, None, np.empty(0))
    error = math.sqrt(float(values.var(ddof=1)) / seeds)
    draws = mean + _of_seeds(seeds, error**2, 0.0, RESAMPLES)
    return Estimate(mean, error, error, 0.0, 0.0, seeds, None, draws)


def _generator(purpose: int) -> np.random.Generator:
    """A stream of its own for problems (0) and seeds (1), the same for every estimate."""
    return np.random.default_rng([RESAMPLING_SEED, purpose])


def _of_seeds(seeds: int, over_seeds: float, residual: float, resamples: int) -> Array:
    """Deviations of the mean when seeds are others, their means having the variance `over_seeds`: (resamples,)."""
    generator = _generator(1)
    known = over_seeds * (seeds - 1) / generator.chisquare(seeds - 1, resamples) - residual
    return np.sqrt(np.maximum(known, 0.0)) * generator.standard_normal(resamples)


def _resampled(of_problem: Array, variance: float, resamples: int) -> Array:
    """Deviations of the mean of `of_problem` (P,) when problems are drawn again, scaled to `variance`: (resamples,)."""
    problems = len(of_problem)
    own = float(of_problem.var())  # of one draw; its mean over P has own / P
    generator = _generator(0)
    if own == 0:
        return math.sqrt(variance) * generator.standard_t(problems - 1, resamples)
    values, counts = np.unique(of_problem - of_problem.mean(), return_counts=True)  # problems with equal values as one
    drawn = generator.multinomial(problems, counts / problems, size=resamples)  # (resamples, values)
    wider = student_quantile(1 - LEVEL / 2, problems - 1) / NormalDist().inv_cdf(1 - LEVEL / 2)
    return (drawn @ values) / problems * wider * math.sqrt(variance / (own / problems))


# --- how many seeds would decide ----------------------------------------------------------------


def seeds_needed(
    estimate: Estimate, level: float, beyond: float | None = None, within: tuple[float, float] | None = None
) -> int | None:
    """The fewest seeds of which four in five studies decide, if what was found and its errors are true.

    `beyond`: how far the mean is beyond a bar, which a two-sided test at `level` is to show. `within`: how far it is
    inside two bounds, which two one-sided tests at `level` are to show together. Either is enough; None is not asked.

    V = A / n + B: A is the variance that each seed adds, B that of the problems, which seeds do not take away. Chances
    are those of Student's distribution, with the degrees of freedom of Satterthwaite (1946) for A / n with n - 1 and B
    with P - 1. None where the variance of seeds is unknown, where no number of seeds would do because there are too few
    problems, or where it is above 1000.
    """
    if estimate.n_seeds < 2:
        return None
    seeds = np.arange(2, MOST_SEEDS + 1)
    by_seed = (estimate.se**2 - estimate.shared) * estimate.n_seeds / seeds
    of_problems = (estimate.n_problems or 2) - 1
    variance = np.maximum(by_seed + estimate.shared, np.finfo(float).tiny)
    weight = by_seed**2 / (seeds - 1) + estimate.shared**2 / of_problems
    freedom = np.where(weight > 0, variance**2 / np.maximum(weight, np.finfo(float).tiny), seeds - 1.0)
    error, chance = np.sqrt(variance), np.zeros(len(seeds))
    if beyond is not None and beyond > 0:
        chance = stdtr(freedom, beyond / error - stdtrit(freedom, 1 - level / 2))
    if within is not None and min(within) > 0:
        inside = [stdtr(freedom, room / error - stdtrit(freedom, 1 - level)) for room in within]
        chance = np.maximum(chance, sum(inside) - 1)
    enough = np.flatnonzero(chance >= POWER)
    return int(seeds[enough[0]]) if len(enough) else None


def student_quantile(p: float, freedom: int) -> float:
    """Where Student's distribution with so many degrees of freedom reaches `p`."""
    return float(stdtrit(freedom, p))


# --- curves ------------------------------------------------------------------------------------


def over_seeds(values: Array) -> tuple[Array, Array]:
    """Mean and standard error over the first axis of `values` (S, ...); the error of one seed is NaN, not zero."""
    count = values.shape[0]
    if count == 1:
        return values[0], np.full_like(values[0], np.nan)
    return values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(count)


def moving_mean(values: Array, points: int) -> Array:
    """Centered moving mean over `points` (odd) neighbors along the last axis; shorter windows at the two ends."""
    if points < 1 or points % 2 == 0:
        raise ValueError(f"found a window of {points} points, expected an odd number, so that it has a center")
    half, length = points // 2, values.shape[-1]
    windows = [values[..., max(0, i - half) : i + half + 1].mean(axis=-1) for i in range(length)]
    return np.stack(windows, axis=-1)
