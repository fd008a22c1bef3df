"""Asks a writer for candidates until enough rows are made: no barrier, and the same rows in any order of answers.

The rows are those of the first candidates, in the order of their numbers, that are new and could be answered. One
candidate is begun for every wanted row and one more for every candidate that failed, so none is begun in vain. An
instruction repeats another one if it is similar to any with a lower number, used or not; so a repetition is known as
soon as both are there, and the answer to an instruction does not wait for slower ones before it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from matrix.generation.base import Draft, GeneratorConfig, Materials, Writer
from matrix.progress import Progress
from matrix.records import Conversation
from matrix.texts import NearDuplicates, normalised

log = logging.getLogger(__name__)

NGRAM, NUM_PERM = 3, 128


class Stream:
    """The candidates of one data set.

    Args:
        progress: advances by two a row, one for the draft and one for the answer.
        window: candidates that are drafted at once; twice the calls that the model serves at once keeps it busy.
    """

    def __init__(
        self, config: GeneratorConfig, materials: Materials, writer: Writer, progress: Progress, window: int
    ) -> None:
        self._config, self._materials, self._writer, self._progress = config, materials, writer, progress
        self._window = window
        self._most = config.most if writer.limit is None else min(config.most, writer.limit)
        self._drafts: list[asyncio.Future[Draft | None]] = []
        self._rows: dict[int, Conversation] = {}
        self._lost: dict[int, str] = {}
        self._first: dict[int, int] = {}
        """Candidate -> lowest candidate that it repeats."""
        self._drafted: dict[int, int] = {}
        """Candidate -> number of failures when it was drafted."""
        self._live: set[asyncio.Task[None]] = set()
        self._drafting = self._told = 0
        exact = config.near_duplicate == 1
        self._near = SameWords() if exact else AlikeWords(config.near_duplicate)

    async def rows(self) -> list[Conversation]:
        """The rows, at most `num_rows`, in the order of the candidates."""
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._launch()
            await self._end
        finally:
            for task in self._live:
                task.cancel()
            await asyncio.gather(*self._live, return_exceptions=True)
        self._explain_repetitions()
        return [self._rows[number] for number in sorted(self._rows)]

    def _explain_repetitions(self) -> None:
        failures = self._materials.asker.failures
        # Whether the answer to a repetition was asked for hangs on which draft came first: its failures do not count.
        begun = {self._materials.row(number): self._drafted[number] for number in self._first}
        failures[:] = [f for at, f in enumerate(failures) if at < begun.get(f.id, len(failures))]
        for number, first in sorted(self._first.items()):
            draft = self._drafts[number].result()
            assert draft
            self._materials.fail(draft.row, "instruction", draft.text, f"repeats {self._materials.row(first)}")

    def account(self) -> dict[str, Any]:
        """What was wanted, made and asked for, and why candidates were lost; `short` explains missing rows."""
        told: dict[str, Any] = {
            "wanted": self._config.num_rows, "made": len(self._rows), "asked": len(self._drafts),
            "lost": dict(sorted(Counter(self._lost.values()).items())),
        }  # fmt: skip
        if len(self._rows) < self._config.num_rows:
            why = "max_tries" if self._most == self._config.most else "the source has no more"
            told["short"] = f"{why}: {self._most} candidates, of which {len(self._lost)} were lost"
            log.warning("%d of %d rows: %s %s", len(self._rows), self._config.num_rows, told["short"], told["lost"])
        return told

    def _launch(self) -> None:
        wanted = min(self._most, self._config.num_rows + len(self._lost))
        while len(self._drafts) < wanted and self._drafting < self._window:
            self._drafting += 1
            number = len(self._drafts)
            self._drafts.append(asyncio.get_running_loop().create_future())
            task = asyncio.create_task(self._candidate(number))
            self._live.add(task)
            task.add_done_callback(self._ended)
        if not self._live and not self._end.done():
            self._end.set_result(None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._live.discard(task)
        if self._end.done():
            return
        if not task.cancelled() and (error := task.exception()):
            self._end.set_exception(error)
        else:
            self._launch()

    async def _candidate(self, number: int) -> None:
        draft = await self._writer.draft(number, lambda: self._earlier(number))
        self._drafting -= 1
        self._drafted[number] = len(self._materials.asker.failures)
        self._drafts[number].set_result(draft)
        if draft is None:
            self._lose(number, "no instruction")
            return
        self._tell()
        self._launch()
        for other in self._near.similar_and_add(number, draft.text):
            first, later = min(number, other), max(number, other)
            self._first[later] = min(first, self._first.get(later, first))
            self._lose(later, "repeated instruction")
        if number in self._lost:
            return
        row = await self._writer.finish(draft)
        if number in self._lost:  # an earlier candidate, drafted later, says the same
            return
        if row is None:
            self._lose(number, "no answer")
            return
        self._rows[number] = row
        self._tell()

    def _lose(self, number: int, why: str) -> None:
        self._rows.pop(number, None)
        self._lost[number] = why
        self._tell()
        self._launch()

    def _tell(self) -> None:
        """Show how far it is: a draft is one half of a row, its answer the other."""
        done = len(self._drafted) - len(self._lost) + len(self._rows)  # only what was drafted is lost
        self._progress.advance(done - self._told)
        self._told = done

    async def _earlier(self, number: int) -> Sequence[Draft]:
        for draft in self._drafts[:number]:
            if not draft.done():
                await asyncio.shield(draft)
        found = (draft.result() for draft in self._drafts[:number])
        return [draft for draft in found if draft and draft.number not in self._first]


class AlikeWords:
    """Texts so far, and which of them a new one is similar to."""

    def __init__(self, threshold: float) -> None:
        self._near = NearDuplicates(threshold, NGRAM, NUM_PERM)

    def similar_and_add(self, number: int, text: str) -> list[int]:
        """Numbers of the texts so far that are similar to `text`, which is then one of them."""
        signed = self._near.sign(text)
        found = [other for _, other in self._near.similar(signed)]
        self._near.add(number, signed)
        return found


class SameWords:
    """Texts so far, and which of them a new one repeats but for case and white space."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}

    def similar_and_add(self, number: int, text: str) -> list[int]:
        """A number with the text of `text`, if there is one, which is then one of them."""
        first = self._first.setdefault(normalised(text), number)
        if first == number:
            return []
        self._first[normalised(text)] = min(first, number)
        return [first]
