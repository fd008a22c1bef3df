import asyncio
import json
from collections import Counter
from itertools import pairwise

import msgspec
import pytest
from society_fakes import NOBODY, PEOPLE, FakeModel, Reply, listed, lived, purpose, simulator, society

from matrix.engines.base import EngineError
from matrix.records import Profile
from matrix.simulation.config import Closes, Turns
from matrix.simulation.grouping import Grouping, GroupingConfig
from matrix.simulation.modulator import Communication

ALONE = GroupingConfig(num_groups=6, min_size=1, max_size=1)


def rows(made):
    """Everything that a society writes, as bytes."""
    lives = [(life.id, life.name, life.persona, life.goal, life.plan, life.group, life.position) for life in made.lives]
    return msgspec.json.encode([lives, made.actions, made.scenarios, made.asker.sorted_failures()])


def births(made):
    return [(a.id, a.name, a.description, a.posts, a.personality, a.goal, a.plan, a.origin) for a in made.lives]


def populated(count, seed=1, people=PEOPLE):
    made = society(simulator(num_agents=count, grouping=GroupingConfig(kind=Grouping("single"))), FakeModel(), seed)
    asyncio.run(made.populate(people[:count]))
    return made


def test_no_more_people_are_read_than_are_needed():
    made = society(simulator(num_agents=4, grouping=GroupingConfig(kind=Grouping("single"))), FakeModel())
    people = iter(PEOPLE)
    asyncio.run(made.populate(people))
    assert [life.profile for life in made.lives] == [person.id for person in PEOPLE[:4]]
    assert next(people) == PEOPLE[4]


@pytest.fixture(scope="module")
def structured():
    return lived(simulator(num_scenarios=10), FakeModel())


@pytest.mark.parametrize("concurrency", [1, 3, 64])
@pytest.mark.parametrize("shuffle", [0, 1, 2])
def test_order_of_answers_and_concurrency_change_nothing(structured, shuffle, concurrency):
    model = FakeModel(shuffle, concurrency)
    again = lived(simulator(num_scenarios=10), model)
    assert rows(again) == rows(structured)
    order = [call[1] for call in model.calls]
    assert (order != [call[1] for call in structured.model.calls]) == ((shuffle, concurrency) != (0, 64))


class LateStart(FakeModel):
    """Makes the first plan that it is asked for when `free` is set, and all others at once."""

    def __init__(self):
        super().__init__()
        self.free, self.asked = asyncio.Event(), 0

    async def chat(self, messages, sampling, priority=()):
        if purpose(messages[-1].content) == "plan":
            self.asked += 1
            if self.asked == 1:
                await self.free.wait()
        return await super().chat(messages, sampling, priority)


async def test_others_act_while_somebody_has_no_plan_yet_and_the_rows_are_the_same(structured):
    model = LateStart()
    made = society(simulator(num_scenarios=10), model)
    life = asyncio.create_task(made.run(PEOPLE[:6]))
    async with asyncio.timeout(20):
        while model.count("act") + model.count("react") < 3:
            await asyncio.sleep(0.001)
    (late,) = [one for one in made.lives if not one.plan]
    assert not late.done
    assert not [prompt for kind, prompt, _ in model.calls if kind in ("act", "react") and f"\n{late.name}. " in prompt]
    model.free.set()
    await life
    assert rows(made) == rows(structured)


async def test_a_plan_that_cannot_be_made_ends_the_society():
    def refused(*_):
        raise EngineError("out of order")

    with pytest.raises(EngineError, match="out of order"):
        await society(simulator(), FakeModel(plan=refused)).run(PEOPLE[:6])


def test_failures_are_in_the_same_order_whichever_came_first():
    def picky(_, dice):
        return "?" if dice.random() < 0.5 else NOBODY

    made = [lived(simulator(), FakeModel(shuffle, route=picky, share=picky, act="...")) for shuffle in range(3)]
    assert made[0].asker.failures
    assert rows(made[0]) == rows(made[1]) == rows(made[2])


