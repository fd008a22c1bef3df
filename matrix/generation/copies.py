"""Tells a task that a model made from one that it copied: out of another task, or out of its prompt."""

from __future__ import annotations

from collections.abc import Callable

from matrix.prompting import Unparsable
from matrix.texts import ngrams

SHARED, ECHO = 3, 4
"""Words of an n-gram: that two tasks have in common, and that gives the prompt away."""


def shared(task: str, other: str) -> float:
    """Share (0..1) of a task's n-grams that stand in another one too; 1 for a part of it."""
    grams = ngrams(task, SHARED)
    return len(grams & ngrams(other, SHARED)) / len(grams)


def no_echo(prompt: str) -> Callable[[str], None]:
    """A check that a task has no words of its prompt.

    Args:
        prompt: the prompt without the tasks in it.
    """
    told = ngrams(prompt, ECHO)

    def check(task: str) -> None:
        if echo := sorted(ngrams(task, ECHO) & told):
            raise Unparsable(f"copies words of the prompt: {echo[0]}")

    return check
