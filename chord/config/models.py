"""Where a model comes from. Knows no files."""

from typing import Literal, Self

from pydantic import model_validator

from chord.config.base import Count, Frozen


class Architecture(Frozen):
    """A Llama small enough to be trained by the study itself; field names are those of LlamaConfig."""

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    max_position_embeddings: Count


class Model(Frozen):
    """Where the base model comes from: `random` is trained by the DAG, `package` unpacked from an installed wheel.

    `hub`: fetched by `chord fetch`; `revision` is a commit, tag or branch, and the study's lock file has the commit.
    """

    source: Literal["random", "package", "hub"]
    name: str
    revision: str | None = None
    architecture: Architecture | None = None
    alphabet: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.source == "random") != (self.architecture is not None and self.alphabet is not None):
            raise ValueError(
                f"found source {self.source}, expected `architecture` and `alphabet` with random, only there"
            )
        if self.source != "random" and self.revision is None:
            wanted = "a commit, tag or branch" if self.source == "hub" else "the version of the package"
            raise ValueError(
                f"found source {self.source} without `revision`, expected {wanted}: weights must not change"
            )
        return self
