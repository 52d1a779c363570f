"""Verdicts on claims, out of estimated differences, and what holds back wrong ones. Knows no files, arms or rules.

A claim speaks of parts, differences d that must all be on its side of 0. Its effect is the least of them, each taken
towards its side, and is tried against 0 and against the smallest effect of interest, X > 0. With three verdicts:

- holds: the effect is above 0 (every part must show it, so the largest p counts);
- fails: it is below 0 (one part is enough, so the smallest p counts, times their number);
- negligible: no effect as large as X, which is between -X and X (two one-sided tests, Schuirmann 1987).

A claim that d is near, or never falls, has its bar at X: it holds where d is within, and there is no third verdict.

p of the first two is two-sided, p of the last one-sided. So on one claim, tried at level a, a wrong verdict is as rare
as a, whatever is true: at an effect of 0 both `holds` and `fails` are wrong, a/2 each; at X or beyond `fails` and
`negligible` are, but each needs that the one-sided bound of the effect at level a is below X; in between one verdict is
wrong, a/2. An effect may be above 0 and smaller than X. Then `holds` is the verdict.

Many claims. A claim counts once, with the least of its p, whichever verdict that is for.

- Primary claims: Holm (1979), with the count of Shaffer (1986), so that a wrong verdict on any of them is as rare as
  LEVEL, whatever depends on what. A claim has two hypotheses that may be wrongly rejected, no effect and an effect as
  large as X, of which one at most is true. So each p counts as often as there are claims with one left: a claim leaves
  the count once both are rejected (the effect is decidedly not 0, and less than X). Holm's own count, by which a claim
  leaves with its first verdict, is not valid here, as a claim that was rightly called negligible may still be wrongly
  said to hold. With four claims whose effects are 0, and estimates five times as exact as X, it lets 18 % of studies
  have a wrong verdict.
- All others: Benjamini and Hochberg (1995), so that of their verdicts LEVEL are wrong on average. A claim is rejected
  by its least p, and a wrong verdict on it needs a p that is valid for what is true of it; so their proof holds with
  the number of all claims in place of that of true hypotheses, for claims that are independent or positively dependent.

tests/unit/test_verdicts.py simulates both, on claims that share arms.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from chord.findings.rendering import FAILS, HOLDS, NEGLIGIBLE, UNDECIDED
from chord.findings.statistics import LEVEL, Array, Estimate, seeds_needed

Side = Literal["above", "below", "near", "no fall"]


@dataclass(frozen=True)
class Part:
    """A difference d that the claim needs above 0, below 0, near 0, or not below -X; X is the smallest effect.

    `less` and `more` estimate d - X and d + X: X may itself be a share of something measured.
    """

    name: str
    side: Side
    estimate: Estimate
    less: Estimate
    more: Estimate

    @property
    def smallest(self) -> float:
        """X, in the unit of the difference."""
        return self.estimate.mean - self.less.mean

    @property
    def sign(self) -> int:
        """What turns the difference towards the claim's side."""
        return -1 if self.side == "below" else 1

    @property
    def holds(self) -> float:
        """One-sided p, small where the difference is decidedly where the claim has it."""
        within = self.more.p_not_above(0.0)
        one_sided = {
            "above": self.estimate.p_not_above(0.0),
            "below": self.estimate.p_not_below(0.0),
            "near": max(within, self.less.p_not_below(0.0)),
            "no fall": within,
        }
        return one_sided[self.side]

    @property
    def fails(self) -> float:
        """One-sided p, small where it is decidedly elsewhere."""
        beyond = self.more.p_not_below(0.0)
        one_sided = {
            "above": self.estimate.p_not_below(0.0),
            "below": self.estimate.p_not_above(0.0),
            "near": min(1.0, 2 * min(beyond, self.less.p_not_above(0.0))),
            "no fall": beyond,
        }
        return one_sided[self.side]

    @property
    def under(self) -> float:
        """One-sided p, small where the effect is decidedly less than X."""
        return self.less.p_not_below(0.0) if self.sign > 0 else self.more.p_not_above(0.0)

    @property
    def over(self) -> float:
        """One-sided p, small where the effect is decidedly more than -X."""
        return self.more.p_not_above(0.0) if self.sign > 0 else self.less.p_not_below(0.0)

    def seeds_needed(self, level: float) -> int | None:
        """How many seeds would decide it, tried at `level`, if any would; see statistics.seeds_needed."""
        effect, size = self.sign * self.estimate.mean, self.smallest
        if self.side == "no fall":
            return seeds_needed(self.estimate, level, abs(effect + size))
        beyond = abs(effect) if self.side != "near" else abs(effect) - size
        return seeds_needed(self.estimate, level, beyond, (size - effect, size + effect))


