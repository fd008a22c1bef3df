"""What an agent recalls: within its limits, the best first, and digests in the place of what is old."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from society_fakes import FakeModel, lived, simulator

from matrix.simulation.memory import Kind, Memory, MemoryConfig

ENTRIES = st.lists(
    st.tuples(st.text(st.sampled_from("ab \n☂"), max_size=30), st.sampled_from(list(Kind)), st.integers(-1, 9)),
    max_size=12,
)
WEIGHTS = st.floats(0, 3)
KINDS = {kind.value: 0.5 for kind in Kind}


def remembered(*rows):
    memory = Memory()
    for entry, kind, round_ in rows:
        memory.add(entry, Kind(kind), round_)
    return memory


@given(
    ENTRIES,
    st.integers(0, 14),
    st.integers(0, 60),
    st.tuples(WEIGHTS, WEIGHTS, WEIGHTS),
    st.floats(0.1, 1),
    st.integers(0, 12),
    st.randoms(),
)
def test_recalls_the_best_that_fit_in_the_order_in_which_they_happened(rows, limit, budget, weights, decay, old, dice):
    recency, relevance, importance = weights
    config = MemoryConfig(
        entries=limit, tokens=budget, recency=recency, relevance=relevance, importance=importance, decay=decay
    )
    rows = [
        (f"{i}{entry}", kind, round_) for i, (entry, kind, round_) in enumerate(sorted(rows, key=lambda row: row[2]))
    ]
    memory = remembered(*rows)
    memory.digested = min(old, len(rows))
    live = range(memory.digested, len(rows))
    cosines = [dice.randint(-10, 10) / 10 for _ in live]
    query = np.array([1, 0], np.float32)
    recalled = memory.recall(config, 9, len, query, [np.array([c, 0], np.float32) for c in cosines])

    assert len(recalled) <= limit
    assert sum(map(len, recalled)) <= budget
    places = [memory.entries.index(entry) for entry in recalled]
    assert places == sorted(places)
    assert all(place in live for place in places)
    scores = {
        i: recency * decay ** (9 - round_) + importance * config.kinds[kind] + relevance * cosine
        for (i, cosine), (kind, round_) in zip(zip(live, cosines, strict=True), memory.made[old:], strict=True)
    }
    for missing in set(live) - set(places):  # those at least as good took its place, or its tokens
        better = [i for i in live if i != missing and scores[i] >= scores[missing] - 1e-4]
        taken = sum(len(memory.entries[i]) for i in places if i in better)
        assert len(better) >= limit or taken + len(memory.entries[missing]) > budget


def best(memory, query=None, vectors=(), **weights):
    """The one memory that comes first where only the named weights count."""
    config = MemoryConfig(entries=1, **({"recency": 0, "relevance": 0, "importance": 0} | weights))
    return memory.recall(config, 5, len, query, vectors)[0]


def test_each_weight_has_its_effect():
    memory = remembered(("new", "deed", 5), ("alike", "deed", 1), ("weighty", "digest", 1), ("post", "post", 1))
    vectors = [np.array(v, np.float32) for v in ((0, 1), (1, 0), (0, 1), (0, 1))]
    query = vectors[1]
    assert best(memory, query, vectors, recency=1) == "new"
    assert best(memory, query, vectors, relevance=1) == "alike"
    assert best(memory, query, vectors, importance=1) == "weighty"
    assert best(memory, importance=1, kinds={"post": 1, "deed": 0, "news": 0, "digest": 0}) == "post"
    assert best(memory, query, vectors, recency=4, relevance=1) == "new"
    assert best(memory, query, vectors, recency=1, relevance=2) == "alike"
    assert best(memory) == "post"  # nothing counts: the newest entry


def test_recency_fades_by_decay():
    memory = remembered(("old digest", "digest", 0), ("new deed", "deed", 5))
    assert best(memory, recency=1, importance=1, decay=0.99) == "old digest"  # 1.95 to 1.5
    assert best(memory, recency=1, importance=1, decay=0.5) == "new deed"  # 1.03 to 1.5


def test_an_entry_that_does_not_fit_leaves_its_place_to_none_beyond_the_best():
    memory = remembered(("a" * 30, "deed", 2), ("small", "deed", 1), ("least", "deed", 0))
    config = MemoryConfig(entries=2, tokens=20)
    assert memory.recall(config, 2, len) == ["small"]


def test_a_digest_takes_the_place_of_the_older_half():
    memory = remembered(*((f"deed {i}", "deed", i) for i in range(5)))
    assert memory.to_digest(5) == []
    assert memory.to_digest(0) == []
    assert memory.to_digest(4) == ["deed 0", "deed 1"]
    memory.digest("sum", 2, 5)
    assert memory.live() == ["deed 2", "deed 3", "deed 4", "sum"]
    assert memory.recall(MemoryConfig(entries=9), 5, len) == memory.live()
    assert memory.entries[:2] == ["deed 0", "deed 1"]
    assert memory.made[-1] == (Kind.digest, 5)
    assert memory.to_digest(3) == ["deed 2", "deed 3"]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"entries": -1}, "entries"),
        ({"tokens": -1}, "tokens"),
        ({"recency": -0.1}, "weights"),
        ({"relevance": -0.1}, "weights"),
        ({"importance": -0.1}, "weights"),
        ({"decay": 0}, "decay"),
        ({"decay": 1.1}, "decay"),
        ({"digest_after": -1}, "digest_after"),
        ({"digest_after": 1}, "at least 2"),
        ({"kinds": {"post": 1.0}}, "deed, digest, news; needed are exactly post, deed, news, digest"),
        ({"kinds": KINDS | {"dream": 1.0}}, "dream"),
        ({"kinds": KINDS | {"news": 1.5}}, "kinds.*news"),
        ({"kinds": KINDS | {"news": -0.5}}, "kinds.*news"),
    ],
    ids=str,
)
def test_nonsense_is_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        MemoryConfig(**wrong)


def test_memories_of_two_agents_are_apart():
    one, other = Memory(), Memory()
    one.add("mine", Kind.deed, 0)
    assert other.entries == other.made == []


class TestInASociety:
    CONFIG = simulator(num_scenarios=14, plan_steps=12, memory=MemoryConfig(digest_after=5, entries=9, tokens=999))

    def test_what_a_digest_covers_is_in_no_later_prompt(self):
        model = FakeModel(digest=lambda _, dice: f"They promised {dice.random()} things.")
        made = lived(self.CONFIG, model)
        assert model.count("digest") > 6
        seen = 0
        for life in made.lives:
            own = [(kind, prompt) for kind, prompt, _ in model.calls if f"\n{life.persona}\n" in prompt]
            own = [call for call in own if call[0] in ("act", "react", "digest")]
            for position, (kind, prompt) in enumerate(own):
                covered = [line for line in prompt.split("\n") if line.startswith("Memory: ")]
                assert bool(covered) == (kind == "digest")
                for entry in covered:
                    gone = entry.replace("Memory", "They remember", 1) + "\n"
                    assert not any(gone in later for _, later in own[position:])
                    seen += any(gone in before for _, before in own[:position])
            digests = life.memory.of_kind(Kind.digest)
            assert digests
            assert any(f"They remember: {digests[0]}\n" in prompt for _, prompt in own)
            assert len(life.memory.live()) <= 5 + 2 * len(life.plan)
        assert seen > 6

    def test_in_the_place_of_a_digest_that_cannot_be_used_stands_the_newest_of_its_memories(self):
        made = lived(self.CONFIG, FakeModel(digest="..."))
        assert {failure.purpose for failure in made.asker.failures} == {"digest"}
        assert any(life.memory.digested for life in made.lives)
        for life in made.lives:
            entries = life.memory.entries
            digests = [i for i, (kind, _) in enumerate(life.memory.made) if kind is Kind.digest]
            assert all(entries[i] in entries[:i] for i in digests)
            assert bool(digests) == bool(life.memory.digested)

    def test_few_memories_are_never_summed_up(self):
        config = simulator(num_scenarios=14, plan_steps=12, memory=MemoryConfig(digest_after=0))
        assert lived(config, FakeModel()).model.count("digest") == 0

    def test_no_entries_means_no_memories_in_prompts_and_no_vectors(self):
        model = FakeModel()
        lived(simulator(memory=MemoryConfig(entries=0)), model)
        assert not any("They remember" in prompt for _, prompt, _ in model.calls)
