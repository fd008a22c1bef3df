"""Answers from a file of rules, without a model: for tests and rehearsals of a pipeline.

`config.model` is a JSON or JSON Lines file of `{"match": regex, "reply": text}`. The first rule whose regex is found in
the chat (`role: content` lines) answers; `\\1` in a reply stands for a group of the match. Without a matching rule, the
answer is a few words that depend on chat and seed alone. A chat that asks for the user's turn ends with `user: `.
"""

from __future__ import annotations

import math
import random
import re

import msgspec

from matrix.engines.base import Completion, EngineError, ModelConfig, Sampling
from matrix.engines.limits import estimate_tokens, require_room
from matrix.engines.sources import resolve
from matrix.provenance import derive_seed
from matrix.records import Message, Row

WORDS = ["river", "garden", "letter", "winter", "market", "bridge", "window", "music", "harvest", "paper", "morning"]


class Rule(Row, frozen=True, kw_only=True):
    """One line of the script."""

    match: str
    reply: str


class ScriptedEngine:
    """Answers by rule; same chat and seed, same answer."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        path = resolve(config.model)
        try:
            if isinstance(path, str):
                raise EngineError(f"engine=scripted: there is no file {path}")
            content = path.read_bytes()
            rows = content.lstrip().startswith(b"[")
            rules = msgspec.json.decode(content, type=list[Rule]) if rows else _lines(content)
            self._rules = [(re.compile(rule.match, re.DOTALL), rule.reply) for rule in rules]
        except (msgspec.DecodeError, re.error) as error:
            raise EngineError(f'{path}: {error}. Expected rules like {{"match": "regex", "reply": "text"}}') from error

    async def chat(self, messages: list[Message], sampling: Sampling) -> Completion:
        """Complete a chat; see `LanguageModel.chat`."""
        chat = "\n".join(f"{message.role}: {message.content}" for message in messages)
        require_room(estimate_tokens(chat), sampling, self._config)
        dice = random.Random(derive_seed(chat, sampling.seed))
        found = ((regex.search(chat), reply) for regex, reply in self._rules)
        text = next((match.expand(reply) for match, reply in found if match), None)
        if sampling.choices:
            chosen = text if text in sampling.choices else dice.choice(sampling.choices)
            rest = 0.25 / max(len(sampling.choices) - 1, 1)
            scores = {choice: math.log(0.75 if choice == chosen else rest) for choice in sampling.choices}
            return self._completion(chat, chosen, scores)
        return self._completion(chat, text if text is not None else " ".join(dice.choices(WORDS, k=12)), {})

    def _completion(self, chat: str, text: str, scores: dict[str, float]) -> Completion:
        return Completion(
            text=text,
            prompt_tokens=estimate_tokens(chat),
            completion_tokens=estimate_tokens(text),
            finish_reason="stop",
            choice_logprobs=scores,
        )

    async def close(self) -> None:
        """Nothing is held."""


def _lines(content: bytes) -> list[Rule]:
    return [msgspec.json.decode(line, type=Rule) for line in content.splitlines() if line.strip()]
