"""The step's loss written a second time: float64, one sequence after another, plain transformers, textbook formulas.

Shares no code with chord.objective or chord.training. Also builds the small models and batches of the parity tests.
"""

import copy
import math
import random

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from chord.config.study import Execution, PolicyLoss, Recipe
from chord.objective import MuConstant
from chord.training import policy
from chord.training.gradient import Sequence

VOCABULARY = 23
POLICY = PolicyLoss(clip_low=0.2, clip_high=0.2, advantage_epsilon=1e-6)


def small_model(kind="llama", dtype=torch.float64, seed=3):
    """Two layers, grouped keys and values, weights large enough for probabilities to differ."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": kind == "llama",
    }
    model = LlamaForCausalLM(LlamaConfig(**sizes)) if kind == "llama" else Qwen2ForCausalLM(Qwen2Config(**sizes))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__.endswith(
                "RMSNorm"
            ):  # transformers' own rounds to float32 inside, whatever its input
                norm = torch.nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(module, name, norm)
    model = model.to(dtype).eval()
    return policy.as_policy(model)


def plain_copy(model):
    """The same weights in float64 under the attention of transformers itself, without packing."""
    other = copy.deepcopy(model).double()
    other.set_attn_implementation("sdpa")  # eager rounds the softmax to float32
    return other


def random_batch(seed=0, rollouts=9, experts=5, equal_group=True):
    """Uneven lengths; advantages of two groups, the second one with equal rewards if asked for."""
    chance = random.Random(seed)
    token = lambda: chance.randrange(VOCABULARY)  # noqa: E731  # one line in a test
    made = []
    for index in range(rollouts + experts):
        prompt = tuple(token() for _ in range(chance.randrange(1, 7)))
        response = tuple(token() for _ in range(chance.randrange(1, 15)))
        expert = index >= rollouts
        advantage = 0.0 if expert or (equal_group and index % 3 == 0) else chance.uniform(-2, 2)
        logp = () if expert else tuple(chance.uniform(-4, -0.1) for _ in response)
        made.append(Sequence(f"s{index}", prompt, response, expert, advantage, logp))
    return made


def recipe(mu, weight="one", **values):
    """A recipe of which the gradient reads only the token weight and the method."""
    return Recipe(
        init="base",
        mu=MuConstant(value=mu),
        expert_tokens={"weight": weight, **values},
        steps=1,
        learning_rate=1.0,
        keep="last",
    )


def execution(budget, chunk=10_000, dtype="float64"):
    """Settings with this micro-batch budget and this many rows of logits at a time."""
    return Execution(
        compute_dtype=dtype,
        cpu_threads=1,
        micro_batch_tokens=budget,
        sampler_rows=64,
        logit_chunk_tokens=chunk,
        deterministic=True,
        checkpoint_every_steps=1,
        checkpoint_every_minutes=1.0,
    )


def reference_weight(kind, p, entropy, every_entropy):
    """The token weights of arXiv:2508.11408, as plain numbers."""
    most_uncertain = sorted(every_entropy)[-max(1, -(-len(every_entropy) * 25 // 100)) :]
    return {
        "one": 1.0,
        "p": p,
        "p(1-p)": p * (1 - p),
        "is-clip": 0.0 if p > 0.4 else p,
        "focal": (1 - p) ** 2,
        "entropy-norm": entropy / math.log(VOCABULARY),
        "entropy-top": float(entropy in most_uncertain),
    }[kind]


def reference_gradient(model, sequences, mu, weight="one"):
    """Loss and every parameter's gradient of (1-mu) mean_rollout(-A) + mu mean_expert(-w log p), token means."""
    plain = plain_copy(model)
    rows = []
    for sequence in sequences:
        ids = torch.tensor([sequence.prompt + sequence.response])
        logits = plain(ids, use_cache=False).logits[0].double()
        logp = torch.log_softmax(logits, -1)[len(sequence.prompt) - 1 : -1]
        entropy = -(logp.exp() * logp).sum(-1).detach()
        rows.append((sequence, logp[torch.arange(len(sequence.response)), list(sequence.response)], entropy))
    every_entropy = [value for sequence, _, entropy in rows if sequence.is_expert for value in entropy.tolist()]
    policy = imitation = torch.zeros((), dtype=torch.float64)
    tokens = {True: 0, False: 0}
    for sequence, logp, entropy in rows:
        tokens[sequence.is_expert] += len(sequence.response)
        for value, uncertain in zip(logp, entropy.tolist(), strict=True):
            if sequence.is_expert:
                imitation = imitation - reference_weight(weight, value.exp().item(), uncertain, every_entropy) * value
            else:
                policy = policy - (value - value.detach()).exp() * sequence.advantage
    loss = torch.zeros((), dtype=torch.float64)
    if tokens[False]:
        loss = loss + (1 - mu) * policy / tokens[False]
    if tokens[True]:
        loss = loss + mu * imitation / tokens[True]
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in plain.named_parameters() if p.grad is not None}


def assert_close(model, found_loss, expected, tolerance):
    """Loss and each gradient within `tolerance` of the reference, relative to the reference's norm."""
    loss, gradients = expected
    scale = max(float(g.norm()) for g in gradients.values()) if gradients else 1.0
    worst = abs(found_loss - loss) / max(abs(loss), 1e-3)
    for name, parameter in model.named_parameters():
        reference = gradients.get(name)
        found = parameter.grad
        if reference is None or found is None:
            assert all(one is None or float(one.norm()) == 0 for one in (reference, found)), name
            continue
        difference = float((found.double() - reference).norm())
        worst = max(worst, difference / max(float(reference.norm()), 1e-3 * scale))
    assert worst <= tolerance, f"largest relative difference {worst:.3g}, expected at most {tolerance:g}"
