"""The policy: a transformers causal LM over packed rows. T tokens, N response tokens, V vocabulary, C hidden size."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from chord.learner import attention
from chord.learner.packing import Packed

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


class TokenStatistics(NamedTuple):
    """What the policy thinks of each response token, in nats. Only `logp` carries a gradient."""

    logp: Tensor  # (N,)
    entropy: Tensor  # (N,)


def weights_dtype(compute_dtype: torch.dtype) -> torch.dtype:
    """What the weights of a policy are held in. Updates of a small learning rate would be rounded away in bfloat16."""
    return torch.float64 if compute_dtype == torch.float64 else torch.float32


def load_policy(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model (in evaluation mode, weights in `dtype`, packed attention) and tokenizer saved in `folder`."""
    attention.register()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention.NAME, local_files_only=True, use_safetensors=True
    )
    return as_policy(model), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def configured_ends(model: PreTrainedModel) -> int | list[int] | None:
    """The tokens that end a response by the model's generation settings; there may be others."""
    found: Any = getattr(model.generation_config, "eos_token_id", None)
    return found


def output_head(model: PreTrainedModel) -> nn.Linear:
    """The layer that turns hidden states into logits."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ValueError(f"found an output layer of type {type(head).__name__}, expected torch.nn.Linear")
    return head


def as_policy(model: PreTrainedModel) -> PreTrainedModel:
    """The same model in evaluation mode under packed attention."""
    attention.register()
    model.set_attn_implementation(attention.NAME)
    return model.eval()


def full_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Each parameter by name, shared ones once, whole on the model's device, also where ranks hold parts of it.

    A tensor is the parameter's own storage or a gathered copy: read it before the next one is asked for. Where ranks
    hold parts (ZeRO-3), each of them has to go through all.
    """
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter]):
                yield name, parameter.detach()
        else:
            yield name, parameter.detach()


def recompute_layers(model: PreTrainedModel) -> None:
    """From here on the backward pass makes each layer's inner states again instead of keeping them; same gradients.

    transformers does so in training mode alone. Only the layers are put into it: what they hold stays in evaluation
    mode, so nothing is dropped out.
    """
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.training = True


def read_packed(model: PreTrainedModel, ids: Tensor, positions: Tensor, **places: object) -> Tensor:
    """The last hidden states of a packed row, (1, T) -> (T, C).

    Raises ValueError for a model under another attention, which would let sequences see each other.
    """
    if model.config._attn_implementation != attention.NAME:
        raise ValueError(
            f"found attention '{model.config._attn_implementation}', expected '{attention.NAME}' (`as_policy`)"
        )
    out = model.base_model(input_ids=ids, position_ids=positions, use_cache=False, **places)
    return out.last_hidden_state[0]


def computing_in(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Within it, bfloat16 means: matrix products and attention in bfloat16, weights and the residual stream as stored.

    Other dtypes are those of the weights themselves. Weights are cast once and kept until the block ends, so no block
    may see both a forward and a change of the weights.
    """
    return torch.autocast(device.type, dtype, enabled=dtype == torch.bfloat16)


def token_statistics(
    model: PreTrainedModel, batch: Packed, chunk_tokens: int, compute_dtype: torch.dtype, temperature: float = 1.0
) -> TokenStatistics:
    """Log-probability and entropy of every response token of the micro-batch.

    Logits are made `chunk_tokens` rows at a time and made again in the backward pass, so that (N, V) never exists.
    Statistics are taken in float32 (float64 for a float64 model). `temperature` divides the logits, as in sampling.
    """
    layout = attention.Layout.of(batch.lengths, batch.ids.device)
    with computing_in(compute_dtype, batch.ids.device):
        hidden = read_packed(model, batch.ids, batch.positions, layout=layout)[batch.source]  # (N, C)
        head = output_head(model)
        parts: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(hidden), chunk_tokens):
            here = slice(start, start + chunk_tokens)
            args = (hidden[here], head.weight, head.bias, batch.target[here], temperature)
            one_chunk = len(hidden) <= chunk_tokens or not torch.is_grad_enabled()
            parts.append(_statistics(*args) if one_chunk else checkpoint(_statistics, *args, use_reentrant=False))
    return TokenStatistics(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))


def _statistics(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """(n, C), (V, C), (V,) or None, (n,) -> log-probability (n,) and entropy (n,) of one chunk."""
    logits = linear(hidden, weight, bias)
    logits = (logits if logits.dtype == torch.float64 else logits.float()) / temperature  # (n, V)
    logp = logits.log_softmax(dim=-1)
    with torch.no_grad():
        entropy = -(logp.exp() * logp).sum(dim=-1)
    return logp.gather(1, target[:, None])[:, 0], entropy
