"""Drops rows that show a generation gone wrong: template leftovers, swapped roles, refusals, cut-off answers, loops.

Rules of form, no model: each looks for one thing, can be switched off, and has its own reason. They are written for
English; other languages pass most of them unseen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from matrix.filtering.base import Facts, FilterConfig, Rejection
from matrix.filtering.language import NOT_PROSE
from matrix.rows import TrainingRow, answers, prompt
from matrix.texts import ASSISTANT_VOICE, REFUSAL

MARKER = re.compile(
    r"<\|\w{2,40}\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|</s>\s*\Z"
    r"|^[ \t]*### ?(?:instruction|response|human|user|assistant|system) ?:"
    r"|\A\W{0,3}(?:user|human|assistant)\s*:",
    re.IGNORECASE | re.MULTILINE,
)
"""Control tokens of ChatML, Llama, Gemma and Mistral; headings of Alpaca and Vicuna ("### Instructions:" is a
recipe's); a role before the text."""

PLACEHOLDER = re.compile(
    r"\{\{[^{}\n]{1,40}\}\}"
    r"|\[(?:your|my|insert|enter|add|specify|fill in|name of|type of)\b[^\]\n]{0,60}\](?!\()"
    r"|\[(?:(?:company|product|customer|client|recipient|user|person|city|business|brand|project|topic|job)(?:'s)?\s?)"
    r"(?:name|title)?\](?!\()"
    r"|\[(?:name|date|location)\](?!\()"
    r"|<(?:your|insert|enter)\s[^>\n]{1,40}>",
    re.IGNORECASE,
)
"""What somebody was to fill in; a Markdown link is none."""


PREAMBLE = re.compile(
    r"\A\W*(?:message|instruction|prompt|user message)\s*:"
    r"|\A\W*(?:okay[,!.] |ok[,!.] )?here(?:'s| is| are) (?:the|a|an|one|another|my|some)(?: [\w-]+){0,3}? "
    r"(?:messages?|instructions?|questions?|prompts?|request|query)(?: (?!(?:i|me|my)\b)[\w',-]+){0,14}:",
    re.IGNORECASE,
)
"""The generating model announces what it was asked to write."""


NGRAM = 6
"""Words in the n-grams of `repetition`."""
LOOP = re.compile(r"([^\W\d_]{1,10}?)\1{14,}", re.IGNORECASE)
"""Within one word: `aaaa`, `hahaha`."""

FENCE = re.compile(r"`{3,}")
END = re.compile(r"[.!?…。！？][\"'”’»)\]}*_`>\s]*\Z")
INNER_END = re.compile(r"[.!?][\"'”’)\]*]*\s+(?=[\"“(*]*[A-Z])")
ITEM = re.compile(r"\s*(?:[-*+•–]|\(?(?:\d{1,3}|[a-zA-Z])[.)])(?:\s+|\Z)")
BARE_ITEM = re.compile(r"\s*(?:[-*+•]|#{1,6}|\(?(?:\d{1,3}|[a-zA-Z])[.)])\s*(?:\*\*)?\Z")
RULE = re.compile(r"\s*(?:[-=_*]\s?){3,}\Z")
OPEN_BOLD = re.compile(r"(?<![\w*])\*\*(?=[^\s*])[^*]*\Z")
NO_PROSE = re.compile(r"[;{}<>=\\|]|[)\]]\Z|https?://|\S\(|#\w")
HANGING = re.compile(
    r"(?:[,;:(\[{“–—&/+]|:\*\*|(?<!-)-|\b(?:an?|the|of|to|and|or|but|with|for|in|on|at|by|from|as|is|are|was|were|be|that"
    r"|which|your|their|its|our|my|such|than|into|if|because|while|when|this|these|can|will|should|would|could|may|might"
    r"|must|has|have|not))\Z",
    re.IGNORECASE,
)
"""Nothing ends with these."""
SOME_WORDS = 5
"""Shorter lines (signatures, names, headings) need no sentence end."""
LONG_LINE = 12
"""Words from which on a line that stands alone should have one."""


class Refusals(StrEnum):
    """What becomes of answers that refuse."""

    drop = "drop"
    keep = "keep"
    """For safety data, where the refusal is what is to be learned."""


@dataclass(kw_only=True)
class LeftoversConfig(FilterConfig):
    """Which marks of failed generation drop a row.

    Template markers are looked for in all texts, since they would forge or cut off a turn in training. The other rules
    read the user's turns, or the assistant's turns up to the answer to learn. A rejected answer may have their faults:
    preference training should see them.
    """

    markers: bool = True
    """Control tokens and headings of chat templates."""
    placeholders: bool = True
    """`[Your Name]`, `{{topic}}` in an instruction, outside code. An answer may have them: a letter to fill in."""
    voice: bool = True
    """Instructions that speak as the assistant: "As an AI language model, I", "How can I assist you today?"."""
    preamble: bool = True
    """Instructions that begin with "Here is the message:"."""
    colon: bool = True
    """Instructions that end with a colon: their text or list is missing (Magpie, arXiv 2406.08464, data filter)."""
    refusals: Refusals = Refusals.drop
    """Answers that begin as a refusal does."""
    cut_off: bool = True
    """Answers that stop in the middle: a code block that stays open, a bare list mark, half a sentence."""
    max_repetition: float = 0.5
    """Share (0..1) of an instruction's or answer's 6-grams that have occurred before in it, beyond which the row is
    dropped; 1: off. Of 3,110 answers of Llama-3-8B-Instruct, GPT-3.5 and GPT-4 to AlpacaEval and Arena-Hard two are
    loops, with 0.96 and 0.99; the next have 0.41 and less (tables, test cases)."""

    def __post_init__(self) -> None:
        if not 0 < self.max_repetition <= 1:
            raise ValueError(f"max_repetition must lie in (0, 1], not {self.max_repetition}; 1 switches the rule off")

    def build(self, facts: Facts) -> LeftoversFilter:
        """The filter with these rules."""
        return LeftoversFilter(self)


class LeftoversFilter:
    """Applies one rule after another; the first that finds something gives the reason, and the value shows it."""

    def __init__(self, config: LeftoversConfig) -> None:
        self.config = config

    def judge(self, rows: Sequence[TrainingRow]) -> list[Rejection | None]:
        """See `RowFilter.judge`."""
        return [next(self._faults(row), None) for row in rows]

    def _faults(self, row: TrainingRow) -> Iterator[Rejection]:
        c = self.config
        last = answers(row)
        asked = [message.content for message in prompt(row) if message.role == "user"]
        answered = [message.content for message in prompt(row) if message.role == "assistant"]
        answered.append(next(iter(last.values())))
        for text in [*(message.content for message in prompt(row)), *last.values()]:
            if c.markers and (found := MARKER.search(text)):
                yield Rejection("template marker", _shown(found[0]))
        for text in map(_plain, asked):
            if c.placeholders and (found := PLACEHOLDER.search(NOT_PROSE.sub(" ", text))):
                yield Rejection("placeholder in the instruction", _shown(found[0]))
            if c.voice and (found := ASSISTANT_VOICE.search(text)):
                yield Rejection("instruction in the assistant's voice", _shown(found[0]))
            if c.preamble and (found := PREAMBLE.search(text)):
                yield Rejection("preamble of the instruction", _shown(found[0]))
            if c.colon and text.rstrip().endswith(":"):
                yield Rejection("instruction ends with a colon", _shown(text.rstrip()[-60:]))
        for text in map(_plain, answered):
            if c.refusals is Refusals.drop and (found := REFUSAL.match(text)):
                yield Rejection("refusal", _shown(text[: found.end() + 40]))
            if c.cut_off and cut_off(text):
                yield Rejection("answer cut off", _shown(text.rstrip()[-60:]))
        for text in [*asked, *answered]:
            if c.max_repetition < 1 and (share := repetition(text)) > c.max_repetition:
                yield Rejection("repetition", f"{share:.2f}")


def _plain(text: str) -> str:
    return text.replace("’", "'")


def _shown(text: str) -> str:
    return " ".join(text.split())[:80]


def repetition(text: str) -> float:
    """Share (0..1) of the word 6-grams that occur earlier in the text; 1 for a word that is a loop; 0 for few words."""
    words = re.findall(r"\w+", text.casefold())
    if any(LOOP.search(word) for word in words if len(word) > 15):
        return 1.0
    total = len(words) - NGRAM + 1
    if total < 4 * NGRAM:
        return 0.0
    return 1 - len(set(zip(*(words[start:] for start in range(NGRAM)), strict=False))) / total


def cut_off(text: str) -> bool:
    """Whether an answer stops in the middle, by the form of its end.

    A last line without a sentence end is not enough: signatures, list items, tables, code, addresses and emoji end
    answers too. It counts if the line has a sentence end further in, or if most lines like it have one. Of the answers
    that `LeftoversConfig.max_repetition` speaks of 0.4 % are found, most of them unjustly; of answers cut at a
    random word within a sentence, three quarters.
    """
    text = text.rstrip()
    if len(FENCE.findall(text)) % 2:
        return True
    lines = [line for line in FENCE.split(text)[-1].splitlines() if line.strip()]
    if not lines or RULE.match(lines[-1]):
        return False
    *others, last = lines
    if BARE_ITEM.match(last) or OPEN_BOLD.search(last):
        return True
    if END.search(last) or NO_PROSE.search(last):
        return False
    if HANGING.search(last):
        return True
    item, words = ITEM.match(last), len(last.split())
    if words < SOME_WORDS or not last[-1].isalnum():
        return False
    if INNER_END.search(ITEM.sub("", last, count=1)):
        return True
    alike = [END.search(o) for o in others if bool(ITEM.match(o)) == bool(item) and len(o.split()) >= SOME_WORDS]
    return sum(map(bool, alike)) * 2 > len(alike) or (not alike and not item and words >= LONG_LINE)
