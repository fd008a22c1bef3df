"""The user's turn, written by the model: a chat template rendered up to where the user's text would stand.

An aligned model that continues from there writes what a user would ask (Magpie's pre-query template, arXiv 2406.08464).
Every engine that renders templates itself does it here; they all are asked for it with a chat that ends with an empty
message of the role `user`.
"""

from __future__ import annotations

from collections.abc import Callable

from matrix.engines.base import EngineError
from matrix.records import Message

MARK = "xXuserturnXx"
"""Stands for the user's text while the template is rendered; no template changes a word of letters."""

Render = Callable[[list[dict[str, str]]], str]
"""A chat template without the opening of the assistant's turn."""


def asks_for_user(messages: list[Message]) -> bool:
    """Whether a chat asks the model to write the user's turn."""
    return messages[-1].role == "user" and not messages[-1].content


def up_to_user(messages: list[Message], render: Render) -> str:
    """The prompt of a chat that ends with an empty user message: everything that stands before the user's text.

    Raises:
        EngineError: the template does not show the user's text.
    """
    turns = [{"role": message.role, "content": message.content} for message in messages]
    before, mark, _ = render([*turns[:-1], {"role": "user", "content": MARK}]).partition(MARK)
    if not mark:
        raise EngineError(
            "the chat template drops the user's text, so there is no place for a model to write it. "
            "Give another chat_template"
        )
    return before.rstrip(" ")  # a space belongs to the word behind it
