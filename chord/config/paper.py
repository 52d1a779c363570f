"""What the paper shows and claims: tables, figures, their columns beside a study's benchmarks, rules for claims."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field

from chord.errors import expected
from chord.settings import Count, Fraction, Frozen, Name, Names, Positive, Seed, Text, default

if TYPE_CHECKING:
    from chord.config.study import Study

# --- artefacts -----------------------------------------------------------------------------------

# The keys of metrics.jsonl that have a number at each step at which they apply.
METRICS = (
    *("mu", "loss", "policy_loss", "imitation_loss", "phi_mean", "expert_logp", "grad_norm", "policy_entropy"),
    *("expert_entropy", "reward", "outcomes.right", "outcomes.wrong", "outcomes.unevaluated", "outcomes.unparsable"),
    *("outcomes.too_long", "outcomes.killed", "response_tokens", "rollout_tokens", "expert_tokens", "clip_fraction"),
    *("logp_mismatch", "learning_rate", "expert_epochs", "validation.accuracy", "validation.response_tokens"),
)


# Where claims find their numbers, in results/STUDY.
WHERE = {
    "scores": "runs/{arm}/seed-{seed}/eval/{benchmark}/scores.json",
    "metrics": "runs/{arm}/seed-{seed}/metrics.jsonl",
    "validation": "runs/{arm}/seed-{seed}/validation.json",
}


def _logged(metric: str) -> str:
    if metric not in METRICS:
        raise ValueError(f"found '{metric}', {expected(metric, METRICS)}")
    return metric


Metric = Annotated[str, AfterValidator(_logged)]
NOT_PUBLISHED = "not published"
Published = float | Literal["not published"]
Named = Annotated[tuple[str, ...], Field(min_length=1)]
Row = dict[str, Published] | Literal["not published"]


class Paper(Frozen):
    """All rows and columns of its table, if only as `not published`: in no copy that we could read, shown as n.p."""

    model: str = Field(description="whose numbers the paper's are")
    cells: dict[Name, Row] | Literal["not published"] = default(NOT_PUBLISHED, "numbers by arm and column (Table 1)")
    beside: dict[str, str] = default({}, "by column, that of Table 1, which benchmarks name (Table 2)")
    claim: str = default("", "what the paper says of it")

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

    title: str = Field(description="heading")
    paper: Paper = Field(description="what the paper reports")
    not_here: dict[Name, str] = default({}, "by study, the reason why it does not build this one")


class Tabled(Shown):
    """Rows are arms."""

    arms: Names = Field(description="rows, in this order")
    not_built: dict[str, str] = default({}, "by row of the paper's without an arm, the reason")


class Table(Tabled):
    """Share of right answers; columns are benchmarks that the study has. No others are asked."""

    kind: Literal["table"]
    benchmarks: Named | None = default(None, "by the paper's or the study's names; all if left out")


class Lengths(Tabled):
    """Mean tokens of an answer; columns are as a `table`'s."""

    kind: Literal["lengths"]
    benchmarks: Named | None = default(None, "by the paper's or the study's names; all if left out")
    expert: dict[str, Published] = Field(description="by column, tokens of expert traces (Table 2)")


class Categories(Tabled):
    """Share of right answers to one benchmark, by category."""

    kind: Literal["categories"]
    column: str = Field(description="column of Table 1: the benchmark beside it is shown (B.8)")


class Panel(Frozen):
    """One set of axes."""

    metric: Metric = Field(description="key of metrics.jsonl that is drawn, like `validation.accuracy`")
    label: str = Field(description="of the axis, with its unit")
    smooth_steps: Count = default(1, "points of a centered moving mean; 1 is none (ours)")
    share_of_one: bool = default(False, "the axis goes from 0 to 1")


class Figure(Shown):
    """Curves along training: one an arm, mean over seeds with a band."""

    kind: Literal["figure"]
    arms: Names = Field(description="curves, in this order")
    x: Literal["step", "epoch"] = Field(description="`step`, or `epoch`: passes over the expert set")
    panels: tuple[Panel, ...] = Field(min_length=1, description="axes, one above the other")


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

    study: Name = Field(description="a file in `studies/`")
    artefacts: Names = Field(description="files in `experiments/`, or `everything`")
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = default(None, "instead of the study's (ours)")


# --- columns -------------------------------------------------------------------------------------


class Division(NamedTuple):
    """A key of each problem's source, and the columns of the paper for its values; if none is named, all are shown."""

    by: str
    columns: Mapping[str, str]


