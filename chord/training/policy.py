"""The policy: a transformers causal LM over packed rows. T tokens, N response tokens, V vocabulary, C hidden size."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.utils.checkpoint
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.modeling_layers import GradientCheckpointingLayer

if TYPE_CHECKING:
    from chord.training.gradient import Packed
    from chord.training.transformers_sampler import KeyValues

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


class TokenStatistics(NamedTuple):
    """What the policy thinks of each response token, in nats. Only `logp` carries a gradient."""

    logp: Tensor  # (N,)
    entropy: Tensor  # (N,)


def weights_dtype(compute_dtype: torch.dtype) -> torch.dtype:
    """What the weights of a policy are held in. Updates of a small learning rate would be rounded away in bfloat16."""
    return torch.float64 if compute_dtype == torch.float64 else torch.float32


def load_policy(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, `as_policy` with weights in `dtype`, and the tokenizer saved in `folder`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, use_safetensors=True)
    tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder, local_files_only=True))
    return as_policy(model), tokenizer


def configured_ends(model: PreTrainedModel) -> int | list[int] | None:
    """The tokens that end a response by the model's generation settings; there may be others."""
    found: Any = getattr(model.generation_config, "eos_token_id", None)
    return found


def output_head(model: PreTrainedModel) -> nn.Linear:
    """The layer that turns hidden states into logits."""
    head = cast(object, model.get_output_embeddings())
    if not isinstance(head, nn.Linear):
        raise ValueError(f"found an output layer of type {type(head).__name__}, expected torch.nn.Linear")
    return head


def as_policy(model: PreTrainedModel) -> PreTrainedModel:
    """The same model in evaluation mode under packed attention."""
    AttentionInterface.register(PACKED, _attend)
    model.set_attn_implementation(PACKED)
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
    config: Any = model.config
    if config._attn_implementation != PACKED:
        raise ValueError(f"found attention '{config._attn_implementation}', expected '{PACKED}' (`as_policy`)")
    out = model.base_model(input_ids=ids, position_ids=positions, use_cache=False, **places)
    return out.last_hidden_state[0]


