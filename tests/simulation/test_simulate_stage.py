"""Simulate end to end on the scripted engine: its files, and what a kill, a rerun and other settings do to them."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from society_fakes import FakeModel, HashedWords, lived, scripted_simulation, simulator

from matrix.engines.base import ModelConfig
from matrix.engines.embedder import EmbedderConfig
from matrix.jsonl import read_jsonl
from matrix.progress import Usage
from matrix.prompting import Decoding
from matrix.records import Action, Agent, Failure, Profile, Scenario
from matrix.simulation.config import Closes
from matrix.simulation.grouping import Grouping, GroupingConfig
from matrix.simulation.memory import MemoryConfig
from matrix.simulation.modulator import Communication
from matrix.simulation.stage import Simulate, stored_journal

ROWS = [
    "profiles.jsonl",
    "agents.jsonl",
    "actions.jsonl",
    "scenarios.jsonl",
    "failures.jsonl",
    "grouping.json",
    "similarity.json",
]
TESTS = Path(__file__).parents[1]

KILLED = """
import os, signal, sys
from pathlib import Path
import matrix.engines.opening, matrix.simulation.stage
from matrix.engines.journal import Journal
from society_fakes import HashedWords, scripted_simulation

class Fatal(Journal):
    def add(self, *finished):
        super().add(*finished)
        if len(self) == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

matrix.engines.opening.Journal = Fatal
matrix.simulation.stage.Embedder = HashedWords
scripted_simulation(Path(sys.argv[1])).run(Path(sys.argv[2]))
"""
"""Runs the stage in a process that is killed when so many calls are in the journal."""


@pytest.fixture(autouse=True)
def hashed_words(monkeypatch):
    """Loading a sentence-transformers model takes longer than all of these tests."""
    monkeypatch.setattr("matrix.simulation.stage.Embedder", HashedWords)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("simulate")


@pytest.fixture(scope="module")
def done(place):
    """The work folder of a run that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matrix.simulation.stage.Embedder", HashedWords)
        return run(scripted_simulation(place), place / "undisturbed")


def run(stage, work):
    work.mkdir(exist_ok=True)
    stage.run(work)
    return work


def files(work):
    return {name: (work / name).read_bytes() for name in ROWS}


def usage(work):
    return msgspec.json.decode((work / "usage.json").read_bytes(), type=Usage)


def journal_keys(work):
    return [json.loads(line)["key"] for line in (work / "journal.jsonl").read_text().splitlines()]


def test_writes_typed_rows_that_lead_from_scenario_to_profile(done, place):
    profiles = {p.id for p in read_jsonl(done / "profiles.jsonl", Profile)}
    agents = {a.id: a for a in read_jsonl(done / "agents.jsonl", Agent)}
    actions = {a.id: a for a in read_jsonl(done / "actions.jsonl", Action)}
    scenarios = read_jsonl(done / "scenarios.jsonl", Scenario)
    assert (len(agents), len(scenarios)) == (12, 10)
    for scenario in scenarios:
        for action in scenario.actions:
            assert agents[actions[action].agent].profile in profiles
    name = f"simulate-{scripted_simulation(place).key()[:12]}"
    assert {row.origin.stage for row in (*agents.values(), *actions.values(), *scenarios)} == {name}
    assert all(len(agent.position) == 2 for agent in agents.values())
    read_jsonl(done / "failures.jsonl", Failure)
    described = json.loads((done / "grouping.json").read_text())
    assert set(described) >= {"within", "across", "pairs_within", "goals_reached", "scenarios", "messages_across"}
    assert (described["scenarios"], described["actions"]) == (len(scenarios), len(actions))
    similar = json.loads((done / "similarity.json").read_text())
    assert similar["groups"] == sorted(agents[a].group for a in similar["agents"])
    assert len(similar["matrix"]) == len(similar["agents"]) == 12


def test_usage_counts_what_was_sent(done):
    assert usage(done).calls == len(journal_keys(done)) == len(set(journal_keys(done)))
    assert usage(done).failures == 0


@pytest.mark.parametrize("concurrency", [1, 3])
def test_concurrency_is_no_part_of_the_result(done, place, concurrency):
    stage = scripted_simulation(place, concurrency)
    assert stage.key() == scripted_simulation(place).key()
    assert files(run(stage, place / f"concurrency{concurrency}")) == files(done)


def test_a_second_run_sends_nothing(done, place):
    again = place / "again"
    again.mkdir()
    (again / "journal.jsonl").write_bytes((done / "journal.jsonl").read_bytes())
    assert files(run(scripted_simulation(place), again)) == files(done)
    assert usage(again).calls == 0
    assert usage(again).replayed == usage(done).calls + usage(done).replayed
    assert journal_keys(again) == journal_keys(done)


def test_after_a_kill_no_call_is_repeated_and_rows_are_the_same(done, place):
    """Killed among the births, killed again in the middle of the scenarios, then left to finish."""
    work = place / "killed"
    work.mkdir()
    for calls in (9, 80):
        command = [sys.executable, "-c", KILLED, str(place), str(work), str(calls)]
        paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, timeout=60)
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
        assert len(journal_keys(work)) == calls
        assert not (work / "agents.jsonl").exists()
    run(scripted_simulation(place), work)
    assert files(work) == files(done)
    assert len(journal_keys(work)) == len(set(journal_keys(work))) == len(journal_keys(done))
    assert usage(work).calls == len(journal_keys(done)) - 80
    assert usage(work).replayed >= 80