def benchmarks_of(study: "Study", artefact: Shown) -> tuple[str, ...]:
    """The benchmarks whose scores a table is made of; none for a figure."""
    if isinstance(artefact, Categories):
        found = benchmark_beside(study, artefact.column)
        return (found,) if found else ()
    if not isinstance(artefact, Table | Lengths):
        return ()
    named = artefact.benchmarks
    beside = {name: {name, *one.paper_columns} for name, one in study.benchmarks.items()}
    return tuple(name for name in study.benchmarks if named is None or beside[name] & set(named))


def divisions(study: "Study", artefact: Shown) -> dict[str, Division]:
    """By benchmark of a table: what its problems are divided by, where the table shows that."""
    found: dict[str, Division] = {}
    for name in benchmarks_of(study, artefact):
        categories, parts = study.benchmarks[name].categories, study.benchmarks[name].parts
        if isinstance(artefact, Categories):
            found[name] = Division(categories or "", {})
        elif isinstance(artefact, Table) and parts:
            shown = {one: column for one, column in parts.columns.items() if column in artefact.paper.columns}
            found |= {name: Division(parts.by, shown)} if shown else {}
    return found


def benchmark_beside(study: "Study", column: str) -> str | None:
    """The first benchmark whose problems have categories and that stands beside this column of the paper's Table 1."""
    return next((key for key, one in study.benchmarks.items() if one.categories and column in one.paper_columns), None)


# --- claims --------------------------------------------------------------------------------------


class Evidence(Frozen):
    """Where the paper makes the claim, and its numbers or words."""

    place: Text = Field(description="where the paper makes the claim")
    says: Text = Field(description="its numbers or words")
    difference: float | None = default(None, "of its numbers, arm minus other, where they are of what is compared")


class Against(Frozen):
    """One arm against others: `arm` - `times` x other is above 0, below 0, or near it: within the smallest effect.

    Of several others each must be so: the claim holds if it is above all of them, and fails if it is below one.
    """

    arm: Name = Field(description="the arm that the claim is about")
    against: Names = Field(description="the others; it must be so for each")
    direction: Literal["above", "below", "near"] = Field(description="which side; `near`: within the smallest effect")
    times: Positive = default(1.0, "factor on the others, for claims about ratios")

    def _wrong(self) -> Iterator[str]:
        if self.arm in self.against or len(set(self.against)) < len(self.against):
            yield f"found {self.arm} against {', '.join(self.against)}, expected other arms, each once"


class Cells(Against):
    """Scores on the benchmark beside the first of `columns` that the study has."""

    compare: Literal["cells"]
    columns: tuple[str, ...] = Field(min_length=1, description="of the paper: the first that the study has")
    measure: Literal["right", "response_tokens"] = default("right", "right answers, or tokens")


class ExpertLength(Frozen):
    """Tokens of an arm's answers against those of the expert traces that it was trained on."""

    compare: Literal["expert-length"]
    arm: Name = Field(description="the arm that the claim is about")
    direction: Literal["above", "below", "near"] = Field(description="which side; `near`: within the smallest effect")
    columns: tuple[str, ...] = Field(min_length=1, description="of the paper: the first that the study has")

    @property
    def measure(self) -> Literal["response_tokens"]:
        """What is compared."""
        return "response_tokens"


class Curves(Against):
    """The mean of a metric over a part of training, [0.9, 1] being its last tenth, or its last point if it has none."""

    compare: Literal["curves"]
    metric: Metric = Field(description="key of metrics.jsonl")
    part: tuple[Fraction, ...] = Field(min_length=2, max_length=2, description="from and to (ours)")

    def _wrong(self) -> Iterator[str]:
        yield from super()._wrong()
        if self.part[0] >= self.part[1]:
            yield f"part is {list(self.part)}, expected where it begins and where it ends, as in [0.9, 1]"


class Turn(Frozen):
    """A metric of one arm goes one way and then back: past its turning point, or past where it started."""

    compare: Literal["turn"]
    metric: Metric = Field(description="key of metrics.jsonl")
    arm: Name = Field(description="the arm that the claim is about")
    shape: Literal["falls-then-rises", "rises-then-falls"] = Field(description="its two ways")
    end: Literal["past-turn", "past-start"] = default("past-turn", "what the second way must pass by the end")
    smooth_steps: Count = default(1, "points of a centered moving mean; 1 is none (ours)")


