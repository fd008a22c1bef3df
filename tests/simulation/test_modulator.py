import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from society_fakes import NOBODY, FakeModel, HashedWords, listed

from matrix.prompting import Asker, Decoding, Unparsable
from matrix.records import Origin
from matrix.simulation.agent import Life
from matrix.simulation.modulator import Modulator, at_random, parse_indices, shortlist


def life(name):
    return Life(
        id=name, name=name, description=f"{name} at work.", posts=[], personality="", goal="", plan=["x"], profile="",
        origin=Origin(stage="s"),
    )  # fmt: skip


def modulator(group, *names):
    embedded = HashedWords().embed(list(names))
    return Modulator(group, [life(name) for name in names], embedded.mean(axis=0))


def routed(model, group, actor=0):
    asker = Asker("matrix.simulation", model, "simulate-test")
    told, reason, parsed = asyncio.run(group.route(asker, "t0", group.members[actor], "She sang.", 1, Decoding()))
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


def test_routes_to_the_members_named_and_never_to_the_actor():
    model = FakeModel(route="[0, 1], reason: they were there")
    told, reason, parsed, _ = routed(model, modulator(0, "Ann", "Bob", "Cy"), actor=1)
    assert (told, reason, parsed) == (["Ann", "Cy"], "they were there", True)
    assert listed(model.calls[0][1]) == ["Ann. Ann at work.", "Cy. Cy at work."]
    assert "She sang." in model.calls[0][1]


def test_a_group_of_one_asks_nobody():
    model = FakeModel()
    assert routed(model, modulator(0, "Ann"))[:3] == ([], "", True)
    assert model.calls == []


def test_an_unparsable_route_is_tried_twice_then_tells_all_others():
    model = FakeModel(route="I cannot say.")
    told, _, parsed, asker = routed(model, modulator(0, "Ann", "Bob", "Cy"))
    assert (told, parsed) == (["Bob", "Cy"], False)
    assert model.count("route") == 2
    assert len({call[2].seed for call in model.calls}) == 2
    assert [(f.id, f.purpose, f.text) for f in asker.failures] == [("t0", "route", "I cannot say.")] * 2


def test_a_second_answer_that_can_be_parsed_counts():
    answers = iter(["Hm.", NOBODY])
    told, reason, parsed, asker = routed(FakeModel(route=lambda *_: next(answers)), modulator(0, "Ann", "Bob"))
    assert (told, reason, parsed) == ([], "Nobody was there.", True)
    assert len(asker.failures) == 1


@pytest.mark.parametrize(("reply", "groups", "parsed"), [("[1], reason: bread", [2], True), ("no idea", [], False)])
def test_shares_with_the_groups_named(reply, groups, parsed):
    own, *others = modulator(0, "Ann"), modulator(1, "Bob"), modulator(2, "Cy")
    model = FakeModel(share=reply)
    asker = Asker("matrix.simulation", model, "simulate-test")
    chosen, understood = asyncio.run(own.share(asker, "t0", "She sang.", others, 1, Decoding()))
    assert ([m.group for m in chosen], understood) == (groups, parsed)
    assert listed(model.calls[0][1]) == ["Bob", "Cy"]


def test_a_group_is_described_by_its_people_and_last_scenario():
    group = modulator(0, "Ann", "Bob")
    assert group.description() == "Ann, Bob"
    for summary in ("They met.", "They parted."):
        group.remember(summary, HashedWords())
    assert group.description() == "Ann, Bob. They parted."


def test_shortlist_is_nearest_first_by_memory_and_leaves_out_the_own_group():
    groups = [modulator(i, f"person{i}") for i in range(4)]
    groups[1].remember("rain on the sea", HashedWords())
    groups[2].remember("bread and flour", HashedWords())
    groups[2].remember("rain on the roof", HashedWords())  # older memories count as well
    groups[3].remember("bread and flour and salt", HashedWords())
    vector = HashedWords().embed(["bread and flour"])[0]
    assert [m.group for m in shortlist(groups, 0, vector, 2)] == [2, 3]
    assert [m.group for m in shortlist(groups, 2, vector, 9)][0] == 3
    assert shortlist(groups, 0, vector, 0) == []
    assert groups[2].similarity(vector) == pytest.approx(1, abs=1e-5)
    assert groups[0].similarity(vector) == pytest.approx(float(np.dot(groups[0].centre, vector)))


@given(st.integers(0, 12), st.sets(st.integers(0, 50), max_size=10), st.integers(0, 9))
def test_at_random_draws_as_many_as_were_chosen(chosen, population, seed):
    drawn = at_random(chosen, sorted(population), seed)
    assert len(drawn) == min(chosen, len(population))
    assert set(drawn) <= population
    assert drawn == at_random(chosen, sorted(population), seed) == sorted(set(drawn))
