"""What the paper shows and claims: tables, figures, their columns beside a study's benchmarks, rules for claims."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from chord.config.reading import expected
from chord.config.study import Study
from chord.settings import Count, Fraction, Frozen, Name, NotNegative, Positive, Seed, Text

# --- artefacts -----------------------------------------------------------------------------------

# The keys of metrics.jsonl that have a number at each step at which they apply.
METRICS = (
    "mu",
    "loss",
    "policy_loss",
    "imitation_loss",
    "phi_mean",
    "expert_logp",
    "grad_norm",
    "policy_entropy",
    "expert_entropy",
    "reward",
    *(f"outcomes.{outcome}" for outcome in ("right", "wrong", "unevaluated", "unparsable", "too_long", "killed")),
    "response_tokens",
    "rollout_tokens",
    "expert_tokens",
    "clip_fraction",
    "logp_mismatch",
    "learning_rate",
    "expert_epochs",
    "validation.accuracy",
    "validation.response_tokens",
)


NOT_PUBLISHED = "not published"
Published = float | Literal["not published"]
Named = Annotated[tuple[str, ...], Field(min_length=1)]
Row = dict[str, Published] | Literal["not published"]


class Paper(Frozen):
    """What the paper reports. Every row of a table is given, if only as `not published`: in no public copy we read.

    `beside` says beside which column of Table 1 another column of this table stands, as benchmarks name those alone.
    """

    model: str
    cells: dict[Name, Row] | Literal["not published"] = NOT_PUBLISHED
    beside: dict[str, str] = Field(default={})
    claim: str = ""

    @property
    def rows(self) -> dict[str, Row]:
        """The rows of the paper's table, as far as they are known."""
        return self.cells if isinstance(self.cells, dict) else {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the paper's table, in the order in which its rows name them."""
        return tuple(dict.fromkeys(column for row in self.rows.values() if isinstance(row, dict) for column in row))

    def column(self, names: tuple[str, ...]) -> str | None:
        """The first column of the paper's table that stands beside one of these columns of Table 1."""
        beside = {table1: column for column, table1 in self.beside.items()} or {key: key for key in self.columns}
        beside = beside or {names[0]: names[0]} if names else {}  # nothing of the table is known, not even its columns
        return next((beside[name] for name in names if name in beside), None)

    def number(self, row: str, column: str | None) -> float | None:
        """The paper's number, if it has this column and the number was published."""
        cells = self.rows.get(row)
        found = cells.get(column or "") if isinstance(cells, dict) else None
        return found if isinstance(found, float | int) else None

    def is_unpublished(self, row: str, column: str | None) -> bool:
        """Whether the paper's table has this cell, as far as its rows and columns are known, and no copy its number."""
        if column is None or self.number(row, column) is not None:
            return False
        cells = self.rows.get(row) if isinstance(self.cells, dict) else NOT_PUBLISHED
        return cells == NOT_PUBLISHED or (isinstance(cells, dict) and column in cells)


class Shown(Frozen):
    """What tables and figures have in common. `not_here` gives, by study, the reason why it does not build this one."""

    title: str
    paper: Paper
    not_here: dict[Name, str] = Field(default={})


class Tabled(Shown):
    """Rows are arms. `not_built` are rows of the paper's table that have no arm, each with the reason."""

    arms: Annotated[tuple[Name, ...], Field(min_length=1)]
    not_built: dict[str, str] = Field(default={})


class Table(Tabled):
    """Share of right answers; columns are the study's benchmarks, or those that `benchmarks` names.

    Each is named as the study does, or as the column of the paper's Table 1 that it stands beside.
    """

    kind: Literal["table"]
    benchmarks: Named | None = None


class Lengths(Tabled):
    """Mean tokens of a response; columns are as a `table`'s. `expert`: the paper's length of expert traces."""

    kind: Literal["lengths"]
    benchmarks: Named | None = None
    expert: dict[str, Published]


class Categories(Tabled):
    """Share of right answers to one benchmark, by what its problems are: the one beside `column` of Table 1."""

    kind: Literal["categories"]
    column: str


class Panel(Frozen):
    """One set of axes. `metric` is a dotted key of metrics.jsonl; `smooth_steps` is a centred moving mean."""

    metric: str
    label: str
    smooth_steps: Count = 1
    share_of_one: bool = False

    @model_validator(mode="after")
    def _logged(self) -> Self:
        if self.metric not in METRICS:
            raise ValueError(f"metric is '{self.metric}', {expected(self.metric, METRICS)}")
        return self


class Figure(Shown):
    """A figure of the paper: one curve an arm, mean over seeds with a band."""

    kind: Literal["figure"]
    arms: Annotated[tuple[Name, ...], Field(min_length=1)]
    x: Literal["step", "epoch"]
    panels: Annotated[tuple[Panel, ...], Field(min_length=1)]


class Scheme(Shown):
    """A drawing of how the loss is put together, made from its formulas; it needs no run."""

    kind: Literal["scheme"]

    @property
    def arms(self) -> tuple[Name, ...]:
        """None: a formula has no runs."""
        return ()


Artefact = Annotated[Table | Lengths | Categories | Figure | Scheme, Field(discriminator="kind")]


EVERYTHING = "everything"


class Choice(Frozen):
    """config/config.yaml: what to build, not how; `artefacts: [everything]` is all that the study builds."""

    study: Name
    artefacts: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None


# --- columns -------------------------------------------------------------------------------------


class Division(NamedTuple):
    """A key of each problem's source, and the columns of the paper for its values; if none is named, all are shown."""

    by: str
    columns: Mapping[str, str]


def benchmarks_of(study: Study, artefact: Shown) -> tuple[str, ...]:
    """The benchmarks whose scores a table is made of; none for a figure."""
    if isinstance(artefact, Categories):
        found = benchmark_beside(study, artefact.column)
        return (found,) if found else ()
    if not isinstance(artefact, Table | Lengths):
        return ()
    named = artefact.benchmarks
    beside = {name: {name, *one.paper_columns} for name, one in study.benchmarks.items()}
    return tuple(name for name in study.benchmarks if named is None or beside[name] & set(named))


def divisions(study: Study, artefact: Shown) -> dict[str, Division]:
    """By benchmark of a table: what its problems are divided by, where the table shows that."""
    if isinstance(artefact, Categories):
        return {name: Division(study.benchmarks[name].categories or "", {}) for name in benchmarks_of(study, artefact)}
    found: dict[str, Division] = {}
    for name in benchmarks_of(study, artefact) if isinstance(artefact, Table) else ():
        parts = study.benchmarks[name].parts
        shown = (
            {one: column for one, column in parts.columns.items() if column in artefact.paper.columns} if parts else {}
        )
        if parts and shown:
            found[name] = Division(parts.by, shown)
    return found


def benchmark_beside(study: Study, column: str) -> str | None:
    """The first benchmark whose problems have categories and that stands beside this column of the paper's Table 1."""
    fitting = [name for name, one in study.benchmarks.items() if one.categories and column in one.paper_columns]
    return fitting[0] if fitting else None


# --- claims --------------------------------------------------------------------------------------


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
