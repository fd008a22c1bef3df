from hypothesis import given
from hypothesis import strategies as st

from matrix.simulation.memory import Memory

ENTRIES = st.lists(st.text(st.sampled_from("ab "), max_size=30), max_size=12)


@given(ENTRIES, st.integers(0, 14), st.integers(0, 60))
def test_recalls_the_newest_that_fit_and_never_more(entries, limit, budget):
    recalled = Memory(list(entries)).recall(limit, budget, len)
    count = len(recalled)
    assert count <= limit
    assert sum(map(len, recalled)) <= budget
    assert recalled == entries[len(entries) - count :]
    if count < min(limit, len(entries)):  # it stopped for want of tokens, not before
        assert sum(map(len, recalled)) + len(entries[-count - 1]) > budget


@given(ENTRIES, st.text(max_size=5))
def test_what_is_added_is_the_newest(entries, new):
    memory = Memory(list(entries))
    memory.add(new)
    assert memory.entries == [*entries, new]
    assert memory.recall(1, len(new), len) == [new]


def test_memories_of_two_agents_are_apart():
    one, other = Memory(), Memory()
    one.add("mine")
    assert other.entries == []
