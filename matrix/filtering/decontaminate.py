"""Drops rows that give away questions of the evaluation sets: word n-gram overlap, as Tülu 3 measures it.

The questions come from every evaluation set that is configured (`Need.questions`), so that what a model is tuned on and
what it is measured with cannot meet in silence.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil
from typing import ClassVar, NamedTuple

from matrix.filtering.base import Facts, FilterConfig, Need, Rejection
from matrix.filtering.dedup import Part, text_of
from matrix.rows import TrainingRow
from matrix.texts import WORD, Gram, folded, grams

SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[\n。！？]")
EXCERPT = 80
"""Characters of the question that a drop shows."""


class ContaminationError(ValueError):
    """More rows repeat evaluation questions than chance explains; names the sets and what to do."""


@dataclass(kw_only=True)
class DecontaminateConfig(FilterConfig):
    """How much of an evaluation question a row may hold.

    A question's words count as covered where they lie in an n-gram that the row has too; the row is contaminated from a
    share of covered words on (Tülu 3, arXiv 2411.15124, section 3.2: 8-grams, half of a question's tokens). A question
    with fewer words than an n-gram is found where it is a whole sentence, line or text of the row.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.questions})

    ngram: int = 8
    """Words in an n-gram. Tülu 3: 8; datatrove: 12; GPT-3: 13."""
    threshold: float = 0.5
    """Share (0..1] of a question's words that a row covers, from which on the row is dropped. Tülu 3: 0.5."""
    part: Part = Part.instruction
    """Text of the rows that is searched; `row` finds questions in answers too, at several times the cost."""
    max_contamination: float = 0.02
    """Share (0..1) of the rows, rounded up, that may be dropped; beyond it the run fails, because then it is the
    generator that repeats evaluation questions, and rows that only paraphrase them are still there."""

    def __post_init__(self) -> None:
        if self.ngram < 2:
            raise ValueError(f"ngram must be at least 2, not {self.ngram}; Tülu 3 takes 8, GPT-3 13")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], not {self.threshold}")
        if not 0 <= self.max_contamination <= 1:
            raise ValueError(f"max_contamination must lie in [0, 1], not {self.max_contamination}; 1 never fails")

    def build(self, facts: Facts) -> DecontaminateFilter:
        """The filter, its index of the questions made.

        Raises:
            ValueError: there are no questions to look for.
        """
        if not any(facts.questions.values()):
            raise ValueError(
                "decontaminate: no evaluation set has questions, so nothing could be looked for. Configure one, e.g. "
                "evaluation=paper, or leave the filter decontaminate out of the chain"
            )
        return DecontaminateFilter(self, facts.questions)

    def check(self, verdicts: Sequence[Rejection | None]) -> None:
        """Hold the share of contaminated rows against `max_contamination`.

        Raises:
            ContaminationError: too many rows are contaminated.
        """
        found = [verdict for verdict in verdicts if verdict]
        if len(found) <= ceil(self.max_contamination * len(verdicts)):
            return
        worst = ", ".join(f"{n} x {reason}" for reason, n in Counter(v.reason for v in found).most_common(3))
        raise ContaminationError(
            f"{len(found)} of {len(verdicts)} rows hold evaluation questions, more than max_contamination="
            f"{self.max_contamination} allows: {worst}; the first: {found[0].value}. Look at where these instructions "
            "come from (a prompt or an imported data set with evaluation questions in it); or set "
            "filters.decontaminate.max_contamination=1 to drop the rows and go on"
        )


class _Question(NamedTuple):
    benchmark: str
    text: str
    words: Gram


class DecontaminateFilter:
    """An inverted index: n-gram -> where it stands in the questions; short questions by all their words."""

    def __init__(self, config: DecontaminateConfig, questions: dict[str, list[str]]) -> None:
        self.config = config
        self._questions: list[_Question] = []
        self._places: dict[Gram, list[tuple[int, int]]] = defaultdict(list)
        self._short: dict[Gram, int] = {}
        for benchmark, texts in questions.items():
            for text in texts:
                number, words = len(self._questions), tuple(WORD.findall(folded(text)))
                self._questions.append(_Question(benchmark, text, words))
                if 0 < len(words) < config.ngram:
                    self._short.setdefault(words, number)
                for position, gram in enumerate(grams(words, config.ngram)):
                    self._places[gram].append((number, position))

    def judge(self, rows: Sequence[TrainingRow]) -> list[Rejection | None]:
        """See `RowFilter.judge`; the reason names the evaluation set, the value the covered share and the question."""
        return [self._judge(text_of(row, self.config.part)) for row in rows]

    def _judge(self, text: str) -> Rejection | None:
        sentences = [tuple(WORD.findall(sentence)) for sentence in SENTENCE_END.split(folded(text))]
        words = tuple(chain.from_iterable(sentences))
        covered: dict[int, set[int]] = defaultdict(set)
        for gram in set(filter(self._places.__contains__, grams(words, self.config.ngram))):
            for number, position in self._places[gram]:
                covered[number].update(range(position, position + self.config.ngram))
        shares = {number: len(places) / len(self._questions[number].words) for number, places in covered.items()}
        shares |= {self._short[part]: 1.0 for part in (*sentences, words) if part in self._short}
        if not shares or (share := max(shares.values())) < self.config.threshold:
            return None
        question = self._questions[min(number for number in shares if shares[number] == share)]
        return Rejection(
            f"question of {question.benchmark}", f"{share:.0%} of: {' '.join(question.text.split())[:EXCERPT]}"
        )
