"""Advantages, token weights and losses: points by hand, constants to autograd, gradients by finite differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chord import objective
from chord.objective import ExpertTokens, Parts, TokenSum, group_advantages

pytestmark = pytest.mark.numbers

# Each weight, and its value at p = 1/5.
WEIGHTS = {
    "p": (objective.WeightProbability(weight="p"), 1 / 5),
    "p(1-p)": (objective.WeightPhi(weight="p(1-p)"), 4 / 25),
    "is-clip": (objective.WeightClippedProbability(weight="is-clip", ceiling=0.4), 1 / 5),
    "focal": (objective.WeightFocal(weight="focal", gamma=2.0), 16 / 25),
    "one": (objective.WeightOne(), 1.0),
}


def double(*values: float, **how: bool) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, **how)


def of(name: str, logp: torch.Tensor) -> torch.Tensor:
    return WEIGHTS[name][0].of(ExpertTokens(logp, torch.zeros_like(logp), 49))


def test_advantages_of_one_right_answer_in_four():
    # mean 1/4; deviations 3/4 and -1/4; variance (9/16 + 3/16)/3 = 1/4, deviation 1/2: 1.5 and -0.5
    assert group_advantages(double(1, 0, 0, 0)[None], 0.0).tolist() == [[1.5, -0.5, -0.5, -0.5]]


@given(st.floats(-1, 1), st.integers(2, 9))
def test_a_group_with_equal_rewards_has_advantage_exactly_zero(reward, size):
    assert group_advantages(torch.full((1, size), reward, dtype=torch.float64), 1e-6).abs().max() == 0


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9), st.floats(-5, 5))
def test_advantages_sum_to_zero_and_do_not_change_when_all_rewards_shift(rewards, shift):
    values = double(*rewards)[None]
    found = group_advantages(values, 1e-6)
    assert found.sum().abs() < 1e-6
    assert torch.allclose(group_advantages(values + shift, 1e-6), found, atol=1e-6)


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2 rollouts"):
        group_advantages(torch.ones(3, 1), 1e-6)


@pytest.mark.parametrize("name", WEIGHTS)
def test_each_weight_has_its_value_at_one_fifth_and_is_a_constant_to_autograd(name):
    """At p = 1/5 a phi that kept its gradient gives -p[(1-p) + (1-2p) ln p] = +0.033, not -0.16; p = 1/2 hides it."""
    expected, logp = WEIGHTS[name][1], double(math.log(1 / 5), requires_grad=True)
    weight = of(name, logp)
    objective.imitation(logp, weight).total.backward()
    assert float(weight) == pytest.approx(expected, rel=1e-12)
    assert float(logp.grad) == pytest.approx(-expected, rel=1e-12)


@given(st.floats(-50, 0))
def test_phi_is_at_most_a_quarter_and_vanishes_at_both_ends(logp):
    value, sure = of("p(1-p)", double(logp, 0.0)).tolist()
    assert 0 <= value <= 0.25 and sure == 0


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_p_rises_and_focal_falls_with_the_probability(one, other):
    pair = double(*sorted((one, other)))
    assert of("p", pair).diff() >= 0 >= of("focal", pair).diff()


def test_is_clip_silences_tokens_above_its_ceiling():
    assert of("is-clip", torch.tensor([0.39, 0.41]).log()).tolist() == [pytest.approx(0.39), 0.0]


def test_entropy_top_picks_the_ceiling_of_the_share_over_the_whole_batch():
    entropies = torch.arange(40, dtype=torch.float64)  # 5 % of 40 is 2: the entropies 38 and 39
    weight = objective.WeightEntropyTop(weight="entropy-top", share=0.05)
    threshold = weight.threshold(entropies)
    assert threshold == 37.5  # half way to the first that is left out
    assert weight.of(ExpertTokens(-entropies, entropies, 49, threshold)).sum() == 2
    assert weight.threshold(torch.tensor([])) == -math.inf


def test_entropy_norm_is_one_for_a_uniform_policy():
    entropy = double(math.log(49))
    weight = objective.WeightEntropyShare(weight="entropy-norm")
    assert float(weight.of(ExpertTokens(-entropy, entropy, 49))) == pytest.approx(1)


def test_the_policy_loss_on_policy_is_minus_the_summed_advantage_and_pushes_by_it():
    logp = double(-1.0, -2.0, -0.5, requires_grad=True)
    loss = objective.policy_gradient(logp, logp.detach(), double(1.5, -0.5, 0.0), 0.2, 0.2)
    loss.total.backward()
    assert (loss.total.item(), loss.tokens) == (-1.0, 3)
    assert logp.grad.tolist() == [-1.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient"),
    # clip 0.2 below and 0.3 above: a gain is capped at 1.3 A for A > 0 and at 0.8 A for A < 0; beyond it nothing pushes
    [(1.25, 1.0, -1.25), (1.35, 1.0, 0.0), (0.5, 1.0, -0.5), (0.85, -1.0, 0.85), (0.75, -1.0, 0.0), (1.5, -1.0, 1.5)],
)
def test_clipping_stops_the_push_only_where_it_would_go_too_far(ratio, advantage, gradient):
    logp = double(0.0, requires_grad=True)
    objective.policy_gradient(logp, double(-math.log(ratio)), double(advantage), 0.2, 0.3).total.backward()
    assert float(logp.grad) == pytest.approx(gradient, abs=1e-12)


def test_the_truncated_correction_is_the_capped_ratio_and_a_constant():
    found = objective.truncated_correction(double(-1.0, -1.0, requires_grad=True), double(-1.5, -3.0), 2.0)
    assert found.tolist() == pytest.approx([math.exp(0.5), 2.0])
    assert not found.requires_grad


def mixed(rollouts: float | None, experts: float | None, mu: float, counts: tuple[int, int]) -> float | None:
    """`harmonise` of two branches that sum up to these losses; counts are those of the global batch."""
    sums = (None if total is None else TokenSum(torch.tensor(total), 3) for total in (rollouts, experts))
    found = objective.harmonise(Parts(*sums, torch.tensor([]), torch.tensor([]), *counts), mu)
    return None if found is None else float(found)


def test_the_mixture_divides_each_branch_by_its_own_global_count():
    # (1 - 0.25) 6/12 + 0.25 20/8 = 0.375 + 0.625
    assert mixed(6.0, 20.0, 0.25, (12, 8)) == 1.0


def test_a_branch_without_weight_or_tokens_is_left_out():
    assert mixed(math.nan, 2.0, 1.0, (3, 2)) == mixed(2.0, math.nan, 0.0, (2, 3)) == 1.0
    assert mixed(2.0, None, 0.5, (1, 9)) == mixed(None, 2.0, 0.5, (9, 1)) == 1.0
    assert mixed(None, None, 0.5, (1, 1)) is mixed(2.0, None, 1.0, (1, 1)) is mixed(None, 2.0, 0.0, (1, 1)) is None


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    old, advantage, weight = -torch.rand(6).double(), torch.randn(6).double(), torch.rand(6).double()

    def mixture(logp):
        rollouts = objective.policy_gradient(logp[:6], old, advantage, 0.2, 0.3)
        experts = objective.imitation(logp[6:], weight)
        return objective.harmonise(Parts(rollouts, experts, logp[6:], weight, 11, 7), 0.3)

    logp = (-torch.rand(12, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(mixture, (logp,), atol=1e-8)


def test_luffys_shaped_ratio_pushes_hardest_where_p_is_gamma():
    def loss(logp):
        return objective.shaped_imitation(logp, torch.ones_like(logp), 0.1).total

    logp = double(0.02, 0.1, 0.5).log().requires_grad_()
    loss(logp).backward()
    # d/dlogp of p/(p+g) is g p/(p+g)^2: 0.002/0.0144, 0.01/0.04, 0.05/0.36
    assert logp.grad.tolist() == pytest.approx([-0.002 / 0.0144, -0.25, -0.05 / 0.36])
    assert torch.autograd.gradcheck(loss, (logp,))


def test_luffys_expert_is_compared_with_the_rollouts_alone():
    rewards = torch.stack([double(1, 0, 0, 0), double(0, 0, 0, 0)])
    own, expert = objective.with_expert_traces(rewards, double(1, 1), 1e-6)
    assert own.tolist() == [[0.75, -0.25, -0.25, -0.25], [0.0, 0.0, 0.0, 0.0]]
    assert expert.tolist() == [0.75, 1.0]  # 1 - 1/4, undivided; 1 - 0
    thirds, _ = objective.with_expert_traces(double(0.1, 0.1, 0.1)[None], double(1.0), 1e-6)
    assert thirds.tolist() == [[0.0, 0.0, 0.0]]


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0.01, 10))
def test_sasrs_chance_is_a_share_that_rises_with_the_gradient(norm, warmup, gamma):
    schedule = objective.MuGradientNorm(schedule="gradient-norm", warmup_steps=1, gamma=gamma)
    chance = schedule.chance(norm, warmup)
    assert 0 <= chance <= 1
    assert schedule.chance(norm + 1, warmup) >= chance
