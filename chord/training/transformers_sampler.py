"""A sampler in plain transformers, for small models and for tests of other samplers. R rows, V vocabulary.

Rows of one prompt share its prefill; finished rows leave the batch; keys and values are written in place.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear, pad
from transformers import PreTrainedModel

from chord.records import Request, Sampled, check_prompts
from chord.training.policy import Layout, computing_in, output_head, read_packed

SHRINK = 0.75  # rows are dropped once this share or less of them is still running
BLOCK = 256


class KeyValueStore:
    """Keys and values of the rows being decoded, written in place.

    R rows, H heads, K key-value heads, D head size, M the longest row.
    """

    def __init__(self, model: PreTrainedModel, rows: int, longest: int, dtype: torch.dtype) -> None:
        config = model.config
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 2, rows, config.num_key_value_heads, longest, size)
        self.values = torch.zeros(shape, dtype=dtype, device=model.device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=model.device)  # (R,) tokens stored so far
        self.width = 0  # the longest row so far
        self.ragged = False

    def fill(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Stores whole prompts, (R, K, L, D) each."""
        self.values[layer, 0, :, :, : keys.shape[2]] = keys
        self.values[layer, 1, :, :, : values.shape[2]] = values

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Stores and reads one new token a row: query (1, H, R, D), key and value (1, K, R, D) -> (1, R, H, D)."""
        keys, values = self._write(layer, key[0].transpose(0, 1), value[0].transpose(0, 1))
        rows, heads, width, size = keys.shape
        grouped = query[0].transpose(0, 1).reshape(rows, heads, -1, size)  # (R, K, H/K, D)
        scores = torch.matmul(grouped, keys.transpose(2, 3)) * scaling  # (R, K, H/K, width)
        if self.ragged:
            unseen = torch.arange(width, device=scores.device) >= self.lengths[:, None]  # (R, width)
            scores = scores.masked_fill(unseen[:, None, None], float("-inf"))
        out = torch.matmul(scores.softmax(dim=-1), values)  # (R, K, H/K, D)
        return out.reshape(1, rows, -1, size)

    def _write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Stores one token a row, (R, K, D) each, and gives all keys and values so far, (R, K, width, D)."""
        store = self.values[layer]
        if self.ragged:
            rows = torch.arange(len(self.lengths), device=key.device)
            store[0, rows, :, self.lengths - 1] = key.to(store.dtype)
            store[1, rows, :, self.lengths - 1] = value.to(store.dtype)
        else:
            store[0, :, :, self.width - 1] = key
            store[1, :, :, self.width - 1] = value
        return store[0, :, :, : self.width], store[1, :, :, : self.width]

    def keep(self, rows: Tensor) -> None:
        """Only these rows stay."""
        self.values = self.values[:, :, rows]
        self.lengths = self.lengths[rows]


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
        self.end_ids = torch.tensor(list(end_ids), device=model.device)
        self.rows = rows
        self.context: int = model.config.max_position_embeddings

    def sample(self, requests: Sequence[Request], max_tokens: int, temperature: float) -> list[Sampled]:
        """One response for each request, in order. Raises PromptError for an empty or over-long prompt."""
        check_prompts(requests, max_tokens, self.context)
        order = sorted(range(len(requests)), key=lambda index: (len(requests[index].prompt_ids), index))
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
        draws = torch.from_numpy(np.stack(uniforms)).to(self.model.device)  # (R, max_tokens)
        store, hidden = self._prefill([r.prompt_ids for r in requests], max_tokens)
        running = torch.arange(len(requests), device=self.model.device)  # rows still in the store
        alive = torch.ones(len(requests), dtype=torch.bool, device=self.model.device)  # of those, not yet ended
        tokens = torch.full((max_tokens, len(requests)), -1, device=self.model.device)
        logps = torch.zeros((max_tokens, len(requests)), dtype=torch.float64, device=self.model.device)
        for step in range(max_tokens):
            chosen, logp = self._draw(hidden, draws[running, step], temperature)
            live = running[alive]
            tokens[step, live], logps[step, live] = chosen[alive], logp[alive]
            alive &= ~torch.isin(chosen, self.end_ids)
            left = int(alive.sum())
            if left == 0 or step == max_tokens - 1:
                break
            if left <= SHRINK * len(alive):
                store.keep(alive.nonzero()[:, 0])
                running, chosen, alive = running[alive], chosen[alive], alive[alive]
            hidden = self._decode(store, chosen)
        return self._collect(tokens, logps)

    def _prefill(self, prompts: list[tuple[int, ...]], max_tokens: int) -> tuple[KeyValueStore, Tensor]:
        """The store with all prompts in it, and each row's last hidden state (R, C); equal prompts are read once."""
        distinct = list(dict.fromkeys(prompts))
        place = {prompt: index for index, prompt in enumerate(distinct)}
        rows = torch.tensor([place[prompt] for prompt in prompts], device=self.model.device)
        lengths = tuple(len(prompt) for prompt in distinct)
        store = KeyValueStore(self.model, len(distinct), max(lengths) + max_tokens, self.compute_dtype)
        ids = torch.tensor([[token for prompt in distinct for token in prompt]], device=self.model.device)
        positions = torch.tensor([[p for n in lengths for p in range(n)]], device=self.model.device)
        layout = Layout.of(lengths, self.model.device)
        out = read_packed(self.model, ids, positions, layout=layout, store=store)  # (T, C)
        store.lengths = torch.tensor(lengths, device=self.model.device)
        store.width, store.ragged = max(lengths), len(set(lengths)) > 1
        last = torch.cumsum(store.lengths, 0) - 1
        store.keep(rows)
        return store, out[last][rows]

    def _decode(self, store: KeyValueStore, tokens: Tensor) -> Tensor:
        """One token more for each row of the store. (R,) -> (R, C)."""
        positions = store.lengths.clone()
        store.lengths = store.lengths + 1
        store.width += 1
        return read_packed(self.model, tokens[None], positions[None], store=store)

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
        """Columns of two matrices (max_tokens, R), cut where they end."""
        ends = cast("list[int]", self.end_ids.tolist())
        rows = cast("list[list[int]]", tokens.T.tolist())
        results: list[Sampled] = []
        for row, logp in zip(rows, cast("list[list[float]]", logps.T.tolist()), strict=True):
            length = row.index(-1) if -1 in row else len(row)
            finish = "stop" if row[length - 1] in ends else "length"
            results.append(Sampled(row[:length], logp[:length], finish))
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
