"""Modulators: who hears of an action within the group and beyond, and what they know of each other."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from society_fakes import NOBODY, FakeModel, listed

from matrix.prompting import Asker, Decoding, Unparsable
from matrix.records import Origin
from matrix.simulation.agent import Life
from matrix.simulation.modulator import CIRCLE, Memories, Modulator, drawn, parse_indices, reach


def life(name):
    return Life(
        id=name, name=name, description=f"{name} at work.", personality="", goal="", plan=["x"], profile="",
        origin=Origin(stage="s"),
    )  # fmt: skip


def modulator(group, *names):
    return Modulator(group, [life(name) for name in names], [])


def routed(model, group, actor=0):
    asker = Asker("matrix.simulation", model, "simulate-test")
    told, reason, parsed = asyncio.run(
        group.route(asker, "t0", group.members[actor], "She sang.", group.members, 1, Decoding())
    )
    return [member.name for member in told], reason, parsed, asker


@pytest.mark.parametrize(
    ("text", "indices", "reason"),
    [
        ('{"indices": [0, 2], "reason": "They share a shop."}', [0, 2], "They share a shop."),
        ('{"indices": [], "reason": "Nobody saw it."}', [], "Nobody saw it."),
        ("[0, 1, 2], reason: they work there", [0, 1, 2], "they work there"),
        ("Awareness: [2,0,2]\nReason: near", [0, 2], "near"),
        ("[1 and 2]. Because of the noise.\nMore text.", [1, 2], "Because of the noise."),
        ("[0, 7], reason: 7 is nobody", [0], "7 is nobody"),
        ('{"indices": ["1"], "reason": "cut off he', [1], "cut off he"),
        ('{"indices": [0, 1,', [0, 1], ""),
    ],
)
def test_reads_json_and_the_papers_form(text, indices, reason):
    assert parse_indices(text, 3) == (indices, reason)


@pytest.mark.parametrize(
    "text", ["", "nobody", "0, 1", "[Ann, Bob]", "[3, 4]", "[-1]", "[0-2]", f"[{'9' * 5000}]", "]"]
)
def test_refuses_what_names_no_entry(text):
    with pytest.raises(Unparsable):
        parse_indices(text, 3)


@given(st.text(st.sampled_from('[]{}0123, "-.andreason:\n\u0661²x')), st.integers(1, 5))
def test_any_text_is_parsed_within_bounds_or_refused(text, count):
    try:
        indices, _ = parse_indices(text, count)
    except Unparsable:
        return
    assert indices == sorted(set(indices))
    assert all(0 <= i < count for i in indices)


@pytest.mark.parametrize("actor", [0, 1, 2])
def test_routes_to_the_members_named_and_never_to_the_actor(actor):
    model = FakeModel(route="[0, 1], reason: they were there")
    told, reason, parsed, _ = routed(model, modulator(0, "Ann", "Bob", "Cy"), actor)
    assert told == [name for name in ("Ann", "Bob") if name != ("Ann", "Bob", "Cy")[actor]]
    assert (reason, parsed) == ("they were there", True)
    prompt = model.calls[0][1]
    assert listed(prompt) == ["Ann. Ann at work.", "Bob. Bob at work.", "Cy. Cy at work."]
    assert prompt.endswith(f"Action of {('Ann', 'Bob', 'Cy')[actor]}: She sang.")
    schema = model.calls[0][2].json_schema["properties"]["indices"]
    assert (schema["items"]["enum"], schema["maxItems"]) == ([0, 1, 2], 3)


def test_a_group_of_one_asks_nobody():
    model = FakeModel()
    assert routed(model, modulator(0, "Ann"))[:3] == ([], "", True)
    assert model.calls == []


def test_an_unparsable_route_is_tried_twice_then_tells_all_others():
    model = FakeModel(route="I cannot say.")
    told, _, parsed, asker = routed(model, modulator(0, "Ann", "Bob", "Cy"), actor=1)
    assert (told, parsed) == (["Ann", "Cy"], False)
    assert model.count("route") == 2
    assert len({call[2].seed for call in model.calls}) == 2
    assert [(f.id, f.purpose, f.text) for f in asker.failures] == [("t0", "route", "I cannot say.")] * 2


def test_a_second_answer_that_can_be_parsed_counts():
    answers = iter(["Hm.", NOBODY])
    told, reason, parsed, asker = routed(FakeModel(route=lambda *_: next(answers)), modulator(0, "Ann", "Bob"))
    assert (told, reason, parsed) == ([], "Nobody was there.", True)
    assert len(asker.failures) == 1


@pytest.mark.parametrize(("reply", "groups", "parsed"), [("[1], reason: bread", [5], True), ("no idea", [], False)])
def test_shares_with_the_candidates_named_by_what_they_had_done_until_then(reply, groups, parsed):
    candidates = modulator(2, "Bob"), modulator(5, "Cy", "Di")
    candidates[1].memory = {3: "They baked.", 4: "They will rest."}
    model = FakeModel(share=reply)
    asker = Asker("matrix.simulation", model, "simulate-test")
    chosen, reason, understood = asyncio.run(
        modulator(0, "Ann").share(asker, "t0", "She sang.", list(candidates), 3, 1, Decoding())
    )
    assert (chosen, reason, understood) == (groups, "bread" if parsed else "", parsed)
    assert listed(model.calls[0][1]) == ["Bob", "Cy, Di. They baked."]
    assert model.calls[0][1].endswith("Action: She sang.")


def test_a_group_is_described_by_its_people_and_its_last_scenario():
    group = modulator(0, "Ann", "Bob")
    group.memory = {0: "They met.", 1: "They parted."}
    assert group.description(-1) == "Ann, Bob"
    assert group.description(0) == "Ann, Bob. They met."
    assert group.description(1) == "Ann, Bob. They parted."


def test_a_prompt_names_so_many_members_and_no_more():
    names = [f"Person{i:03}" for i in range(CIRCLE + 5)]
    crowd = modulator(0, *names)
    assert crowd.circle.split("; ") == crowd.description(0).split(", ") == names[:CIRCLE]
    assert modulator(0, "Ann").circle == ""


def unit(*numbers):
    return np.array(numbers, np.float32) / np.linalg.norm(numbers)


class TestMemories:
    """Three groups in the plane: east, north and west."""

    @pytest.fixture
    def memories(self):
        return Memories(np.array([[2, 0], [0, 0.5], [-1, 0]], np.float32))

    @pytest.mark.parametrize(("limit", "nearest"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (9, [0, 1, 2])])
    def test_nearest_in_the_beginning_is_whose_people_are_like_the_action(self, memories, limit, nearest):
        assert memories.nearest([0, 1, 2], -1, unit(5, 4), limit) == nearest
        assert memories.nearest([0, 1, 2], -3, unit(5, 4), limit) == nearest

    def test_only_the_given_groups_are_compared(self, memories):
        assert memories.nearest([1, 2], -1, unit(1, 0.1), 1) == [1]

    def test_equally_near_groups_come_by_their_number(self, memories):
        assert memories.nearest([0, 2], -1, unit(0, 1), 1) == [0]
        assert memories.nearest([0, 2], -1, unit(-1e-6, 1), 1) == [0]  # the last digits decide nothing

    def test_what_a_group_did_counts_from_its_round_on_and_older_memories_fade(self, memories):
        for round_, vector in enumerate((unit(0, 1), unit(-1, 0), None)):
            memories.remember(0, round_, vector)
            memories.remember(1, round_, None)
        east, west = unit(1, 2), unit(-1, 2)
        assert memories.nearest([0, 1], -1, east, 1) == [1]
        assert memories.nearest([0, 1], 0, east, 1) == [0]  # by now half east and half north
        assert memories.nearest([0, 1], 0, west, 1) == [1]
        for round_ in (1, 2):  # gone west; in the last round without a scenario
            assert memories.nearest([0, 1], round_, east, 1) == [1]
            assert memories.nearest([0, 1], round_, west, 1) == [0]

    def test_a_round_that_is_forgotten_leaves_those_after_it(self, memories):
        for group in range(3):
            memories.remember(group, 0, unit(0, 1))
        memories.forget(-1)
        memories.forget(-7)
        for group in range(3):
            memories.remember(group, 1, unit(group - 1, 0.01))
        assert memories.nearest([0, 1, 2], 1, unit(-1, 0), 1) == [0]


CENTRES = st.lists(
    st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.just(1)), min_size=1, max_size=9
).map(lambda rows: np.array(rows, np.float32))  # fmt: skip


@given(CENTRES, st.integers(0, 10))
def test_a_group_knows_of_those_with_the_most_similar_people(centres, limit):
    known = reach(centres, limit)
    most = min(limit or len(centres), len(centres) - 1)
    cosines = centres @ centres.T / np.outer(*[np.linalg.norm(centres, axis=1)] * 2)
    for group, others in enumerate(known):
        assert group not in others
        assert list(others) == sorted(set(others))
        assert len(others) == most
        left_out = set(range(len(centres))) - {group, *others}
        assert all(cosines[group, o] >= cosines[group, x] - 1e-5 for o in others for x in left_out)


@given(st.integers(0, 12), st.sets(st.integers(0, 50), max_size=10), st.integers(0, 9))
def test_draws_different_members_as_far_as_there_are_any(most, population, seed):
    chosen = drawn(seed, sorted(population), most)
    assert len(chosen) == len(set(chosen)) == min(most, len(population))
    assert set(chosen) <= population
    assert chosen == drawn(seed, sorted(population), most)


def test_every_member_is_drawn_first_at_times():
    assert {drawn(seed, range(4), 2)[0] for seed in range(60)} == {0, 1, 2, 3}
