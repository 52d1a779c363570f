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
    """All rows and columns of its table, if only as `not published`: in no copy that we could read, shown as n.p."""

    model: Annotated[str, Field(description="whose numbers the paper's are")]
    cells: Annotated[
        dict[Name, Row] | Literal["not published"], Field(description="numbers by arm and column (Table 1)")
    ] = NOT_PUBLISHED
    beside: dict[str, str] = Field(
        default={}, description="by column, that of Table 1, which benchmarks name (Table 2)"
    )
    claim: Annotated[str, Field(description="what the paper says of it")] = ""

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
    """What tables and figures have in common; `snakemake NAME` ends with the reason in studies that do not build it."""

    title: Annotated[str, Field(description="heading")]
    paper: Annotated[Paper, Field(description="what the paper reports")]
    not_here: dict[Name, str] = Field(default={}, description="by study, the reason why it does not build this one")


class Tabled(Shown):
    """Rows are arms."""

    arms: Annotated[tuple[Name, ...], Field(min_length=1, description="rows, in this order")]
    not_built: dict[str, str] = Field(default={}, description="by row of the paper's without an arm, the reason")


class Table(Tabled):
    """Share of right answers; columns are benchmarks that the study has. No others are asked."""

    kind: Literal["table"]
    benchmarks: Annotated[Named | None, Field(description="by the paper's or the study's names; all if left out")] = (
        None
    )


class Lengths(Tabled):
    """Mean tokens of an answer; columns are as a `table`'s."""

    kind: Literal["lengths"]
    benchmarks: Annotated[Named | None, Field(description="by the paper's or the study's names; all if left out")] = (
        None
    )
    expert: Annotated[dict[str, Published], Field(description="by column, tokens of expert traces (Table 2)")]


class Categories(Tabled):
    """Share of right answers to one benchmark, by category."""

    kind: Literal["categories"]
    column: Annotated[str, Field(description="column of Table 1: the benchmark beside it is shown (B.8)")]


class Panel(Frozen):
    """One set of axes."""

    metric: Annotated[str, Field(description="key of metrics.jsonl that is drawn, like `validation.accuracy`")]
    label: Annotated[str, Field(description="of the axis, with its unit")]
    smooth_steps: Annotated[Count, Field(description="points of a centred moving mean; 1 is none (ours)")] = 1
    share_of_one: Annotated[bool, Field(description="the axis goes from 0 to 1")] = False

    @model_validator(mode="after")
    def _logged(self) -> Self:
        if self.metric not in METRICS:
            raise ValueError(f"metric is '{self.metric}', {expected(self.metric, METRICS)}")
        return self


class Figure(Shown):
    """Curves along training: one an arm, mean over seeds with a band."""

    kind: Literal["figure"]
    arms: Annotated[tuple[Name, ...], Field(min_length=1, description="curves, in this order")]
    x: Annotated[Literal["step", "epoch"], Field(description="`step`, or `epoch`: passes over the expert set")]
    panels: Annotated[tuple[Panel, ...], Field(min_length=1, description="axes, one above the other")]


class Scheme(Shown):
    """A drawing of how the loss is put together, from its formulas, without a run."""

    kind: Literal["scheme"]

    @property
    def arms(self) -> tuple[Name, ...]:
        """None: a formula has no runs."""
        return ()


Artefact = Annotated[Table | Lengths | Categories | Figure | Scheme, Field(discriminator="kind")]


EVERYTHING = "everything"


class Choice(Frozen):
    """What `snakemake` alone builds, the page shows and claims are judged by."""

    study: Annotated[Name, Field(description="a file in `studies/`")]
    artefacts: Annotated[tuple[Name, ...], Field(min_length=1, description="files in `experiments/`, or `everything`")]
    seeds: Annotated[
        Annotated[tuple[Seed, ...], Field(min_length=1)] | None, Field(description="instead of the study's (ours)")
    ] = None


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
    """Where the paper makes the claim, and its numbers or words."""

    place: Annotated[Text, Field(description="where the paper makes the claim")]
    says: Annotated[Text, Field(description="its numbers or words")]