def test_another_seed_is_another_society(structured):
    other = lived(simulator(num_scenarios=10), FakeModel(), seed=2)
    assert [a.text for a in other.actions] != [a.text for a in structured.actions]


def test_adding_an_agent_changes_nobody_elses_birth():
    assert births(populated(5)) == births(populated(6))[:5]
    assert births(populated(6, seed=2))[:5] != births(populated(5))


def test_changing_a_profile_changes_nobody_elses_birth():
    others = [PEOPLE[0], Profile(id="new", name="Una Berg", description="Una is a pilot."), *PEOPLE[2:]]
    changed, before = births(populated(6, people=others)), births(populated(6))
    assert [one[:1] + one[2:] for i, one in enumerate(changed) if i != 1] == [
        one[:1] + one[2:] for i, one in enumerate(before) if i != 1
    ]  # but for the number after a role that two have


def test_role_names_are_unique_and_groups_have_their_members(structured):
    assert len({life.name for life in structured.lives}) == 6
    for modulator in structured.modulators:
        assert [life.group for life in modulator.members] == [modulator.group] * 3


def test_rows_refer_to_rows_that_are_there(structured):
    agents = {life.id: life for life in structured.lives}
    actions = {action.id: action for action in structured.actions}
    assert len(actions) == len(structured.actions)
    assert len({scenario.id for scenario in structured.scenarios}) == len(structured.scenarios) == 10
    assert [a for s in structured.scenarios for a in s.actions] == list(actions)
    for scenario in structured.scenarios:
        told = [actions[a] for a in scenario.actions]
        assert {a.scenario for a in told} == {scenario.id}
        assert scenario.agents == sorted({a.agent for a in told})
        assert [a.step for a in told] == list(range(len(told)))
        assert {agents[a.agent].group for a in told} == {scenario.group}
    for action in actions.values():
        assert action.agent not in action.aware
        assert action.group not in action.shared
        assert {agents[a].group for a in action.aware} <= {action.group}


def test_an_index_counts_the_groups_closed_scenarios(structured):
    for group in (0, 1):
        indices = [scenario.index for scenario in structured.scenarios if scenario.group == group]
        assert indices == list(range(5))


def test_news_is_answered_and_without_news_the_plan_goes_on(structured):
    for action in structured.actions:
        assert (action.plan_step == -1) == bool(action.observations)
        asked = {"react.jinja" if action.observations else "act.jinja", "agent.jinja", "route.jinja"}
        assert set(action.origin.templates) - {"share.jinja"} == asked
    for life in structured.lives:
        worked = [a.plan_step for a in structured.actions if a.agent == life.id and not a.observations]
        assert worked == list(range(life.next_step))


def test_whoever_is_aware_observes_it_at_the_next_turn():
    made = lived(simulator(num_scenarios=6, share_candidates=0), FakeModel(route="[0, 1, 2], reason: near"))
    for position, action in enumerate(made.actions):
        told = f"{made.lives[int(action.agent[1:])].name}: {action.text}"
        for agent in action.aware:
            turns = [a for a in made.actions[position + 1 :] if a.agent == agent and a.group == action.group]
            assert not turns or told in turns[0].observations


def test_actions_reach_memory_and_prompts_show_it():
    model = FakeModel(route=NOBODY, share=NOBODY)
    made = lived(simulator(num_scenarios=6), model)
    for life in made.lives:
        own = [a.text for a in made.actions if a.agent == life.id]
        assert life.memory.entries == [*life.posts, *own]
    first = made.actions[0]
    later = [prompt for kind, prompt, _ in model.calls if kind == "act" and first.text in prompt]
    assert later


