"""A training recipe: every value that decides a model. Knows no study, no labels, no files."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from chord.config.base import Fraction, Frozen, Name, Positive, Share, Steps, StepsOrNone, Text

# Adam moves each weight by about the learning rate in a step; weights are far below 1.
HIGHEST_RATE = 1.0


class MuConstant(Frozen):
    """The same mu at every step; 0 is GRPO, 1 is SFT (arXiv:2508.11408, eq. 3)."""

    schedule: Literal["constant"] = "constant"
    value: Fraction


class MuDecay(Frozen):
    """Linear warm-up 0 -> peak, half cosine peak -> valley, then valley (arXiv:2508.11408, section 4.3)."""

    schedule: Literal["decay"]
    warmup_steps: StepsOrNone = 0
    decay_steps: StepsOrNone
    peak: Fraction
    valley: Fraction


class MuAdaptive(Frozen):
    """mu = max(0, threshold - mean reward of this step's rollouts) (arXiv:2508.11408, appendix B.1)."""

    schedule: Literal["adaptive"]
    threshold: Fraction


class MuGradientNorm(Frozen):
    """SASR: an SFT warm-up, then 0 or 1 per step, drawn from gradient norms (arXiv:2505.13026)."""

    schedule: Literal["gradient-norm"]
    warmup_steps: Steps
    gamma: Positive


Mu = Annotated[MuConstant | MuDecay | MuAdaptive | MuGradientNorm, Field(discriminator="schedule")]


class WeightPlain(Frozen):
    """one: plain SFT. p: importance sampling / DFT (eq. 4). p(1-p): phi (eq. 5). entropy-norm: H / log V (B.2)."""

    weight: Literal["one", "p", "p(1-p)", "entropy-norm"]


class WeightEntropyTop(Frozen):
    """1 on the `share` most uncertain expert tokens of the global batch, else 0 (arXiv:2508.11408, B.2)."""

    weight: Literal["entropy-top"]
    share: Share


class WeightIsClip(Frozen):
    """p, and 0 where p exceeds `ceiling` (arXiv:2508.11408, B.2)."""

    weight: Literal["is-clip"]
    ceiling: Share


class WeightFocal(Frozen):
    """(1-p)^gamma (arXiv:2508.11408, B.2)."""

    weight: Literal["focal"]
    gamma: Annotated[float, Field(ge=0, le=100)]


TokenWeight = Annotated[WeightPlain | WeightEntropyTop | WeightIsClip | WeightFocal, Field(discriminator="weight")]


class Recipe(Frozen):
    """One arm that is trained: every value that decides its model and nothing else."""

    init: str
    method: Literal["chord", "luffy", "sasr"] = "chord"
    mu: Mu
    expert_tokens: TokenWeight = WeightPlain(weight="one")
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
        if (self.method == "sasr") != (self.mu.schedule == "gradient-norm"):
            raise ValueError(
                f"found method {self.method} with schedule {self.mu.schedule}, expected both `method: sasr` and"
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
        mu = self.mu
        if isinstance(mu, MuDecay) and mu.warmup_steps + mu.decay_steps > self.steps:
            yield (
                ("mu.warmup_steps", "mu.decay_steps", "steps"),
                f"found a warm-up of {mu.warmup_steps} and a decay of {mu.decay_steps} steps in a training of"
                f" {self.steps}, expected together at most that",
            )
        if isinstance(mu, MuGradientNorm) and mu.warmup_steps > self.steps:
            yield (
                ("mu.warmup_steps", "steps"),
                f"found a warm-up of {mu.warmup_steps} steps in a training of {self.steps}, expected at most that",
            )

    @property
    def needs_rollouts(self) -> bool:
        """Whether any step can sample from the policy."""
        return not (isinstance(self.mu, MuConstant) and self.mu.value == 1)

    @property
    def needs_experts(self) -> bool:
        """Whether any step can read expert traces."""
        return self.method == "luffy" or self.mixes_experts

    @property
    def mixes_experts(self) -> bool:
        """Whether any step can draw rows of its own from the expert traces."""
        return not (isinstance(self.mu, MuConstant) and self.mu.value == 0)


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