class Against(Frozen):
    """One arm against others: `arm` - `times` x other is above `margin`, below -`margin`, or between the two (near).

    Of several others each must be so: the claim holds if it is above all of them, and fails if it is below one.
    """

    arm: Annotated[Name, Field(description="the arm that the claim is about")]
    against: Annotated[tuple[Name, ...], Field(min_length=1, description="the others; it must be so for each")]
    direction: Annotated[Literal["above", "below", "near"], Field(description="which side; `near`: within the margin")]
    times: Annotated[Positive, Field(description="factor on the others, for claims about ratios")] = 1.0
    margin: Annotated[NotNegative, Field(description="how far, in points or the metric's unit (ours if not 0)")] = 0.0

    @model_validator(mode="after")
    def _different(self) -> Self:
        if self.arm in self.against or len(set(self.against)) < len(self.against):
            raise ValueError(f"found {self.arm} against {', '.join(self.against)}, expected other arms, each once")
        if self.direction == "near" and self.margin == 0:
            raise ValueError("found `direction: near` without a margin, expected how near: nothing is nearer than 0")
        return self


class Cells(Against):
    """Scores on the benchmark beside the first of `columns` that the study has; margins of `right` are points."""

    compare: Literal["cells"]
    columns: Annotated[tuple[str, ...], Field(min_length=1, description="of the paper: the first that the study has")]
    measure: Annotated[Literal["right", "response_tokens"], Field(description="right answers, or tokens")] = "right"


class _Logged(Frozen):
    metric: Annotated[str, Field(description="key of metrics.jsonl")]

    @model_validator(mode="after")
    def _logged(self) -> Self:
        if self.metric not in METRICS:
            raise ValueError(f"metric is '{self.metric}', {expected(self.metric, METRICS)}")
        return self


class Curves(Against, _Logged):
    """The mean of a metric over a part of training, [0.9, 1] being its last tenth."""

    compare: Literal["curves"]
    part: Annotated[tuple[Fraction, ...], Field(min_length=2, max_length=2, description="from and to (ours)")]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.part[0] >= self.part[1]:
            raise ValueError(f"part is {list(self.part)}, expected where it begins and where it ends, as in [0.9, 1]")
        return self


class Turn(_Logged):
    """A metric of one arm goes one way and then back, by more than `margin` each."""

    compare: Literal["turn"]
    arm: Annotated[Name, Field(description="the arm that the claim is about")]
    shape: Annotated[Literal["falls-then-rises", "rises-then-falls"], Field(description="its two ways")]
    smooth_steps: Annotated[Count, Field(description="points of a centred moving mean; 1 is none (ours)")] = 1
    margin: Annotated[NotNegative, Field(description="how far at least, in the metric's unit (ours if not 0)")] = 0.0


class Rise(_Logged):
    """A metric of one arm, as the means of so many equal `parts` of training, never falls by `margin` or more."""

    compare: Literal["rise"]
    arm: Annotated[Name, Field(description="the arm that the claim is about")]
    parts: Annotated[int, Field(ge=2, description="equal parts of training whose means are compared (ours)")]
    margin: Annotated[Positive, Field(description="how large a fall is too large, in the metric's unit (ours)")]


class Elsewhere(Frozen):
    """What no study here can show."""

    compare: Literal["elsewhere"]
    needs: Annotated[Text, Field(description="what it would take")]


Rule = Annotated[Cells | Curves | Turn | Rise | Elsewhere, Field(discriminator="compare")]


class PaperClaim(Frozen):
    """One claim of the paper."""

    id: Annotated[Name, Field(description="of the claim, each once")]
    sentence: Annotated[Text, Field(description="the claim in words")]
    paper: Annotated[Evidence, Field(description="where the paper makes it")]
    rule: Annotated[Rule, Field(description="what judges it")]
    studies: Annotated[
        Annotated[tuple[Name, ...], Field(min_length=1)] | None,
        Field(description="those that it is about; all if left out"),
    ] = None

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
    """config/claims.yaml; whoever changes a rule gives a new date and digest, or verdicts say so."""

    dated: Annotated[str, AfterValidator(_day), Field(description="day when rules were fixed, as 2025-08-15 (ours)")]
    digest: Annotated[str, Field(description="of the rules on that day, as `chord judge --digest` prints")]
    claims: Annotated[tuple[PaperClaim, ...], Field(description="one entry a claim")]

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
