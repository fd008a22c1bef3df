"""What the report shows of a simulation: its people, its exchange, one scenario traced, stories, and what came of them.

Actions, the largest file, are streamed: only those of the scenarios that are shown stay in memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from matrix.records import Action, Agent, Drop, Failure, Scenario
from matrix.report import exchange, trace
from matrix.report.cells import Grid, StageRun
from matrix.report.samples import TrainingRow

Grown = Mapping[tuple[str, str], Sequence["Offspring"]]
"""(Society, scenario) -> what grew out of it."""


@dataclass
class Step:
    """One action, with names in place of ids."""

    actor: str
    action: Action
    heard: list[str]


@dataclass
class Offspring:
    """A training row that grew out of a scenario, and what the filters said."""

    row: TrainingRow
    asker: str
    fate: str


@dataclass
class Story:
    """A scenario with its people, what they did, and what came of it."""

    scenario: Scenario
    people: list[Agent]
    steps: list[Step]
    grown: list[Offspring]
    num_grown: int


@dataclass
class Society:
    """One simulation."""

    run: StageRun
    agents: list[Agent]
    scenarios: list[Scenario]
    exchange: exchange.Exchange
    failures: int
    grouping: dict[str, Any]
    """Cohesion of the groups and other counts of the simulation."""
    masked: dict[str, int] | None
    """Identifiers of each kind that were masked in its texts after the rewrite of the profiles."""
    similarity: dict[str, Any] | None
    """Cosines of up to 100 agents (paper figure 6): `agents`, `groups`, `matrix`."""
    stories: list[Story] = field(default_factory=list)
    trace: trace.Trace | None = None
    trace_grown: list[Offspring] = field(default_factory=list)
    """What grew out of the traced scenario."""


def societies(grid: Grid, most: int, stories: int) -> list[Society]:
    """The first `most` simulations of the grid, each with up to `stories` scenarios from different groups."""
    found = []
    for run in list(grid.results("society").values())[:most]:
        society = Society(
            run=run,
            agents=grid.rows(run, "agents.jsonl", Agent),
            scenarios=grid.rows(run, "scenarios.jsonl", Scenario),
            exchange=exchange.count(grid.stream(run, "actions.jsonl", Action)),
            failures=sum(1 for _ in grid.stream(run, "failures.jsonl", Failure)),
            grouping=grid.json(run, "grouping.json") or {},
            masked=(grid.json(run, "counts.json") or {}).get("masked"),
            similarity=grid.json(run, "similarity.json"),
        )
        if society.agents:
            found.append(society)
    grown = _grown(grid, {(s.run.name, agent.id): agent.name for s in found for agent in s.agents})
    for society in found:
        _tell(grid, society, grown, stories)
    return found


def _grown(grid: Grid, names: Mapping[tuple[str, str], str]) -> Grown:
    """What grew out of each scenario: rows first, then pairs."""
    grown: defaultdict[tuple[str, str], list[Offspring]] = defaultdict(list)
    fates = _fates(grid)
    for run in grid.results("rows", "pairs").values():
        for row in grid.stream(run, "rows.jsonl", TrainingRow):
            asker = names.get((row.origin.society, row.origin.agent), row.origin.agent)
            told = _fate(fates.get((run.name, row.id), Counter()))
            grown[row.origin.society, row.origin.scenario].append(Offspring(row, asker, told))
    for rows in grown.values():
        rows.sort(key=lambda g: (bool(g.row.chosen), g.row.id))
    return grown


def _tell(grid: Grid, society: Society, grown: Grown, most: int) -> None:
    """Choose and fill the society's stories and its trace."""
    run, agents = society.run, {agent.id: agent for agent in society.agents}
    told = _ranked(society, grown)[:most]
    fertile = {scenario for name, scenario in grown if name == run.name}
    traced = trace.choose(society.scenarios, society.exchange, fertile)
    wanted = {name for scenario in [*told, *([traced] if traced else [])] for name in scenario.actions}

    def actions() -> Iterator[Action]:
        return grid.stream(run, "actions.jsonl", Action)

    kept = {action.id: action for action in actions() if action.id in wanted}
    for scenario in told:
        steps = [
            Step(agents[a.agent].name if a.agent in agents else a.agent, a,
                 [agents[other].name if other in agents else other for other in a.aware])
            for a in (kept[name] for name in scenario.actions if name in kept)
        ]  # fmt: skip
        people = [agents[name] for name in scenario.agents if name in agents]
        rows = grown.get((run.name, scenario.id), [])
        society.stories.append(Story(scenario, people, steps, [*rows[:1], *rows[1:][-1:]], len(rows)))
    if traced:
        own = [kept[name] for name in traced.actions if name in kept]
        society.trace = trace.follow(traced, agents, own, actions(), society.exchange)
        society.trace_grown = list(grown.get((run.name, traced.id), []))


def _ranked(society: Society, grown: Grown) -> list[Scenario]:
    """One scenario a group in turn, those that most rows grew out of first."""
    turns: defaultdict[int, list[Scenario]] = defaultdict(list)
    for scenario in sorted(
        society.scenarios, key=lambda s: (-len(grown.get((society.run.name, s.id), [])), s.index, s.group)
    ):
        turns[scenario.group].append(scenario)
    return [scenario for turn in zip_longest(*turns.values()) for scenario in turn if scenario]


def _fates(grid: Grid) -> dict[tuple[str, str], Counter[str]]:
    """(Name of a result, row id) -> number of filter chains by why they dropped the row, the empty reason if kept."""
    fates: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    seen = set()
    for cell in grid.cells:
        runs = {run.alias: run for run in cell.stages}
        for source, kept in (("rows", "kept"), ("pairs", "kept_pairs")):
            if source in runs and kept in runs and runs[kept].name not in seen:
                seen.add(runs[kept].name)
                for drop in grid.stream(runs[kept], "drops.jsonl", Drop):
                    fates[runs[source].name, drop.id][f"{drop.filter}: {drop.reason.replace('_', ' ')}"] += 1
                for row in grid.stream(runs[kept], "rows.jsonl", TrainingRow):
                    fates[runs[source].name, row.id][""] += 1
    return fates


def _fate(judged: Counter[str]) -> str:
    reasons = [reason for reason in judged if reason]
    if not reasons:
        return "kept" if judged else ""
    why = f"dropped by {reasons[0]}"
    return f"{why}; kept by {judged['']} of {judged.total()} chains" if judged[""] else why
