"""Drops rows that are confidently in a language nobody asked for (py3langid; its model is part of the package)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from matrix.filtering.base import Facts, FilterConfig, Rejection
from matrix.rows import TrainingRow, instruction, preferred

NOT_PROSE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]*`|\$\$.*?\$\$|https?://\S+", re.DOTALL)
"""Code blocks (closed or cut off), inline code, display formulas and addresses: no evidence of a human language."""


@dataclass(kw_only=True)
class LanguageConfig(FilterConfig):
    """Which languages to keep.

    Instruction and preferred answer are judged apart, without their code blocks. A rejected answer is not judged: the
    wrong language is a fault that preference training should see. Doubt keeps a row: a few words, a formula or a list
    of names give no language much probability, and then nothing is dropped.
    """

    languages: list[str] = field(default_factory=lambda: ["en"])
    """ISO 639-1 codes to keep (639-3 where there is none). The paper's data is English."""
    min_confidence: float = 0.5
    """Drop only if one other language has at least this probability (0..1)."""

    def __post_init__(self) -> None:
        if not self.languages:
            raise ValueError("languages is empty, so every row would be dropped; name at least one, e.g. [en]")
        if not 0 < self.min_confidence <= 1:
            raise ValueError(f"min_confidence must lie in (0, 1], not {self.min_confidence}")

    def build(self, facts: Facts) -> LanguageFilter:
        """The filter, its model loaded (half a second).

        Raises:
            ValueError: a code that the model does not know.
        """
        return LanguageFilter(self)


class LanguageFilter:
    """Names the language of each text and drops what is surely foreign."""

    def __init__(self, config: LanguageConfig) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self.config = config
        self.identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        if unknown := set(config.languages) - set(self.identifier.labels):
            known = ", ".join(sorted(self.identifier.labels))
            raise ValueError(f"languages: no such code: {', '.join(sorted(unknown))}. Known: {known}")

    def judge(self, rows: Sequence[TrainingRow]) -> list[Rejection | None]:
        """See `RowFilter.judge`."""
        return [self._judge(row) for row in rows]

    def _judge(self, row: TrainingRow) -> Rejection | None:
        for name, text in (("instruction", instruction(row)), ("response", preferred(row))):
            language, confidence = self.identifier.classify(NOT_PROSE.sub(" ", text).strip())
            if language not in self.config.languages and confidence >= self.config.min_confidence:
                return Rejection(f"{name} in another language", f"{language} {confidence:.2f}")
        return None
