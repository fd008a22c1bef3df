from rows_and_rewards import conversation, likelihood, pair

from matrix.filtering.base import Facts
from matrix.filtering.policy import ImplicitGapConfig, OnPolicyConfig
from matrix.filtering.window import Unit, Window


def of_pairs(**logps):
    """Row -> log-probabilities of chosen and rejected."""
    return {
        name: {part: likelihood(name, part, logp) for part, logp in zip(("chosen", "rejected"), both, strict=True)}
        for name, both in logps.items()
    }


def test_the_smallest_implicit_gaps_are_kept():
    facts = Facts(
        likelihoods=of_pairs(a=(-10.0, -30.0), b=(-12.0, -30.0), c=(-40.0, -30.0)),
        reference=of_pairs(a=(-20.0, -20.0), b=(-20.0, -36.0), c=(-30.0, -30.0)),
    )  # gaps 20, 2 and -10
    rows = [pair(name) for name in "abc"]
    assert ImplicitGapConfig(gap=Window(high=0.5)).build(facts).judge(rows) == [
        ("implicit gap too high", "20"), None, None,
    ]  # fmt: skip


def test_pairs_that_the_policy_has_right_already():
    facts = Facts(likelihoods=of_pairs(known=(-5.0, -9.0), new=(-9.0, -5.0)))
    assert OnPolicyConfig().build(facts).judge([pair("known"), pair("new")]) == [
        ("policy's preference too high", "0.4"), None,
    ]  # fmt: skip


def test_a_long_answer_is_not_unlikely_for_its_length():
    long = {
        "row": {"chosen": likelihood("row", "chosen", -40.0, 80), "rejected": likelihood("row", "rejected", -20.0, 20)}
    }
    assert OnPolicyConfig().build(Facts(likelihoods=long)).judge([pair("row")])[0].value == "0.5"


def test_conversations_that_the_policy_would_say_anyway_or_never():
    logps = {"said": -0.1, "far": -9.0, "fresh": -2.0}
    facts = Facts(likelihoods={name: {"response": likelihood(name, "response", 10 * p)} for name, p in logps.items()})
    config = OnPolicyConfig(likelihood=Window(low=-5.0, high=-1.0, unit=Unit.absolute))
    assert config.build(facts).judge([conversation(name) for name in logps]) == [
        ("likelihood too high", "-0.1"), ("likelihood too low", "-9"), None,
    ]  # fmt: skip


def test_nothing_to_judge():
    assert OnPolicyConfig().build(Facts()).judge([]) == []
