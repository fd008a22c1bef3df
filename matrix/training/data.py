"""The rows of a file as examples to train on: drawn, tokenised, cut to length, and counted.

How a chat becomes tokens is in `matrix.training.chat`; what is done with the examples, in `matrix.training.plan`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from matrix.jsonl import RowError, iter_jsonl, read_jsonl
from matrix.records import Conversation, Message, PreferencePair
from matrix.training.chat import Renderer, Sequence
from matrix.training.recipe import DPOConfig, Packing, SFTConfig, TrainConfig, TrainingError

CHUNK = 256
"""Chats that are tokenised in one call; more would only take memory."""


@dataclass(frozen=True)
class Example:
    """One row ready to train on: one sequence for SFT, chosen and rejected for DPO."""

    id: str
    sequences: tuple[Sequence, ...]

    @property
    def length(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(s.ids) for s in self.sequences)

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(len(s.ids) for s in self.sequences)

    @cached_property
    def targets(self) -> int:
        """Target tokens of all sequences."""
        return sum(sum(s.targets) for s in self.sequences)

    @cached_property
    def prefix(self) -> int:
        """Leading tokens that all sequences share and that are a target in none; 0 where there is one sequence."""
        if len(self.sequences) == 1:
            return 0
        end = min(s.targets.index(True) for s in self.sequences)
        columns = zip(*(s.ids[:end] for s in self.sequences), strict=True)
        return next((i for i, column in enumerate(columns) if len(set(column)) > 1), end)


@dataclass
class Examples:
    """Examples and what happened on the way to them."""

    examples: list[Example]
    rows: int = 0
    truncated: int = 0
    """Rows that lost tokens because they were too long."""
    dropped: int = 0
    """Rows with a sequence that truncation left without a target."""
    lost_targets: int = 0
    """Target tokens that truncation cut off, those of dropped rows included."""


def read_examples(path: Path, recipe: SFTConfig | DPOConfig, renderer: Renderer, seed: int) -> Examples:
    """Tokenise the rows of a file.

    Args:
        path: rows.jsonl of `Conversation`s for SFT, of `PreferencePair`s for DPO.
        recipe: what to make of them; `renderer` was made with the same.
        renderer: the model's chat template.
        seed: for the draw of `max_rows`, and for the order of `packing=wrapped`.

    Raises:
        TrainingError: nothing is left to train on, or the file holds rows for the other kind of training.
        RowError: the file holds other rows.
    """
    pairs = isinstance(recipe, DPOConfig)
    rows = _chats(path, pairs)
    if not rows:
        raise TrainingError(
            f"{path} has no rows to train on. Loosen the filters (drops.jsonl beside it has the reasons)"
        )
    wrapped = recipe.packing is Packing.wrapped
    count = min(recipe.max_rows or len(rows), len(rows))
    if count < len(rows) or wrapped:
        rows = random.Random(seed).sample(rows, count)
    found = Examples([], rows=count)
    rendered = _rendered(rows, renderer, last=pairs)
    if wrapped:
        _wrap(rendered, recipe, found)
    else:
        _fit(rendered, recipe, found)
    if not found.examples:
        raise TrainingError(
            f"none of the {found.rows} rows of {path} has an assistant token within max_length={recipe.max_length}"
            f"{', or they do not fill one block of it' * wrapped}. Set another recipe max_length, or look at what the "
            "filters kept"
        )
    return found


def _chats(path: Path, pairs: bool) -> list[tuple[str, list[list[Message]]]]:
    """Every row's id and its one chat, or the two of a pair."""
    kind, other = (PreferencePair, Conversation) if pairs else (Conversation, PreferencePair)
    try:
        rows: list[Any] = read_jsonl(path, kind)
    except RowError as error:
        with suppress(RowError):
            next(iter_jsonl(path, other))
            raise TrainingError(
                f"{path} holds {other.__name__}s, and recipe.{'dpo' if pairs else 'sft'} trains on {kind.__name__}s: "
                f"give it rows of a {'preference' if pairs else 'generator'}, or set recipe."
                f"{'dpo' if pairs else 'sft'}=null"
            ) from error
        raise
    if pairs:
        return [
            (r.id, [[*r.prompt, Message(role="assistant", content=text)] for text in (r.chosen, r.rejected)])
            for r in rows
        ]
    return [(r.id, [r.messages]) for r in rows]


Rendered = Iterator[tuple[str, list[Sequence]]]
"""Ids of rows and their sequences, as long as they are."""


def _rendered(rows: list[tuple[str, list[list[Message]]]], renderer: Renderer, last: bool) -> Rendered:
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        sequences = iter(renderer.sequences([chat for _, chats in chunk for chat in chats], last))
        for name, chats in chunk:
            yield name, list(islice(sequences, len(chats)))


def _fit(rendered: Rendered, recipe: TrainConfig, found: Examples) -> None:
    """Cut every row to `max_length`."""
    for name, whole in rendered:
        example = Example(name, tuple(_cut(whole, recipe)))
        if example.tokens == sum(len(s.ids) for s in whole):
            found.examples.append(example)
            continue
        found.truncated += 1
        found.lost_targets += sum(sum(s.targets) for s in whole)
        if all(any(s.targets) for s in example.sequences):
            found.examples.append(example)
            found.lost_targets -= example.targets
        else:
            found.dropped += 1


def _cut(whole: list[Sequence], recipe: TrainConfig) -> list[Sequence]:
    size = recipe.max_length
    start, end = 0, size
    kept = recipe.max_prompt_length if isinstance(recipe, DPOConfig) else None
    if kept is not None:
        prompt = whole[0].targets.index(True)
        total = max(len(s.ids) for s in whole)
        if total > size:
            start = max(0, prompt - kept)
            # As in TRL: where this is not enough, answers are cut to what a prompt of `kept` tokens would leave.
            end = total if total - start <= size else prompt + size - kept
    return [Sequence(s.ids[start:end], s.targets[start:end]) for s in whole]


def _wrap(rendered: Rendered, recipe: TrainConfig, found: Examples) -> None:
    """Join all rows and cut the stream into blocks; as in TRL, what does not fill the last one is left out."""
    loss_on_all = isinstance(recipe, SFTConfig) and recipe.loss_on_all_tokens
    ids: list[int] = []
    targets: list[bool] = []
    ends = []
    for _, (row,) in rendered:
        ids += row.ids
        # Inside of a block a row's first token has something before it.
        targets += [loss_on_all, *row.targets[1:]]
        ends.append(len(ids))
    size = recipe.max_length
    kept = len(ids) - len(ids) % size
    for start in range(0, kept, size):
        block = Sequence(ids[start : start + size], [False, *targets[start + 1 : start + size]])
        if any(block.targets):
            found.examples.append(Example(f"block-{start // size}", (block,)))
    found.truncated = sum(end > kept for end in ends)
    found.lost_targets = sum(targets) - sum(example.targets for example in found.examples)
