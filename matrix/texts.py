"""What texts have in common, and what gives one away: words, n-grams, similarity; an assistant's voice, a refusal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rensa import RMinHash

TOKEN = re.compile(r"[\u3040-\u9fff]|[^\W\u3040-\u9fff]+|[^\w\s]")
"""A word, a Chinese or Japanese character, or a punctuation mark ("2+2" and "2-2" are different questions)."""

PERMUTATION_SEED = 42
"""Seed of the hash family. Fixed: which rows repeat each other is a property of the rows, not of a run."""

WORD = re.compile(r"[\u3040-\u9fff]|[^\W_\u3040-\u9fff]+")
"""A word or number, or a Chinese or Japanese character; punctuation is no difference (GPT-3, arXiv 2005.14165)."""

Gram = tuple[str, ...]

AI = r"(?:ai|artificial intelligence|(?:large )?language model|chatbot)(?: language model| assistant| model| chatbot)?"

ASSISTANT_VOICE = re.compile(
    rf"\bas an? {AI},? i(?:'m| (?!want|need|would|ask|wish))"
    rf"|\bi(?:'m| am) (?:just |only )?an? {AI}(?=\s*[,.!;]| and |\Z)"
    r"|\A\W*(?:sure|certainly|of course|absolutely)(?: thing)?[,!.]+ (?:here|let|i(?:'d|'ll| would| can| will)) "
    r"|\A\W*(?:i'd|i would) be (?:happy|glad|delighted) to (?:help|assist)"
    r"|\A\W*(?:thank you|thanks) for (?:reaching out|sharing|your (?:message|question|interest))"
    r"|(?:\A\W*|[.!\n]\s*)how (?:can|may) i (?:help|assist) you\b[^.?!\n]{0,30}\?\W*\Z",
    re.IGNORECASE,
)
"""What only an assistant says; in an instruction the generating model has taken the wrong side."""

REFUSAL = re.compile(
    r"\W*(?:(?:unfortunately|hello|hi)\W+)?(?:"
    r"(?:(?:i'm|i am) (?:(?:so|very|really|truly) )?)?sorry\b"
    r"(?! to (?:hear|see|read|learn)| for your| about your| you\b| that you)"
    r"|i (?:must |have to )?apolog|my apologies"
    rf"|as an? (?:conversational )?(?:{AI}|(?:virtual |digital )?assistant)\b"
    r"|i (?:cannot|can't|can not)\b(?! (?:wait|believe|help but|thank|imagine|stress|recommend|emphasi|overstate))"
    r"|i (?:will not|won't) (?:be able|help|assist|provide|write|create|generate|engage)"
    r"|i(?:'m| am) (?:unable|not able|not allowed|not comfortable|not programmed|not designed)\b"
    rf"|i(?:'m| am) (?:just|only) an? {AI}"
    r"|i (?:don't|do not) (?:have|feel comfortable|possess|hold)\b"
    r"|(?:it|this|that)(?:'s| is| would be) (?:not|in) ?appropriate\b)",
    re.IGNORECASE,
)
"""The keywords of paper table 12, which are like AdvBench's (arXiv 2307.15043), at the beginning of an answer; without
turns of speech that begin alike ("I'm sorry to hear", "I can't wait"), with their kin ("I won't help")."""


def normalised(text: str) -> str:
    """One Unicode form, one case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def ngrams(text: str, size: int) -> frozenset[str]:
    """The set of n-grams of the normalised text's tokens; a text shorter than `size` is one n-gram."""
    tokens = TOKEN.findall(normalised(text))
    if len(tokens) <= size:
        return frozenset({" ".join(tokens)})
    return frozenset(map(" ".join, zip(*(tokens[start:] for start in range(size)), strict=False)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Size of the intersection over size of the union, 0..1."""
    return len(one & other) / len(one | other)


def bands(threshold: float, num_perm: int) -> int:
    """Fewest bands (a power of two) that make a pair at the threshold a candidate with probability 0.999.

    A band of r hashes agrees with probability t^r, so one of b bands does with 1 - (1 - t^r)^b.
    """
    count = 1
    while count < num_perm and 1 - (1 - threshold ** (num_perm // count)) ** count < 0.999:
        count *= 2
    return count


def folded(text: str) -> str:
    """One Unicode form, one case; lines stay."""
    return unicodedata.normalize("NFKC", text).casefold()


def grams(words: Gram, size: int) -> Iterator[Gram]:
    """All runs of `size` words, in order."""
    return zip(*(words[start:] for start in range(size)), strict=False)


class Signed(NamedTuple):
    """A text as `NearDuplicates` compares it."""

    grams: frozenset[str]
    signature: RMinHash


class NearDuplicates:
    """Numbered texts, and which of them another one is similar to.

    MinHash only proposes candidates; what decides is the true Jaccard similarity of the n-gram sets.

    Args:
        threshold: similarity (0..1] from which on two texts are similar.
        ngram: tokens in an n-gram.
        num_perm: hash functions of a signature, a power of two.
    """

    def __init__(self, threshold: float, ngram: int, num_perm: int) -> None:
        from rensa import RMinHashLSH

        self._threshold, self._ngram, self._num_perm = threshold, ngram, num_perm
        self._index = RMinHashLSH(threshold, num_perm, bands(threshold, num_perm))
        self._grams: dict[int, frozenset[str]] = {}

    def sign(self, text: str) -> Signed:
        """The n-grams of a text and their signature."""
        from rensa import RMinHash

        signature = RMinHash(self._num_perm, PERMUTATION_SEED)
        signature.update(sorted(grams := ngrams(text, self._ngram)))
        return Signed(grams, signature)

    def similar(self, signed: Signed) -> list[tuple[float, int]]:
        """Similarity and number of every text that was added and is similar."""
        found = ((jaccard(signed.grams, self._grams[number]), number) for number in self._index.query(signed.signature))
        return [(similarity, number) for similarity, number in found if similarity >= self._threshold]

    def add(self, number: int, signed: Signed) -> None:
        """Make a text one of those that others are compared with."""
        self._index.insert(number, signed.signature)
        self._grams[number] = signed.grams
