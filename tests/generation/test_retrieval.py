from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from society_fakes import HashedWords

from matrix.generation.retrieval import retrieve, turns
from matrix.records import Origin, Scenario


def scenario(name, summary):
    return Scenario(id=name, group=0, index=0, agents=[], actions=[], summary=summary, origin=Origin(stage="s"))


SCENARIOS = [
    scenario("bread", "the baker burnt the rye bread"),
    scenario("sea", "the sailor crossed the sea in a storm"),
    scenario("code", "the engineer tested code that sorts a list"),
    scenario("sea2", "a storm on the sea"),
]


def found(requirement, count):
    return [s.id for s in retrieve(SCENARIOS, requirement, count, HashedWords())]


@pytest.mark.parametrize(
    ("requirement", "nearest"), [("sea and storm", "sea2"), ("rye bread", "bread"), ("sorts code", "code")]
)
def test_takes_the_nearest(requirement, nearest):
    assert found(requirement, 1) == [nearest]


def test_nearest_comes_first():
    assert found("a storm on the sea", 2) == ["sea2", "sea"]
    assert found("a storm on the sea", 3)[:2] == ["sea2", "sea"]


@pytest.mark.parametrize("count", [None, 4, 9])
def test_all_are_taken_in_their_own_order_without_embedding(count):
    assert retrieve(SCENARIOS, "sea", count, embedder=None) == SCENARIOS


def test_equally_near_scenarios_keep_their_order():
    twins = [scenario("one", "rye bread"), scenario("two", "rye bread"), scenario("three", "rye bread")]
    assert [s.id for s in retrieve(twins, "sea", 2, HashedWords())] == ["one", "two"]


def diverse(count, diversity, requirement="a storm on the sea"):
    return [s.id for s in retrieve(SCENARIOS, requirement, count, HashedWords(), diversity)]


def test_diversity_passes_over_what_was_told_already():
    assert diverse(2, 0.0) == ["sea2", "sea"]
    assert diverse(2, 0.6)[0] == "sea2"
    assert diverse(2, 0.6)[1] != "sea"
    assert set(diverse(3, 0.6)) <= {s.id for s in SCENARIOS}
    assert len(set(diverse(3, 1.0))) == 3


def mean_similarity(ids):
    vectors = HashedWords().embed([s.summary for s in SCENARIOS if s.id in ids])
    return float((vectors @ vectors.T).sum() - len(ids)) / (len(ids) * (len(ids) - 1))


def test_more_weight_on_diversity_gives_scenarios_that_are_less_alike():
    alike = [mean_similarity(diverse(2, weight)) for weight in (0.0, 0.5, 0.9)]
    assert alike == sorted(alike, reverse=True)
    assert alike[0] > alike[-1]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.floats(0, 1))
def test_nothing_is_retrieved_twice(count, diversity):
    found = diverse(count, diversity)
    assert len(set(found)) == len(found) == min(count, len(SCENARIOS))


def peopled(*agents):
    """A scenario for every string; its letters are the agents."""
    return [
        Scenario(id=f"s{i}", group=0, index=0, agents=list(a), actions=[], summary="", origin=Origin(stage="s"))
        for i, a in enumerate(agents)
    ]


def order(scenarios, wanted, most, quota=None):
    return [(s.id, agent) for s, agent in turns(scenarios, wanted, most, quota)]


def test_everybody_has_a_turn_before_anybody_has_two():
    assert order(peopled("ab", "c"), 6, 6) == [("s0", "a"), ("s0", "b"), ("s1", "c")] * 2


def test_few_rows_are_spread_over_all_scenarios():
    scenarios = peopled(*"abcdefghij")
    assert [s for s, _ in order(scenarios, 5, 5)] == ["s0", "s2", "s4", "s6", "s8"]
    assert sorted(order(scenarios, 5, 10)) == sorted(order(scenarios, 10, 10))


@pytest.mark.parametrize("quota", [1, 2, 3])
def test_nobody_has_more_turns_than_the_quota(quota):
    scenarios = peopled("ab", "ac", "a")
    had = Counter(agent for _, agent in order(scenarios, 100, 100, quota))
    assert had == dict.fromkeys("abc", quota)


def test_nobody_to_ask_is_the_end():
    assert order(peopled("", ""), 4, 8) == []
    assert order([], 4, 8) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("abcd", max_size=4).map(lambda t: "".join(sorted(set(t)))), max_size=6),
    st.integers(1, 20), st.integers(0, 20), st.none() | st.integers(1, 4),
)  # fmt: skip
def test_turns_are_fair_and_as_many_as_can_be_had(agents, wanted, more, quota):
    scenarios = peopled(*agents)
    most = wanted + more
    found = order(scenarios, wanted, most, quota)
    places = [(f"s{i}", a) for i, names in enumerate(agents) for a in names]
    room = len(set("".join(agents))) * quota if quota else (most if places else 0)
    assert len(found) == min(most, room)
    if not quota and places:
        counts = Counter(found)
        assert max(counts.values()) - min(counts.get(place, 0) for place in places) <= 1
