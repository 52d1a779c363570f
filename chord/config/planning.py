"""What `chord plan` reckons with: machines, sizes of models, lengths of answers. Decides no result and no job."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from chord.config.reading import read_yaml, validated
from chord.settings import Count, Frozen, Name, Positive

FILE = "config/planning.yaml"


class Machine(Frozen):
    """One device."""

    memory_gb: Annotated[Positive, Field(description="memory of a device, in 10^9 bytes (data sheet)")]
    tflops: Annotated[
        dict[Literal["float32", "bfloat16", "float64"], Positive], Field(description="by dtype, at best (data sheet)")
    ]
    bandwidth_gb_s: Annotated[Positive, Field(description="of its memory, in 10^9 bytes a second (data sheet)")]
    trains_at: Annotated[float, Field(gt=0, le=1, description="share of `tflops` that training reaches (ours)")]
    decodes_at: Annotated[float, Field(gt=0, le=1, description="share of `bandwidth_gb_s` that sampling has (ours)")]
    layer_seconds: Annotated[
        Positive, Field(description="that a layer takes at least, whatever it computes (ours)")
    ]  # that one layer takes at least, whatever it computes
    start_seconds: Annotated[
        Positive, Field(description="seconds until a job computes: imports, loading (ours)")
    ]  # until a job computes: imports, loading
    base_gb: Annotated[
        Positive, Field(description="of a process with its libraries alone, in 10^9 bytes (ours)")
    ]  # of a process that has loaded its libraries and nothing else


class Dimensions(Frozen):
    """A Llama-like model; keys are those of its config.json."""

    hidden_size: Annotated[Count, Field(description="width of a token's state")]
    intermediate_size: Annotated[Count, Field(description="width inside a layer's MLP, or that of one expert")]
    num_hidden_layers: Annotated[Count, Field(description="number of layers")]
    num_attention_heads: Annotated[Count, Field(description="attention heads of a layer")]
    num_key_value_heads: Annotated[Count, Field(description="of keys and values, a divisor of `num_attention_heads`")]
    vocab_size: Annotated[Count, Field(description="number of tokens that there are")]
    tied: Annotated[bool, Field(description="one matrix for embedding and output")]
    attention_bias: Annotated[bool, Field(description="whether queries, keys and values have a bias")] = False
    head_dim: Annotated[Count | None, Field(description="width of a head; `hidden_size` / heads if left out")] = None
    num_experts: Annotated[Count, Field(description="experts of a mixture of experts")] = 1
    experts_per_token: Annotated[Count, Field(description="experts that each token goes through")] = 1

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
    """Mean tokens; an arm like `weak-grpo` that is not named is reckoned like `grpo`."""

    prompt: Annotated[Positive, Field(description="tokens of a prompt")]
    expert: Annotated[Positive, Field(description="tokens of an expert trace")]
    base: Annotated[Positive, Field(description="tokens of an answer of the base model")]
    arms: Annotated[dict[str, Positive], Field(description="tokens of an answer of each arm")]
    other_arms: Annotated[Positive, Field(description="tokens of an answer of any other arm")]

    def of(self, arm: str) -> float:
        """Mean tokens of an answer at the end of the arm's training; `weak-grpo` and such are reckoned like `grpo`."""
        return self.arms.get(arm) or self.arms.get(arm.partition("-")[2]) or self.other_arms


class Judge(Frozen):
    """A model that grades each answer."""

    model: Annotated[str, Field(description="a name in `models`")]
    prompt: Annotated[Positive, Field(description="tokens that it reads beside the answer")]
    verdict: Annotated[Positive, Field(description="tokens that it writes")]


class Unbuilt(Frozen):
    """A table or figure that no study builds, as the paper trained for it; the rest is as in `study`."""

    study: Annotated[Name, Field(description="the study that the rest is as in")]
    model: Annotated[str, Field(description="a name in `models`")]
    arms: Annotated[tuple[Name, ...], Field(min_length=1, description="arms that are trained for it")]
    steps: Annotated[Count, Field(description="updates of the arms that sample")]  # of the arms that sample
    prompts_per_step: Annotated[Count, Field(description="prompts in each update")]
    per_prompt: Annotated[Count, Field(description="rollouts of a prompt")]
    expert_rows_per_step: Annotated[Count, Field(description="traces in each update that imitates")]
    max_prompt_tokens: Annotated[Count, Field(description="tokens of the longest prompt")]
    max_response_tokens: Annotated[Count, Field(description="tokens of the longest answer")]
    lengths: Annotated[Lengths, Field(description="mean tokens")]
    answers: Annotated[
        Count, Field(description="answers of one trained model to the benchmark")
    ]  # of one trained model to the benchmark
    judge: Annotated[Judge | None, Field(description="a model that grades each answer")] = None


class Planning(Frozen):
    """All of config/planning.yaml."""

    machines: Annotated[dict[str, Machine], Field(description="devices, by name")]
    models: Annotated[dict[str, Dimensions], Field(description="sizes, as in config.json (the model's page)")]
    lengths: Annotated[dict[str, Lengths], Field(description="mean tokens, by study (Table 2; ours where it has none)")]
    unbuilt: dict[str, Unbuilt] = Field(default={}, description="what no study builds, as in the paper (B.4, B.6)")

    @classmethod
    def read(cls, root: Path) -> Self:
        """The file below `root`; raises ConfigError with every bad key."""
        return validated(TypeAdapter(cls), read_yaml(root / FILE, FILE), FILE)
