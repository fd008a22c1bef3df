"""From rows to token sequences: the chat template, and which tokens are trained.

Only the assistant's tokens are targets, its end-of-turn token included and its header excluded. Each conversation is
rendered turn by turn and every piece is tokenised on its own, exactly as the model will meet it: the prompt as a whole,
then the answer token by token.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matrix.jsonl import iter_jsonl
from matrix.records import Conversation, Message, PreferencePair
from matrix.training.recipe import TrainingError


@dataclass(frozen=True)
class Sequence:
    """Token ids and, for each, whether it is a target; the first token never is one."""

    ids: list[int]
    targets: list[bool]


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

    @property
    def targets(self) -> int:
        """Target tokens of all sequences."""
        return sum(sum(s.targets) for s in self.sequences)


@dataclass
class Examples:
    """Examples and what happened on the way to them."""

    examples: list[Example]
    rows: int = 0
    truncated: int = 0
    dropped: int = 0
    """Rows with a sequence that truncation left without a target."""


class Renderer:
    """Renders chats with a tokenizer's template; finds out once which special token ends a turn.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.

    Raises:
        TrainingError: there is no template, or its assistant turns do not end with a special token.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise TrainingError(
                f"{tokenizer.name_or_path} has no chat template; set model.chat_template, e.g. chat_template=llama3"
            )
        self.tokenizer = tokenizer
        self.special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        probe = self.sequence([Message(role="user", content="a"), Message(role="assistant", content="b")])
        self.end_of_turn = probe.ids[max(i for i, target in enumerate(probe.targets) if target)]

    def sequence(self, messages: list[Message]) -> Sequence:
        """A chat as token ids, with the assistant's turns as targets.

        Raises:
            TrainingError: the template rewrites earlier turns, so that what is trained is not what would be met.
        """
        ids: list[int] = []
        targets: list[bool] = []
        done = ""
        for i, message in enumerate(messages):
            if message.role != "assistant":
                continue
            prompt = self._render(messages[:i], generation=True)
            whole = self._render(messages[: i + 1], generation=False)
            if not (prompt.startswith(done) and whole.startswith(prompt)):
                raise TrainingError(
                    "the chat template is not prefix-preserving: a chat's first turns render differently once the next "
                    "turn is there, so its answers cannot be told from its prompts. Set another model.chat_template"
                )
            head, answer = self._tokens(prompt[len(done) :]), self._tokens(whole[len(prompt) :])
            last = max((n for n, token in enumerate(answer) if token in self.special), default=-1)
            if last < 0:
                raise TrainingError("the chat template ends no assistant turn with a special token; set another one")
            ids += head + answer
            targets += [False] * len(head) + [n <= last for n in range(len(answer))]
            done = whole
        if ids[:2] == [self.tokenizer.bos_token_id] * 2:
            raise TrainingError("the chat template writes the begin-of-text token twice; mend the template")
        return Sequence(ids, targets)

    def _render(self, messages: list[Message], generation: bool) -> str:
        chat = [{"role": m.role, "content": m.content} for m in messages]
        text: str = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=generation)
        return text

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


def read_examples(
    path: Path, preference: bool, renderer: Renderer, max_length: int, max_rows: int | None, seed: int
) -> Examples:
    """Tokenise the rows of a file.

    Args:
        path: rows.jsonl of `Conversation`s, or of `PreferencePair`s where `preference` is set.
        preference: make chosen and rejected sequences.
        renderer: the model's chat template.
        max_length: tokens kept of a sequence.
        max_rows: rows drawn with `seed`; None takes all.
        seed: for the draw.

    Raises:
        TrainingError: nothing is left to train on.
        RowError: the file holds other rows.
    """
    rows: list[tuple[str, list[list[Message]]]]
    if preference:
        rows = [
            (p.id, [[*p.prompt, Message(role="assistant", content=text)] for text in (p.chosen, p.rejected)])
            for p in iter_jsonl(path, PreferencePair)
        ]
    else:
        rows = [(c.id, [c.messages]) for c in iter_jsonl(path, Conversation)]
    if max_rows is not None and max_rows < len(rows):
        rows = random.Random(seed).sample(rows, max_rows)
    found = Examples([], rows=len(rows))
    for name, chats in rows:
        whole = [renderer.sequence(chat) for chat in chats]
        cut = tuple(Sequence(s.ids[:max_length], s.targets[:max_length]) for s in whole)
        found.truncated += any(len(s.ids) > max_length for s in whole)
        if all(any(s.targets) for s in cut):
            found.examples.append(Example(name, cut))
        else:
            found.dropped += 1
    if not found.examples:
        raise TrainingError(
            f"none of the {found.rows} rows of {path} has an assistant token within max_length={max_length}. "
            "Raise recipe max_length, or look at what the filters kept"
        )
    return found
