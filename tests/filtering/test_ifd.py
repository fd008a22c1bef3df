"""Instruction-following difficulty from measured log-probabilities."""

import math

import pytest
from rows_and_rewards import conversation, pair

from matrix.filtering.base import Facts
from matrix.filtering.ifd import IfdConfig, Ratio, ifd
from matrix.filtering.window import Unit, Window
from matrix.records import Likelihood


def measured(given: float, alone: float, tokens: int = 4, part: str = "response") -> Likelihood:
    """Of a row with these mean losses."""
    return Likelihood(row="r", part=part, tokens=tokens, logp=-given * tokens, logp_alone=-alone * tokens)


def judged(losses, **config):
    """`losses`: mean loss with and without the instruction, of each row."""
    likelihoods = {f"row{n}": {"response": measured(*pair)} for n, pair in enumerate(losses)}
    rows = [conversation(name) for name in likelihoods]
    return IfdConfig(**config).build(Facts(likelihoods=likelihoods)).judge(rows)


def test_it_is_a_ratio_of_perplexities_or_of_losses():
    row = measured(given=1.0, alone=3.0)
    assert ifd(row, Ratio("perplexity")) == pytest.approx(math.exp(1.0) / math.exp(3.0))
    assert ifd(row, Ratio("loss")) == pytest.approx(1 / 3)
    assert ifd(measured(1.0, 3.0, tokens=900), Ratio("perplexity")) == pytest.approx(math.exp(-2.0))  # length cancels


@pytest.mark.parametrize("ratio", Ratio)
def test_rows_without_a_ratio(ratio):
    assert ifd(measured(1.0, 2.0, tokens=0), ratio) is None
    assert ifd(measured(0.5, 0.0), ratio) > 1


@pytest.mark.parametrize("ratio", Ratio)
def test_an_instruction_that_does_not_help_drops_its_row(ratio):
    everything = Window()
    verdicts = judged([(1.0, 2.0), (2.0, 2.0), (2.5, 2.0)], window=everything, ratio=ratio)
    assert verdicts[0] is None
    assert [v.reason for v in verdicts[1:]] == ["the instruction does not help"] * 2


def test_by_default_the_top_tenth_of_what_is_below_one_is_kept():
    losses = [(1.0, 1.0 + 0.1 * n) for n in range(1, 11)]  # the first is the hardest
    harmful = [(3.0, 1.0)] * 20
    verdicts = judged(losses + harmful)
    assert verdicts[0] is None
    assert {v.reason for v in verdicts[1:10]} == {"IFD too low"}
    assert verdicts[1].value == f"{math.exp(-0.2):.4g}"
    assert {v.reason for v in verdicts[10:]} == {"the instruction does not help"}


def test_the_ratios_rank_differently():
    losses = [(0.1, 0.5), (2.0, 3.0)]  # exp(-0.4) > exp(-1), but 1/5 < 2/3
    top = Window(low=1.0)
    kept = {ratio: [v is None for v in judged(losses, window=top, ratio=ratio)] for ratio in Ratio}
    assert kept == {Ratio.perplexity: [True, False], Ratio.loss: [False, True]}


def test_bounds_may_be_absolute():
    window = Window(low=0.2, high=0.9, unit=Unit.absolute)
    verdicts = judged([(1.0, 1.01), (1.0, 2.0), (1.0, 4.0)], window=window)
    assert [v and v.reason for v in verdicts] == ["IFD too high", None, "IFD too low"]


def test_pairs_are_judged_by_the_chosen_answer():
    both = {"chosen": measured(1.0, 2.0, part="chosen"), "rejected": measured(3.0, 2.0, part="rejected")}
    assert IfdConfig().build(Facts(likelihoods={"p": both})).judge([pair("p")]) == [None]


def test_rows_that_were_not_measured_are_dropped():
    likelihoods = {"empty": {"response": measured(1.0, 2.0, tokens=0)}}
    verdicts = IfdConfig().build(Facts(likelihoods=likelihoods)).judge([conversation("empty"), conversation("new")])
    assert verdicts == [("no likelihood", "")] * 2
