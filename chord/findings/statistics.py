"""Means with standard errors. Knows arrays of outcomes; knows no files, arms or benchmarks.

S seeds, P problems. Both are samples of something larger: another training run, another problem of the same kind.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CONFIDENT = 1.96  # standard errors; 95 % of a normal distribution lie within


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error, in the unit of the outcomes; the error is NaN where it cannot be known."""

    mean: float
    se: float

    @property
    def undecided(self) -> bool:
        """Whether zero lies within 1.96 standard errors; a mean of exactly zero or an unknown error decides nothing."""
        return self.mean == 0 or not abs(self.mean) >= CONFIDENT * self.se


def two_way(outcomes: Array) -> Estimate:
    """Mean of `outcomes` (S, P) with the standard error for new seeds and new problems together.

    var_seed / S + var_problem / P - var_residual / (S P): the first two terms are the variances of the seed means and
    of the problem means, each of which holds the residual once, so it is taken off once. Neither term may fall below
    the residual that it must hold: else a few seeds that agree by luck would make an error close to zero.
    With one seed it is the standard error over problems. Raises ValueError for fewer than two problems.
    """
    if outcomes.ndim != 2 or outcomes.shape[0] < 1 or outcomes.shape[1] < 2:
        raise ValueError(f"found outcomes of shape {outcomes.shape}, expected (seeds, two problems or more)")
    seeds, problems = outcomes.shape
    mean = float(outcomes.mean())
    of_problem = outcomes.mean(axis=0)  # (P,)
    over_problems = float(of_problem.var(ddof=1)) / problems
    if seeds == 1:
        return Estimate(mean, math.sqrt(over_problems))
    of_seed = outcomes.mean(axis=1)  # (S,)
    over_seeds = float(of_seed.var(ddof=1)) / seeds
    residual = outcomes - of_seed[:, None] - of_problem[None, :] + mean  # (S, P)
    both = float((residual**2).sum()) / ((seeds - 1) * (problems - 1)) / (seeds * problems)
    return Estimate(mean, math.sqrt(max(over_seeds, both) + max(over_problems, both) - both))


def difference(ours: Array, other: Array) -> Estimate:
    """Mean of `ours` - `other`, both (S, P), paired by seed and problem: what both find hard cancels out."""
    if ours.shape != other.shape:
        raise ValueError(f"found outcomes of shapes {ours.shape} and {other.shape}, expected equal ones")
    return two_way(ours - other)


def over_seeds(values: Array) -> tuple[Array, Array]:
    """Mean and standard error over the first axis of `values` (S, ...); the error of one seed is NaN, not zero."""
    count = values.shape[0]
    if count == 1:
        return values[0], np.full_like(values[0], np.nan)
    return values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(count)


def moving_mean(values: Array, points: int) -> Array:
    """Centred moving mean over `points` (odd) neighbours along the last axis; shorter windows at the two ends."""
    if points < 1 or points % 2 == 0:
        raise ValueError(f"found a window of {points} points, expected an odd number, so that it has a centre")
    half, length = points // 2, values.shape[-1]
    windows = [values[..., max(0, i - half) : i + half + 1].mean(axis=-1) for i in range(length)]
    return np.stack(windows, axis=-1)
