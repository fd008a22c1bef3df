"""Drops rows whose instruction or answer is too short or too long to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from matrix.filtering.base import Facts, FilterConfig, Rejection
from matrix.rows import TrainingRow, instruction, responses


class LengthUnit(StrEnum):
    """What lengths are counted in; words are runs between white space, so prefer characters for Chinese or Japanese."""

    characters = "characters"
    words = "words"


@dataclass(kw_only=True)
class LengthConfig(FilterConfig):
    """Bounds on the length of texts, all inclusive. The paper names none; the defaults only catch wreckage.

    A pair is dropped for either of its answers: a prompt whose rejected answer is short tends to be a poor prompt
    (RIP, arXiv 2501.18578).
    """

    unit: LengthUnit = LengthUnit.characters
    """Unit of all four bounds."""
    min_instruction: int = 10
    """Least length of the user turns together."""
    max_instruction: int = 8000
    """Greatest length of the user turns together; 8,000 characters are about 2,000 tokens of English."""
    min_response: int = 10
    """Least length of an answer."""
    max_response: int = 16000
    """Greatest length of an answer; 16,000 characters are about 4,000 tokens of English."""

    def __post_init__(self) -> None:
        for text, low, high in (
            ("instruction", self.min_instruction, self.max_instruction),
            ("response", self.min_response, self.max_response),
        ):
            if not 0 <= low <= high:
                raise ValueError(f"need 0 <= min_{text} <= max_{text}, not {low} and {high}")

    def build(self, facts: Facts) -> LengthFilter:
        """The filter with these bounds."""
        return LengthFilter(self)


class LengthFilter:
    """Measures instruction and answers; the first text out of bounds gives the reason."""

    def __init__(self, config: LengthConfig) -> None:
        self.config = config

    def judge(self, rows: Sequence[TrainingRow]) -> list[Rejection | None]:
        """See `RowFilter.judge`."""
        return [self._judge(row) for row in rows]

    def _judge(self, row: TrainingRow) -> Rejection | None:
        c = self.config
        texts = [("instruction", instruction(row), c.min_instruction, c.max_instruction)]
        texts += [("response", text, c.min_response, c.max_response) for text in responses(row)]
        for name, text, low, high in texts:
            stripped = text.strip()
            length = len(stripped.split()) if c.unit is LengthUnit.words else len(stripped)
            if not low <= length <= high:
                return Rejection(f"{name} too {'short' if length < low else 'long'}", f"{length} {c.unit}")
        return None
