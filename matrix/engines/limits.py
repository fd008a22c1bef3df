"""How much may be sent: the context of a model, and the number of calls that an endpoint bears."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from types import TracebackType

from matrix.engines.base import ContextOverflow, ModelConfig, Priority, Sampling

BYTES_PER_TOKEN = 3
"""English text has about 4.5 UTF-8 bytes a token under current tokenizers, most other scripts 3 or more."""

CUT = 0.75
RAISE_AFTER = 25
"""The limit is cut to this share on the first 429 of a burst, and grows by one call after so many successes."""


def estimate_tokens(text: str) -> int:
    """Upper estimate of the tokens of `text` where no tokenizer is at hand: one for every three UTF-8 bytes."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def require_room(prompt_tokens: int, sampling: Sampling, config: ModelConfig) -> None:
    """Refuse a call that cannot fit, before it is sent.

    Raises:
        ContextOverflow: prompt and completion exceed `config.max_context` tokens.
    """
    if prompt_tokens + sampling.max_tokens > config.max_context:
        raise ContextOverflow(
            f"{config.name}: a prompt of {prompt_tokens} tokens and max_tokens={sampling.max_tokens} exceed "
            f"max_context={config.max_context}. Shorten the prompt, lower max_tokens or raise max_context"
        )


class Slots:
    """A semaphore that serves the most urgent first: lowest `priority`, then first come."""

    def __init__(self, most: int) -> None:
        self.free = most
        self._waiting: list[tuple[Priority, int, asyncio.Future[None]]] = []
        self._arrived = 0

    async def acquire(self, priority: Priority = ()) -> None:
        """Wait for a place."""
        if self.free:
            self.free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        self._arrived += 1
        heapq.heappush(self._waiting, (priority, self._arrived, place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Hand the place on."""
        while self._waiting:
            place = heapq.heappop(self._waiting)[2]
            if not place.done():
                place.set_result(None)
                return
        self.free += 1


class AdaptiveLimit:
    """A semaphore whose size follows what the other side bears; never over `most`. First come, first served."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = most
        self.active = 0
        self.burst = 0
        """Number of cuts so far: calls that started under an older one belong to a burst that was answered already."""
        self._successes = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> int:
        """Wait for a place; returns the burst that the call starts in."""
        if self.active < self.limit:
            self.active += 1
            return self.burst
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()
            raise
        return self.burst

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        self.active -= 1
        while self._waiting and self.active < self.limit:
            place = self._waiting.popleft()
            if not place.done():
                self.active += 1
                place.set_result(None)

    def refused(self, burst: int) -> None:
        """The other side said 429 to a call that started in `burst`."""
        if burst == self.burst:
            self.limit = max(1, int(self.limit * CUT))
            self.burst += 1
            self._successes = 0

    def succeeded(self) -> None:
        """A call was answered."""
        self._successes += 1
        if self._successes >= RAISE_AFTER and self.limit < self.most:
            self.limit += 1
            self._successes = 0
