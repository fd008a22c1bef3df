"""How the pre-flight report looks: a table, warnings, and samples in which trained tokens stand out.

In colours on a terminal; elsewhere trained tokens stand between ⟦ and ⟧. Special tokens and line ends are visible.
"""

from __future__ import annotations

import re
from io import StringIO
from itertools import groupby
from typing import TYPE_CHECKING, Any

from matrix.training.chat import Sequence
from matrix.training.data import Example

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from matrix.training.doctor import Diagnosis

SHOWN = 240
"""Tokens of a sample that are shown: of a longer one its beginning and its end."""

HIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
"""Control characters, which would move the cursor of a terminal."""


def printable(diagnosis: Diagnosis, examples: list[Example], tokenizer: Any, colour: bool | None = None) -> str:
    """The whole report as text.

    Args:
        diagnosis: what was found.
        examples: of which one of median length and the longest are shown.
        tokenizer: that they were tokenised with.
        colour: with colours of a terminal; None: where standard output is one.
    """
    from rich.console import Console
    from rich.text import Text

    colour = Console().is_terminal if colour is None else colour
    out = StringIO()
    console = Console(file=out, force_terminal=colour, width=None if colour else 120, highlight=False, soft_wrap=True)
    console.print(table(diagnosis))
    for warning in diagnosis.warnings:
        console.print(Text("! ", "bold red").append(warning, "yellow"))
    ordered = sorted(examples, key=lambda example: example.length)
    for sample in [ordered[len(ordered) // 2], ordered[-1]][: len(ordered)]:
        for name, sequence in zip(("chosen", "rejected"), sample.sequences, strict=False):
            part = f", {name}" if len(sample.sequences) > 1 else ""
            title = f"{sample.id}{part}: {len(sequence.ids)} tokens, {sum(sequence.targets)} trained"
            console.print(Text("\n" + title, "bold"))
            console.print(tinted(sequence, tokenizer, colour))
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def table(d: Diagnosis) -> Table:
    """The numbers."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column()
    for name, text in _lines(d):
        shown.add_row(name, Text(text))
    return shown


def _lines(d: Diagnosis) -> list[tuple[str, str]]:
    sampled = f" (estimated from {d.sampled:,})" if d.sampled < d.rows else ""
    lengths = ", ".join(f"{name} {length:,}" for name, length in d.lengths.items())
    ended = "all" if not d.unended else f"{d.turns - d.unended:,} of"
    least, most = d.begin_of_text
    padding = "also a target, as it ends turns or is written" if d.padding_trained else "never a target"
    lines = [
        ("rows", f"{d.used:,} of {d.rows:,}{sampled}; {d.held_out:,} held out, {d.dropped:,} dropped"),
        ("cut", f"{d.truncated:,} rows, {d.targets_lost:,} answer tokens lost"),
        ("tokens", f"{d.tokens:,} in all, {d.targets:,} trained ({d.targets / d.tokens:.1%})"),
        ("lengths", f"{lengths} tokens"),
        ("answers", f"{d.shortest[0]:,} ({d.shortest[1]}) to {d.longest[0]:,} ({d.longest[1]}) tokens"),
        ("begin of text", f"{least} a sequence" if least == most else f"{least} to {most} a sequence"),
        ("end of turn", f"trained in {ended} {d.turns:,} turns"),
        ("padding token", padding),
        ("steps", f"{d.steps:,}, {d.steps_an_epoch:,.6g} an epoch, of {d.rows_a_step:,.4g} rows"),
        (
            "a step",
            f"{d.micro_batches} micro-batches a process on {d.processes}; {d.efficiency:.1%} real tokens",
        ),
        (
            "learning rate",
            f"{d.learning_rate:g} after {d.warmup} steps ({d.warmup_share:.1%}); mean {d.mean_rate:.0%}",
        ),
    ]
    if d.memory:
        m, has = d.memory, f" of {d.device_gib:.3g}" if d.device_gib else ""
        parts = f"weights {m.weights:.3g}, gradients {m.gradients:.3g}, optimizer {m.optimizer:.3g}, "
        parts += f"activations {m.activations:.3g}, logits {m.logits:.3g}"
        host = f"; on the host {m.host:.3g}" if m.host else ""
        lines.append(("memory", f"about {m.device:.3g}{has} GiB a device: {parts}{host}"))
    return lines


def tinted(sequence: Sequence, tokenizer: Any, colour: bool) -> Text:
    """A sequence as text in which trained tokens stand out; the middle of a long one is left out."""
    from rich.text import Text

    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    text = Text()
    count, half = len(sequence.ids), SHOWN // 2
    parts = [(0, count)] if count <= SHOWN else [(0, half), (count - half, count)]
    for start, end in parts:
        if start:
            text.append(f"\n… {start - half:,} tokens …\n", "italic")
        places = range(start, end)
        for trained, run in groupby(places, key=lambda i: sequence.targets[i]):
            text.append("⟦" if trained and not colour else "")
            for control, tokens in groupby(run, key=lambda i: sequence.ids[i] in special):
                ids = [sequence.ids[i] for i in tokens]
                words = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
                words = HIDDEN.sub("�", words).replace("\n", "⏎\n")
                style = ("bold green" if trained else "dim") + (" reverse" if control else "")
                text.append(words, style)
            text.append("⟧" if trained and not colour else "")
    return text
