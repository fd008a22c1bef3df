import numpy as np
import pytest
from rows_and_rewards import conversation

from matrix.filtering.base import Facts
from matrix.filtering.learnability import LearnabilityConfig, LearnabilityFilter
from matrix.filtering.window import Unit, Window


def judged(rewards, **config):
    names = [str(number) for number in range(len(rewards))]
    facts = Facts(rollout_rewards={n: list(r) for n, r in zip(names, rewards, strict=True) if r is not None})
    return LearnabilityConfig(**config).build(facts).judge([conversation(name) for name in names])


def test_a_prompt_whose_rollouts_earn_the_same_teaches_nothing():
    verdicts = judged([[1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 1]])
    assert verdicts == [("every rollout earns the same", "0")] * 2 + [None]


def test_pass_rates_in_a_window():
    rewards = [[0.1] * 8, [0.1] * 7 + [0.9], [0.1] * 4 + [0.9] * 4, [0.9] * 7 + [0.1]]
    window = Window(low=0.2, high=0.8, unit=Unit.absolute)
    verdicts = judged(rewards, pass_reward=0.5, mean=window)
    assert verdicts == [
        ("every rollout earns the same", "0"), ("mean reward too low", "0.125"), None,
        ("mean reward too high", "0.875"),
    ]  # fmt: skip


def test_the_largest_variances_are_kept():
    rewards = [[0, spread] for spread in (4, 1, 3, 2, 5)]
    assert [v is None for v in judged(rewards, keep=0.4)] == [True, False, False, False, True]
    assert judged(rewards, keep=0.4)[1] == ("reward variance too low", "0.7071")


def test_equal_variances_are_all_kept():
    assert judged([[0, 1]] * 4, keep=0.25) == [None] * 4


def test_a_prompt_without_two_rewards_is_dropped_and_shifts_no_quantile():
    verdicts = judged([None, [0.5], [0, 1], [2, 3], [4, 5]], mean=Window(low=0.5))
    assert verdicts[:2] == [("fewer than two rewarded rollouts", "")] * 2
    assert [v is None for v in verdicts[2:]] == [False, True, True]


@pytest.mark.parametrize("samples", [2, 4, 8])
def test_the_variance_estimator_is_unbiased(samples):
    """Over 20,000 prompts the mean of the estimates meets the true variance within five standard errors."""
    draw = np.random.default_rng(samples)
    rewards = draw.normal(3.0, 0.7, (20_000, samples))
    passes = (draw.random((20_000, samples)) < 0.3).astype(float)
    for drawn, true in ((rewards, 0.49), (passes, 0.21)):
        known = LearnabilityFilter(LearnabilityConfig(), Facts(rollout_rewards=dict(enumerate(drawn.tolist()))))
        found = np.array([known.moments(row).std ** 2 for row in range(len(drawn))])
        assert abs(found.mean() - true) < 5 * found.std() / len(found) ** 0.5


@pytest.mark.parametrize("wrong", [{"min_std": -1.0}, {"keep": 0.0}, {"keep": 1.5}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LearnabilityConfig(**wrong)
