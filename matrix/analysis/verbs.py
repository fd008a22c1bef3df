"""What instructions ask for, as a verb and its direct object: "design" and "checklist" (paper Figure 7b).

The paper's figure follows Self-Instruct (arXiv 2212.10560, Figure 3), which parses sentences. Here rules read the
commonest English ways to ask; no model is needed, and what no rule reads is counted, never guessed. On the 1,305
prompts of AlpacaEval and Arena-Hard they read a verb in 78 % and an object in 61 % (a question like "What is ..." has
neither); of 80 of these that were read by hand, 5 of 61 verbs and 5 of 49 objects were wrong.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

TOKEN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:[.,]\d+)*|[^\w\s]|\n")
POLITE = {"please", "kindly", "now", "then", "first", "also", "next", "just", "finally", "so", "and"}
PRONOUNS = {"me", "us", "him", "her", "them", "it", "i", "we", "you", "he", "she", "they", "yourself", "myself"}
WHO = {"i", "we", "one", "you", "someone", "anyone"}
MODALS = {"can", "could", "would", "will", "do", "should", "might", "shall", "must"}
TO = {
    *("want", "wants", "need", "needs", "like", "love", "trying", "try", "hoping", "hope", "looking", "wish", "going"),
    *("aim", "aiming", "planning", "plan", "how", "way", "ways", "steps", "tips", "you", "me", "task", "goal"),
    *("job", "supposed", "required", "have", "strategies", "advice"),
}  # fmt: skip
"""Words after which "to" leads to what is asked for."""
HELP = {"help", "assist", "let", "try", "want", "need", "like"}
"""Verbs that only lead to another: "help me design"."""
NOT_VERBS = {"be", "me", "a", "an", "the", "this", "that", "my", "your", "our", "you", "i", "it", "not", "them", "us"}
STOPS = {
    *("about", "above", "across", "after", "against", "along", "among", "around", "as", "at", "because", "before"),
    *("behind", "below", "between", "beyond", "but", "by", "despite", "down", "during", "each", "either", "except"),
    *("for", "from", "if", "in", "inside", "into", "like", "near", "of", "off", "on", "onto", "or", "out", "outside"),
    *("over", "per", "regarding", "since", "so", "such", "than", "that", "then", "through", "throughout", "to"),
    *("toward", "towards", "under", "unless", "until", "up", "upon", "using", "versus", "via", "vs", "when", "where"),
    *("whether", "which", "while", "who", "whom", "whose", "why", "with", "within", "without", "and", "how", "what"),
    *("including", "involving", "containing", "considering", "based", "given", "called", "named", "written", "is"),
    *("are", "was", "were", "has", "have", "had", "can", "could", "will", "would", "should", "must", "may", "might"),
    *("do", "does", "did", "not", "only", "following", "similar", "titled", "back", "away", "once", "having"),
    *("starting", "focusing", "highlighting", "showing", "detailing", "explaining", "describing", "discussing"),
}  # fmt: skip
"""Words that end an object."""
LOOSE = {"better", "more", "well", "too", "first", "together", "again", "today", "instead", "here", "there", "below"}
"""Words behind an object that are no part of it, as adverbs in -ly are."""
EMPTY = {"a", "an", "the", "my", "your", "our", "his", "their", "its", "this", "these", "those", "some", "any", "all"}
EMPTY |= PRONOUNS | {
    "something",
    "everything",
    "anything",
    "both",
    "one",
    "two",
    "three",
    "each",
    "every",
    "new",
    "few",
}
"""Words that are no object by themselves."""


class Request(NamedTuple):
    """What is asked for, in base form and lower case; empty strings where it could not be read."""

    verb: str
    noun: str = ""


@cache
def imperatives() -> frozenset[str]:
    """Base forms that count as a request at the start of a sentence."""
    return frozenset(Path(__file__).with_name("request_verbs.txt").read_text(encoding="utf-8").split())


def request(text: str) -> Request:
    """The first request of an English text.

    Read are imperatives at the start of a sentence ("Write a poem"), requests ("Could you please explain ..."), and
    wishes and questions with an infinitive ("I want to plan ...", "How do I fix ..."). Politeness and "help me" are
    taken off. The object is the last word of the noun phrase behind the verb, without its plural.
    """
    tokens = [token.lower().replace("’", "'") for token in TOKEN.findall(text)]
    for start in _asked(tokens):
        verb = tokens[start]
        if verb in HELP and (inner := _led_to(tokens, start + 1)):
            start, verb = inner, tokens[inner]
        return Request(verb, _object(tokens, start + 1))
    return Request("")


def _asked(tokens: list[str]) -> Iterator[int]:
    """Where verbs stand that something is asked with, in order."""
    for i, token in enumerate(tokens):
        before, last = tokens[i - 1] if i else "\n", tokens[i - 2] if i > 1 else ""
        after = tokens[i + 1] if i + 1 < len(tokens) else ""
        if not token.isalpha() or token in NOT_VERBS | POLITE | MODALS or token.endswith("ly"):
            continue
        j = i - 1
        while j >= 0 and (tokens[j] in POLITE or tokens[j].endswith("ly")):
            j -= 1
        led, leader = tokens[j] if j >= 0 else "\n", tokens[j - 1] if j > 0 else ""
        opens = led in ".!?\n:;>*-#\"'()" or before in ("please", "kindly")
        if (
            (opens and token in imperatives() and after not in (":", "=", "(", ""))
            or (led in WHO and leader in MODALS)
            or (before == "to" and last in TO)
            or (before == "i" and token in ("need", "want") and after not in ("to", "you"))
        ):
            yield i


def _led_to(tokens: list[str], start: int) -> int:
    """Where the verb stands that "help (me) (to)" leads to; 0 if to none."""
    while start < len(tokens) and (tokens[start] in PRONOUNS | POLITE | {"to"} or tokens[start].endswith("ly")):
        start += 1
    found = start < len(tokens) and tokens[start].isalpha() and tokens[start] not in STOPS | EMPTY | NOT_VERBS
    return start if found and (tokens[start] in imperatives() or tokens[start - 1] == "to") else 0


def _object(tokens: list[str], start: int) -> str:
    run: list[str] = []
    if tokens[start : start + 1] == ["for"] and tokens[start + 1 : start + 2] in (["me"], ["us"]):
        start += 2
    for token, after in zip(tokens[start:], [*tokens[start + 1 :], ""], strict=True):
        opens = not run and token in EMPTY | {'"', "following", "given"}
        if opens or token[0].isdigit() or (not run and token.endswith("ly")):
            continue
        clause = run and (token.endswith("ed") or (token.endswith("ing") and after in EMPTY))
        if not token[0].isalpha() or token in STOPS | PRONOUNS or clause:
            break
        run.append(token)
    while run and (run[-1] in LOOSE or run[-1].endswith("ly")):
        run.pop()
    return _singular(run[-1]) if run and run[-1] not in EMPTY else ""


def _singular(noun: str) -> str:
    noun = noun.removesuffix("'s")
    for plural, ending in (("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("shes", "sh"), ("xes", "x")):
        if noun.endswith(plural) and len(noun) > len(plural) + 1:
            return noun[: -len(plural)] + ending
    return noun[:-1] if noun.endswith("s") and not noun.endswith(("ss", "us", "is", "news")) and len(noun) > 3 else noun


def top_requests(requests: Sequence[tuple[str, str]], verbs: int = 20, nouns: int = 5) -> dict[str, Any]:
    """The commonest verbs and the commonest objects of each.

    Returns:
        `rows`, `read` (rows with a verb), `with_object`, and `verbs`: `[{"verb", "rows", "objects": [[noun, rows]]}]`,
        ties in alphabetical order.
    """
    counts = Counter(verb for verb, _ in requests if verb)
    objects: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for verb, noun in requests:
        if noun:
            objects[verb][noun] += 1
    return {
        "rows": len(requests),
        "read": counts.total(),
        "with_object": sum(map(Counter.total, objects.values())),
        "verbs": [
            {"verb": verb, "rows": number, "objects": [list(item) for item in top(objects[verb], nouns)]}
            for verb, number in top(counts, verbs)
        ],
    }


def top(counts: Counter[str], most: int) -> list[tuple[str, int]]:
    """The commonest, ties in alphabetical order."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]
