import pytest
from society_fakes import HashedWords

from matrix.generation.retrieval import retrieve
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