class Rise(Frozen):
    """A metric of one arm, as the means of so many equal `parts` of training, never falls by the smallest effect."""

    compare: Literal["rise"]
    metric: Metric = Field(description="key of metrics.jsonl")
    arm: Name = Field(description="the arm that the claim is about")
    parts: int = Field(ge=2, description="equal parts of training whose means are compared (ours)")


class Elsewhere(Frozen):
    """What no study here can show."""

    compare: Literal["elsewhere"]
    needs: Text = Field(description="what it would take")


Rule = Annotated[Cells | ExpertLength | Curves | Turn | Rise | Elsewhere, Field(discriminator="compare")]


class PaperClaim(Frozen):
    """One claim of the paper."""

    id: Name = Field(description="of the claim, each once")
    sentence: Text = Field(description="the claim in words; `{benchmark}` becomes the study's name of what is judged")
    paper: Evidence = Field(description="where the paper makes it")
    rule: Rule = Field(description="what judges it")
    primary: bool = default(False, "one of the few that are corrected among themselves, for any wrong verdict (ours)")
    studies: Names | None = default(None, "those that it is about; all if left out")

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that it speaks of."""
        rule = self.rule
        if isinstance(rule, Elsewhere):
            return ()
        return (rule.arm, *(rule.against if isinstance(rule, Against) else ()))

    @property
    def measure(self) -> str | None:
        """The measure or metric that it compares; None where no study can."""
        rule = self.rule
        if isinstance(rule, Elsewhere):
            return None
        return rule.measure if isinstance(rule, Cells | ExpertLength) else rule.metric

    def _wrong(self) -> Iterator[str]:
        if "{benchmark}" in self.sentence and not isinstance(self.rule, Cells | ExpertLength):
            yield "sentence has {benchmark}, but its rule compares nothing on a benchmark"


class Smallest(Frozen):
    """The smallest effect that would matter, of one measure or beside one column of the paper's Table 1."""

    size: Positive = Field(description="in points or the metric's unit; with `relative`, a share (ours)")
    relative: bool = default(False, "a share of what the arm is compared with")
    reason: Text = Field(description="why this size")


def _day(text: str) -> str:
    """The text, if it is a day of the calendar."""
    with suppress(ValueError):
        if date.fromisoformat(text).isoformat() == text:
            return text
    raise ValueError(f"found '{text}', expected a day of the calendar as YEAR-MONTH-DAY, like 2025-08-15")


class Claims(Frozen):
    """config/claims.yaml; whoever changes a rule gives a new date and digest, or verdicts say so."""

    dated: Annotated[str, AfterValidator(_day), Field(description="day when rules were fixed, as 2025-08-15 (ours)")]
    digest: str = Field(description="of the rules on that day, as `chord judge --digest` prints")
    smallest_effects: dict[str, Smallest] = Field(
        description="by measure or metric, or by column of the paper's Table 1, which comes first"
    )
    claims: tuple[PaperClaim, ...] = Field(description="one entry a claim")

    def _wrong(self) -> Iterator[str]:
        ids = [claim.id for claim in self.claims]
        if twice := [name for name in dict.fromkeys(ids) if ids.count(name) > 1]:
            yield f"found the id '{twice[0]}' {ids.count(twice[0])} times, expected once"
        for name in dict.fromkeys(claim.measure for claim in self.claims):
            if name and name not in self.smallest_effects:
                yield f"smallest_effects has no '{name}', expected one for each measure that a claim compares"

    def smallest(self, measure: str, column: str | None) -> Smallest:
        """The smallest effect of interest of the measure, on the benchmark beside this column if it is of scores."""
        own = self.smallest_effects.get(column or "") if measure == "right" else None
        return own or self.smallest_effects[measure]

    @property
    def rules_digest(self) -> str:
        """What decides verdicts, as a hash: ids, rules, studies, which are primary, sizes of effects; no words do."""
        decides = {"id", "rule", "studies", "primary"}
        rules: list[Any] = [claim.model_dump(mode="json", include=decides) for claim in self.claims]
        sizes = {name: [one.size, one.relative] for name, one in self.smallest_effects.items()}
        return hashlib.sha256(json.dumps([rules, sizes], sort_keys=True).encode()).hexdigest()[:12]

    @property
    def as_dated(self) -> bool:
        """Whether the rules are those of the date that the file gives."""
        return self.digest == self.rules_digest
