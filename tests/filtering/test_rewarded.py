from rows_and_rewards import conversation, pair

from matrix.filtering.base import Facts
from matrix.filtering.rewarded import MarginConfig, RewardedConfig, RipConfig, SigmaConfig
from matrix.filtering.window import Unit, Window

ANY = Window()


def absolute(low=None, high=None):
    return Window(low=low, high=high, unit=Unit.absolute)


def test_rewards_of_conversations_and_chosen_answers():
    conversations = Facts(rewards={str(n): {"response": float(n)} for n in range(5)})
    rows = [conversation(str(n)) for n in range(6)]
    verdicts = RewardedConfig(window=Window(low=0.5)).build(conversations).judge(rows)
    assert verdicts == [("reward too low", "0"), ("reward too low", "1"), None, None, None, ("reward unknown", "")]
    pairs = Facts(rewards={"a": {"chosen": 1.0, "rejected": 9.0}, "b": {"chosen": 3.0, "rejected": 0.0}})
    assert RewardedConfig(window=absolute(2.0)).build(pairs).judge([pair("a"), pair("b")]) == [
        ("reward too low", "1"), None,
    ]  # fmt: skip


def test_a_margin_wants_a_good_chosen_answer_ahead_of_the_rejected_one():
    rewards = {"good": (3.0, 1.0), "turned": (1.0, 3.0), "poor": (-5.0, -6.0), "wide": (9.0, 0.0), "half": (1.0, None)}
    facts = Facts(
        rewards={
            name: {part: r for part, r in zip(("chosen", "rejected"), both, strict=True) if r is not None}
            for name, both in rewards.items()
        }
    )
    config = MarginConfig(chosen=absolute(0.0), gap=absolute(0.0, 5.0))
    assert config.build(facts).judge([pair(name) for name in rewards]) == [
        None, ("reward gap too low", "-2"), ("chosen reward too low", "-5"), ("reward gap too high", "9"),
        ("reward gap unknown", ""),
    ]  # fmt: skip


def test_a_rejected_answer_near_mean_minus_two_deviations():
    rollouts = [1.0, 2.0, 3.0]  # mean 2, standard deviation 1
    facts = Facts(
        rewards={name: {"chosen": 9.0, "rejected": r} for name, r in (("near", 0.0), ("over", 1.5), ("far", -4.0))}
        | {"flat": {"chosen": 1.0, "rejected": 0.0}},
        rollout_rewards={name: rollouts for name in ("near", "over", "far")} | {"flat": [1.0, 1.0]},
    )
    verdicts = SigmaConfig().build(facts).judge([pair(name) for name in ("near", "over", "far", "flat")])
    assert verdicts == [
        None, ("deviation of the rejected answer too high", "-0.5"), ("deviation of the rejected answer too low", "-6"),
        ("deviation of the rejected answer unknown", ""),
    ]  # fmt: skip


def test_rip_drops_what_its_rejected_answer_gives_away():
    answers = {"fine": (5.0, 4.0, "a long answer"), "low": (5.0, 0.0, "a long answer"), "short": (5.0, 4.0, "No."),
               "wide": (9.0, 4.0, "a long answer")}  # fmt: skip
    facts = Facts(rewards={name: {"chosen": c, "rejected": r} for name, (c, r, _) in answers.items()})
    config = RipConfig(rejected=absolute(1.0), length=absolute(5), gap=absolute(high=4.5))
    rows = [pair(name, rejected=text) for name, (_, _, text) in answers.items()]
    assert config.build(facts).judge(rows) == [
        None, ("rejected reward too low", "0"), ("rejected length too low", "3"), ("reward gap too high", "5"),
    ]  # fmt: skip