def part(
    name: str,
    side: Side,
    differences: Array,
    smallest: float | Array,
    estimate: Callable[[Array], Estimate],
) -> Part:
    """The part with these differences: (S, P), or (S,) of curves. `smallest` is a number, or one for each of them."""
    found = estimate(differences)
    if isinstance(smallest, float):
        return Part(name, side, found, found.moved(-smallest), found.moved(smallest))
    return Part(name, side, found, estimate(differences - smallest), estimate(differences + smallest))


@dataclass(frozen=True)
class Judged:
    """The parts of one claim, what was found in words and as a sentence, and what it was measured in."""

    parts: tuple[Part, ...]
    measure: str
    found: str = ""
    summary: str = ""

    @property
    def has_bar_at_smallest(self) -> bool:
        """Whether X is the claim's own bar, so that there is no third verdict."""
        return self.parts[0].side in ("near", "no fall")

    @property
    def p_holds(self) -> float:
        """Every part must hold. At the bar X one verdict alone is wrong, so there it is one-sided."""
        worst = max(part.holds for part in self.parts)
        return worst if self.has_bar_at_smallest else min(1.0, 2 * worst)

    @property
    def p_fails(self) -> float:
        """One part is enough, so their number counts."""
        return min(1.0, 2 * len(self.parts) * min(part.fails for part in self.parts))

    @property
    def p_negligible(self) -> float:
        """The least effect is more than -X, as every part is, and less than X, as one is."""
        if self.has_bar_at_smallest:
            return 1.0
        under = min(1.0, len(self.parts) * min(part.under for part in self.parts))
        return max(under, *(part.over for part in self.parts))

    @property
    def p(self) -> float | None:
        """The least of the three; None with one seed."""
        known = self.parts[0].estimate.n_seeds > 1
        return min(self.p_holds, self.p_fails, self.p_negligible) if known else None

    @property
    def p_both(self) -> float:
        """Small where the effect is decidedly not 0, and decidedly less than X."""
        return max(min(self.p_holds, self.p_fails), self.p_negligible)

    @property
    def deciding(self) -> Part:
        """The part on which it hangs: that which fails, else that which is least certain to hold."""
        if self.p_fails < self.p_holds:
            return min(self.parts, key=lambda part: (part.fails, part.sign * part.estimate.mean))
        return max(self.parts, key=lambda part: (part.holds, -part.sign * part.estimate.mean))

    def seeds_needed(self, level: float) -> int | None:
        """How many seeds would decide the part on which it hangs, and more than there are; None if none would."""
        fails = self.p_fails < self.p_holds
        seeds = self.deciding.seeds_needed(level / len(self.parts) if fails else level)
        return seeds and max(seeds, self.deciding.estimate.n_seeds + 1)


class Decision(NamedTuple):
    """A verdict, its p before and after correction, among how many claims, and what p one more verdict would need."""

    verdict: str
    p: float | None
    corrected: float | None
    among: int
    level: float


def decisions(judged: Sequence[Judged], primary: Sequence[bool]) -> list[Decision]:
    """The verdicts of one study on claims that were run; `primary` says which of them are. See the module."""
    from scipy import stats  # takes a second to import, which `chord audit` need not

    found: dict[int, Decision] = {}
    for group in (True, False):
        of_group = [index for index, one in enumerate(primary) if one is group]
        known = {index: p for index in of_group if (p := judged[index].p) is not None}
        p_values, count = np.array(list(known.values())), len(known)
        after = stats.false_discovery_control(p_values) if known else p_values
        if group:
            after = p_values * _holm([judged[index] for index in known])
        factors = dict(zip(known, after / p_values, strict=True))
        decided = int((after <= LEVEL).sum())
        level = LEVEL / max(count, 1) * (1 if group else min(count, decided + 1))
        for index in of_group:
            found[index] = _decision(judged[index], factors.get(index), count, level)
    return [found[index] for index in range(len(judged))]


def _holm(claims: Sequence[Judged]) -> Array:
    """How often the p of each claim counts: Holm's steps by Shaffer's rule, see the module."""
    counts, left = np.full(len(claims), len(claims)), set(range(len(claims)))
    while settled := {at for at in left if len(left) * claims[at].p_both <= LEVEL}:
        left -= settled
        counts[[*left]] = len(left)
    return counts


def _decision(one: Judged, factor: float | None, among: int, level: float) -> Decision:
    """With this factor on every p of the claim; None with one seed."""
    if factor is None:
        return Decision(UNDECIDED, None, None, among, level)
    tried = {HOLDS: one.p_holds, FAILS: one.p_fails, NEGLIGIBLE: one.p_negligible}
    verdict = next((name for name, p in tried.items() if factor * p <= LEVEL), UNDECIDED)
    p = tried.get(verdict, min(tried.values()))
    return Decision(verdict, p, min(1.0, factor * p), among, level)
