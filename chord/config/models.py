"""Where a model comes from. Knows no files."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from chord.settings import Frozen, Text, Tokens

REPOSITORY = r"^[\w.-]+/[\w.-]+$"
Width = Annotated[int, Field(ge=1, le=10**5)]  # of a layer; the widest known are below 20,000


class Architecture(Frozen):
    """A Llama small enough to be trained by the study itself; field names are those of LlamaConfig."""

    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Annotated[int, Field(ge=1, le=1000)]
    num_attention_heads: Width
    num_key_value_heads: Width
    max_position_embeddings: Tokens

    @model_validator(mode="after")
    def _divides(self) -> Self:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if self.hidden_size % (2 * heads):  # rotary positions turn pairs of a head's numbers
            raise ValueError(
                f"found hidden_size {self.hidden_size} with num_attention_heads {heads}, expected a multiple of"
                f" {2 * heads}: each head has an even width"
            )
        if heads % groups:
            raise ValueError(
                f"found num_key_value_heads {groups} with num_attention_heads {heads}, expected a divisor of {heads}"
            )
        return self


class Model(Frozen):
    """Where the base model comes from: `random` is trained by the DAG, `package` unpacked from an installed wheel.

    `hub`: fetched by `chord fetch`; `revision` is a commit, tag or branch, and the study's lock file has the commit.
    """

    source: Literal["random", "package", "hub"]
    name: Text
    revision: Text | None = None
    architecture: Architecture | None = None
    alphabet: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.source == "random") != (self.architecture is not None and self.alphabet is not None):
            raise ValueError(
                f"found source {self.source}, expected `architecture` and `alphabet` with random, only there"
            )
        if self.source == "hub" and not re.fullmatch(REPOSITORY, self.name, re.ASCII):
            raise ValueError(f"found name '{self.name}' with source hub, expected OWNER/NAME")
        if self.alphabet is not None and (not self.alphabet or len(set(self.alphabet)) < len(self.alphabet)):
            twice = next((one for one in self.alphabet if self.alphabet.count(one) > 1), "nothing")
            raise ValueError(f"found {twice!r} in `alphabet` more than once or nothing, expected each character once")
        if self.source != "random" and self.revision is None:
            wanted = "a commit, tag or branch" if self.source == "hub" else "the version of the package"
            raise ValueError(
                f"found source {self.source} without `revision`, expected {wanted}: weights must not change"
            )
        return self
