"""Preference pairs out of a public or local set: the baselines that the paper trains beside MATRIX-Gen-DPO (table 3).

UltraFeedback, Orca and Argilla's mix are presets of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from matrix.generation.preference import PreferenceConfig
from matrix.generation.sources import ColumnsConfig, DataRow, SourceConfig, UnusableRow, at, chat, sample, turns_of
from matrix.jsonl import write_jsonl, write_parquet
from matrix.provenance import derive_seed
from matrix.records import Failure, Message, Origin, PreferencePair
from matrix.stage import Stage


@dataclass(kw_only=True)
class DatasetPairsConfig(PreferenceConfig):
    """A preference set, sampled."""

    label: str = "pairs"
    """What rows and folders call it, e.g. `ultrafeedback`."""
    source: SourceConfig
    num_rows: int = 10_000
    """Pairs wanted; unusable rows are replaced as long as there are others."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Where a row holds the prompt; nothing named: the turns that chosen and rejected begin with alike."""
    chosen: str = "chosen"
    """Column of the preferred answer: text, or a list of turns that ends with it."""
    rejected: str = "rejected"
    """The same of the other answer."""

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise ValueError(f"num_rows must be at least 1, not {self.num_rows}")
        if self.columns.response:
            raise ValueError("columns.response is not read: the answers are in the columns chosen and rejected")

    @property
    def num_pairs(self) -> int:
        """The rows wanted."""
        return self.num_rows


@dataclass(kw_only=True)
class ImportPairs(Stage):
    """Writes rows.jsonl (PreferencePair), rows.parquet and failures.jsonl (rows that are no pair), in drawn order."""

    name: ClassVar[str] = "pairs"

    preference: DatasetPairsConfig

    def readable(self) -> str:
        """Label and number of pairs."""
        return f"{self.preference.label}-{self.preference.num_rows}"

    def run(self, work: Path) -> None:
        """Draw rows until there are as many pairs as wanted, or no more rows."""
        c = self.preference
        pairs: list[PreferencePair] = []
        failures: list[Failure] = []
        seed = derive_seed(self.seed, self.name)
        # As many again as are wanted make up for unusable ones.
        for number, (place, row) in enumerate(sample(c.source, 2 * c.num_rows, seed)):
            if len(pairs) == c.num_rows:
                break
            name = f"pair-{number:05}"
            try:
                prompt, chosen, rejected = pair(row, c)
            except UnusableRow as error:
                text = json.dumps(row, ensure_ascii=False, default=str)[:2000]
                failures.append(Failure(id=name, purpose=c.label, text=text, error=str(error)))
                continue
            origin = Origin(stage=f"{self.name}-{self.key()[:12]}", seed=seed, instruction=f"{c.source.name}:{place}")
            pairs.append(
                PreferencePair(id=name, prompt=prompt, chosen=chosen, rejected=rejected, kind=c.label, origin=origin)
            )
        write_jsonl(work / "rows.jsonl", pairs)
        write_parquet(work / "rows.parquet", pairs)
        write_jsonl(work / "failures.jsonl", failures)


def pair(row: DataRow, config: DatasetPairsConfig) -> tuple[list[Message], str, str]:
    """The prompt of a row, which ends with the user, the chosen and the rejected answer.

    Raises:
        UnusableRow: it holds no such thing, or one answer twice.
    """
    chosen, rejected = _turns(row, config.chosen), _turns(row, config.rejected)
    if config.columns.turns or config.columns.prompt:
        prompt = chat(row, config.columns)
    elif len(chosen) > 1 and chosen[:-1] == rejected[:-1]:
        prompt = chosen[:-1]
    else:
        raise UnusableRow(f"{config.chosen} and {config.rejected} do not differ in the last turn alone")
    if prompt[-1].role != "user":
        raise UnusableRow("the prompt does not end with the user")
    if chosen[-1] == rejected[-1]:
        raise UnusableRow("both answers are the same")
    return prompt, chosen[-1].content, rejected[-1].content


def _turns(row: DataRow, column: str) -> list[Message]:
    """An answer as a chat that ends with it."""
    found = at(row, column)
    if isinstance(found, str) and found.strip():
        return [Message(role="assistant", content=found.strip())]
    turns = turns_of(found, column)
    if not turns or turns[-1].role != "assistant":
        raise UnusableRow(f"column {column} does not end with an answer")
    return turns