def test_only_the_newest_observations_are_answered_and_the_rest_is_remembered():
    made = lived(simulator(num_scenarios=8, max_observations=1), FakeModel(route="[0, 1, 2], reason: near"))
    assert max(len(a.observations) for a in made.actions) == 1
    for life in made.lives:
        told = [entry for entry in life.memory.entries if not entry.startswith("They")][len(life.posts) :]
        answered = [news for a in made.actions if a.agent == life.id for news in a.observations]
        assert len(told) > len(answered)
        for entry, after in pairwise(life.memory.entries):  # of the news between two actions, the last was answered
            assert (entry in answered) == (entry in told and after not in told)


def test_nobody_talks_without_communication():
    model = FakeModel()
    made = lived(simulator(communication=Communication("none")), model)
    assert model.count("route") == model.count("share") == model.count("react") == 0
    assert not any(a.aware or a.shared or a.observations for a in made.actions)
    assert not any("route.jinja" in a.origin.templates for a in made.actions)


def test_random_sends_as_many_messages_as_the_modulators_chose():
    reply = {"route": "[0, 1, 2], reason: near", "share": '{"indices": [0], "reason": "They trade."}'}
    sizes = {"num_agents": 18, "grouping": GroupingConfig(num_groups=6, min_size=3, max_size=3), "num_scenarios": 24}
    made = {
        kind: lived(simulator(communication=Communication(kind), **sizes), FakeModel(**reply))
        for kind in ("structured", "random")
    }
    for one in made.values():
        assert len(one.actions) == 72
        told = Counter(len(a.aware) + len(a.heard) for a in one.actions)
        assert told == {3: 54, 2: 18}  # nobody elsewhere hears of the last round
        for action in one.actions:
            assert action.agent not in (*action.aware, *action.heard)
            assert {one.lives[int(a[1:])].group for a in action.aware} <= {action.group}
            assert sorted({one.lives[int(a[1:])].group for a in action.heard}) == action.shared
    assert {len(a.aware) for a in made["structured"].actions} == {2}
    assert {len(a.aware) for a in made["random"].actions} >= {0, 1}
    assert len({a for action in made["random"].actions for a in action.heard}) > 10
    assert made["structured"].model.count("route") == made["random"].model.count("route")


@pytest.mark.parametrize("talk", [{"communication": Communication("none")}, {}], ids=["none", "structured"])
def test_agents_stop_at_their_goal_and_the_society_ends(talk):
    made = lived(simulator(num_scenarios=100, **talk), FakeModel(route=NOBODY, share=NOBODY))
    for life in made.lives:
        assert life.done
        assert [a.plan_step for a in made.actions if a.agent == life.id] == [0, 1, 2]
    assert len(made.scenarios) == 6  # nine actions a group, three a scenario


SITTER, WALKER = "Sits in the sun.", "Walks all day."
PAIR = [Profile(id=str(i), name="Xx", description=description) for i, description in enumerate((SITTER, WALKER))]
QUIET_AND_BUSY: dict[str, Reply] = {
    "anonymise": lambda prompt, _: json.dumps({"role": "One", "description": SITTER if SITTER in prompt else WALKER}),
    "plan": lambda prompt, _: (
        "1. Sit down.\n2. Lie down."
        if SITTER in prompt
        else "1. Walk a mile.\n2. Walk on.\n3. Walk home.\n4. Ring the bell."
    ),
    "act": lambda prompt, _: "They rang." if "step of the plan: Ring the bell" in prompt else "They were silent.",
    "react": "They were startled.",
}
"""Of two agents the first is at its goal early; the second makes itself heard with its last step."""


def heard(prompt, _):
    """The bell is, and nothing else."""
    return "[0, 1], reason: loud" if "They rang." in prompt.rpartition("Action")[2] else NOBODY


def test_an_agent_at_its_goal_still_answers_news():
    one = GroupingConfig(num_groups=1, min_size=2, max_size=2)
    config = simulator(num_agents=2, grouping=one, plan_steps=4, num_scenarios=100)
    made = lived(config, FakeModel(**QUIET_AND_BUSY, route=heard), people=PAIR)
    assert [a.plan_step for a in made.actions if a.agent == "a0000"] == [0, 1, -1]
    assert [a.plan_step for a in made.actions if a.agent == "a0001"] == [0, 1, 2, 3]
    assert made.actions[-1].observations == ["One (2): They rang."]


