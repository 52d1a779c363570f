"""The samplers: log-probabilities of a plain forward, seeds of their own, end tokens, limits, prompts that cannot be.

The first half asks the same of both samplers, of a policy in float32; the second half is about the one in transformers.
"""

import os
import random
import sys

import numpy as np
import pytest
import torch

from chord.config.project import Run
from chord.data.prompts import prompt_ids
from chord.provenance.manifest import read_manifest
from chord.records import PromptError, Request, Trace, ValidationAnswer, read_lines
from chord.training.engine import World
from chord.training.gradient import Sequence, pack
from chord.training.policy import recompute_layers, token_statistics
from chord.training.rollouts import Feed
from chord.training.transformers_sampler import TransformersSampler, running_sum_of_blocks
from tests import warm
from tests.draws import all_but_one_at_most, may_follow, shifted
from tests.faults.small_run import command, small_run
from tests.parity.reference import small_model
from tests.sampled_policy import CONTEXT, TOKENIZER, in_float64, random_policy
from tests.tiny_model import DATED, TURN_END, TURNS, tiny_model, turn_ending_tokenizer

pytestmark = pytest.mark.numbers
END = 22
ENDS = (TOKENIZER.eos_token_id, 5)
ROUNDING = 2e-5  # nats: float32 logits of size 10 have an ulp of 1e-6, and sums of 128 products ten times that
IN_TF32 = 3e-2  # nats: vLLM's attention on a GPU rounds what it multiplies to 2^-11, four layers one after another
PROMPTS = [(1, 2, 3), (4, 5), (1, 2, 3), (7, 8, 9, 1), (4,)]


def requests(count=15, first_seed=0):
    return [Request(f"r{i}", PROMPTS[i % len(PROMPTS)], shifted(first_seed) + i) for i in range(count)]


@pytest.fixture(scope="module")
def policy():
    return random_policy()


@pytest.fixture(params=["transformers", "vllm"])
def sampler(request, policy):
    """Each of the two samplers, holding the weights of `policy`."""
    if request.param == "transformers":
        return TransformersSampler(policy, list(ENDS), 64)
    found = request.getfixturevalue("vllm_sampler")
    found.take(policy.named_parameters(), 0)
    return found


def assert_plain_forward(sampler, policy, asked, got, temperature=1.0, tolerance=None):
    """Every log-probability is that of a forward of prompt and response, in float64, at this temperature."""
    theirs = not isinstance(sampler, TransformersSampler) and torch.cuda.is_available()
    tolerance, plain = tolerance or (IN_TF32 if theirs else ROUNDING), in_float64(policy)
    for request, sampled in zip(asked, got, strict=True):
        with torch.no_grad():
            logits = plain(torch.tensor([[*request.prompt_ids, *sampled.ids]])).logits[0] / temperature
        logp = logits.log_softmax(-1)[len(request.prompt_ids) - 1 : -1]
        expected = logp.gather(1, torch.tensor(sampled.ids)[:, None])[:, 0]
        found = torch.tensor(sampled.logp, dtype=torch.float64)
        assert torch.allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.5])
def test_both_log_probabilities_are_those_of_a_plain_forward(sampler, policy, temperature):
    got = sampler.sample(requests(), 12, temperature)
    assert_plain_forward(sampler, policy, requests(), got, temperature)
    assert len({tuple(s.ids) for s in got}) > 3


def test_both_draw_by_the_requests_seed_whatever_else_is_asked(sampler):
    together = [s.ids for s in sampler.sample(requests(), 12, 1.0)]
    others = {
        "the other way round": [s.ids for s in sampler.sample(requests()[::-1], 12, 1.0)][::-1],
        "alone": [sampler.sample([request], 12, 1.0)[0].ids for request in requests()],
        "among more than are sampled at one time": [s.ids for s in sampler.sample(requests(200), 12, 1.0)][:15],
    }
    for beside, found in others.items():
        assert all_but_one_at_most(found, together), beside
    assert [s.ids for s in sampler.sample(requests(first_seed=100), 12, 1.0)] != together


def test_both_repeat_every_bit_for_the_same_requests(sampler):
    assert sampler.sample(requests(70), 12, 1.0) == sampler.sample(requests(70), 12, 1.0)


@pytest.mark.parametrize("number", [0, 2**63 - 1, 2**63, 2**64 - 1])
def test_both_take_any_seed_of_64_bits(sampler, number):
    first = sampler.sample([Request("r", (1, 2), number)], 12, 1.0)
    assert first == sampler.sample([Request("r", (1, 2), number)], 12, 1.0)


