"""Filters on an LLM's labels."""

import pytest
from rows_and_rewards import conversation, pair

from matrix.filtering.base import Facts
from matrix.filtering.tagged import CategoriesConfig, DifficultyConfig, QualityConfig, Safety, SafetyConfig, Untagged
from matrix.records import Tags


def judged(config, **labels):
    """Verdicts on rows whose one tag, by the name of the field, is one of the labels each; `None` is not tagged."""
    ((name, given),) = labels.items()
    rows = [conversation(f"row{n}") for n in range(len(given))]
    tags = {r.id: Tags(id=r.id, **{name: label}) for r, label in zip(rows, given, strict=True) if label is not None}
    return config.build(Facts(tags=tags)).judge(rows)


def test_quality_from_a_label_on():
    labels = ["excellent", "poor", "average", "very poor"]
    assert judged(QualityConfig(), quality=labels) == [
        None, ("quality too low", "poor"), None, ("quality too low", "very poor"),
    ]  # fmt: skip
    assert [bool(v) for v in judged(QualityConfig(at_least="excellent"), quality=labels)] == [False, True, True, True]


def test_difficulty_between_two_labels():
    labels = ["very easy", "easy", "hard", "very hard"]
    assert judged(DifficultyConfig(at_least="easy", at_most="hard"), difficulty=labels) == [
        ("difficulty too low", "very easy"), None, None, ("difficulty too high", "very hard"),
    ]  # fmt: skip
    assert judged(DifficultyConfig(), difficulty=labels) == [None] * 4


def test_categories_that_are_wanted():
    verdicts = judged(CategoriesConfig(keep=["Math"]), category=["Math", "Planning", "Math"])
    assert verdicts == [None, ("category not wanted", "Planning"), None]


def test_quotas_are_shares_of_the_rows_and_the_first_are_kept():
    labels = ["Math"] * 6 + ["Planning"] * 4
    beyond = ("category beyond its quota", "Math")
    assert judged(CategoriesConfig(quotas={"Math": 0.25}), category=labels) == [None] * 2 + [beyond] * 4 + [None] * 4
    assert judged(CategoriesConfig(quotas={"Math": 0.6}), category=labels) == [None] * 10
    assert judged(CategoriesConfig(quotas={"Math": 0.1}), category=["Math"] * 30).count(None) == 3


def test_rows_without_a_label_count_for_no_quota():
    labels = ["Math", "Math", "", None]
    assert judged(CategoriesConfig(quotas={"Math": 0.5}), category=labels)[:2] == [
        None, ("category beyond its quota", "Math"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keep", "dropped"),
    [("safe", [None, ("unsafe instruction", "unsafe")]), ("unsafe", [("safe instruction", "safe"), None]),
     ("any", [None, None])],
)  # fmt: skip
def test_safety(keep, dropped):
    assert judged(SafetyConfig(keep=Safety(keep)), safety=["safe", "unsafe"]) == dropped


@pytest.mark.parametrize("config", [QualityConfig, DifficultyConfig, CategoriesConfig, SafetyConfig])
def test_rows_without_the_label_stay_unless_they_shall_not(config):
    (name,) = config.reads
    labels = {name: ["", None]}
    assert judged(config(), **labels) == [None, None]
    assert judged(config(untagged=Untagged("drop")), **labels) == [(f"no {name}", "")] * 2


def test_pairs_have_labels_too():
    facts = Facts(tags={"p": Tags(id="p", quality="poor"), "q": Tags(id="q", quality="good")})
    assert QualityConfig().build(facts).judge([pair("p"), pair("q")]) == [("quality too low", "poor"), None]


def test_unknown_labels_are_refused():
    with pytest.raises(ValueError, match="at_least: there is no quality 'fair'. Use very poor, poor"):
        QualityConfig(at_least="fair")
    with pytest.raises(ValueError, match="at_most: there is no difficulty"):
        DifficultyConfig(at_most="impossible")
    with pytest.raises(ValueError, match="at_least=hard is above at_most=easy"):
        DifficultyConfig(at_least="hard", at_most="easy")
    with pytest.raises(ValueError, match="there is no category 'math'. Use Information seeking"):
        CategoriesConfig(keep=["math"])
    with pytest.raises(ValueError, match="there is no category"):
        CategoriesConfig(quotas={"Maths": 0.2})
    with pytest.raises(ValueError, match="shares of the rows"):
        CategoriesConfig(quotas={"Math": 20})