def test_a_group_woken_by_news_goes_on_counting():
    apart = GroupingConfig(num_groups=2, min_size=1, max_size=1)
    config = simulator(num_agents=2, grouping=apart, plan_steps=4, num_scenarios=100, steps_per_scenario=1)
    made = lived(config, FakeModel(**QUIET_AND_BUSY, share=heard), people=PAIR)
    woken = made.lives[0].group
    assert [s.index for s in made.scenarios if s.group == woken] == [0, 1, 2]
    assert made.actions[-1].observations == ["One (2): They rang."]
    assert made.actions[-1].group == woken


def test_scenarios_close_after_so_many_steps():
    made = lived(simulator(num_scenarios=5, steps_per_scenario=4), FakeModel())
    assert [len(s.actions) for s in made.scenarios] == [4] * 5


def test_scenarios_close_when_everyone_has_acted_once():
    made = lived(simulator(num_scenarios=6, steps_per_scenario=2, scenario_closes=Closes("everyone")), FakeModel())
    for scenario in made.scenarios:
        acted = [a.agent for a in made.actions if a.scenario == scenario.id]
        assert sorted(acted) == scenario.agents == [m.id for m in made.modulators[scenario.group].members]


def test_with_everyone_nobody_acts_twice_for_another_who_is_done():
    def plan(prompt, dice):
        return (
            "1. Sit in the sun.\n2. Lie in the sun."
            if dice.random() < 0.5
            else "1. Walk a mile.\n2. Run on.\n3. Rest.\n4. Go home."
        )

    quiet = FakeModel(route=NOBODY, share=NOBODY, plan=plan)
    made = lived(simulator(num_scenarios=99, plan_steps=4, scenario_closes=Closes("everyone")), quiet)
    assert {len(life.plan) for life in made.lives} == {2, 3}
    for scenario in made.scenarios:
        acted = [a.agent for a in made.actions if a.scenario == scenario.id]
        assert len(acted) == len(set(acted))


def test_shared_news_arrives_in_a_later_scenario_only():
    made = lived(simulator(num_scenarios=8), FakeModel(route=NOBODY, share="[0], reason: they trade"))
    sent = {f"{made.lives[int(a.agent[1:])].name}: {a.text}": a for a in made.actions}
    index = {s.id: s.index for s in made.scenarios}
    heard = [(sent[news], action) for action in made.actions for news in action.observations]
    assert heard
    for source, action in heard:
        assert action.group in source.shared
        assert index[action.scenario] > index[source.scenario]
    # All that was shared before the last round reached exactly one member of the other group.
    told = Counter(id(source) for source, _ in heard)
    memories = [entry for life in made.lives for entry in (*life.memory.entries, *life.inbox)]
    for news, source in sent.items():
        assert memories.count(news) == len(source.shared)
        assert told[id(source)] <= 1


@pytest.mark.parametrize("closes", ["steps", "everyone"])
def test_acting_at_once_agents_hear_of_each_other_afterwards(closes):
    config = simulator(turns=Turns("at_once"), scenario_closes=Closes(closes), share_candidates=0)
    made = [lived(config, FakeModel(shuffle, route="[0, 1, 2], reason: near")) for shuffle in range(3)]
    assert rows(made[0]) == rows(made[1]) == rows(made[2])
    order = [scenario.id for scenario in made[0].scenarios]
    said = {f"{made[0].lives[int(a.agent[1:])].name}: {a.text}": a for a in made[0].actions}
    for action in made[0].actions:
        heard = [said[news] for news in action.observations]
        assert {a.agent for a in heard} == {a.agent for a in heard} - {action.agent}
        assert all(order.index(a.scenario) < order.index(action.scenario) for a in heard)
        assert [(a.scenario, a.step) for a in heard] == sorted((a.scenario, a.step) for a in heard)
    assert any(action.observations for action in made[0].actions)