def test_the_key_is_the_society_and_not_how_it_is_served(place):
    stage = scripted_simulation(place)
    key = stage.key()
    stage.llm.concurrency = 5
    stage.embedder.threads = 2
    assert stage.key() == key
    stage.simulator.plan_steps = 4
    assert stage.key() != key


@pytest.mark.parametrize(
    "changes",
    [{"num_scenarios": 16}, {"num_scenarios": 6}, {"communication_from": {1: Communication("random")}}],
    ids=lambda changes: "{}={}".format(*next(iter(changes.items()))),
)
def test_a_fork_sends_only_calls_that_differ(done, place, changes, request):
    def changed(**more):
        stage = scripted_simulation(place)
        for name, value in (changes | more).items():
            setattr(stage.simulator, name, value)
        return stage

    fork = changed(fork_from="undisturbed")
    assert fork.key() == changed().key()
    before = (done / "journal.jsonl").read_bytes()
    alone = run(changed(), place / f"alone-{request.node.callspec.id}")
    forked = run(fork, place / f"forked-{request.node.callspec.id}")
    assert files(forked) == files(alone) != files(done)
    assert set(journal_keys(forked)) == set(journal_keys(alone))
    new = set(journal_keys(alone)) - set(journal_keys(done))
    assert usage(forked).calls == len(new) < usage(alone).calls / 2
    assert bool(new) == (changes != {"num_scenarios": 6})
    assert (done / "journal.jsonl").read_bytes() == before


def test_a_stored_journal_is_found_by_name_or_key(tmp_path):
    for name in ("12x10-0123456789ab", "12x14-0123ffffffff.partial", "4x4-4444[5]"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "journal.jsonl").touch()
    (tmp_path / "12x10-eeeeeeeeeeee").mkdir()  # without a journal
    finished, running, odd = sorted(tmp_path.glob("*/journal.jsonl"))
    for name in ("simulate-0123456789ab", "0123456789ab", "12x10-0123456789ab"):
        assert stored_journal(tmp_path, name) == finished
    assert stored_journal(tmp_path, "simulate-0123ffffffff") == running
    assert stored_journal(tmp_path, "4444[5]") == odd
    for name, number in (("simulate-0123", 2), ("simulate-", 3), ("*", 0), ("eeeeeeeeeeee", 0), ("0123456789ac", 0)):
        wrong = re.escape(f"simulator.fork_from={name}: {number} stored simulations")
        with pytest.raises(
            ValueError, match=f"{wrong}.*There are: 12x10-0123456789ab, 12x14-0123ffffffff.partial, 4x4"
        ):
            stored_journal(tmp_path, name)
    with pytest.raises(ValueError, match="There are: none"):
        stored_journal(tmp_path / "empty", "simulate-0123")


def test_a_fork_of_nothing_is_an_error_before_any_call(place, tmp_path):
    stage = scripted_simulation(place)
    stage.simulator.fork_from = "simulate-0123456789ab"
    with pytest.raises(ValueError, match="simulator.fork_from=simulate-0123456789ab: 0 stored simulations"):
        run(stage, tmp_path / "work")
    assert not (tmp_path / "work" / "journal.jsonl").exists()


ESTIMATED = [
    {"communication": Communication("structured")},
    {"communication": Communication("none")},
    {"communication": Communication("none"), "num_scenarios": 1000},
    {"share_candidates": 0},
    {"scenario_closes": Closes("everyone")},
    {"grouping": GroupingConfig(kind=Grouping("single"))},
    {"grouping": GroupingConfig(num_groups=6, min_size=1, max_size=1)},
]


@pytest.mark.parametrize("changes", ESTIMATED, ids=str)
def test_the_estimate_is_what_a_society_asks(changes):
    config = simulator(**({"num_scenarios": 24, "plan_steps": 12} | changes))
    stage = Simulate(simulator=config, llm=ModelConfig(model="m"), embedder=EmbedderConfig(model="e"), seed=1)
    made = lived(config, FakeModel())
    last_round = sum(not a.shared for a in made.actions)  # nothing is shared after the last scenarios
    asked = len(made.model.calls)
    assert asked <= stage.estimate().calls <= asked + last_round


def test_the_estimate_knows_prices_and_limits_of_length():
    def expected(**changes):
        llm = ModelConfig(model="m", price_in=2.0, price_out=6.0)
        stage = Simulate(simulator=simulator(**changes), llm=llm, embedder=EmbedderConfig(model="e"), seed=1)
        return stage.estimate()

    whole = expected()
    assert whole.money == pytest.approx((2 * whole.tokens_in + 6 * whole.tokens_out) / 1e6)
    assert 0 < expected(birth=Decoding(max_tokens=10)).tokens_out < whole.tokens_out
    assert expected(memory=MemoryConfig(entries=0)).tokens_in < whole.tokens_in


def test_a_society_needs_as_many_profiles_as_agents(place, tmp_path):
    stage = scripted_simulation(place)
    people = tmp_path / "people.jsonl"
    people.write_text('{"name": "Ann", "description": "Baker"}\n')
    stage.simulator.profiles.path = str(people)
    with pytest.raises(ValueError, match="simulator.num_agents=1"):
        stage.run(tmp_path)
