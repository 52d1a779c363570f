"""Both samplers on a GPU, by the very cases of tests/unit/test_sampler.py; vLLM has slept before each of them."""

import pytest

from chord.training.transformers_sampler import TransformersSampler
from tests.sampled_policy import random_policy
from tests.unit import test_sampler as cases

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def policy():
    return random_policy().to("cuda")


@pytest.fixture(params=["transformers", "vllm"])
def sampler(request, policy):
    """Each of the two samplers, holding the weights of `policy`."""
    if request.param == "transformers":
        return TransformersSampler(policy, list(cases.ENDS), 64)
    found = request.getfixturevalue("vllm_sampler")
    found.take(policy.named_parameters(), 0)
    found.rest()
    assert found.asleep
    found.take(policy.named_parameters(), 1)
    return found


def test_ours_draws_by_the_requests_seed_whatever_else_is_asked(policy):
    """vLLM promises no equal rounding in batches of other sizes, unless it is batch-invariant."""
    cases.test_both_draw_by_the_requests_seed_whatever_else_is_asked(TransformersSampler(policy, list(cases.ENDS), 64))


test_both_log_probabilities = cases.test_both_log_probabilities_are_those_of_a_plain_forward
test_both_repeat = cases.test_both_repeat_every_bit_for_the_same_requests
test_both_take_any_seed = cases.test_both_take_any_seed_of_64_bits
test_both_give_samples_that_differ = cases.test_both_give_samples_of_one_prompt_that_differ_and_are_its_own
test_both_end = cases.test_both_end_with_an_end_token_or_at_the_limit
test_both_refuse = cases.test_both_refuse_a_prompt_that_is_empty_or_too_long_in_the_same_words
test_both_answer_what_fits = cases.test_both_answer_a_prompt_that_just_fits_and_none_at_all
test_both_read_special_text = cases.test_both_read_the_text_of_a_special_token_as_text
test_both_leave_settings = cases.test_both_leave_generators_threads_settings_and_environment_as_they_were
test_both_frequencies = cases.test_both_frequencies_are_the_policys_probabilities
