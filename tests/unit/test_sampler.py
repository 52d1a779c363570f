"""The sampler: log-probabilities of a plain forward, seeds of their own, end tokens, limits, prompts that cannot be."""

import pytest
import torch

from chord.learner.packing import Sequence, pack
from chord.learner.policy import token_statistics
from chord.sampling.protocol import Request
from chord.sampling.transformers_sampler import TransformersSampler, running_sum_of_blocks
from tests.parity.reference import plain_copy, small_model

END = 22
PROMPTS = [(1, 2, 3), (4, 5), (1, 2, 3), (7, 8, 9, 1), (4,)]


def requests(count=15, first_seed=0):
    return [Request(f"r{i}", PROMPTS[i % len(PROMPTS)], first_seed + i) for i in range(count)]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_a_plain_forward_at_the_same_temperature(kind, temperature):
    model = small_model(kind)
    plain = plain_copy(model)
    for request, sampled in zip(
        requests(), TransformersSampler(model, [END], 64).sample(requests(), 12, temperature), strict=True
    ):
        logits = plain(torch.tensor([request.prompt_ids + tuple(sampled.ids)])).logits[0] / temperature
        logp = logits.log_softmax(-1)[len(request.prompt_ids) - 1 : -1]
        expected = logp.gather(1, torch.tensor(sampled.ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(sampled.logp, dtype=torch.float64), expected, atol=1e-10)


def test_what_is_drawn_depends_on_the_requests_seed_and_not_on_the_batch():
    model = small_model()
    together = TransformersSampler(model, [END], 64).sample(requests(), 12, 1.0)
    backwards = TransformersSampler(model, [END], 64).sample(requests()[::-1], 12, 1.0)[::-1]
    small_batches = TransformersSampler(model, [END], 2).sample(requests(), 12, 1.0)
    alone = [TransformersSampler(model, [END], 1).sample([request], 12, 1.0)[0] for request in requests()]
    assert (
        [s.ids for s in together]
        == [s.ids for s in backwards]
        == [s.ids for s in small_batches]
        == [s.ids for s in alone]
    )
    others = TransformersSampler(model, [END], 64).sample(requests(first_seed=100), 12, 1.0)
    assert [s.ids for s in together] != [s.ids for s in others]


def test_no_global_generator_is_read_or_moved():
    model = small_model()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = TransformersSampler(model, [END], 64).sample(requests(), 12, 1.0)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert TransformersSampler(model, [END], 64).sample(requests(), 12, 1.0) == first


def test_responses_end_with_the_end_token_or_at_the_limit():
    sampled = TransformersSampler(small_model(), [END, 5], 64).sample(requests(60), 9, 1.0)
    assert {s.finish for s in sampled} == {"stop", "length"}
    for s in sampled:
        assert len(s.ids) == len(s.logp) <= 9
        assert not {END, 5} & set(s.ids[:-1])
        assert (s.ids[-1] in (END, 5)) == (s.finish == "stop")
        assert s.finish == "stop" or len(s.ids) == 9


def test_frequencies_are_the_policys_probabilities():
    """4,000 first tokens against the softmax: total variation below 0.05 (about 0.02 is expected for 23 tokens)."""
    model = small_model()
    wanted = plain_copy(model)(torch.tensor([[1, 2, 3]])).logits[0, -1].softmax(-1)
    sampled = TransformersSampler(model, [END], 1000).sample(
        [Request("r", (1, 2, 3), seed) for seed in range(4000)], 1, 1.0
    )
    counts = torch.bincount(torch.tensor([s.ids[0] for s in sampled]), minlength=23) / 4000
    assert float((counts - wanted).abs().sum() / 2) < 0.05


def test_a_prompt_that_is_empty_or_too_long_is_refused_by_name():
    sampler = TransformersSampler(small_model(), [END], 64)
    for prompt in ((), tuple(range(20)) * 3):
        with pytest.raises(ValueError, match="culprit"):
            sampler.sample([Request("culprit", prompt, 1)], 12, 1.0)


def test_the_learner_sees_the_samplers_log_probabilities_again():
    model = small_model()
    sampled = TransformersSampler(model, [END], 4).sample(requests(), 12, 1.0)
    sequences = [
        Sequence(r.id, r.prompt_ids, tuple(s.ids), False, 1.0, tuple(s.logp))
        for r, s in zip(requests(), sampled, strict=True)
    ]
    batch = pack(sequences, torch.device("cpu"), torch.float64)
    assert torch.allclose(token_statistics(model, batch, 100, torch.float64).logp, batch.sampler_logp, atol=1e-12)


def test_under_bfloat16_the_sampler_computes_as_the_learner_does_and_keeps_its_weights():
    """Same weights, same rounding of products, other shapes of them: logits of about 1 differ by some 2^-9 = 0.002."""
    model = small_model(dtype=torch.float32)
    sampler = TransformersSampler(model, [END], 64, torch.bfloat16)
    sampled = sampler.sample(requests(), 12, 1.0)
    store, _ = sampler._prefill([(1, 2, 3)], 4)
    assert store.values.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    sequences = [
        Sequence(r.id, r.prompt_ids, tuple(s.ids), False, 1.0, tuple(s.logp))
        for r, s in zip(requests(), sampled, strict=True)
    ]
    batch = pack(sequences, torch.device("cpu"), torch.float64)
    with torch.no_grad():
        same = (token_statistics(model, batch, 5, torch.bfloat16).logp - batch.sampler_logp).abs()
        exact = (token_statistics(model, batch, 5, torch.float32).logp - batch.sampler_logp).abs()
    assert float(same.mean()) < 0.004
    assert float(same.max()) < 0.02
    assert float(exact.mean()) > 1e-4  # float32 would agree to 1e-6: it did compute in bfloat16


def test_a_change_of_the_weights_is_seen_by_the_next_sample_in_bfloat16():
    model = small_model(dtype=torch.float32)
    sampler = TransformersSampler(model, [END], 64, torch.bfloat16)
    before = sampler.sample(requests(), 12, 1.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    assert [s.ids for s in sampler.sample(requests(), 12, 1.0)] != [s.ids for s in before]


@pytest.mark.parametrize("size", [1, 255, 256, 257, 5000])
def test_the_running_sum_for_cuda_is_the_running_sum(size):
    values = torch.rand(3, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    assert torch.allclose(running_sum_of_blocks(values), values.cumsum(-1), rtol=1e-13, atol=0)
