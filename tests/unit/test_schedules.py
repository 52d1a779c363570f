"""mu schedules: hand-computed points, bounds, monotone parts, continuity, edge cases."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chord.config.study import Recipe
from chord.objective import MuAdaptive, MuDecay, Step

LENGTHS = st.integers(0, 1000)
SHARES = st.floats(0, 1)


def decayed_mu(step: int, warmup: int, decay: int, peak: float, valley: float) -> float:
    schedule = MuDecay(schedule="decay", warmup_steps=warmup, decay_steps=decay, peak=peak, valley=valley)
    return schedule.mu(Step(step, 0, {}))


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        # 0.9 -> 0.05 over 200 steps (section 4.3): half way 0.05 + 0.85/2; a quarter 0.05 + 0.85 (1 + cos 45 deg)/2
        (
            (0, 200, 0.9, 0.05),
            {0: 0.9, 50: 0.05 + 0.85 * (1 + math.sqrt(0.5)) / 2, 100: 0.475, 200: 0.05, 1499: 0.05},
        ),
        ((4, 10, 0.8, 0.1), {0: 0.0, 1: 0.2, 4: 0.8}),  # a warm-up starts at 0 and reaches the peak
        ((0, 0, 0.9, 0.1), {0: 0.1, 4: 0.1}),  # with neither every step has the valley, whatever the peak
        ((2, 0, 1.0, 0.25), {1: 0.5, 2: 0.25, 3: 0.25}),  # without decay it falls to the valley after the warm-up
    ],
)
def test_the_schedule_at_points_worked_out_by_hand(schedule, points):
    assert {step: decayed_mu(step, *schedule) for step in points} == pytest.approx(points, abs=1e-15)


def test_the_mean_over_the_papers_decay_is_the_one_of_the_fact_sheet():
    mean = sum(decayed_mu(step, 0, 200, 0.9, 0.05) for step in range(200)) / 200
    assert mean == pytest.approx(0.477, abs=5e-4)


@given(LENGTHS, st.integers(1, 1000), SHARES, SHARES)
def test_mu_rises_in_the_warm_up_and_moves_one_way_in_the_decay(warmup, decay, one, other):
    peak, valley = max(one, other), min(one, other)
    values = [decayed_mu(step, warmup, decay, peak, valley) for step in range(warmup + decay + 2)]
    assert all(a <= b + 1e-15 for a, b in zip(values[:warmup], values[1 : warmup + 1], strict=True))
    assert all(a >= b - 1e-15 for a, b in zip(values[warmup:], values[warmup + 1 :], strict=False))
    assert values[-1] == valley


@given(st.integers(1, 1000), st.integers(1, 1000), SHARES, SHARES)
def test_mu_stays_within_its_end_points_and_never_jumps_by_more_than_its_steepest_slope(warmup, decay, peak, valley):
    values = [decayed_mu(step, warmup, decay, peak, valley) for step in range(warmup + decay + 2)]
    assert min(values) >= 0 and max(values) <= max(peak, valley) + 1e-15
    steepest = max(peak / warmup, abs(peak - valley) * math.pi / (2 * decay)) + 1e-12
    assert max(abs(a - b) for a, b in zip(values, values[1:], strict=False)) <= steepest


@pytest.mark.parametrize("bad", [(-1, 0, 0, 0.5, 0.5), (0, -1, 0, 0.5, 0.5), (0, 0, 0, 1.1, 0.5), (0, 0, 0, 0.5, -0.1)])
def test_impossible_schedules_are_refused(bad):
    with pytest.raises(ValueError, match=r"expected|should be"):
        decayed_mu(*bad)


@given(st.floats(-1, 1), SHARES)
def test_the_adaptive_rule_is_the_papers_and_stays_a_share(reward, threshold):
    schedule, step = MuAdaptive(schedule="adaptive", threshold=threshold), Step(3, 0, {})
    assert schedule.mu(step) is None, "before the rollouts are graded"
    mu = schedule.mu(step._replace(mean_reward=reward))
    assert mu is not None
    assert 0 <= mu <= 1
    if 0 <= threshold - reward <= 1:
        assert mu == threshold - reward


def test_a_learning_rate_rises_at_first_and_falls_to_the_end_where_a_recipe_says_so():
    recipe = Recipe.model_validate(
        {
            "init": "base",
            "mu": {"schedule": "constant", "value": 1.0},
            "steps": 10,
            "learning_rate": 0.5,
            "keep": "last",
        }
    )
    assert {recipe.rate_at(step, 10, 0) for step in range(10)} == {0.5}
    cooled = recipe.model_copy(update={"cooldown_steps": 4})
    rates = [cooled.rate_at(step, 10, 2) for step in range(10)]
    assert rates == [0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.375, 0.25, 0.125]
    assert "cooldown_steps" not in recipe.model_dump_json() and "cooldown_steps" in cooled.model_dump_json()
