"""What vLLM's worker learns from us: to take a policy's weights, and to say which weights it computes with.

vLLM adds `PolicyWeights` to its own worker class (option `worker_extension_cls`) and lets its methods be called by
name, in the same process or over HTTP. Knows vLLM's models by their attributes alone and imports none of it.

On a CPU vLLM packs the matrices of linear layers and drops the originals. They are read back by applying the layer to
the identity: products with 1 and 0 are exact, so the result is the packed matrix, bit for bit.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from chord.sampling.checksums import checksum

ROWS = 256  # of the identity at one time


class PolicyWeights:
    """Methods for vLLM's worker, whose `model_runner` and `reload_weights` they use."""

    model_runner: Any
    reload_weights: Any
    policy_version: int = -1

    def take_policy(
        self, version: int, weights: Iterable[tuple[str, Tensor]] | None = None, folder: str | None = None
    ) -> None:
        """Takes all weights, given as such or as a folder of safetensors, and remembers which `version` they are."""
        self.reload_weights(weights_iterator=weights, weights_path=folder)
        repack_tied_head(self.model_runner.get_model())
        self.policy_version = int(version)

    def policy_checksums(self) -> dict[str, Any]:
        """The version taken last, and a checksum of each weight that is computed with, by its name in a checkpoint."""
        sums = {name: str(checksum(held)) for name, held in weights_held(self.model_runner.get_model())}
        return {"version": self.policy_version, "dtype": str(self.model_runner.dtype), "checksums": sums}


def repack_tied_head(model: nn.Module) -> None:
    """Packs an output head anew whose weight is the embedding's.

    vLLM 0.32 leaves it out when weights are loaded anew on a CPU: the head goes on with the weights of before.
    """
    head: Any = getattr(model, "lm_head", None)
    embedding: Any = getattr(getattr(model, "model", None), "embed_tokens", None)
    if head is None or embedding is None or not hasattr(head, "cpu_linear"):
        return
    if model.config.tie_word_embeddings:  # pyright: ignore[reportAttributeAccessIssue] # of every vLLM model
        head.weight = embedding.weight
        head.quant_method.process_weights_after_loading(head)


def weights_held(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each weight by the name that it has in a checkpoint of transformers: fused ones taken apart, padding cut off."""
    fused: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    for name, module in model.named_modules():
        own: Any = module
        for part, parameter in module.named_parameters(recurse=False):
            held = parameter.detach()
            if part == "weight" and hasattr(module, "cpu_linear") and not _only_looked_up(module):
                held = _unpacked(own)
            if hasattr(module, "org_vocab_size"):
                held = held[: own.org_vocab_size]
            head, _, last = name.rpartition(".")
            names = fused.get(last, [last])
            sizes = own.output_partition_sizes if len(names) > 1 else [held.shape[0]]
            for one, tensor in zip(names, held.split(sizes), strict=True):
                yield f"{head}.{one}.{part}".lstrip("."), tensor


def _only_looked_up(module: nn.Module) -> bool:
    """Whether rows of the weight are read as they are, as an embedding's are; an output head is multiplied with."""
    return hasattr(module, "org_vocab_size") and type(module).__name__ != "ParallelLMHead"


def _unpacked(module: Any) -> Tensor:
    """The matrix that the layer multiplies with, (outputs, inputs)."""
    inputs = getattr(module, "input_size_per_partition", None) or module.embedding_dim
    dtype, bias = module.weight.dtype, None
    columns = [
        module.cpu_linear(part.contiguous(), module.weight, bias)
        for part in torch.eye(inputs, dtype=dtype).split(ROWS)  # (rows, inputs) -> (rows, outputs)
    ]
    return torch.cat(columns).T
