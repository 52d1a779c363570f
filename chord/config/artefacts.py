"""Tables and figures: which arms, which columns, the paper's numbers; and the choice of what to build."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from chord.config.base import Count, CountOrNone, Frozen, Name
from chord.config.messages import expected

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
    *(f"outcomes.{outcome}" for outcome in ("right", "wrong", "unparsable", "too_long", "killed")),
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


class Paper(Frozen):
    """What the paper reports; a missing cell was not published or not found."""

    model: str
    cells: dict[Name, dict[str, float]] = Field(default={})
    claim: str = ""


class Table(Frozen):
    """A table of the paper: rows are arms, columns are the study's benchmarks."""

    kind: Literal["table"]
    title: str
    arms: Annotated[tuple[Name, ...], Field(min_length=1)]
    benchmarks: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    paper: Paper


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


class Figure(Frozen):
    """A figure of the paper: one curve an arm, mean over seeds with a band."""

    kind: Literal["figure"]
    title: str
    arms: Annotated[tuple[Name, ...], Field(min_length=1)]
    x: Literal["step", "epoch"]
    panels: Annotated[tuple[Panel, ...], Field(min_length=1)]
    paper: Paper


Artefact = Annotated[Table | Figure, Field(discriminator="kind")]


class Choice(Frozen):
    """config/config.yaml: what to build, and nothing about how."""

    study: Name
    artefacts: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[tuple[CountOrNone, ...], Field(min_length=1)] | None = None
