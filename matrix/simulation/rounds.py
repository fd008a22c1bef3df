"""When a group may enter its next scenario: as soon as nothing can reach it any more, and never later.

Time of a society is counted in rounds; a group has at most one scenario in each. Two things hold a group back. A
`Fence` says whether everything is known that can still reach a target, which is less than "everybody is ready": a
group waits for the actions of groups that know of it, an agent for undecided messages that it would be the one to
hear. `Admission` hands out the scenarios that were asked for in the order (round, group), whatever order the groups
arrive in. Neither asks a clock, so the order in which answers come changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Mapping
from typing import Generic, TypeVar

Target = TypeVar("Target", bound=Hashable)
"""A group by its number, or an agent by its id."""


class Fence(Generic[Target]):
    """Counts for every (round, target) what is still open; a target passes when nothing is."""

    def __init__(self, sources: Mapping[Target, int] | None = None) -> None:
        """`sources[t]`: how many can reach target t. Each of them is open in every round until released."""
        self._sources = sources or {}
        self._open: dict[int, dict[Target, int]] = {}
        self._waiting: dict[tuple[int, Target], asyncio.Future[None]] = {}
        self.ended = False

    def _counts(self, round_: int) -> dict[Target, int]:
        if round_ not in self._open:
            self._open[round_] = dict(self._sources)
        return self._open[round_]

    def hold(self, round_: int, targets: Iterable[Target]) -> None:
        """Something more may reach `targets`; the holder has not released its own hold on them yet."""
        counts = self._counts(round_)
        for target in targets:
            counts[target] = counts.get(target, 0) + 1

    def release(self, round_: int, targets: Iterable[Target]) -> None:
        """One thing less can reach each of `targets`."""
        counts = self._counts(round_)
        for target in targets:
            left = counts[target] = counts[target] - 1
            if not left and (waiting := self._waiting.pop((round_, target), None)):
                waiting.set_result(None)

    async def passed(self, round_: int, target: Target) -> bool:
        """Wait until nothing of `round_` can reach `target` any more; False if the society ended meanwhile."""
        if round_ >= 0 and self._counts(round_).get(target) and not self.ended:
            waiting = self._waiting.get((round_, target))
            if waiting is None:
                waiting = self._waiting[round_, target] = asyncio.get_running_loop().create_future()
            await asyncio.shield(waiting)  # several may wait for the same: one that is cancelled leaves it to the rest
        return not self.ended

    def forget(self, round_: int) -> None:
        """Nobody will ask about `round_` again."""
        self._open.pop(round_, None)

    def end(self) -> None:
        """Let everybody go who waits."""
        self.ended = True
        while self._waiting:
            self._waiting.popitem()[1].set_result(None)


class Admission:
    """Admits scenarios in the order (round, group) until there are `wanted`, or until nobody has anything to do.

    A group says in every round whether it has anything to do. It is admitted at once where that cannot exceed the quota
    however many others are active; near the quota it waits until all before it have said so.
    """

    def __init__(self, groups: int, wanted: int, lag: int) -> None:
        """`lag`: rounds that a message travels; after so many rounds without a scenario nothing is under way."""
        self._groups, self._wanted, self._lag = groups, wanted, lag
        self._said: dict[int, list[bool | None]] = {}
        self._round = self._group = 0
        """Everything before this place is decided."""
        self._last = (-1, -1)
        """The last place that was."""
        self._waiting: dict[tuple[int, int], asyncio.Future[None]] = {}
        self._quiet_rounds = 0
        self.admitted = 0
        """Scenarios before that place."""
        self.over = asyncio.Event()

    async def enter(self, round_: int, group: int, active: bool) -> bool:
        """Whether the society goes on for `group`: with a scenario if it is `active`, else in the next round."""
        said = self._said.setdefault(round_, [None] * self._groups)
        said[group] = active
        if (round_, group) == (self._round, self._group):
            self._advance()
        return await self.reached(round_, group) and (active or not self.over.is_set())

    async def reached(self, round_: int, group: int = 0) -> bool:
        """Wait until it is certain whether a scenario at this place is within the quota."""
        return round_ * self._groups + group < self._wanted or await self.decided(round_, group)

    async def decided(self, round_: int, group: int) -> bool:
        """Wait until all before this place have entered; False if the society ended before it."""
        place = (round_, group)
        if not self.over.is_set() and place > (self._round, self._group):
            waiting = self._waiting.get(place)
            if waiting is None:
                waiting = self._waiting[place] = asyncio.get_running_loop().create_future()
            await asyncio.shield(waiting)
        return not self.over.is_set() or place <= self._last

    def _advance(self) -> None:
        """Move over all that is decided."""
        while not self.over.is_set():
            if waiting := self._waiting.pop((self._round, self._group), None):
                waiting.set_result(None)
            said = self._said.get(self._round)
            if said is None or (active := said[self._group]) is None:
                return
            self._last = (self._round, self._group)
            self.admitted += active
            self._group += 1
            if self._group == self._groups:
                self._quiet_rounds = 0 if any(said) else self._quiet_rounds + 1
                del self._said[self._round]
                self._round, self._group = self._round + 1, 0
            if self.admitted == self._wanted or self._quiet_rounds == self._lag:
                self.over.set()
                while self._waiting:
                    self._waiting.popitem()[1].set_result(None)
