"""A training recipe: every value that decides a model. Knows no study, no labels, no files."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from chord.objective import MU_SCHEDULES, TOKEN_WEIGHTS, MuSchedule, TokenWeight, WeightOne
from chord.settings import Frozen, Name, OneOf, Positive, Steps, Text

# Adam moves each weight by about the learning rate in a step; weights are far below 1.
HIGHEST_RATE = 1.0


Mu = Annotated[MuSchedule, OneOf(MU_SCHEDULES, "schedule")]
ExpertWeight = Annotated[TokenWeight, OneOf(TOKEN_WEIGHTS, "weight")]


class Recipe(Frozen):
    """One arm that is trained: every value that decides its model and nothing else."""

    init: str
    method: Literal["chord", "luffy", "sasr"] = "chord"
    mu: Mu
    expert_tokens: ExpertWeight = WeightOne()
    traces: Annotated[str, Field(pattern=r"^(expert|aligned|expert-[a-z0-9.+-]+)$")] = "expert"
    steps: Steps | None = None
    epochs: Annotated[float, Field(gt=0, le=10_000)] | None = None
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]  # `unreasonable` has its bound
    keep: Literal["best", "last", "every"] = "best"
    reshape_gamma: Positive | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            found = "neither `steps` nor `epochs`" if self.steps is None else "both `steps` and `epochs`"
            raise ValueError(f"found {found}, expected exactly one (epochs of the expert set)")
        if self.epochs is not None and self.needs_rollouts:
            raise ValueError("found `epochs`, passes over the expert set, with a mu other than 1, expected `steps`")
        if self.needs_rollouts != (self.keep == "best") and self.keep != "last":
            kind, fitting = ("a mu other than 1", "best") if self.needs_rollouts else ("mu constant at 1", "every")
            why = "" if self.needs_rollouts else ": pure imitation grades nothing while it trains"
            raise ValueError(f"found `keep: {self.keep}` with {kind}, expected `last` or `{fitting}`{why}")
        if self.method == "luffy" and self.traces != "aligned":
            raise ValueError(
                f"found `traces: {self.traces}`, expected `aligned`: luffy needs experts for its own prompts"
            )
        if (self.method == "luffy") != (self.reshape_gamma is not None):
            found = "no `reshape_gamma`" if self.method == "luffy" else f"`reshape_gamma` with method {self.method}"
            raise ValueError(f"found {found}, expected both `method: luffy` and `reshape_gamma` or neither")
        if (self.method == "sasr") != (self.mu.name == "gradient-norm"):
            raise ValueError(
                f"found method {self.method} with schedule {self.mu.name}, expected both `method: sasr` and"
                " `schedule: gradient-norm` or neither"
            )
        return self

    def unreasonable(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """What no training of config/ may have: the keys that it is about, and what is said of them.

        A run.json may: what it holds was checked when it was written.
        """
        if self.learning_rate > HIGHEST_RATE:
            yield ("learning_rate",), f"is {self.learning_rate:g}, expected at most {HIGHEST_RATE:g}"
        if self.steps is None:
            return
        spans = {key: value for key, value in self.mu.model_dump().items() if key.endswith("_steps")}
        if sum(spans.values()) > self.steps:
            kinds = {"warmup_steps": "a warm-up", "decay_steps": "a decay"}
            said = " and ".join(f"{kinds.get(key, key)} of {value}" for key, value in spans.items())
            yield (
                (*(f"mu.{key}" for key in spans), "steps"),
                f"found {said} steps in a training of {self.steps}, expected"
                f" {'together ' if len(spans) > 1 else ''}at most that",
            )

    @property
    def needs_rollouts(self) -> bool:
        """Whether any step can sample from the policy."""
        return not self.mu.is_always(1)

    @property
    def needs_experts(self) -> bool:
        """Whether any step can read expert traces."""
        return self.method == "luffy" or self.mixes_experts

    @property
    def mixes_experts(self) -> bool:
        """Whether any step can draw rows of its own from the expert traces."""
        return not self.mu.is_always(0)


class Arm(Frozen):
    """One row of `config/arms.yaml`: a recipe, a choice between trained arms, or the untouched base model."""

    label: Text
    note: str = ""
    recipe: Recipe | None = None
    choose: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    choose_on: Literal["validation", "test"] = "validation"
    same_as: Annotated[str, Field(pattern=r"^base(-[a-z0-9.+-]+)?$")] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        found = [name for name in ("recipe", "choose", "same_as") if getattr(self, name) is not None]
        if len(found) != 1:
            raise ValueError(
                f"found {' and '.join(found) or 'none'} of `recipe`, `choose` and `same_as`, expected exactly one"
            )
        if self.choose_on == "test" and not self.choose:
            raise ValueError("found `choose_on: test` without `choose`, expected the arms to choose between")
        return self

    @property
    def only_imitates(self) -> bool:
        """Whether the arm is trained and no step of it samples rollouts."""
        return self.recipe is not None and not self.recipe.needs_rollouts

    @property
    def samples_rollouts(self) -> bool:
        """Whether the arm is trained and a step of it can sample rollouts."""
        return self.recipe is not None and self.recipe.needs_rollouts
