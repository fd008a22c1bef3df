"""Where a text has words of a person's name, also in another case, without its accents and hyphens, or run together.

A word is a run of letters, so a name is found inside `ann_lee7` and `Lee's`, and not inside `Leek`. Words are compared
folded (lower case, accents off) and looked up in sets: no pattern is made of a name, whatever characters it has.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

FUNCTION_WORDS = frozenset(["a", "an", "the", "and", "of", "for", "from", "in", "on", "at", "to", "by", "is"])
"""Words of names (`Ann the Baker`) that tell nothing alone."""

GAP = re.compile(r"[\s.,'’_\-‐–]{0,3}")
"""What may stand between two words of a name."""
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]{2,}"
)
"""Scripts without spaces between words, and Korean, whose particles follow without one: a name is part of a run."""
_PLAIN = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i"})
_SPELT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"})


class NameWords(NamedTuple):
    """A name prepared for look-up; all words folded."""

    telling: frozenset[str]
    """Three letters or more, and words run together as in handles."""
    short: frozenset[str]
    """Two letters; they count where they are capitalised."""
    weak: frozenset[str]
    """Initials and function words; they count beside another word of the name."""
    unspaced: tuple[str, ...]

    def any(self, lower: str) -> bool:
        """Whether a word that counts stands in a text, or in one of its words."""
        return any(word in lower for words in (self.telling, self.short) for word in words)


def find_name(text: str, name: str, neutral: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Spans of `text` that are words of `name`; neighbours (`Ann K. Lee`, `Lee, Ann`) are one span.

    Args:
        text: any text.
        name: the person's name.
        neutral: phrases that stand for what was masked already; a person may be called Link or Number.
    """
    words = _name_words(name)
    for part in words.unspaced:
        yield from (m.span() for m in re.finditer(re.escape(part), text))
    if text.isascii() and not words.any(text.lower()):
        return
    phrases = re.compile(rf"(?<![^\W\d_])(?:{'|'.join(neutral)})(?![^\W\d_])")
    masked = {place for m in phrases.finditer(text) for place in range(*m.span())}
    run: list[tuple[int, int, bool]] = []
    for m in _word().finditer(text):
        strength = _strength(m[0], words)
        if strength is None or m.start() in masked:
            continue
        if run and not GAP.fullmatch(text, run[-1][1], m.start()):
            yield from _told(run)
            run = []
        run.append((*m.span(), strength))
    yield from _told(run)


def fold(word: str) -> str:
    """Lower case without accents and other marks."""
    if word.isascii():
        return word.lower()
    kept = (c for c in unicodedata.normalize("NFKD", word) if not unicodedata.category(c).startswith(("M", "Cf")))
    return "".join(kept).casefold().translate(_PLAIN)


def _spellings(word: str) -> set[str]:
    """Folded, and with umlauts written out (`Müller`: muller, mueller)."""
    if word.isascii():
        return {word.lower()}
    return {fold(word), fold(unicodedata.normalize("NFKC", word).lower().translate(_SPELT))}


@lru_cache
def _word() -> re.Pattern[str]:
    """Letters with their marks: `re` counts vowel signs, combining accents and soft hyphens as no part of a word."""
    marks = (c for c in map(chr, range(0xAD, 0x10000)) if unicodedata.category(c) in ("Mn", "Mc", "Me", "Cf"))
    return re.compile(rf"[^\W\d_](?:[^\W\d_]|[{re.escape(''.join(marks))}])*+")


@lru_cache(maxsize=4096)
def _name_words(name: str) -> NameWords:
    words = [_spellings(word) for word in _word().findall(name)[:16]]
    together = {a + b for i, left in enumerate(words) for j in (i - 1, i + 1) if 0 <= j < len(words)
                for a in left for b in words[j]}  # fmt: skip
    if words:
        first, last = sorted(words[0])[0], sorted(words[-1])[0]
        together |= {first + last, last + first, first[:1] + last, "".join(sorted(word)[0] for word in words)}
    single = set().union(*words)
    small = FUNCTION_WORDS.intersection(_word().findall(name))  # `of`, but not the given name An
    telling = {word for word in single if len(word) > 2} | {word for word in together if len(word) > 4}
    return NameWords(
        telling=frozenset(telling - FUNCTION_WORDS),
        short=frozenset(word for word in single if len(word) == 2 and word not in small),
        weak=frozenset(word for word in single if len(word) == 1 or word in FUNCTION_WORDS),
        unspaced=tuple(UNSPACED.findall(name)),
    )


def _strength(word: str, words: NameWords) -> bool | None:
    """True for a word that tells the name alone, False for one that does beside another, None for any other word."""
    spellings = _spellings(word)
    if not words.telling.isdisjoint(spellings):
        return True
    capital = word[0].upper() == word[0]
    if not words.short.isdisjoint(spellings):
        return capital
    if not words.weak.isdisjoint(spellings) and (capital or len(word) > 1):
        return False
    return None


def _told(run: list[tuple[int, int, bool]]) -> Iterator[tuple[int, int]]:
    if any(strong for _, _, strong in run):
        yield run[0][0], run[-1][1]
