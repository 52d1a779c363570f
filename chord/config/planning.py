"""What `chord plan` reckons with: machines, sizes of models, lengths of answers. Decides no result and no job."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from chord.config.reading import read_yaml, validated
from chord.settings import Count, Frozen, Name, Positive

FILE = "config/planning.yaml"


class Machine(Frozen):
    """One device. Memory in 10^9 bytes, `tflops` in 10^12 operations a second by dtype, seconds as they are."""

    memory_gb: Positive
    tflops: dict[Literal["float32", "bfloat16", "float64"], Positive]
    bandwidth_gb_s: Positive
    trains_at: Annotated[float, Field(gt=0, le=1)]
    decodes_at: Annotated[float, Field(gt=0, le=1)]
    layer_seconds: Positive  # that one layer takes at least, whatever it computes
    start_seconds: Positive  # until a job computes: imports, loading
    base_gb: Positive  # of a process that has loaded its libraries and nothing else


class Dimensions(Frozen):
    """The shape of a Llama-like model; names are those of its config.json.

    Of a mixture of experts `intermediate_size` is that of one expert, and each token goes through `experts_per_token`.
    """

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    vocab_size: Count
    tied: bool
    attention_bias: bool = False
    head_dim: Count | None = None
    num_experts: Count = 1
    experts_per_token: Count = 1

    @model_validator(mode="after")
    def _divides(self) -> Self:
        heads = self.num_attention_heads
        if self.head_dim is None and self.hidden_size % heads:
            raise ValueError(
                f"found hidden_size {self.hidden_size} with {heads} heads, expected a multiple or a head_dim"
            )
        if heads % self.num_key_value_heads:
            raise ValueError(f"found num_key_value_heads {self.num_key_value_heads}, expected a divisor of {heads}")
        if self.experts_per_token > self.num_experts:
            raise ValueError(f"found experts_per_token {self.experts_per_token}, expected at most {self.num_experts}")
        return self

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads


class Lengths(Frozen):
    """Mean tokens: of a prompt, of an expert trace, of answers of the base model and of each trained arm."""

    prompt: Positive
    expert: Positive
    base: Positive
    arms: dict[str, Positive]
    other_arms: Positive

    def of(self, arm: str) -> float:
        """Mean tokens of an answer at the end of the arm's training; `weak-grpo` and such are reckoned like `grpo`."""
        return self.arms.get(arm) or self.arms.get(arm.partition("-")[2]) or self.other_arms


class Judge(Frozen):
    """A model that grades each answer: tokens that it reads beside the answer, and that it writes."""

    model: str
    prompt: Positive
    verdict: Positive


class Unbuilt(Frozen):
    """A table or figure that no study builds, as the paper trained for it; the rest is as in `study`."""

    study: Name
    model: str
    arms: Annotated[tuple[Name, ...], Field(min_length=1)]
    steps: Count  # of the arms that sample
    prompts_per_step: Count
    per_prompt: Count
    expert_rows_per_step: Count
    max_prompt_tokens: Count
    max_response_tokens: Count
    lengths: Lengths
    answers: Count  # of one trained model to the benchmark
    judge: Judge | None = None


class Planning(Frozen):
    """All of config/planning.yaml."""

    machines: dict[str, Machine]
    models: dict[str, Dimensions]
    lengths: dict[str, Lengths]
    unbuilt: dict[str, Unbuilt] = Field(default={})

    @classmethod
    def read(cls, root: Path) -> Self:
        """The file below `root`; raises ConfigError with every bad key."""
        return validated(TypeAdapter(cls), read_yaml(root / FILE, FILE), FILE)
