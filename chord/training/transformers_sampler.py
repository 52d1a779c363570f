"""A sampler in plain transformers, for small models and for tests of other samplers. R rows, V vocabulary.

Rows of one prompt share its prefill; finished rows leave the batch; keys and values are written in place.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention
from transformers import PreTrainedModel

from chord.records import Request, Sampled, check_prompts
from chord.training.policy import Layout, computing_in, output_head, read_packed

SHRINK = 0.75  # rows are dropped once this share or less of them is still running
BLOCK = 256
# Models that do the same operations whatever the numbers are; no mixture of experts, nothing that looks at positions.
TRACEABLE = ("llama", "qwen2", "qwen3")
ROTATIONS = ("default", "linear", "llama3", "yarn")


class KeyValues(NamedTuple):
    """Keys and values of the rows being decoded, written in place. R rows, K key-value heads, D head size, M columns.

    All prompts end in the same column, so that the next token of every row goes into the same one, the last of the W
    that are in use; a row never sees the columns before its prompt.
    """

    values: Tensor  # (layers, 2, R, K, M, D)
    bias: Tensor  # (R, 1, 1, W): -inf where nothing is seen
    row: Tensor | None = None  # (T,) of each prompt token
    column: Tensor | None = None  # (T,)

    @classmethod
    def of(cls, model: PreTrainedModel, prompts: Tensor, max_tokens: int, dtype: torch.dtype) -> "KeyValues":
        """Room for prompts of these lengths, (R,), and `max_tokens` behind them; W is M."""
        config, rows, width = model.config, len(prompts), int(prompts.max())
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        columns = torch.arange(width + max_tokens, device=model.device)
        shape = (config.num_hidden_layers, 2, rows, config.num_key_value_heads, len(columns), size)
        values = torch.zeros(shape, dtype=dtype, device=model.device)
        unseen = (columns < width - prompts[:, None])[:, None, None]
        bias = values.new_zeros(unseen.shape).masked_fill(unseen, float("-inf"))
        row = torch.arange(rows, device=model.device).repeat_interleave(prompts)
        column = torch.arange(len(row), device=model.device) - (torch.cumsum(prompts, 0) - width)[row]
        return cls(values, bias, row, column)

    def fill(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Stores all prompts, (1, K, T, D) each."""
        for part, tokens in enumerate((key, value)):
            self.values[layer, part][self.row, :, self.column] = tokens[0].transpose(0, 1).to(self.values.dtype)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Stores and reads one new token a row: query (1, H, R, D), key and value (1, K, R, D) -> (1, R, H, D)."""
        store, width = self.values[layer], self.bias.shape[3]
        for part, token in enumerate((key, value)):
            store[part, :, :, width - 1] = token[0].transpose(0, 1)
        keys, values = store[0, :, :, :width], store[1, :, :, :width]  # (R, K, W, D)
        grouped = query[0].transpose(0, 1).reshape(*keys.shape[:2], -1, keys.shape[3])  # (R, K, H/K, D)
        out = scaled_dot_product_attention(grouped, keys, values, attn_mask=self.bias, scale=scaling)
        return out.flatten(1, 2)[None]


class OneToken(nn.Module):
    """The policy as it reads one new token a row: tensors in, one tensor out, so that it can be traced."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, positions: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """(R,), (R,) and `KeyValues` -> the last hidden states (R, C)."""
        return read_packed(self.model, tokens[None], positions[None], store=KeyValues(values, bias))


class TransformersSampler:
    """Samples with the very model object that learns, so its weights are always the present ones.

    It computes in `compute_dtype` as the learner does, so that both see the same policy; the log-probabilities are
    those of the logits in float64, whatever they were computed in.
    """

    def __init__(
        self, model: PreTrainedModel, end_ids: Sequence[int], rows: int, compute_dtype: torch.dtype | None = None
    ) -> None:
        self.model = model
        self.compute_dtype = compute_dtype or model.dtype
        self.is_end = torch.zeros(output_head(model).out_features, dtype=torch.bool, device=model.device)
        self.is_end[list(end_ids)] = True
        config: Any = model.config
        self.traceable: bool = config.model_type in TRACEABLE and config.rope_parameters["rope_type"] in ROTATIONS
        self.traceable &= self.compute_dtype == model.dtype and not model.is_gradient_checkpointing
        self._untraced = OneToken(model)
        self._step: Callable[..., Tensor] = self._untraced
        self.rows = rows
        self.context: int = model.config.max_position_embeddings

    def sample(self, requests: Sequence[Request], max_tokens: int, temperature: float) -> list[Sampled]:
        """One response for each request, in order. Raises PromptError for an empty or over-long prompt."""
        check_prompts(requests, max_tokens, self.context)
        order = sorted(range(len(requests)), key=lambda index: (-len(requests[index].prompt_ids), index))
        results: dict[int, Sampled] = {}
        with torch.no_grad(), computing_in(self.compute_dtype, self.model.device):
            for start in range(0, len(order), self.rows):
                part = order[start : start + self.rows]
                sampled = self._sample_rows([requests[index] for index in part], max_tokens, temperature)
                results.update(zip(part, sampled, strict=True))
        return [results[index] for index in range(len(requests))]

    def _sample_rows(self, requests: list[Request], max_tokens: int, temperature: float) -> list[Sampled]:
        """One batch of rows, from prefill to the last end token."""
        uniforms = [np.random.Generator(np.random.Philox(key=r.seed)).random(max_tokens) for r in requests]
        draws = torch.from_numpy(np.stack(uniforms, axis=1)).to(self.model.device)  # (max_tokens, R)
        store, positions, hidden = self._prefill([r.prompt_ids for r in requests], max_tokens)
        width = store.bias.shape[3] - max_tokens
        rows = torch.arange(len(requests), device=self.model.device)  # those still in the store
        running = torch.ones_like(rows, dtype=torch.bool)  # of those, not yet ended
        tokens = torch.zeros_like(draws, dtype=torch.long)
        logps = torch.zeros_like(draws)
        for step in range(max_tokens):
            chosen, logp = self._draw(hidden, draws[step], temperature)
            tokens[step, rows], logps[step, rows] = chosen, logp  # what follows an end is cut off in `_collect`
            running &= ~self.is_end[chosen]
            left = int(running.sum())
            if left == 0 or step == max_tokens - 1:
                break
            if left <= SHRINK * len(running):
                store, draws = KeyValues(store.values[:, :, running], store.bias[running]), draws[:, running]
                rows, positions, chosen, running = (one[running] for one in (rows, positions, chosen, running))
            hidden = self._decode(chosen, positions + step, store.values, store.bias[..., : width + step + 1])
        return self._collect(tokens, logps)

    def _prefill(self, prompts: list[tuple[int, ...]], max_tokens: int) -> tuple[KeyValues, Tensor, Tensor]:
        """The store with all prompts in it, and for each row its tokens (R,) and last hidden state (R, C).

        Equal prompts are read once.
        """
        distinct = list(dict.fromkeys(prompts))
        place = {prompt: index for index, prompt in enumerate(distinct)}
        rows = torch.tensor([place[prompt] for prompt in prompts], device=self.model.device)
        sizes = tuple(len(prompt) for prompt in distinct)
        lengths = torch.tensor(sizes, device=self.model.device)
        store = KeyValues.of(self.model, lengths, max_tokens, self.compute_dtype)
        ids = torch.tensor([[token for prompt in distinct for token in prompt]], device=self.model.device)
        positions = torch.tensor([[p for n in sizes for p in range(n)]], device=self.model.device)
        out = read_packed(self.model, ids, positions, layout=Layout.of(sizes, self.model.device), store=store)  # (T, C)
        last = torch.cumsum(lengths, 0) - 1
        return KeyValues(store.values[:, :, rows], store.bias[rows]), lengths[rows], out[last][rows]

    def _decode(self, *inputs: Tensor) -> Tensor:
        """`OneToken`; where all numbers go the same way through the model, without the Python of its modules."""
        jit = cast(Any, torch.jit)
        if self.traceable and self._step is self._untraced:
            cast(
                Any, self.model.base_model
            ).loss_type = "ForCausalLM"  # tracing asks for it, and one unset is warned of
            with warnings.catch_warnings(action="ignore"):  # it is deprecated; compiling takes seconds, this 0.1
                self._step = jit.trace(self._untraced, inputs, check_trace=False)
        with jit.optimized_execution(False):
            return self._step(*inputs)

    def _draw(self, hidden: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Tokens by inverting the cumulative distribution at `uniform`. (R, C), (R,) -> (R,), (R,) nats."""
        head = output_head(self.model)
        logits = linear(hidden, head.weight, head.bias).double() / temperature
        logp = logits.log_softmax(dim=-1)  # (R, V)
        cumulative = _running_sum(logp.exp())
        chosen = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]
        chosen = chosen.clamp(max=logp.shape[-1] - 1)
        return chosen, logp.gather(1, chosen[:, None])[:, 0]

    def _collect(self, tokens: Tensor, logps: Tensor) -> list[Sampled]:
        """The columns of two matrices (max_tokens, R), up to the first end token."""
        ends = self.is_end[tokens]  # (max_tokens, R)
        stopped = cast("list[bool]", ends.any(0).tolist())
        lengths = cast("list[int]", (ends.int().argmax(0) + 1).tolist())
        rows = cast("list[list[int]]", tokens.T.tolist())
        results: list[Sampled] = []
        for row, logp, stop, length in zip(
            rows, cast("list[list[float]]", logps.T.tolist()), stopped, lengths, strict=True
        ):
            results.append(Sampled(row[:length], logp[:length], "stop") if stop else Sampled(row, logp, "length"))
        return results


def _running_sum(values: Tensor) -> Tensor:
    """The cumulative sum of each row, (R, V) -> (R, V)."""
    return running_sum_of_blocks(values) if values.is_cuda else values.cumsum(dim=-1)


def running_sum_of_blocks(values: Tensor) -> Tensor:
    """The cumulative sum of each row by matrix products: torch has no deterministic one on CUDA and raises."""
    rows, size = values.shape
    blocks = pad(values, (0, -size % BLOCK)).reshape(rows, -1, BLOCK)
    ones = torch.ones(BLOCK, BLOCK, dtype=values.dtype, device=values.device).triu()
    inside = blocks @ ones  # (R, V/BLOCK, BLOCK)
    totals = inside[:, :, -1]
    count = totals.shape[1]
    before = totals @ torch.ones(count, count, dtype=values.dtype, device=values.device).triu(diagonal=1)
    return (inside + before[:, :, None]).reshape(rows, -1)[:, :size]
