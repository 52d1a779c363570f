"""How fast the samplers are: a bare loop, transformers' own generate(), this project's sampler in transformers, vLLM.

    python -m benchmarks.samplers --model smollm2 --prompts 4 --per-prompt 8 --longest 48

All sample the same number of responses to the same prompts of uneven lengths, at temperature 1 from the whole
distribution, and end at the model's end token or at the limit. Speed is response tokens a second. `bare` is the least
that decoding takes: the model over a static cache, a softmax, a draw, until all rows have ended. It and generate() give
no log-probabilities and take no seed for each request; the others do. vLLM is left out where it is not installed. Its
memory is not told: it takes a share at its start.
"""

import argparse
import copy
import importlib.util
import random
import tempfile
from collections.abc import Callable
from collections.abc import Sequence as List
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, StaticCache

from benchmarks.common import MODELS, alternate, device_here, model_of, show
from chord.records import Request, Sampler
from chord.sampling.vllm_sampler import Engine, VllmSampler
from chord.training.policy import DTYPES, computing_in
from chord.training.transformers_sampler import TransformersSampler

SAMPLERS = ("bare", "generate", "ours", "vllm")


def main(words: List[str] | None = None) -> None:
    """Measures the samplers and prints a table."""
    args = arguments(words)
    torch.set_num_threads(args.threads)
    device = device_here()
    model = model_of(args.model, device)
    asked = requests(model, args.prompts, args.per_prompt)
    makers = {"bare": of_bare, "generate": of_generate, "ours": of_ours, "vllm": of_vllm}
    chosen = [name for name in args.samplers if name != "vllm" or importlib.util.find_spec("vllm")]
    variants = {name: makers[name](model, asked, args) for name in chosen}
    measured = alternate(variants, args.rounds, device)
    measured = [replace(one, peak_mb=float("nan")) if one.name == "vllm" else one for one in measured]
    what = f"{args.prompts} prompts, {args.per_prompt} responses each of up to {args.longest} tokens"
    show(f"samplers: {args.model}, {args.dtype}, {what}, {args.rounds} rounds", measured, device)


def arguments(words: List[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.samplers", description=__doc__.partition("\n")[0])
    parser.add_argument("--samplers", choices=SAMPLERS, nargs="+", default=SAMPLERS)
    parser.add_argument("--model", choices=MODELS, default="demo")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    for name, default in (("prompts", 16), ("per-prompt", 8), ("longest", 48), ("rounds", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args(words)


def requests(model: PreTrainedModel, prompts: int, each: int) -> list[Request]:
    """`each` requests to each of so many prompts of 8 to 16 tokens."""
    chance = random.Random(1)
    texts = [
        tuple(chance.randrange(5, model.config.vocab_size) for _ in range(chance.randint(8, 16)))
        for _ in range(prompts)
    ]
    return [Request(f"p{at} {k}", text, at * each + k) for at, text in enumerate(texts) for k in range(each)]


def ends_of(model: PreTrainedModel) -> list[int]:
    """The model's end tokens."""
    found = model.config.eos_token_id
    return list(found) if isinstance(found, list) else [int(found)]


def padded(asked: List[Request], ends: List[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The prompts padded on the left, and which tokens are real; R rows of the longest, (R, L) each."""
    longest = max(len(one.prompt_ids) for one in asked)
    padding = [longest - len(one.prompt_ids) for one in asked]
    rows = [[ends[0]] * pad + list(one.prompt_ids) for pad, one in zip(padding, asked, strict=True)]
    seen = [[0] * pad + [1] * (longest - pad) for pad in padding]
    return torch.tensor(rows, device=device), torch.tensor(seen, device=device)


def counted(answers: Tensor, ends: List[int]) -> int:
    """How many tokens the rows have up to their end tokens, these included."""
    ended = torch.isin(answers, torch.tensor(ends, device=answers.device)).cumsum(1) > 0
    return int((~ended).sum() + ended.any(1).sum())


def of_bare(model: PreTrainedModel, asked: List[Request], args: argparse.Namespace) -> Callable[[], int]:
    """A loop over the model with a static cache: nothing but forward passes and draws."""
    other = copy.deepcopy(model)
    other.set_attn_implementation("sdpa")
    ids, seen = padded(asked, ends_of(model), model.device)
    rows, longest = ids.shape
    width = longest + args.longest
    places = torch.arange(width, device=model.device)
    real = torch.cat([seen == 1, torch.ones(rows, args.longest, dtype=torch.bool, device=model.device)], dim=1)
    mask = (real[:, None] & (places <= places[:, None]))[:, None]  # (R, 1, width, width): causal, padding unseen
    mask |= places == places[:, None]  # padding sees itself: a softmax over nothing is nan
    positions = (real.cumsum(1) - 1).clamp(min=0)
    ends = torch.tensor(ends_of(model), device=model.device)

    def run() -> int:
        cache = StaticCache(config=other.config, max_cache_len=width)
        told, answers, here = ids, list[Tensor](), slice(0, longest)
        ended = torch.zeros(rows, dtype=torch.bool, device=model.device)
        with torch.no_grad(), computing_in(DTYPES[args.dtype], model.device):
            while len(answers) < args.longest and not bool(ended.all()):
                out = other(
                    told, attention_mask=mask[:, :, here], position_ids=positions[:, here], past_key_values=cache,
                    use_cache=True, logits_to_keep=1,
                )  # fmt: skip
                told = torch.multinomial(out.logits[:, -1].float().softmax(-1), 1)
                answers.append(told)
                ended |= torch.isin(told[:, 0], ends)
                here = slice(longest + len(answers) - 1, longest + len(answers))
        return counted(torch.cat(answers, dim=1), ends_of(model))

    return run


def of_generate(model: PreTrainedModel, asked: List[Request], args: argparse.Namespace) -> Callable[[], int]:
    """generate() on prompts padded on the left, its rows those of the requests."""
    other = copy.deepcopy(model)
    other.set_attn_implementation("sdpa")
    ends = ends_of(model)
    ids, mask = padded(asked, ends, model.device)

    def run() -> int:
        with torch.no_grad(), computing_in(DTYPES[args.dtype], model.device):
            out = other.generate(
                ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=args.longest, eos_token_id=ends, pad_token_id=ends[0],
            )  # fmt: skip
        return counted(out[:, ids.shape[1] :], ends)

    return run


def of_ours(model: PreTrainedModel, asked: List[Request], args: argparse.Namespace) -> Callable[[], int]:
    """The sampler in transformers, on the very model that learns."""
    sampler = TransformersSampler(model, ends_of(model), len(asked), DTYPES[args.dtype])
    return lambda: sampled(sampler, asked, args.longest)


def of_vllm(model: PreTrainedModel, asked: List[Request], args: argparse.Namespace) -> Callable[[], int]:
    """vLLM in this process, holding the same weights; what it compiles is left out."""
    engine = Engine(
        dtype=args.dtype, rows=len(asked), context=256, memory_share=0.3 if torch.cuda.is_available() else None
    )
    with tempfile.TemporaryDirectory() as folder:
        config = copy.deepcopy(model.config)
        config._attn_implementation = "sdpa"
        config.save_pretrained(folder)
        sampler = VllmSampler(Path(folder), ends_of(model), engine)
    sampler.take(model.named_parameters(), 0)
    return lambda: sampled(sampler, asked, args.longest)


def sampled(sampler: Sampler, asked: List[Request], longest: int) -> int:
    """How many tokens the responses have."""
    return sum(len(one.ids) for one in sampler.sample(asked, longest, 1.0))


if __name__ == "__main__":
    main()
