"""How fast a CHORD step is, and what it holds: against a bare loop, padded, layers computed again, deterministic.

    python -m benchmarks.learner bare --model tiny
    python -m benchmarks.learner packing --model smollm2 --rollouts 16 --experts 4 --longest 96
    python -m benchmarks.learner recompute
    python -m benchmarks.learner deterministic

A step here is forward and backward of rollouts and expert traces at mu = 0.1 with phi = p(1-p); the update, which is
the same everywhere, is left out. `bare` is the least that PyTorch has to do for the gradient of the same tokens: one
packed row, all logits, the loss, backward; nothing is packed, counted, measured, split or checked. `packing` compares
with the way of the published implementations, written here for the purpose: rollouts and experts each in a padded batch
of their own, logits of all places at once. Before anything is timed, ours and what it is compared with have to give the
same gradient.
"""

import argparse
import os
from collections.abc import Callable
from collections.abc import Sequence as List

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear
from transformers import PreTrainedModel

from benchmarks.common import MODELS, alternate, batch_of, device_here, model_of, show
from chord.config.study import Arithmetic, PolicyLoss, Recipe
from chord.objective import MuConstant
from chord.training import policy
from chord.training.engine import Plain, World
from chord.training.gradient import Sequence, accumulate_gradient, pack, plan
from chord.training.policy import DTYPES, Layout, computing_in, output_head, read_packed, recompute_layers

MU = 0.1
POLICY_LOSS = PolicyLoss(clip_low=0.2, clip_high=0.2, advantage_epsilon=1e-6)
# Sums in another order in float32; in bfloat16 each product is rounded to three digits, and other shapes round others.
SAME = {"float32": 1e-3, "bfloat16": 1e-1}


def main(words: List[str] | None = None) -> None:
    """Measures what the command line asks for and prints a table."""
    args = arguments(words)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic products on CUDA ask for it
    torch.set_num_threads(args.threads)
    device = device_here()
    model = model_of(args.model, device)
    batch = batch_of(model.config.vocab_size, args.rollouts, args.experts, args.longest)
    comparisons = {"bare": bare, "packing": packing, "recompute": recompute, "deterministic": deterministic}
    variants = comparisons[args.what](model, batch, args)
    size = f"{args.rollouts} rollouts and {args.experts} expert traces, {sum(map(len, batch)):,} tokens"
    what = f"{args.what}: {args.model}, {args.dtype}, {size}, {args.rounds} rounds"
    show(what, alternate(variants, args.rounds, device), device)


