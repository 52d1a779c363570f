"""The policy: a transformers causal LM read over packed rows. T tokens, N response tokens, V vocabulary, C hidden size."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from chord.learner import attention
from chord.learner.packing import Packed

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


class TokenStatistics(NamedTuple):
    """What the policy thinks of each response token, in nats. Only `logp` carries a gradient."""

    logp: Tensor  # (N,)
    entropy: Tensor  # (N,)


def load_policy(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model (in evaluation mode, weights in `dtype`, packed attention) and tokenizer saved in `folder`."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=attention.NAME, local_files_only=True, use_safetensors=True
    )
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def token_statistics(
    model: PreTrainedModel, batch: Packed, chunk_tokens: int, compute_dtype: torch.dtype, temperature: float = 1.0
) -> TokenStatistics:
    """Log-probability and entropy of every response token of the micro-batch.

    Logits are made `chunk_tokens` rows at a time and made again in the backward pass, so that (N, V) never exists.
    Statistics are taken in float32 (float64 for a float64 model). `temperature` divides the logits, as in sampling.
    """
    layout = attention.Layout.of(batch.lengths, batch.ids.device)
    autocast = torch.autocast(batch.ids.device.type, compute_dtype, enabled=compute_dtype == torch.bfloat16)
    with autocast:
        hidden = model.base_model(
            input_ids=batch.ids, position_ids=batch.positions, layout=layout, use_cache=False
        ).last_hidden_state[0][batch.source]  # (N, C)
        head = model.get_output_embeddings()
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
