"""A training recipe: every value that decides a model. Knows no study, no labels, no files."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from chord.objective import MU_SCHEDULES, TOKEN_WEIGHTS, MuSchedule, TokenWeight, WeightOne
from chord.settings import Frozen, Names, OneOf, Positive, Steps, Text, default

# Adam moves each weight by about the learning rate in a step; weights are far below 1.
HIGHEST_RATE = 1.0


Mu = Annotated[MuSchedule, OneOf(MU_SCHEDULES, "schedule")]
Traces = Annotated[str, Field(pattern=r"^(expert|aligned|expert-[a-z0-9.+-]+)$")]
ExpertWeight = Annotated[TokenWeight, OneOf(TOKEN_WEIGHTS, "weight")]


class Recipe(Frozen):
    """Every value that decides the model of an arm, and nothing else.

    `luffy`: expert traces join the rollouts of their prompt. `sasr`: see schedule `gradient-norm`. `expert` traces are
    the expert set, `aligned` ones answer each training prompt (luffy). `last`: the weights of the last step. `best`:
    those with the highest validation accuracy, not where µ is constant at 1. `every`: those of the last step and of
    every validation, to be chosen from later, only where µ is constant at 1.
    """

    init: str = Field(description="model to start from: `base`, `base-NAME` or an arm (section 4.1; B.5)")
    method: Literal["chord", "luffy", "sasr"] = default("chord", "how expert and rollouts are joined (section 4.1)")
    mu: Mu = Field(description="weight of the imitation loss: (1 - µ) · RL + µ · SFT (eq. 3)")
    expert_tokens: ExpertWeight = default(WeightOne(), "how much each expert token counts (eq. 4, 5, B.2)")
    traces: Traces = default("expert", "which expert traces (B.3, D.3)")
    steps: Steps | None = default(None, "updates; exactly one of it and `epochs` (A.1: 1500 at most)")
    epochs: Annotated[float, Field(gt=0, le=10000)] | None = default(None, "passes over the expert set (section 4.1)")
    # Its upper bound is in `unreasonable`.
    learning_rate: float = Field(gt=0, description="Adam's, at most 1 (searched in 1e-6, 5e-6, 1e-5)")
    keep: Literal["best", "last", "every"] = default("best", "which weights (A.2: `best`)")
    reshape_gamma: Positive | None = default(None, "`luffy`: p/(p + gamma) for p of expert tokens (arXiv:2504.14945)")

    def _wrong(self) -> Iterator[str]:
        if (self.steps is None) == (self.epochs is None):
            found = "neither `steps` nor `epochs`" if self.steps is None else "both `steps` and `epochs`"
            yield f"found {found}, expected exactly one (epochs of the expert set)"
        if self.epochs is not None and self.needs_rollouts:
            yield "found `epochs`, passes over the expert set, with a mu other than 1, expected `steps`"
        if self.needs_rollouts != (self.keep == "best") and self.keep != "last":
            kind, fitting = ("a mu other than 1", "best") if self.needs_rollouts else ("mu constant at 1", "every")
            why = "" if self.needs_rollouts else ": pure imitation grades nothing while it trains"
            yield f"found `keep: {self.keep}` with {kind}, expected `last` or `{fitting}`{why}"
        if self.method == "luffy" and self.traces != "aligned":
            yield f"found `traces: {self.traces}`, expected `aligned`: luffy needs experts for its own prompts"
        if (self.method == "luffy") != (self.reshape_gamma is not None):
            found = "no `reshape_gamma`" if self.method == "luffy" else f"`reshape_gamma` with method {self.method}"
            yield f"found {found}, expected both `method: luffy` and `reshape_gamma` or neither"
        if (self.method == "sasr") != (self.mu.name == "gradient-norm"):
            found = f"found method {self.method} with schedule {self.mu.name}"
            yield f"{found}, expected both `method: sasr` and `schedule: gradient-norm` or neither"

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
            keys = (*(f"mu.{key}" for key in spans), "steps")
            together = "together " if len(spans) > 1 else ""
            yield keys, f"found {said} steps in a training of {self.steps}, expected {together}at most that"

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
    """A name with exactly one of `recipe`, `choose`, `same_as`.

    Of the arms to `choose` from, which keep `every`, it has the weights with the best `validation` accuracy, seed by
    seed; with `test` the arm whose last weights score highest on the study's first benchmark, as the paper chose, to
    show the difference. `same_as` is `base`, or `base-NAME` of the study's `other_models`.
    """

    label: Text = Field(description="how readers see the arm; makes anew tables and figures only")
    note: str = default("", "said beside the label; makes anew tables and figures only")
    recipe: Recipe | None = default(None, "how the arm is trained")
    choose: Names | None = default(None, "arms: the best weights of all of them")
    choose_on: Literal["validation", "test"] = default("validation", "the paper chose on `test` (section 4.1)")
    same_as: Annotated[str, Field(pattern="^base(-[a-z0-9.+-]+)?$")] | None = default(None, "a start model (Table 1)")

    def _wrong(self) -> Iterator[str]:
        found = [name for name in ("recipe", "choose", "same_as") if getattr(self, name) is not None]
        if len(found) != 1:
            yield f"found {' and '.join(found) or 'none'} of `recipe`, `choose` and `same_as`, expected exactly one"
        if self.choose_on == "test" and not self.choose:
            yield "found `choose_on: test` without `choose`, expected the arms to choose between"

    @property
    def only_imitates(self) -> bool:
        """Whether the arm is trained and no step of it samples rollouts."""
        return self.recipe is not None and not self.recipe.needs_rollouts

    @property
    def samples_rollouts(self) -> bool:
        """Whether the arm is trained and a step of it can sample rollouts."""
        return self.recipe is not None and self.recipe.needs_rollouts