def arguments(words: List[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learner", description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("bare", "packing", "recompute", "deterministic"))
    parser.add_argument("--model", choices=MODELS, default="demo")
    parser.add_argument("--dtype", choices=tuple(SAME), default="float32", help="of products; weights are float32")
    for name, default in (("rollouts", 64), ("experts", 16), ("longest", 48), ("rounds", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    parser.add_argument("--logit-chunk-tokens", type=int, default=512)
    return parser.parse_args(words)


def bare(model: PreTrainedModel, batch: List[Sequence], args: argparse.Namespace) -> dict[str, Callable[[], int]]:
    """A bare loop and ours, after they have given the same gradient. Raises ValueError if they do not."""
    ordered = [batch[at] for at in plan([len(one) for one in batch], sum(map(len, batch)))[0]]
    packed, head, dtype = pack(ordered, model.device, torch.float32), output_head(model), DTYPES[args.dtype]
    layout = Layout.of(packed.lengths, model.device)
    expert, count = packed.is_expert, packed.is_expert.sum()
    share = torch.where(expert, MU / count, (1 - MU) / (len(expert) - count))

    def step() -> int:
        model.set_attn_implementation(policy.PACKED)
        model.zero_grad(set_to_none=True)
        with computing_in(dtype, model.device):
            hidden = read_packed(model, packed.ids, packed.positions, layout=layout)[packed.source]
            logits = linear(hidden, head.weight, head.bias)
        loss = cross_entropy(logits.float(), packed.target, reduction="none")  # minus the log-probability
        p = (-loss.detach()).exp()
        (torch.where(expert, p * (1 - p), packed.advantage) * share * loss).sum().backward()
        return sum(map(len, batch))

    return agreed(model, {"bare": step, "ours": packed_step(model, batch, args)}, args.dtype)


def packing(model: PreTrainedModel, batch: List[Sequence], args: argparse.Namespace) -> dict[str, Callable[[], int]]:
    """Padded and packed, after they have given the same gradient. Raises ValueError if they do not."""
    dtype = DTYPES[args.dtype]

    def padded() -> int:
        model.zero_grad(set_to_none=True)
        padded_step(model, batch, dtype)
        return sum(map(len, batch))

    return agreed(model, {"padded": padded, "packed": packed_step(model, batch, args)}, args.dtype)


def agreed(model: PreTrainedModel, steps: dict[str, Callable[[], int]], dtype: str) -> dict[str, Callable[[], int]]:
    """The two steps, if they give the same gradient. Raises ValueError if they do not."""
    gradients: list[list[Tensor]] = []
    for step in steps.values():
        step()
        gradients.append([one.grad.detach().clone() for one in model.parameters() if one.grad is not None])
    apart = sum(float((a - b).double().square().sum()) for a, b in zip(*gradients, strict=True)) ** 0.5
    error = apart / sum(float(one.double().square().sum()) for one in gradients[0]) ** 0.5
    if not error <= SAME[dtype]:
        raise ValueError(f"found gradients {error:.2g} apart, expected at most {SAME[dtype]:g}: no comparison")
    return steps


def packed_step(model: PreTrainedModel, batch: List[Sequence], args: argparse.Namespace) -> Callable[[], int]:
    """The step as `chord train` makes it."""
    engine = Plain(model, torch.optim.AdamW(model.parameters()), World())
    recipe = Recipe(
        init="base",
        mu=MuConstant(value=MU),
        expert_tokens={"weight": "p(1-p)"},  # pyright: ignore[reportArgumentType]
        steps=1,
        learning_rate=1.0,
        keep="last",
    )
    how = Arithmetic(
        compute_dtype=args.dtype,
        micro_batch_tokens=args.micro_batch_tokens,
        sampler_rows=1,
        logit_chunk_tokens=args.logit_chunk_tokens,
        deterministic=False,
    )

    def step() -> int:
        model.set_attn_implementation(policy.PACKED)
        model.zero_grad(set_to_none=True)
        accumulate_gradient(engine, batch, MU, recipe, POLICY_LOSS, how, 1.0)
        return sum(map(len, batch))

    return step


def padded_step(model: PreTrainedModel, batch: List[Sequence], dtype: torch.dtype) -> None:
    """Two padded batches, two forward passes, whole logits: the gradient of the same loss. B rows, L the longest."""
    model.set_attn_implementation("sdpa")
    for expert in (False, True):
        rows = [sequence for sequence in batch if sequence.is_expert is expert]
        if not rows:
            continue
        ids, seen, answers = padded_rows(rows, model.device)
        with computing_in(dtype, model.device):
            logits = model(input_ids=ids, attention_mask=seen, use_cache=False).logits  # (B, L, V)
        logp = logits[:, :-1].float().log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]  # (B, L-1)
        if expert:
            p = logp.detach().exp()
            loss, share = -(p * (1 - p) * logp), MU
        else:
            advantage = torch.tensor([[sequence.advantage] for sequence in rows], device=model.device)
            ratio = (logp - logp.detach()).exp()
            loss, share = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage), 1 - MU
        (share * (loss * answers).sum() / answers.sum()).backward()


def padded_rows(rows: List[Sequence], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids (B, L), which of them are real (B, L), and which predictions are of response tokens (B, L-1)."""
    longest = max(map(len, rows))
    texts = [[*one.prompt, *one.response] for one in rows]
    ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts], device=device)
    seen = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts], device=device)
    place = torch.arange(1, longest, device=device)
    begins = torch.tensor([[len(one.prompt)] for one in rows], device=device)
    return ids, seen, (place >= begins) & (seen[:, 1:] == 1)


def recompute(model: PreTrainedModel, batch: List[Sequence], args: argparse.Namespace) -> dict[str, Callable[[], int]]:
    """Layers' inner states kept, and made again in the backward pass."""
    step = packed_step(model, batch, args)

    def again() -> int:
        recompute_layers(model)
        tokens = step()
        model.gradient_checkpointing_disable()
        model.eval()
        return tokens

    return {"kept": step, "computed again": again}


def deterministic(
    model: PreTrainedModel, batch: List[Sequence], args: argparse.Namespace
) -> dict[str, Callable[[], int]]:
    """PyTorch's fastest algorithms, and its deterministic ones."""
    step = packed_step(model, batch, args)

    def switched(on: bool) -> int:
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(on)
        torch.utils.deterministic.fill_uninitialized_memory = False  # as in `chord train`
        try:
            return step()
        finally:
            torch.use_deterministic_algorithms(before)

    return {"fastest": lambda: switched(False), "deterministic": lambda: switched(True)}


if __name__ == "__main__":
    main()
