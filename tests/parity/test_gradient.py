"""Loss and every gradient equal a float64 reference for any micro-batch split, packing, order, and number of ranks."""

import random
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from chord.training.engine import Plain, World
from chord.training.gradient import NotFinite, accumulate_gradient, pack
from chord.training.policy import recompute_layers, token_statistics
from tests import warm
from tests.parity.reference import (
    POLICY,
    assert_close,
    execution,
    random_batch,
    recipe,
    reference_gradient,
    small_model,
)

pytestmark = pytest.mark.numbers

ROOT = Path(__file__).parents[2]
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
WEIGHTS = {
    "one": {},
    "p": {},
    "p(1-p)": {},
    "entropy-norm": {},
    "entropy-top": {"share": 0.25},
    "is-clip": {"ceiling": 0.4},
    "focal": {"gamma": 2.0},
}


def gradient(model, sequences, mu, budget, weight="one", chunk=10_000, dtype="float64", world=World()):  # noqa: B008
    model.zero_grad(set_to_none=True)
    chosen = recipe(mu, weight, **WEIGHTS[weight])
    engine = Plain(model, torch.optim.AdamW(model.parameters()), world)
    sums = accumulate_gradient(engine, sequences, mu, chosen, POLICY, execution(budget, chunk, dtype), 1.0)
    return sums.values["loss"]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("budget", [1, 17, 40, 100_000])
@pytest.mark.parametrize("mu", [0.0, 0.1, 0.9, 1.0])
def test_any_micro_batch_split_gives_the_reference_gradient(kind, budget, mu, dtype):
    model, sequences = small_model(kind, getattr(torch, dtype)), random_batch()
    expected = reference_gradient(model, sequences, mu)
    assert_close(model, gradient(model, sequences, mu, budget, dtype=dtype), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_layers_that_are_computed_again_give_the_same_gradient_bit_for_bit(kind):
    """That they keep less too is shown by gpu/test_learner.py."""
    plain, again = small_model(kind, torch.float32), small_model(kind, torch.float32)
    recompute_layers(again)
    for model in (plain, again):
        gradient(model, random_batch(3), 0.3, 100_000, "p(1-p)", dtype="float32")
    pairs = zip(plain.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one.grad, other.grad) for one, other in pairs)
    assert not any(module.training for module in again.modules() if not hasattr(module, "gradient_checkpointing")), (
        "nothing inside the layers is in training mode"
    )


def shuffled(sequences, seed):
    return random.Random(seed).sample(sequences, len(sequences))


# Sequences, mu, tokens of a micro-batch, rows of logits at a time, model.
CASES = {
    **{f"order {seed}": (shuffled(random_batch(seed), seed), 0.2, 30, 10_000, "llama") for seed in range(5)},
    **{f"{rows} rows of logits": (random_batch(1), 0.5, 60, rows, "qwen2") for rows in (1, 3, 64)},
    "no experts": (random_batch(2, experts=0), 0.4, 25, 10_000, "llama"),
    "no rollouts": (random_batch(2, rollouts=0), 0.4, 25, 10_000, "llama"),
}


@pytest.mark.parametrize("case", CASES)
def test_neither_order_nor_chunks_nor_a_missing_branch_move_the_gradient(case):
    sequences, mu, budget, chunk, kind = CASES[case]
    model = small_model(kind)
    expected = reference_gradient(model, sequences, mu)
    assert_close(model, gradient(model, sequences, mu, budget, chunk=chunk), expected, 1e-10)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_every_token_weight_gives_the_reference_gradient_however_it_is_split(weight):
    model, sequences = small_model(), random_batch(4)
    expected = reference_gradient(model, sequences, 0.3, weight)
    for budget in (1, 33, 100_000):
        assert_close(model, gradient(model, sequences, 0.3, budget, weight), expected, 1e-10)


SHARDED = [(1, 0.3), (2, 0.3), (4, 0.3), (2, 0.0), (2, 1.0)]  # ranks, mu
SHARES = {1: [slice(None)], 2: [slice(3, None), slice(3)], 4: [slice(1), slice(1, 9), slice(9, None), slice(0)]}
ALL_RANKS = "import sys; from tests.parity import test_gradient; test_gradient._all_ranks(sys.argv[1])"


def _rank(rank, size, mu, place):
    """One rank with its share of the batch; the leading one writes its loss and gradients."""
    torch.set_num_threads(1)
    limit = timedelta(seconds=120)  # for ranks that wait for one that failed
    torch.distributed.init_process_group("gloo", f"file://{place}.ranks", limit, size, rank)
    model = small_model()
    loss = gradient(model, random_batch(7)[SHARES[size][rank]], mu, 30, "entropy-top", world=World(rank, size))
    if rank == 0:
        torch.save((loss, {name: p.grad for name, p in model.named_parameters()}), f"{place}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _all_ranks(folder):
    """In a process that computes nothing itself: for each case its ranks, forked."""
    context = mp.get_context("fork")
    for size, mu in SHARDED:
        ranks = [context.Process(target=_rank, args=(rank, size, mu, f"{folder}/{size}-{mu}")) for rank in range(size)]
        for one in ranks:
            one.start()
        for one in ranks:
            one.join()
        assert [one.exitcode for one in ranks] == [0] * size


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A folder with what the ranks of each case found."""
    folder = tmp_path_factory.mktemp("ranks")
    done = warm.run([sys.executable, "-c", ALL_RANKS, str(folder)], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(("size", "mu"), SHARDED)
def test_uneven_shards_over_ranks_give_the_reference_gradient(sharded, size, mu):
    """Rank 1 of 2 has no expert token, rank 3 of 4 nothing at all."""
    loss, gradients = torch.load(sharded / f"{size}-{mu}.pt")
    model = small_model()
    expected = reference_gradient(model, random_batch(7), mu, "entropy-top")
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name]
    assert_close(model, loss, expected, 1e-10)


@pytest.mark.parametrize(
    ("mu", "sequences"),
    [(1.0, random_batch(8, rollouts=0)), (0.0, random_batch(9, experts=0, equal_group=False))],
    ids=["SFT", "GRPO"],
)
def test_a_pure_branch_is_bit_equal_to_a_plain_loop(mu, sequences):
    """One packed row, in the order of the plan: longest first."""
    model = small_model(dtype=torch.float32)
    gradient(model, sequences, mu, 100_000, dtype="float32")
    mixed = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    ordered = sorted(sequences, key=lambda s: -len(s))
    batch = pack(ordered, torch.device("cpu"), torch.float32)
    logp = token_statistics(model, batch, 10_000, torch.float32).logp
    total = logp.sum() if mu else ((logp - logp.detach()).exp() * batch.advantage).sum()
    (-total / logp.numel()).backward()
    assert all(torch.equal(mixed[name], p.grad) for name, p in model.named_parameters())


def test_a_loss_that_is_not_finite_names_its_sequences_and_leaves_the_weights():
    model, sequences = small_model(), random_batch(1)
    bad = [*sequences[:-1], replace(sequences[0], name="culprit", advantage=float("nan"))]
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(NotFinite, match="culprit"):
        gradient(model, bad, 0.5, 1)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
