"""What a long stage shows while it works: a live panel on a terminal, plain log lines elsewhere.

done/total units, calls in flight, tokens per second in and out, share of prompt tokens from the prefix cache, ETA.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import msgspec

log = logging.getLogger(__name__)

REFRESH_TERMINAL = 0.5
REFRESH_LOG = 20.0
"""Seconds between two updates."""


class Usage(msgspec.Struct, kw_only=True):
    """What the model calls of a stage cost; `usage.json` of a stage result."""

    calls: int = 0
    """Calls sent to an engine."""
    replayed: int = 0
    """Calls answered from the journal, at no cost."""
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    """Prompt tokens that the engine had in its prefix cache, where it tells."""
    tokens_shared: int = 0
    """Prompt tokens that stood in a prefix which an earlier prompt had as well: what a cache could serve."""
    retries: int = 0
    failures: int = 0
    seconds: float = 0.0
    """Wall time during which an engine was open."""
    busy: float = 0.0
    """Wall seconds during which a call was in flight."""
    money: float = 0.0


@dataclass
class Progress:
    """Counters of one stage; engines and stages raise them, the panel reads them."""

    title: str
    total: int
    done: int = 0
    in_flight: int = 0
    note: str = ""
    usage: Usage = field(default_factory=Usage)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._before = (self.usage.tokens_in, self.usage.tokens_out)

    def advance(self, count: int = 1) -> None:
        """Count finished units."""
        self.done += count

    def line(self) -> str:
        """One line of text that says it all."""
        elapsed = max(time.monotonic() - self.started, 1e-9)
        u = self.usage
        rates = [
            (now - before) / elapsed for now, before in zip((u.tokens_in, u.tokens_out), self._before, strict=True)
        ]
        parts = [f"{self.title} {self.done}/{self.total}"]
        if u.calls or u.replayed:
            parts.append(
                f"{u.calls} calls, {self.in_flight} in flight" + (f", {u.replayed} replayed" if u.replayed else "")
            )
            cached, word = (u.tokens_cached, "cached") if u.tokens_cached else (u.tokens_shared, "in shared prefixes")
            share = f", {cached / u.tokens_in:.0%} {word}" if cached else ""  # not every engine tells
            parts.append(f"{rates[0]:.0f} tok/s in, {rates[1]:.0f} out{share}")
        if 0 < self.done < self.total:
            parts.append(f"ETA {_clock(elapsed / self.done * (self.total - self.done))}")
        parts.append(_clock(elapsed))
        return " | ".join([*parts, self.note] if self.note else parts)


@contextmanager
def show(title: str, total: int, work: Path) -> Iterator[Progress]:
    """Show a `Progress` until the block ends; its usage goes on from and is kept in `work/usage.json`."""
    from rich.console import Console

    kept = work / "usage.json"
    usage = msgspec.json.decode(kept.read_bytes(), type=Usage) if kept.exists() else Usage()
    progress, stop = Progress(title, total, usage=usage), Event()

    def keep() -> None:
        scratch = kept.with_suffix(".new")
        scratch.write_bytes(msgspec.json.encode(progress.usage))
        scratch.replace(kept)

    console = Console(stderr=True)
    painter = Thread(target=_paint if console.is_terminal else _report, args=(progress, stop, keep), daemon=True)
    painter.start()
    try:
        yield progress
    finally:
        stop.set()
        painter.join()
        keep()
        log.info(progress.line())


def _paint(progress: Progress, stop: Event, keep: Callable[[], None]) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
        while not stop.wait(REFRESH_TERMINAL):
            grid = Table.grid(expand=True)
            grid.add_row(ProgressBar(total=max(progress.total, 1), completed=min(progress.done, progress.total)))
            grid.add_row(progress.line())
            live.update(Panel(grid, title=progress.title, title_align="left"))
            keep()


def _report(progress: Progress, stop: Event, keep: Callable[[], None]) -> None:
    while not stop.wait(REFRESH_LOG):
        log.info(progress.line())
        keep()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
