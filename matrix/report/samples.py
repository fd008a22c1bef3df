"""What the report shows of the data: dropped rows, preference pairs, verdicts (for the society see societies.py).

Everything is read from stage folders of a grid. A result that several cells share is shown once; amounts are capped,
and what is shown is chosen by rule (spread over groups, reasons and preferences), never by hand.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from matrix.records import Answer, Drop, Judgement, Message, Origin, Row
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
