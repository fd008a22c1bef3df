"""The filter stage: a chain of filters over the rows of an upstream result, and the record of what each one dropped."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from matrix.engines.embedder import Embedder, EmbedderConfig, Vectors
from matrix.filtering.base import Facts, FilterConfig, Need, Rejection
from matrix.jsonl import iter_jsonl, write_jsonl, write_parquet
from matrix.records import Conversation, Drop, Likelihood, Question, Score, Tags
from matrix.rows import TrainingRow, read_rows
from matrix.stage import Result, Stage

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Filter(Stage):
    """Runs filters one after another; each sees only what the ones before it kept.

    Writes `rows.jsonl` and `rows.parquet` (kept rows, in their order, of the type of the upstream rows),
    `dropped.jsonl` (the rejected rows in full), `drops.jsonl` (`Drop`: which filter, why), `funnel.json`
    (`[{"filter", "in", "kept", "dropped": {reason: number}}]`) and `overlap.json`: how many of all rows each filter
    would drop by itself, and each two of them both (`[{"filters", "rows"}]`).
    """

    name: ClassVar[str] = "filter"
    version: ClassVar[int] = 2

    filters: dict[str, FilterConfig]
    """Name -> filter, in the order in which they run; names are free and appear in `drops.jsonl`."""
    rows: Result
    """A result with `rows.jsonl` of `Conversation` or `PreferencePair`."""
    tags: Result | None = None
    rewards: Result | None = None
    rollout_rewards: Result | None = None
    likelihoods: Result | None = None
    reference: Result | None = None
    questions: Result | None = None
    """What was measured of the rows, where a filter needs it (`Need`)."""
    embedder: EmbedderConfig | None = None

    def run(self, work: Path) -> None:
        """Filter the upstream rows. An empty outcome is a result too (and is logged): it says what the filters do.

        Raises:
            RowError: a line of the upstream file is not a row.
            ValueError: a filter found more than its limit allows; the files are written all the same.
        """
        source = self.rows.path / "rows.jsonl"
        rows = kept = read_rows(source)
        pairs_only = self.filters.keys() - for_conversations(self.filters).keys()
        if pairs_only and any(isinstance(row, Conversation) for row in rows):
            raise ValueError(f"{source} holds conversations; {', '.join(sorted(pairs_only))} judge preference pairs")
        steps: list[Step] = []
        with ExitStack() as stack:
            facts = self.facts()
            if self.embedder:
                facts.embedder = stack.enter_context(RememberingEmbedder(self.embedder))
            built = {name: config.build(facts) for name, config in self.filters.items()}
            for name, judge in built.items():
                steps.append(Step(name, kept, judge.judge(kept)))
                kept = steps[-1].kept
                log.info("filter %s kept %d of %d rows", name, len(kept), len(steps[-1].rows))
            alone = {name: Step(name, rows, judge.judge(rows)).dropped.keys() for name, judge in built.items()}
        funnel = [step.told() for step in steps]
        if not kept:
            log.warning("no row is left of %d in %s: %s", len(rows), source, json.dumps(funnel))
        drops = [
            Drop(id=row, filter=step.name, reason=why.reason, value=why.value)
            for step in steps
            for row, why in step.dropped.items()
        ]
        write_jsonl(work / "rows.jsonl", kept)
        write_parquet(work / "rows.parquet", kept)
        write_jsonl(work / "dropped.jsonl", (row for step in steps for row in step.rows if row.id in step.dropped))
        write_jsonl(work / "drops.jsonl", drops)
        (work / "funnel.json").write_text(json.dumps(funnel, indent=1))
        (work / "overlap.json").write_text(json.dumps(overlap(alone), indent=1))
        for step in steps:
            try:
                self.filters[step.name].check(step.verdicts)
            except ValueError as error:
                error.add_note(f"What was dropped, and why, is in {work}/drops.jsonl and dropped.jsonl")
                raise

    def facts(self) -> Facts:
        """What the measuring stages wrote, by row."""
        facts = Facts()
        if self.tags:
            facts.tags = {tags.id: tags for tags in iter_jsonl(self.tags.path / "tags.jsonl", Tags)}
        if self.rewards:
            for score in iter_jsonl(self.rewards.path / "rewards.jsonl", Score):
                facts.rewards.setdefault(score.row, {})[score.part] = score.reward
        if self.rollout_rewards:
            for score in iter_jsonl(self.rollout_rewards.path / "rewards.jsonl", Score):
                facts.rollout_rewards.setdefault(score.row, []).append(score.reward)
        for result, found in ((self.likelihoods, facts.likelihoods), (self.reference, facts.reference)):
            if result:
                for likelihood in iter_jsonl(result.path / "likelihoods.jsonl", Likelihood):
                    found.setdefault(likelihood.row, {})[likelihood.part] = likelihood
        if self.questions:
            for question in iter_jsonl(self.questions.path / "questions.jsonl", Question):
                facts.questions.setdefault(question.category, []).append(question.instruction)
        return facts

    def readable(self) -> str:
        """The chain, e.g. `length-language-dedup`."""
        return "-".join(self.filters)[:40]


@dataclass
class Step:
    """One filter over some rows."""

    name: str
    rows: Sequence[TrainingRow]
    verdicts: Sequence[Rejection | None]

    def __post_init__(self) -> None:
        self.dropped = {row.id: why for row, why in zip(self.rows, self.verdicts, strict=True) if why}
        self.kept = [row for row in self.rows if row.id not in self.dropped]

    def told(self) -> dict[str, Any]:
        """An entry of `funnel.json`."""
        reasons = dict(sorted(Counter(why.reason for why in self.dropped.values()).items()))
        return {"filter": self.name, "in": len(self.rows), "kept": len(self.kept), "dropped": reasons}


def overlap(alone: Mapping[str, Set[str]]) -> list[dict[str, Any]]:
    """How many rows each filter, and each two of them, would drop of all rows; `alone`: filter -> ids."""
    single = [{"filters": [name], "rows": len(ids)} for name, ids in alone.items()]
    return single + [{"filters": [a, b], "rows": len(alone[a] & alone[b])} for a, b in combinations(alone, 2)]


class RememberingEmbedder(Embedder):
    """Embeds no text twice: several filters may ask for the same, and each is run by itself once more."""

    def __init__(self, config: EmbedderConfig) -> None:
        super().__init__(config)
        self._remembered: dict[str, Vectors] = {}

    def embed(self, texts: list[str]) -> Vectors:
        """See `Embedder.embed`."""
        if new := list(dict.fromkeys(text for text in texts if text not in self._remembered)):
            self._remembered.update(zip(new, super().embed(new), strict=True))
        return np.array([self._remembered[text] for text in texts], dtype=np.float32)


def for_conversations(filters: dict[str, FilterConfig]) -> dict[str, FilterConfig]:
    """The part of a chain that judges conversations: without the filters that only pairs have."""
    return {name: config for name, config in filters.items() if not config.pairs_only}


def needs(filters: dict[str, FilterConfig]) -> frozenset[Need]:
    """What has to be measured for a chain."""
    return frozenset().union(*(config.needs for config in filters.values()))