def test_both_give_samples_of_one_prompt_that_differ_and_are_its_own(sampler, policy):
    asked = [Request(f"p{k // 8}", PROMPTS[k // 8], k) for k in range(32)]
    got = sampler.sample(asked, 9, 1.0)
    assert all(len({tuple(s.ids) for s in got[at : at + 8]}) > 1 for at in range(0, 32, 8))
    assert_plain_forward(sampler, policy, asked, got, 1.0)


def test_both_take_more_prompt_tokens_than_go_through_at_one_time(sampler, policy):
    asked = [Request(f"p{k}", tuple(range(2 + k % 9, 32 + k % 9)), k) for k in range(20)]
    got = sampler.sample(asked, 9, 1.0)
    assert_plain_forward(sampler, policy, asked, got)
    alone = [sampler.sample([request], 9, 1.0)[0].ids for request in asked]
    assert all_but_one_at_most(alone, [one.ids for one in got])


@pytest.mark.parametrize(("limit", "count"), [(1, 600), (9, 150)])  # one token in some thirty is an end
def test_both_end_with_an_end_token_or_at_the_limit(sampler, limit, count):
    sampled = sampler.sample(requests(count), limit, 1.0)
    assert {s.finish for s in sampled} == {"stop", "length"}
    for s in sampled:
        assert len(s.ids) == len(s.logp) <= limit
        assert not set(ENDS) & set(s.ids[:-1])
        assert (s.ids[-1] in ENDS) == (s.finish == "stop")
        assert s.finish == "stop" or len(s.ids) == limit


@pytest.mark.parametrize("prompt", [(), tuple(range(6, 40)) * 3, (7,) * (CONTEXT - 11)])
def test_both_refuse_a_prompt_that_is_empty_or_too_long_in_the_same_words(sampler, prompt):
    said = f"culprit: found a prompt of {len(prompt)} tokens, expected 1 to 84 (context 96 less 12 for the response)"
    with pytest.raises(PromptError) as error:
        sampler.sample([*requests(), Request("culprit", prompt, 1)], 12, 1.0)
    assert str(error.value) == said


def test_both_answer_a_prompt_that_just_fits_and_none_at_all(sampler, policy):
    longest = [Request("r", (7,) * (CONTEXT - 12), 1), Request("one", (9,), 1)]
    assert_plain_forward(sampler, policy, longest, sampler.sample(longest, 12, 1.0), 1.0)
    assert sampler.sample([], 12, 1.0) == []


def test_both_read_the_text_of_a_special_token_as_text(sampler, policy):
    """`<end>` typed by a user is its letters; and an end token in a prompt, as in a chat of turns, ends nothing."""
    end = TOKENIZER.eos_token
    ids = tuple(prompt_ids(TOKENIZER, f"1{end}2"))
    assert ENDS[0] not in ids
    asked = [Request("typed", ids, 1), Request("turns", (7, *ENDS, 8), 2)]
    got = sampler.sample(asked, 12, 1.0)
    assert_plain_forward(sampler, policy, asked, got, 1.0)
    assert any(len(s.ids) > 1 for s in got)


def settings():
    """All that an engine in this process might change for us."""
    generators = torch.random.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
    switches = torch.get_num_threads(), torch.set_num_threads, torch.are_deterministic_algorithms_enabled()
    return generators, switches, {name: it for name, it in os.environ.items() if not name.startswith("VLLM_")}


def test_both_leave_generators_threads_settings_and_environment_as_they_were(sampler):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = settings()
        found.append(sampler.sample(requests(), 12, 1.0))
        assert settings() == before
    assert found[0] == found[1]


def test_both_frequencies_are_the_policys_probabilities(sampler, policy):
    """4,000 first tokens against the softmax."""
    with torch.no_grad():
        wanted = in_float64(policy)(torch.tensor([[1, 2, 3]])).logits[0, -1].softmax(-1)
    sampled = sampler.sample([Request("r", (1, 2, 3), shifted(k)) for k in range(4000)], 1, 1.0)
    assert may_follow(np.bincount([s.ids[0] for s in sampled], minlength=len(wanted)), wanted.tolist())


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_in_float64_log_probabilities_are_those_of_a_plain_forward_to_the_last_digits(kind, temperature):
    model = small_model(kind)
    sampler = TransformersSampler(model, [END], 64)
    got = sampler.sample(requests(), 12, temperature)
    assert_plain_forward(sampler, model, requests(), got, temperature, tolerance=1e-10)


def test_in_float64_what_is_drawn_depends_on_the_seed_alone_and_not_on_the_batch():
    model = small_model()

    def drawn(asked, rows=64):
        return [s.ids for s in TransformersSampler(model, [END], rows).sample(asked, 12, 1.0)]

    together = drawn(requests())
    assert together == drawn(requests()[::-1])[::-1] == drawn(requests(), rows=2)
    assert together == [drawn([request], rows=1)[0] for request in requests()]
    assert together != drawn(requests(first_seed=100))


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_traced_model_gives_every_bit_of_the_model_itself_and_sees_its_present_weights(kind):
    """With other numbers of rows, other lengths and other weights than those with which it was traced."""
    model = small_model(kind)
    traced, plain = (TransformersSampler(model, [END], 64) for _ in range(2))
    plain.traceable = False
    assert traced.traceable
    for scale, count in ((1.0, 2), (1.0, 15), (1.5, 40)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale)
        got = traced.sample(requests(count), 12, 1.0)
        assert got == plain.sample(requests(count), 12, 1.0)
        assert_plain_forward(traced, model, requests(count), got, tolerance=1e-10)
    assert isinstance(traced._step, torch.jit.ScriptModule) and plain._step is plain._untraced


def test_a_model_is_not_traced_where_numbers_choose_the_way_through_it():
    """Experts, rotations that follow the longest position, weights cast by autocast, layers that are made again."""
    model = small_model(dtype=torch.float32)
    assert not TransformersSampler(model, [END], 64, torch.bfloat16).traceable
    recompute_layers(model)
    assert not TransformersSampler(model, [END], 64).traceable
    for changed in ({"model_type": "mixtral"}, {"rope_parameters": {"rope_type": "dynamic"}}):
        model = small_model()
        vars(model.config).update(changed)
        assert not TransformersSampler(model, [END], 64).traceable


def packed(sampled):
    """What was sampled for `requests()`, as the learner reads it."""
    pairs = zip(requests(), sampled, strict=True)
    sequences = [Sequence(r.id, r.prompt_ids, tuple(s.ids), False, 1.0, tuple(s.logp)) for r, s in pairs]
    return pack(sequences, torch.device("cpu"), torch.float64)


def test_under_bfloat16_the_sampler_computes_as_the_learner_does_and_keeps_its_weights():
    """Each rounding moves a number by 2^-9 of itself; ten on the way to a logit of 4 make 0.08, and 0.024 was seen.

    A log-probability taken from the next token is 1.5 away.
    """
    model = small_model(dtype=torch.float32)
    sampler = TransformersSampler(model, [END], 64, torch.bfloat16)
    sampled = sampler.sample(requests(), 12, 1.0)
    store, *_ = sampler._prefill([(1, 2, 3)], 4)
    assert store.values.dtype == torch.bfloat16
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    batch = packed(sampled)
    with torch.no_grad():
        same = (token_statistics(model, batch, 5, torch.bfloat16).logp - batch.sampler_logp).abs()
        exact = (token_statistics(model, batch, 5, torch.float32).logp - batch.sampler_logp).abs()
    assert float(same.mean()) < 0.004
    assert float(same.max()) < 0.08
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


def test_a_training_samples_and_teaches_up_to_the_end_of_a_turn(tmp_path):
    """It starts from a model whose turns end with a token that is not its end token, and whose prompts show a day."""
    changes = {"recipe.init": "base", "recipe.mu": {"schedule": "constant", "value": 1.0}, "recipe.steps": 1}
    changes |= {"recipe.keep": "last", "model": None, "prompt_date": "26 Jul 2024", "validation.every_steps": 1}
    changes |= {"sampling.max_response_tokens": 48}
    folder = small_run(tmp_path / "run", **changes)
    start = tiny_model(tmp_path / "start", turn_ending_tokenizer(DATED + TURNS))
    words = [sys.executable, "-m", "chord", "train", *command(folder, tmp_path), "--start", str(start)]
    done = warm.run(words)
    assert done.returncode == 0, done.stderr
    answers = read_lines(tmp_path / "validation.jsonl", ValidationAnswer)
    assert any(one.finish == "stop" for one in answers)  # each of up to 48 tokens is one of two in a hundred
    assert not any(end in one.text for one in answers for end in (TURN_END, "<end>"))
    extra = read_manifest(tmp_path / "train.manifest.json").extra
    assert extra["end_tokens"] == ["<end>", TURN_END]
    trace = read_lines(folder / "traces.jsonl", Trace)[0]
    prompt = f"<system>Today Date: 26 Jul 2024{TURN_END}<user>{trace.prompt}{TURN_END}\n<assistant>"
    assert extra["first_prompt"] == prompt
    run, tokenizer = Run.read(folder / "run.json"), turn_ending_tokenizer(DATED + TURNS)
    taught = Feed(run, tokenizer, None, World(), [trace], []).expert(trace)
    assert tokenizer.decode(taught.prompt) == prompt
    assert tokenizer.decode(taught.response) == trace.response + TURN_END
