"""Tables and figures: which arms, which columns, the paper's numbers; and the choice of what to build."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from chord.config.messages import expected
from chord.settings import Count, Frozen, Name, Seed

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
