"""What the report shows of the data: the society and its stories, dropped rows, preference pairs, verdicts.

Everything is read from stage folders of a grid. A result that several cells share is shown once; amounts are capped,
and what is shown is chosen by rule (spread over groups, reasons and preferences), never by hand.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TypeVar

import msgspec

from matrix.records import Action, Agent, Answer, Drop, Failure, Judgement, Message, Origin, Row, Scenario
from matrix.report.cells import Grid, StageRun

T = TypeVar("T")


class TrainingRow(Row, frozen=True, kw_only=True):
    """A `Conversation` or a `PreferencePair`, whichever a file holds."""

    id: str
    messages: list[Message] = msgspec.field(default_factory=list)
    prompt: list[Message] = msgspec.field(default_factory=list)
    chosen: str = ""
    rejected: str = ""
    kind: str = ""
    requirement: str = ""
    category: str = ""
    complexity: str = ""
    style: str = ""
    origin: Origin
    rejected_model: str = ""

    @property
    def instruction(self) -> str:
        """All that comes before the answer."""
        before = self.prompt or self.messages[:-1]
        return before[0].content if len(before) == 1 else "\n\n".join(f"{m.role}: {m.content}" for m in before)

    @property
    def response(self) -> str:
        """The answer that is learned (of a pair: the preferred one)."""
        return self.chosen or (self.messages[-1].content if self.messages else "")

    @property
    def tags(self) -> str:
        """What the generator was asked for."""
        return " · ".join(word for word in (self.kind, self.category, self.complexity, self.style) if word)


@dataclass
class Step:
    """One action, with names in place of ids."""

    actor: str
    action: Action
    heard: list[str]


@dataclass
class Grown:
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
    grown: list[Grown]
    num_grown: int


@dataclass
class Society:
    """One simulation."""

    run: StageRun
    agents: list[Agent]
    actions: list[Action]
    scenarios: list[Scenario]
    failures: int
    goals_reached: int | None
    stories: list[Story] = field(default_factory=list)


@dataclass
class Funnel:
    """What one chain of filters did to one set of rows."""

    run: StageRun
    steps: list[tuple[str, int, int, dict[str, int]]]
    examples: list[tuple[Drop, TrainingRow | None]]


@dataclass
class Verdict:
    """One question, both answers, and what the judge said."""

    question: str
    answer: str
    reference: str
    preference: float | None
    """Mean over the games, for the model under test, 0..1."""
    judgements: list[Judgement]

    @property
    def outcome(self) -> str:
        """What it means for the model under test."""
        if self.preference is None:
            return "not understood"
        return "won" if self.preference > 0.5 else "lost" if self.preference < 0.5 else "tied"


@dataclass
class Comparison:
    """Judged questions of one benchmark of one evaluation."""

    run: StageRun
    benchmark: str
    counts: dict[str, int]
    verdicts: list[Verdict]


def societies(grid: Grid, most: int, stories: int) -> list[Society]:
    """The first `most` simulations of the grid, each with up to `stories` scenarios from different groups."""
    grown: defaultdict[tuple[str, str], list[Grown]] = defaultdict(list)
    names: dict[tuple[str, str], str] = {}
    found = []
    for run in list(grid.results("society").values())[:most]:
        agents = grid.rows(run, "agents.jsonl", Agent)
        names |= {(run.name, agent.id): agent.name for agent in agents}
        grouping = grid.json(run, "grouping.json") or {}
        found.append(
            Society(
                run=run,
                agents=agents,
                actions=grid.rows(run, "actions.jsonl", Action),
                scenarios=grid.rows(run, "scenarios.jsonl", Scenario),
                failures=len(grid.rows(run, "failures.jsonl", Failure)),
                goals_reached=grouping.get("goals_reached"),
            )
        )
    fates = _fates(grid)
    for run in grid.results("rows", "pairs").values():
        for row in grid.rows(run, "rows.jsonl", TrainingRow):
            where = (row.origin.society, row.origin.scenario)
            asker = names.get((row.origin.society, row.origin.agent), row.origin.agent)
            grown[where].append(Grown(row, asker, _fate(fates.get((run.name, row.id), []))))
    for society in (s for s in found if s.agents):
        society.stories = _stories(society, grown, stories)
    return [s for s in found if s.agents]


def _stories(society: Society, grown: dict[tuple[str, str], list[Grown]], most: int) -> list[Story]:
    """One scenario a group in turn, those that most rows grew out of first."""
    agents = {agent.id: agent for agent in society.agents}
    actions = {action.id: action for action in society.actions}
    ranked = sorted(society.scenarios, key=lambda s: (-len(grown.get((society.run.name, s.id), [])), s.index, s.group))
    turns: defaultdict[int, list[Scenario]] = defaultdict(list)
    for scenario in ranked:
        turns[scenario.group].append(scenario)
    stories = []
    for scenario in [scenario for turn in zip_longest(*turns.values()) for scenario in turn if scenario][:most]:
        rows = sorted(grown.get((society.run.name, scenario.id), []), key=lambda g: (bool(g.row.chosen), g.row.id))
        steps = [
            Step(agents[a.agent].name if a.agent in agents else a.agent, a,
                 [agents[other].name if other in agents else other for other in a.aware])
            for a in (actions[name] for name in scenario.actions if name in actions)
        ]  # fmt: skip
        people = [agents[name] for name in scenario.agents if name in agents]
        stories.append(Story(scenario, people, steps, rows[:1] + rows[1:][-1:], len(rows)))
    return stories


def _fates(grid: Grid) -> dict[tuple[str, str], list[Drop | None]]:
    """(Name of a result, row id) -> for each chain of filters that judged the row, its drop or None for kept."""
    fates: defaultdict[tuple[str, str], list[Drop | None]] = defaultdict(list)
    seen = set()
    for cell in grid.cells:
        runs = {run.alias: run for run in cell.stages}
        for source, kept in (("rows", "kept"), ("pairs", "kept_pairs")):
            if source in runs and kept in runs and runs[kept].name not in seen:
                seen.add(runs[kept].name)
                for drop in grid.rows(runs[kept], "drops.jsonl", Drop):
                    fates[runs[source].name, drop.id].append(drop)
                for row in grid.rows(runs[kept], "rows.jsonl", TrainingRow):
                    fates[runs[source].name, row.id].append(None)
    return fates


def _fate(judged: Sequence[Drop | None]) -> str:
    drops = [drop for drop in judged if drop]
    if not judged:
        return ""
    if not drops:
        return "kept"
    why = f"dropped by {drops[0].filter}: {drops[0].reason.replace('_', ' ')}"
    return why if len(drops) == len(judged) else f"{why}; kept by {len(judged) - len(drops)} of {len(judged)} chains"


def funnels(grid: Grid, most: int, examples: int) -> list[Funnel]:
    """What the filters did, with dropped rows of as many different reasons as possible."""
    found = []
    for run in list(grid.results("kept", "kept_pairs").values())[:most]:
        funnel = grid.json(run, "funnel.json")
        if funnel is None:
            continue
        rows = {row.id: row for row in grid.rows(run, "dropped.jsonl", TrainingRow)}
        reasons: defaultdict[tuple[str, str], list[Drop]] = defaultdict(list)
        for drop in grid.rows(run, "drops.jsonl", Drop):
            reasons[drop.filter, drop.reason].append(drop)
        rounds = [drops[i] for i in range(examples) for drops in reasons.values() if i < len(drops)]
        steps = [(step["filter"], step["in"], step["kept"], step["dropped"]) for step in funnel]
        found.append(Funnel(run, steps, [(drop, rows.get(drop.id)) for drop in rounds[:examples]]))
    return found


def preference_pairs(grid: Grid, most: int) -> list[TrainingRow]:
    """Pairs spread over the first result that has any: kept ones, all where there is no filter result."""
    for alias in ("kept_pairs", "pairs"):
        for run in grid.results(alias).values():
            if rows := grid.rows(run, "rows.jsonl", TrainingRow):
                return spread(rows, most)
    return []


def comparisons(grid: Grid, most: int, questions: int) -> list[Comparison]:
    """Questions of the first `most` evaluations, from the clearest win to the clearest loss of the model under test."""
    found = []
    for run in list(grid.results("scores").values())[:most]:
        judged: defaultdict[str, defaultdict[str, list[Judgement]]] = defaultdict(lambda: defaultdict(list))
        for judgement in grid.rows(run, "judgements.jsonl", Judgement):
            judged[judgement.benchmark][judgement.question].append(judgement)
        runs = {stage.alias: stage for stage in grid.users(run.name)[0].stages}
        for benchmark, games in judged.items():
            answers = _answers(grid, runs.get("answers"), benchmark)
            references = _answers(grid, runs.get("reference"), benchmark)
            verdicts = []
            for question, judgements in games.items():
                told = [j.preference for j in judgements if j.preference is not None]
                answer, reference = answers.get(question), references.get(question)
                verdicts.append(
                    Verdict(
                        question=answer.instruction if answer else question,
                        answer=answer.output if answer else "",
                        reference=reference.output if reference else "",
                        preference=sum(told) / len(told) if told else None,
                        judgements=judgements,
                    )
                )
            counts = Counter(verdict.outcome for verdict in verdicts)
            verdicts.sort(key=lambda v: (v.preference is None, -(v.preference or 0.0)))
            found.append(Comparison(run, benchmark, dict(counts), spread(verdicts, questions)))
    return found


def _answers(grid: Grid, run: StageRun | None, benchmark: str) -> dict[str, Answer]:
    """Answers by question id; an Answer result keeps a file a benchmark, or one for all."""
    if run is None:
        return {}
    name = f"answers/{benchmark}.jsonl"
    rows = grid.rows(run, name if grid.file(run, name) else "answers.jsonl", Answer)
    return {row.id: row for row in rows}


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` items, the first and the last among them, evenly apart."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)] if most > 1 else [items[0]]
