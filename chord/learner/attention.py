"""Attention over packed sequences, registered with transformers under one name.

S sequences, T tokens, L the longest sequence, H heads, D head size. All other layers of a model see exactly T tokens;
only attention is unfolded to (S, H, L, D). Right padding is safe under a causal mask: a real query never looks ahead.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "chord_packed"


@dataclass(frozen=True)
class Layout:
    """Where each token of a packed row lies in the unfolded (S, L) grid, and back."""

    unfold: Tensor  # (S, L): token index, or T for padding
    fold: Tensor  # (T,): index into the flattened grid

    @classmethod
    def of(cls, lengths: tuple[int, ...], device: torch.device) -> "Layout":
        """The layout of sequences with these lengths."""
        sizes = torch.tensor(lengths, device=device)
        longest = int(sizes.max())
        starts = torch.cumsum(sizes, 0) - sizes
        place = torch.arange(longest, device=device)
        real = place < sizes[:, None]  # (S, L)
        unfold = torch.where(real, starts[:, None] + place, int(sizes.sum()))
        return cls(unfold=unfold, fold=real.flatten().nonzero().squeeze(1))


class KeyValueStore:
    """Keys and values of the rows being decoded, written in place. R rows, K key-value heads, M the longest row."""

    def __init__(
        self, layers: int, rows: int, heads: int, longest: int, size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (layers, 2, rows, heads, longest, size)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)  # (R,) tokens stored so far
        self.width = 0  # the longest row so far
        self.ragged = False

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Stores one token a row, (R, K, D) each, and gives all keys and values so far, (R, K, width, D)."""
        rows = torch.arange(len(self.lengths), device=key.device)
        place = self.lengths - 1
        store = self.values[layer]
        if self.ragged:
            store[0, rows, :, place] = key.to(store.dtype)
            store[1, rows, :, place] = value.to(store.dtype)
        else:
            store[0, :, :, self.width - 1] = key
            store[1, :, :, self.width - 1] = value
        return store[0, :, :, : self.width], store[1, :, :, : self.width]

    def fill(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Stores whole prompts, (R, K, L, D) each."""
        self.values[layer, 0, :, :, : keys.shape[2]] = keys
        self.values[layer, 1, :, :, : values.shape[2]] = values

    def keep(self, rows: Tensor) -> None:
        """Only these rows stay."""
        self.values = self.values[:, :, rows]
        self.lengths = self.lengths[rows]


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    layout: Layout | None = None,
    store: KeyValueStore | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """transformers' attention signature: query (1, H, T, D) -> output (1, T, H, D)."""
    if layout is None and store is None:
        raise ValueError("packed attention was called without a layout; use chord.learner.policy to run the model")
    if layout is None:
        assert store is not None
        return _attend_one(module, query, key, value, scaling, store), None
    unfolded = [_unfold(part, layout) for part in (query, key, value)]  # (S, H or K, L, D)
    if store is not None:
        store.fill(module.layer_idx, unfolded[1], unfolded[2])  # type: ignore[arg-type]  # set by every attention module
    groups = unfolded[0].shape[1] // unfolded[1].shape[1]
    if groups > 1:
        unfolded[1:] = [part.repeat_interleave(groups, dim=1) for part in unfolded[1:]]
    out = scaled_dot_product_attention(*unfolded, dropout_p=dropout, is_causal=True, scale=scaling)
    flat = out.transpose(1, 2).flatten(0, 1)  # (S*L, H, D)
    return flat[layout.fold][None], None


def _unfold(part: Tensor, layout: Layout) -> Tensor:
    """(1, H, T, D) -> (S, H, L, D); padding reads a row of zeros behind the last token."""
    tokens = part[0].transpose(0, 1)  # (T, H, D)
    padded = torch.cat([tokens, tokens.new_zeros(1, *tokens.shape[1:])])
    return padded[layout.unfold].transpose(1, 2)


def _attend_one(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float, store: KeyValueStore
) -> Tensor:
    """One new token for each row: query (1, H, R, D) -> (1, R, H, D)."""
    layer: int = module.layer_idx  # type: ignore[assignment]  # set by every attention module
    keys, values = store.write(layer, key[0].transpose(0, 1), value[0].transpose(0, 1))
    rows, heads, width, size = keys.shape
    grouped = query[0].transpose(0, 1).reshape(rows, heads, -1, size)  # (R, K, H/K, D)
    scores = torch.matmul(grouped, keys.transpose(2, 3)) * scaling  # (R, K, H/K, width)
    if store.ragged:
        unseen = torch.arange(width, device=scores.device) >= store.lengths[:, None]  # (R, width)
        scores = scores.masked_fill(unseen[:, None, None], float("-inf"))
    out = torch.matmul(scores.softmax(dim=-1), values)  # (R, K, H/K, D)
    return out.reshape(1, rows, -1, size)


def register() -> None:
    """From here on transformers knows this attention under `NAME`."""
    AttentionInterface.register(NAME, _attend)