def computing_in(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Within it, bfloat16 means: matrix products and attention in bfloat16, weights and the residual stream as stored.

    Other dtypes are those of the weights themselves. Weights are cast once and kept until the block ends, so no block
    may see both a forward and a change of the weights.
    """
    return torch.autocast(device.type, dtype, enabled=dtype == torch.bfloat16)


def token_statistics(
    model: PreTrainedModel, batch: "Packed", chunk_tokens: int, compute_dtype: torch.dtype, temperature: float = 1.0
) -> TokenStatistics:
    """Log-probability and entropy of every response token of the micro-batch.

    Logits are made `chunk_tokens` rows at a time and made again in the backward pass, so that (N, V) never exists.
    Statistics are taken in float32 (float64 for a float64 model). `temperature` divides the logits, as in sampling.
    """
    layout = Layout.of(batch.lengths, batch.ids.device)
    with computing_in(compute_dtype, batch.ids.device):
        hidden = read_packed(model, batch.ids, batch.positions, layout=layout)[batch.source]  # (N, C)
        head = output_head(model)
        again = cast(Any, torch.utils.checkpoint.checkpoint)
        parts: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(hidden), chunk_tokens):
            here = slice(start, start + chunk_tokens)
            args = (hidden[here], head.weight, head.bias, batch.target[here], temperature)
            one_chunk = len(hidden) <= chunk_tokens or not torch.is_grad_enabled()
            parts.append(_statistics(*args) if one_chunk else again(_statistics, *args, use_reentrant=False))
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


# --- attention over packed sequences -------------------------------------------------------------

# S sequences, T tokens, L the longest sequence, H heads, D head size. All other layers of a model see exactly T tokens;
# only attention is unfolded, each block of sequences of like lengths to (S, H, L, D). Right padding is safe under a
# causal mask: a real query never looks ahead.

PACKED = "chord_packed"
LIKE = 0.75  # the shortest sequence of a block, as a share of its longest


@dataclass(frozen=True)
class Layout:
    """Where each token of a packed row lies in blocks of (S, L) places, laid one after another, and back."""

    blocks: tuple[tuple[int, int], ...]  # S and L of each block
    unfold: Tensor  # (sum of S L,): token index; any at all for padding
    fold: Tensor  # (T,): index into the places of all blocks

    @classmethod
    def of(cls, lengths: tuple[int, ...], device: torch.device) -> "Layout":
        """The layout of sequences with these lengths; few blocks if they are sorted, longest first."""
        blocks: list[list[int]] = []
        for length in lengths:
            if not blocks or not LIKE * blocks[-1][0] <= length <= blocks[-1][0]:
                blocks.append([])
            blocks[-1].append(length)
        sizes = torch.tensor(lengths)
        longest = torch.tensor([block[0] for block in blocks for _ in block])  # (S,) of the block
        places, tokens = longest.cumsum(0) - longest, sizes.cumsum(0) - sizes  # (S,) where each begins
        fold = torch.arange(sum(lengths)) + (places - tokens).repeat_interleave(sizes)
        unfold = torch.zeros(int(longest.sum()), dtype=torch.long)
        unfold[fold] = torch.arange(len(fold))
        return cls(tuple((len(block), block[0]) for block in blocks), unfold.to(device), fold.to(device))


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    layout: Layout | None = None,
    store: "KeyValues | None" = None,
    **_: object,
) -> tuple[Tensor, None]:
    """transformers' attention signature: query (1, H, T, D) -> output (1, T, H, D).

    Whole sequences have a `layout`. A `store` alone has one new token a row.
    """
    layer: Any = module.layer_idx  # set by every attention module
    if layout is None:
        if store is None:
            raise ValueError("packed attention was called without a layout; use chord.training.policy to run the model")
        return store.attend(layer, query, key, value, scaling), None
    if store is not None:
        store.fill(layer, key, value)
    sizes = [sequences * longest for sequences, longest in layout.blocks]
    parts = [torch.split(part[0].transpose(0, 1)[layout.unfold], sizes) for part in (query, key, value)]
    outputs: list[Tensor] = []
    for shape, *unfolded in zip(layout.blocks, *parts, strict=True):
        q, k, v = (part.view(*shape, *part.shape[1:]).transpose(1, 2) for part in unfolded)  # (S, H or K, L, D)
        out = scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=k.shape[1] != q.shape[1]
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))  # (S L, H, D)
    return torch.cat(outputs)[layout.fold][None], None


# --- a model with random weights -----------------------------------------------------------------

PAD, END, USER, ASSISTANT = "<pad>", "<end>", "<user>", "<assistant>"
EMBEDDING_SPREAD = 0.05
RESIDUAL = ("o_proj.weight", "down_proj.weight")
CHAT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}" + USER + "{{ message['content'] }}"
    "{% else %}" + ASSISTANT + "{{ message['content'] }}" + END + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """One token a character of `alphabet`; four special tokens; a chat template. Other characters become <unk>."""
    vocabulary = {token: index for index, token in enumerate([PAD, END, USER, ASSISTANT, "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token="<unk>",
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT
    return wrapped


def blank_model(architecture: dict[str, int], tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama of this architecture with weights drawn from `seed` alone.

    ours: standard deviation 1/sqrt(inputs), further divided by sqrt(2 x layers) where a layer writes to the residual
    stream, and 0.05 for the embedding. With transformers' 0.02 throughout, a model this narrow learned nothing in the
    demo's 400 steps; so drawn, it answered two thirds of three-digit sums.
    """
    pad, end = (tokenizer.get_vocab()[token] for token in (PAD, END))
    sizes = {**architecture, "vocab_size": len(tokenizer), "pad_token_id": pad, "eos_token_id": end}
    config = LlamaConfig.from_dict({**sizes, "bos_token_id": None, "tie_word_embeddings": True})
    with torch.random.fork_rng(devices=[]):  # transformers draws initial weights from the global generator
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed % 2**63)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.dim() < 2:
            nn.init.ones_(parameter)
            continue
        spread = EMBEDDING_SPREAD if "embed" in name else 1 / math.sqrt(parameter.shape[1])
        if name.endswith(RESIDUAL):
            spread /= math.sqrt(2 * config.num_hidden_layers)
        nn.init.normal_(parameter, std=spread, generator=generator)
    model.generation_config.pad_token_id = pad
    model.generation_config.eos_token_id = end
    return model
