"""The filter stage: a chain of filters over the rows of an upstream result, and the record of what each one dropped."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from matrix.filtering.base import FilterConfig, TrainingRow
from matrix.records import Conversation, Drop, PreferencePair, read_jsonl, write_jsonl, write_parquet
from matrix.stage import Result, Stage

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Filter(Stage):
    """Runs filters one after another; each sees only what the ones before it kept.

    Writes `rows.jsonl` and `rows.parquet` (kept rows, in their order, of the type of the upstream rows),
    `dropped.jsonl` (the rejected rows in full), `drops.jsonl` (`Drop`: which filter, why) and `funnel.json`
    (`[{"filter", "in", "kept", "dropped": {reason: number}}]`).
    """

    name: ClassVar[str] = "filter"

    filters: dict[str, FilterConfig]
    """Name -> filter, in the order in which they run; names are free and appear in `drops.jsonl`."""
    rows: Result
    """A result with `rows.jsonl` of `Conversation` or `PreferencePair`."""

    def run(self, work: Path) -> None:
        """Filter the upstream rows. An empty outcome is a result too (and is logged): it says what the filters do.

        Raises:
            RowError: a line of the upstream file is not a row.
        """
        source = self.rows.path / "rows.jsonl"
        kept: list[TrainingRow] = [*read_jsonl(source, row_type(source))]
        total = len(kept)
        dropped: list[TrainingRow] = []
        drops: list[Drop] = []
        funnel = []
        for name, config in self.filters.items():
            verdicts = list(zip(kept, config.build().judge(kept), strict=True))
            rejected = [(row, verdict) for row, verdict in verdicts if verdict]
            dropped += [row for row, _ in rejected]
            drops += [Drop(id=row.id, filter=name, reason=why.reason, value=why.value) for row, why in rejected]
            kept = [row for row, verdict in verdicts if not verdict]
            reasons = dict(sorted(Counter(why.reason for _, why in rejected).items()))
            funnel.append({"filter": name, "in": len(verdicts), "kept": len(kept), "dropped": reasons})
            log.info("filter %s kept %d of %d rows %s", name, len(kept), len(verdicts), reasons or "")
        if not kept:
            log.warning("no row is left of %d in %s: %s", total, source, json.dumps(funnel))
        write_jsonl(work / "rows.jsonl", kept)
        write_parquet(work / "rows.parquet", kept)
        write_jsonl(work / "dropped.jsonl", dropped)
        write_jsonl(work / "drops.jsonl", drops)
        (work / "funnel.json").write_text(json.dumps(funnel, indent=1))

    def readable(self) -> str:
        """The chain, e.g. `length-language-dedup`."""
        return "-".join(self.filters)[:40]


def row_type(source: Path) -> type[Conversation] | type[PreferencePair]:
    """What the rows of a file are, by its first line: a pair has `chosen`; an empty file counts as conversations."""
    with source.open() as file:
        first = file.readline()
    return PreferencePair if first.strip() and "chosen" in json.loads(first) else Conversation
