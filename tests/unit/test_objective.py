"""Advantages, token weights and losses: points by hand, constants to autograd, gradients by finite differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chord import objective
from chord.objective import ExpertTokens, MuGradientNorm, TokenSum, TokenWeight, group_advantages

pytestmark = pytest.mark.numbers

FIFTH = math.log(1 / 5)
WEIGHTS: dict[str, tuple[TokenWeight, float]] = {
    "p": (objective.WeightProbability(weight="p"), 1 / 5),
    "p(1-p)": (objective.WeightPhi(weight="p(1-p)"), 4 / 25),
    "is-clip": (objective.WeightClippedProbability(weight="is-clip", ceiling=0.4), 1 / 5),
    "focal": (objective.WeightFocal(weight="focal", gamma=2.0), 16 / 25),
    "one": (objective.WeightOne(), 1.0),
}


def of(name: str, logp: torch.Tensor) -> torch.Tensor:
    return WEIGHTS[name][0].of(ExpertTokens(logp, torch.zeros_like(logp), 49))


def test_advantages_of_one_right_answer_in_four():
    # mean 1/4; deviations 3/4 and -1/4; variance (9/16 + 3/16)/3 = 1/4, deviation 1/2: 1.5 and -0.5
    found = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64), 0.0)
    assert found.tolist() == [[1.5, -0.5, -0.5, -0.5]]


@given(st.floats(-1, 1), st.integers(2, 9))
def test_a_group_with_equal_rewards_has_advantage_exactly_zero(reward, size):
    assert group_advantages(torch.full((1, size), reward, dtype=torch.float64), 1e-6).abs().max() == 0


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9), st.floats(-5, 5))
def test_advantages_sum_to_zero_and_do_not_change_when_all_rewards_shift(rewards, shift):
    values = torch.tensor([rewards], dtype=torch.float64)
    found = group_advantages(values, 1e-6)
    assert found.sum().abs() < 1e-6
    assert torch.allclose(group_advantages(values + shift, 1e-6), found, atol=1e-6)


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2 rollouts"):
        group_advantages(torch.ones(3, 1), 1e-6)


@pytest.mark.parametrize("name", WEIGHTS)
def test_each_weight_has_its_value_at_one_fifth(name):
    expected = WEIGHTS[name][1]
    assert float(of(name, torch.tensor([FIFTH], dtype=torch.float64))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", WEIGHTS)
def test_each_weight_is_a_constant_to_autograd(name):
    """At p = 1/5 a phi that kept its gradient gives -p[(1-p) + (1-2p) ln p] = +0.033, not -0.16; p = 1/2 hides it."""
    expected = WEIGHTS[name][1]
    logp = torch.tensor([FIFTH], dtype=torch.float64, requires_grad=True)
    objective.imitation(logp, of(name, logp)).total.backward()
    assert float(logp.grad) == pytest.approx(-expected, rel=1e-12)


@given(st.floats(-50, 0))
def test_phi_is_at_most_a_quarter_and_vanishes_at_both_ends(logp):
    value = float(of("p(1-p)", torch.tensor([logp], dtype=torch.float64)))
    assert 0 <= value <= 0.25
    assert float(of("p(1-p)", torch.tensor([0.0], dtype=torch.float64))) == 0


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_p_rises_and_focal_falls_with_the_probability(one, other):
    low, high = sorted((one, other))
    pair = torch.tensor([low, high], dtype=torch.float64)
    assert of("p", pair).diff() >= 0
    assert of("focal", pair).diff() <= 0


def test_is_clip_silences_tokens_above_its_ceiling():
    found = of("is-clip", torch.tensor([0.39, 0.41]).log())
    assert found.tolist() == [pytest.approx(0.39), 0.0]


def test_entropy_top_picks_the_ceiling_of_the_share_over_the_whole_batch():
    entropies = torch.arange(40, dtype=torch.float64)  # 5 % of 40 is 2: the entropies 38 and 39
    weight = objective.WeightEntropyTop(weight="entropy-top", share=0.05)
    threshold = weight.threshold(entropies)
    assert threshold == 37.5  # half way to the first that is left out
    assert weight.of(ExpertTokens(-entropies, entropies, 49, threshold)).sum() == 2
    assert weight.threshold(torch.tensor([])) == -math.inf


def test_entropy_norm_is_one_for_a_uniform_policy():
    entropy = torch.tensor([math.log(49)], dtype=torch.float64)
    weight = objective.WeightEntropyShare(weight="entropy-norm")
    assert float(weight.of(ExpertTokens(-entropy, entropy, 49))) == pytest.approx(1)


def test_the_policy_loss_on_policy_is_minus_the_summed_advantage_and_pushes_by_it():
    logp = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([1.5, -0.5, 0.0], dtype=torch.float64)
    loss = objective.policy_gradient(logp, logp.detach(), advantage, 0.2, 0.2)
    loss.total.backward()
    assert (float(loss.total), loss.tokens) == (-1.0, 3)
    assert logp.grad.tolist() == [-1.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient"),
    # clip 0.2 below and 0.3 above: a gain is capped at 1.3 A for A > 0 and at 0.8 A for A < 0; beyond it nothing pushes
    [(1.25, 1.0, -1.25), (1.35, 1.0, 0.0), (0.5, 1.0, -0.5), (0.85, -1.0, 0.85), (0.75, -1.0, 0.0), (1.5, -1.0, 1.5)],
)
def test_clipping_stops_the_push_only_where_it_would_go_too_far(ratio, advantage, gradient):
    logp = torch.tensor([0.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-math.log(ratio)], dtype=torch.float64)
    objective.policy_gradient(logp, old, torch.tensor([advantage], dtype=torch.float64), 0.2, 0.3).total.backward()
    assert float(logp.grad) == pytest.approx(gradient, abs=1e-12)


def test_the_truncated_correction_is_the_capped_ratio_and_a_constant():
    logp = torch.tensor([-1.0, -1.0], dtype=torch.float64, requires_grad=True)
    found = objective.truncated_correction(logp, torch.tensor([-1.5, -3.0], dtype=torch.float64), 2.0)
    assert found.tolist() == pytest.approx([math.exp(0.5), 2.0])
    assert not found.requires_grad


def test_the_mixture_divides_each_branch_by_its_own_global_count():
    rollouts = TokenSum(torch.tensor(6.0), 3)
    experts = TokenSum(torch.tensor(20.0), 2)
    # (1 - 0.25) 6/12 + 0.25 20/8 = 0.375 + 0.625
    assert float(objective.harmonise(rollouts, experts, 0.25, 12, 8)) == 1.0


def test_a_branch_without_weight_is_left_out_and_none_at_all_is_refused():
    nan = TokenSum(torch.tensor(math.nan), 3)
    one = TokenSum(torch.tensor(2.0), 2)
    assert float(objective.harmonise(nan, one, 1.0, 3, 2)) == 1.0
    assert float(objective.harmonise(one, nan, 0.0, 2, 3)) == 1.0
    with pytest.raises(ValueError, match="no branch"):
        objective.harmonise(None, None, 0.5, 1, 1)


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    old = -torch.rand(6, dtype=torch.float64)
    advantage = torch.randn(6, dtype=torch.float64)
    weight = torch.rand(6, dtype=torch.float64)

    def mixture(logp):
        rollouts = objective.policy_gradient(logp[:6], old, advantage, 0.2, 0.3)
        return objective.harmonise(rollouts, objective.imitation(logp[6:], weight), 0.3, 11, 7)

    logp = (-torch.rand(12, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(mixture, (logp,), atol=1e-8)


def test_luffys_shaped_ratio_pushes_hardest_where_p_is_gamma():
    p = torch.tensor([0.02, 0.1, 0.5], dtype=torch.float64)
    logp = p.log().requires_grad_()
    objective.shaped_imitation(logp, torch.ones(3, dtype=torch.float64), 0.1).total.backward()
    # d/dlogp of p/(p+g) is g p/(p+g)^2: 0.002/0.0144, 0.01/0.04, 0.05/0.36
    assert logp.grad.tolist() == pytest.approx([-0.002 / 0.0144, -0.25, -0.05 / 0.36])
    assert torch.autograd.gradcheck(
        lambda x: objective.shaped_imitation(x, torch.ones(3, dtype=torch.float64), 0.1).total, (logp,)
    )


def test_luffys_expert_is_compared_with_the_rollouts_alone():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    own, expert = objective.with_expert_traces(rewards, torch.ones(2, dtype=torch.float64), 1e-6)
    assert own.tolist() == [[1.5, -0.5, -0.5, -0.5], [0.0, 0.0, 0.0, 0.0]]
    assert expert.tolist() == [1.5, 1.0]  # (1 - 1/4)/(1/2); a deviation of 0 counts as 1


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0.01, 10))
def test_sasrs_chance_is_a_share_that_rises_with_the_gradient(norm, warmup, gamma):
    schedule = MuGradientNorm(schedule="gradient-norm", warmup_steps=1, gamma=gamma)
    chance = schedule.chance(norm, warmup)
    assert 0 <= chance <= 1
    assert schedule.chance(norm + 1, warmup) >= chance