def test_acting_at_once_nobody_acts_twice_at_a_time():
    pairs = GroupingConfig(num_groups=3, min_size=2, max_size=2)
    made = lived(simulator(turns=Turns("at_once"), grouping=pairs), FakeModel(route="[0, 1], reason: near"))
    for scenario in made.scenarios:
        acted = [a for a in made.actions if a.scenario == scenario.id]
        assert [a.step for a in acted] == [0, 1, 2]
        assert acted[0].agent == acted[2].agent != acted[1].agent
        assert any(acted[1].text in news for news in acted[2].observations)
        assert not any(acted[0].text in news for news in acted[1].observations)


def test_in_a_large_group_the_modulator_chooses_from_those_whom_it_may_concern():
    model = FakeModel(route="[0, 1, 2], reason: near")
    made = lived(simulator(grouping=GroupingConfig(kind=Grouping("single")), route_candidates=3), model)
    lists = [listed(prompt) for kind, prompt, _ in model.calls if kind == "route"]
    assert {len(entries) for entries in lists} == {3}
    assert len({tuple(entries) for entries in lists}) > 1
    assert {len(a.aware) for a in made.actions} <= {2, 3}


def test_groups_of_one_and_no_candidates_share_nothing():
    model = FakeModel()
    lived(simulator(grouping=ALONE, num_scenarios=12), model)
    assert model.count("route") == 0
    assert model.count("share") > 0
    silent = FakeModel()
    lived(simulator(share_candidates=0), silent)
    assert silent.count("share") == 0


@pytest.mark.parametrize(("broken", "purposes"), [("route", {"route"}), ("share", {"share"}), ("act", {"act"})])
def test_a_fallback_is_marked_and_its_answers_are_kept(broken, purposes):
    quiet = {"route": NOBODY, "share": NOBODY} | {broken: "..."}
    made = lived(simulator(num_scenarios=2), FakeModel(**quiet))
    marked = [a for a in made.actions if a.unparsed]
    assert {purpose for a in marked for purpose in a.unparsed} <= purposes
    failures = Counter((f.id, f.purpose) for f in made.asker.failures)
    assert failures == {(a.id, purpose): 2 for a in marked for purpose in a.unparsed}
    if broken == "act":
        assert [a.text for a in marked] == [made.lives[int(a.agent[1:])].plan[a.plan_step] for a in marked]
        assert len(marked) == len(made.actions)
    if broken == "route":
        assert {len(a.aware) for a in marked} == {2}


def test_a_summary_that_cannot_be_used_is_the_actions_themselves():
    made = lived(simulator(num_scenarios=2), FakeModel(summarise="...", route=NOBODY, share=NOBODY))
    actions = {a.id: f"{made.lives[int(a.agent[1:])].name}: {a.text}" for a in made.actions}
    assert [s.summary for s in made.scenarios] == [" ".join(actions[a] for a in s.actions) for s in made.scenarios]
    assert {f.purpose for f in made.asker.failures} == {"summarise"}


def test_a_society_of_one():
    one = GroupingConfig(num_groups=1, min_size=1, max_size=1)
    made = lived(simulator(num_agents=1, grouping=one, num_scenarios=9), FakeModel())
    assert [a.plan_step for a in made.actions] == [0, 1, 2]
    assert made.model.count("route") == made.model.count("share") == 0


def test_the_quota_is_met_exactly():
    for wanted in (1, 3, 5):
        assert len(lived(simulator(num_scenarios=wanted), FakeModel()).scenarios) == wanted


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_agents": 0}, {"num_scenarios": 0}, {"plan_steps": 0}, {"steps_per_scenario": 0}, {"max_observations": 0},
        {"share_candidates": -1}, {"num_agents": 99},
    ],
    ids=str,
)  # fmt: skip
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match="num_groups" if wrong == {"num_agents": 99} else next(iter(wrong))):
        simulator(**wrong)
