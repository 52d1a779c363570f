"""The paper's claims: a sentence, where the paper says it, and the comparison that judges it. Knows no results."""

import hashlib
import json
from contextlib import suppress
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from chord.config.artefacts import METRICS
from chord.config.messages import expected
from chord.settings import Count, Fraction, Frozen, Name, NotNegative, Positive, Text


class Evidence(Frozen):
    """Where the paper makes the claim, and the numbers or words that it gives."""

    place: Text
    says: Text


class Against(Frozen):
    """One arm against others: `arm` - `times` x other is above `margin`, below -`margin`, or between the two (near).

    Of several others each must be so: the claim holds if it is above all of them, and fails if it is below one.
    """

    arm: Name
    against: Annotated[tuple[Name, ...], Field(min_length=1)]
    direction: Literal["above", "below", "near"]
    times: Positive = 1.0
    margin: NotNegative = 0.0

    @model_validator(mode="after")
    def _different(self) -> Self:
        if self.arm in self.against or len(set(self.against)) < len(self.against):
            raise ValueError(f"found {self.arm} against {', '.join(self.against)}, expected other arms, each once")
        if self.direction == "near" and self.margin == 0:
            raise ValueError("found `direction: near` without a margin, expected how near: nothing is nearer than 0")
        return self


class Cells(Against):
    """Scores on a benchmark: that beside the first of `columns` that the study has. Margins of `right` are points."""

    compare: Literal["cells"]
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    measure: Literal["right", "response_tokens"] = "right"


class _Logged(Frozen):
    metric: str

    @model_validator(mode="after")
    def _logged(self) -> Self:
        if self.metric not in METRICS:
            raise ValueError(f"metric is '{self.metric}', {expected(self.metric, METRICS)}")
        return self


class Curves(Against, _Logged):
    """The mean of a metric over a part of training, [0.9, 1] being its last tenth."""

    compare: Literal["curves"]
    part: Annotated[tuple[Fraction, ...], Field(min_length=2, max_length=2)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.part[0] >= self.part[1]:
            raise ValueError(f"part is {list(self.part)}, expected where it begins and where it ends, as in [0.9, 1]")
        return self


class Turn(_Logged):
    """A metric of one arm goes one way and then back, by more than `margin` each."""

    compare: Literal["turn"]
    arm: Name
    shape: Literal["falls-then-rises", "rises-then-falls"]
    smooth_steps: Count = 1
    margin: NotNegative = 0.0


class Rise(_Logged):
    """A metric of one arm, as the means of so many equal `parts` of training, never falls by `margin` or more."""

    compare: Literal["rise"]
    arm: Name
    parts: Annotated[int, Field(ge=2)]
    margin: Positive


class Elsewhere(Frozen):
    """What no study here can show; `needs` says what that would take."""

    compare: Literal["elsewhere"]
    needs: Text


Rule = Annotated[Cells | Curves | Turn | Rise | Elsewhere, Field(discriminator="compare")]


class PaperClaim(Frozen):
    """One claim of the paper. `studies`: it is about these alone; left out, about every study that has its arms."""

    id: Name
    sentence: Text
    paper: Evidence
    rule: Rule
    studies: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that it speaks of."""
        rule = self.rule
        if isinstance(rule, Elsewhere):
            return ()
        return (rule.arm, *(rule.against if isinstance(rule, Against) else ()))


def _day(text: str) -> str:
    """The text, if it is a day of the calendar."""
    with suppress(ValueError):
        if date.fromisoformat(text).isoformat() == text:
            return text
    raise ValueError(f"found '{text}', expected a day of the calendar as YEAR-MONTH-DAY, like 2025-08-15")


class Claims(Frozen):
    """config/claims.yaml. `dated` is when the rules were fixed, `digest` what they were then."""

    dated: Annotated[str, AfterValidator(_day)]
    digest: str
    claims: tuple[PaperClaim, ...]

    @model_validator(mode="after")
    def _once(self) -> Self:
        ids = [claim.id for claim in self.claims]
        if twice := [name for name in dict.fromkeys(ids) if ids.count(name) > 1]:
            raise ValueError(f"found the id '{twice[0]}' {ids.count(twice[0])} times, expected once")
        return self

    @property
    def rules_digest(self) -> str:
        """What decides verdicts, as a hash: ids, rules and studies; sentences and the paper's words do not count."""
        rules = [claim.model_dump(mode="json", include={"id", "rule", "studies"}) for claim in self.claims]
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def as_dated(self) -> bool:
        """Whether the rules are those of the date that the file gives."""
        return self.digest == self.rules_digest
