"""Packing: attention never crosses sequences, the plan is a pure function, the forward is plain transformers'."""

import math
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chord.training.gradient import Sequence, pack, plan
from chord.training.policy import LIKE, Layout, token_statistics
from tests.parity.reference import plain_copy, random_batch, small_model

pytestmark = pytest.mark.numbers

LENGTHS = st.lists(st.integers(1, 50), max_size=40)


@given(LENGTHS, st.integers(1, 120))
def test_a_plan_holds_every_sequence_once_longest_first_within_its_budget(lengths, budget):
    batches = plan(lengths, budget)
    flat = [index for batch in batches for index in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[index] for index in flat] == sorted(lengths, reverse=True)
    assert all(len(batch) == 1 or sum(lengths[index] for index in batch) <= budget for batch in batches)
    assert plan(lengths, budget) == batches


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40))
def test_sequences_of_like_lengths_are_unfolded_together_and_folded_back(lengths):
    layout = Layout.of(tuple(lengths), torch.device("cpu"))
    tokens = torch.arange(sum(lengths))
    assert torch.equal(layout.unfold[layout.fold], tokens)
    assert len(layout.unfold) == sum(count * longest for count, longest in layout.blocks) <= len(tokens) / LIKE
    rooms = [longest for count, longest in layout.blocks for _ in range(count)]
    begins = accumulate(rooms, initial=0)
    places = [begin + at for begin, length in zip(begins, lengths, strict=False) for at in range(length)]
    assert places == layout.fold.tolist()
    in_order = Layout.of(tuple(sorted(lengths, reverse=True)), torch.device("cpu"))
    assert len(in_order.blocks) <= 1 + math.log(50, 1 / LIKE)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_log_probabilities_and_entropies_are_those_of_each_sequence_alone_at_this_temperature(kind, temperature):
    model, sequences = small_model(kind), random_batch(3)
    batch = pack(sequences, torch.device("cpu"), torch.float64)
    found = token_statistics(model, batch, 7, torch.float64, temperature)
    plain, logps, entropies = plain_copy(model), [], []
    for sequence in sequences:
        logits = plain(torch.tensor([sequence.prompt + sequence.response])).logits[0] / temperature
        logp = logits.log_softmax(-1)[len(sequence.prompt) - 1 : -1]
        logps.append(logp.gather(1, torch.tensor(sequence.response)[:, None])[:, 0])
        entropies.append(-(logp.exp() * logp).sum(-1))
    assert torch.allclose(found.logp, torch.cat(logps), atol=1e-12)
    assert torch.allclose(found.entropy, torch.cat(entropies), atol=1e-12)


def test_changing_a_neighbor_changes_nothing():
    model, sequences = small_model(), random_batch(6)
    middle = sequences[4]
    device = torch.device("cpu")

    def seen(neighbors):
        batch = pack([*neighbors[:4], middle, *neighbors[5:]], device, torch.float64)
        start = sum(len(s.response) for s in neighbors[:4])
        return token_statistics(model, batch, 10_000, torch.float64).logp[start : start + len(middle.response)]

    changed = [
        replace(s, prompt=tuple((t + 1) % 23 for t in s.prompt), response=tuple((t + 5) % 23 for t in s.response))
        for s in sequences
    ]
    assert torch.equal(seen(sequences), seen(changed))


def test_a_model_under_another_attention_is_refused():
    model = small_model()
    model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="chord_packed"):
        token_statistics(model, pack(random_batch(1), torch.device("cpu"), torch.float64), 7, torch.float64)


def test_the_whole_batch_of_logits_never_exists():
    """No tensor that autograd keeps, and none that forward or backward makes, has more than a chunk of logit rows."""
    model, sequences = small_model(), random_batch(0, rollouts=60, experts=0, equal_group=False)
    batch = pack(sequences, torch.device("cpu"), torch.float64)
    tokens, rows = batch.target.numel(), 8
    kept: list[tuple[int, ...]] = []

    def keep(tensor):
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.profiler.profile(record_shapes=True) as profile:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            stats = token_statistics(model, batch, rows, torch.float64)
        stats.logp.sum().backward()
    made = [tuple(shape) for event in profile.function_events for shape in event.input_shapes if shape]
    tall = {shape for shape in kept + made if len(shape) == 2 and shape[1] == 23 and shape[0] > rows and shape[0] != 16}
    assert tokens > 10 * rows
    assert (rows, 23) in made  # logits are seen at all
    assert not tall  # (16, 23) is the transposed embedding


def test_an_empty_prompt_or_response_is_refused_by_name():
    for prompt, response in (((), (1,)), ((1,), ())):
        with pytest.raises(ValueError, match="culprit"):
            pack([Sequence("culprit", prompt, response, True)], torch.device("cpu"), torch.float32)
