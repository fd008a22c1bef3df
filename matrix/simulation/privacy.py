"""Finds what identifies a person in a text and puts a neutral word in its place.

Runs behind the language model's rewrite of a profile (paper section 3.1): whatever it still finds in a text of an agent
is masked before anything else reads that text. Patterns and checksums only; time grows linearly with the text, because
no pattern tries the same run of characters from more than one start. In doubt it masks; `INNOCENT` says which groups of
digits are dates, years and quantities instead.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from matrix.simulation.names import find_name


class Kind(StrEnum):
    """What a text can give away; of two findings in one place the longer counts, then the earlier in this list."""

    url = "url"
    email = "email"
    iban = "iban"
    ip = "ip"
    card = "card"
    phone = "phone"
    number = "number"
    handle = "handle"
    name = "name"


NEUTRAL = {
    Kind.url: "a link",
    Kind.email: "an e-mail address",
    Kind.iban: "an account number",
    Kind.ip: "a network address",
    Kind.card: "a card number",
    Kind.phone: "a phone number",
    Kind.number: "a number",
    Kind.handle: "someone",
    Kind.name: "someone",
}
"""What stands in a masked text instead."""


RANKS = {kind: rank for rank, kind in enumerate(Kind)}


class Finding(NamedTuple):
    """Something that identifies a person: `text[start:end]`."""

    kind: Kind
    start: int
    end: int


def find(text: str, name: str = "") -> list[Finding]:
    """Everything in `text` that identifies a person, in order and without overlaps.

    Args:
        text: any text.
        name: the person's name; every word of it is looked for, see `matrix.simulation.names`.
    """
    found: list[Finding] = []
    longest: tuple[int, int] = (0, 0)
    for finding in sorted(_all(text, name), key=lambda f: f.start):
        weight = (finding.end - finding.start, -RANKS[finding.kind])
        if not found or finding.start >= found[-1].end:
            found.append(finding)
            longest = weight
        else:
            last = found[-1]
            kind = finding.kind if weight > longest else last.kind
            found[-1] = Finding(kind, last.start, max(last.end, finding.end))
            longest = max(longest, weight)
    return found


def mask(text: str, name: str = "") -> tuple[str, Counter[str]]:
    """`text` with a neutral word for everything that `find` finds, and how many of each `Kind` that were.

    Nothing that `find` finds is left. What is masked can uncover more (`baker at Ann Lee dot com`), hence the loop; it
    ends because neutral words hold nothing to find and every round takes something away.
    """
    counts: Counter[str] = Counter()
    while findings := find(text, name):
        parts, end = [], 0
        for finding in findings:
            before, word = text[end : finding.start], NEUTRAL[finding.kind]
            glued = (before or text[finding.start - 1 : finding.start])[-1:].isalnum()
            follows = text[finding.end : finding.end + 1].isalnum()
            parts += [before, " " * glued, word, " " * follows]
            end = finding.end
            counts[finding.kind.value] += 1
        text = "".join([*parts, text[end:]])
    return text, counts


def _all(text: str, name: str) -> Iterator[Finding]:
    """Findings of every detector, in no order; they may overlap."""
    if name:
        yield from (Finding(Kind.name, *span) for span in find_name(text, name, NEUTRAL.values()))
    lower = text.lower()
    if POINT.search(text) or "://" in text or ("dot" in lower and DOT.search(lower)):
        yield from _links(text)
    if "@" in text or "＠" in text or (("at" in lower or "dot" in lower) and MAIL_HINT.search(lower)):
        for pattern in (MAIL, VEILED_MAIL):
            yield from (Finding(Kind.email, *m.span()) for m in pattern.finditer(text))
        yield from (Finding(Kind.handle, *m.span()) for m in HANDLE.finditer(text))
    if ":" in text:
        yield from (Finding(Kind.ip, *m.span()) for m in IPV6.finditer(text) if _is_ipv6(m[1]))
    if DIGIT.search(text):
        yield from (Finding(Kind.ip, *m.span()) for m in IPV4.finditer(text) if max(map(int, m[1].split("."))) < 256)
        yield from _ibans(text)
        for m in DIGITS.finditer(text):
            if m["chain"] and (kind := _number(m[0])):
                yield Finding(kind, *m.span())


# Mail, handles, links -------------------------------------------------------------------------------------------------

ENDINGS = (
    "com|org|net|edu|gov|mil|int|info|biz|io|dev|app|ai|co|me|tv|xyz|online|site|shop|blog|tech|cloud|page|social|live"
    "|example|test|invalid|eu|uk|de|fr|es|pt|nl|ch|ie|dk|se|fi|pl|cz|sk|hu|ro|bg|gr|tr|ru|ua|jp|cn|tw|hk|kr|vn|th|ph|sg"
    "|nz|au|ca|br|ar|cl|mx|pe|ke|ng|za|eg|ma|il|ir|ae|sa|pk|lk|np"
)
"""Endings that make two words with a point between them a link; those that are words themselves need a path behind."""

_LOCAL, _LABEL = r"[\w.+%'-]++", r"[\w-]++"
_FIRST = r"(?<![\w.+%'-])"
_VEIL = r"\s{{0,2}}[\[({{<]\s?{0}\s?[\])}}>]\s{{0,2}}".format
_DOT = rf"(?:{_VEIL('(?:dot|[.])')}|\s{{1,2}}dot\s{{1,2}})"
_AT = rf"(?:{_VEIL('(?:at|@)')}|\s?[@＠]\s{{1,2}})"
_TLD = rf"(?:{ENDINGS})(?!\w)"
KNOWN = frozenset(ENDINGS.split("|"))
MAIL_HINT = re.compile(r"(?<!\w)(?:at|dot)(?!\w)")
"""Hints spare most texts the patterns; these look for a literal first, which takes a tenth of the time."""
MAIL = re.compile(rf"{_FIRST}{_LOCAL}[@＠]{_LABEL}(?:\.{_LABEL})*+")
VEILED_MAIL = re.compile(
    rf"{_FIRST}{_LOCAL}(?:{_DOT}{_LOCAL}){{0,3}}?(?:"
    rf"{_AT}{_LABEL}(?:(?:\.|{_DOT}){_LABEL}){{0,3}}(?:\.|{_DOT})[^\W\d_]{{2,}}"
    rf"|\s{{1,2}}at\s{{1,2}}{_LABEL}(?:(?:\.|{_DOT}){_LABEL}){{0,3}}{_DOT}{_TLD})",
    re.IGNORECASE,
)
"""`name (at) host dot com`, `name [at] host.com`, `name @ host.com`, `name at host dot com`."""
HANDLE = re.compile(
    r"[@＠](?!\d++(?:[.:]\d++)?(?:[ap]m|h)?(?!\w))\w++(?:[.-]\w++)*+(?:@\w++(?:[.-]\w++)*+)?", re.IGNORECASE
)
"""`@name`, `@name@server.org`, but not `@7pm`."""

_URL_CHARACTERS = r"[^\s<>\"“”«»，。、]"
POINT = re.compile(r"[.](?:(?<=\w[.])(?=\w)|(?<=[\[({<][.])|(?<=[\[({<]\s[.]))")
DOT = re.compile(r"dot(?:(?<=[^\w\s]dot)(?!\w)|(?<=\sdot)\s)")
LINK = re.compile(rf"(?:(?:https?|hxxps?|ftp)://|(?<!\w)www\.){_URL_CHARACTERS}++", re.IGNORECASE)
HOST = re.compile(rf"(?<![\w.-])({_LABEL}(?:\.{_LABEL})++)([/?#:]{_URL_CHARACTERS}++)?")
VEILED_HOST = re.compile(rf"(?<![\w-])(?!(?:an?|the)\s){_LABEL}{_DOT}{_TLD}(?:/\S++)?", re.IGNORECASE)
"""`host dot com`, but not `the dot com years`."""


def _links(text: str) -> Iterator[Finding]:
    def finding(start: int, found: str) -> Finding:
        return Finding(Kind.url, start, start + len(found.rstrip(".,;:!?)]}'’*_")))

    for pattern in (LINK, VEILED_HOST):
        for m in pattern.finditer(text):
            yield finding(m.start(), m[0])
    for m in HOST.finditer(text):
        labels = m[1].split(".")
        last, path = labels[-1], m[2] or ""
        # Upper or lower case, not mixed: `at the end.Info follows` is a missing space.
        known = any(label in KNOWN or label.swapcase() in KNOWN for label in labels[1:])
        if known or (path[:1] == "/" and path[1:2].isalnum() and len(last) > 1 and last.isalpha()):
            yield finding(m.start(), m[0])


# Network addresses ----------------------------------------------------------------------------------------------------

DIGIT = re.compile(r"\d")
IPV4 = re.compile(r"(?<![\d.])((?:\d{1,3}\.){3}\d{1,3})(?!\.?\d)(?::\d{1,5})?")
IPV6 = re.compile(r"(?<![\w:.])([0-9a-f]{0,4}:[0-9a-f:.]*(?:[0-9a-f]|::))(?:%\w++)?", re.IGNORECASE)


def _is_ipv6(text: str) -> bool:
    if text.count(":") < 2 or not DIGIT.search(text):
        return False
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


# Digits ---------------------------------------------------------------------------------------------------------------

IBAN = re.compile(
    r"(?<![^\W_])[A-Z]{2}\d{2}(?:[A-Z\d]{11,}+|(?:[ -][A-Z\d]{4}){2,7}(?:[ -][A-Z\d]{1,3})?(?![^\W_]))", re.IGNORECASE
)

_SPACE, _DASH = "[ \u00a0\u2009\u202f]", "[-\u2010-\u2015\u2212]"
_SEPARATOR = rf"(?:{_SPACE}?{_DASH}{_SPACE}?|[./·]|{_SPACE}{{1,2}})"
_THOUSANDS = r"\d{1,3}(?:,\d{3}){1,3}+(?!,?\d)"
_GROUP = rf"(?:\(\d{{1,5}}\)(?={_SEPARATOR}?\d)|(?!{_THOUSANDS})\d++)"
DIGITS = re.compile(rf"(?<!\d){_THOUSANDS}|(?P<chain>(?<!\d)\+?{_GROUP}(?:{_SEPARATOR}?{_GROUP})*+)")
"""`10,000`, or a chain of groups of digits with what people write between them."""

_YEAR, _DAY = r"(?:1[5-9]|2[01])\d\d", r"[0-3]?\d"
_DATE = (
    rf"{_YEAR}[-./]{_DAY}[-./]{_DAY}|{_DAY}[-./]{_DAY}[-./](?:{_YEAR}|\d\d)|{_DAY}[-./]{_YEAR}|{_YEAR}[-./]{_DAY}"
    rf"|{_YEAR}(?:(?: ?- ?|/| )(?:{_YEAR}|\d\d))?"
)
_QUANTITY = "|".join(
    [
        r"[1-9]\d{0,2}",
        r"[1-9]\d?(?: \d{3}){1,3}|[1-9]\d?(?:\.\d{3}){1,3}|[1-9]\d\d[ .]\d{3}",  # not 612 345 678, a phone number
        r"0\.\d+|[1-9]\d{0,4}\.\d{1,3}",
        r"[1-9]\d{0,2}(?:/[1-9]\d{0,2})+",
        r"[1-9]\d{0,2}[05]0 ?- ?[1-9]\d{0,2}[05]0",  # 800-1200; but 555-0199 is a phone number
        r"[0-2]?\d\.[0-5]\d(?: ?- ?[0-2]?\d\.[0-5]\d)?",
    ]
)
INNOCENT = re.compile(rf"(?:{_DATE})(?:(?: ?- ?| )(?:{_DATE}|{_QUANTITY}))?|{_QUANTITY}")
"""Chains of six digits or more that identify nobody: dates and years (and what follows them), quantities, ranges."""


def _number(chain: str) -> Kind | None:
    """What a chain of groups of digits is; None for a date, a year or an ordinary quantity.

    From six digits in a row, or seven with separators, or six with separators of which a group begins with zero.
    """
    groups = re.findall(r"\d+", chain)
    digits = "".join(groups)
    if len(digits) < 6 or INNOCENT.fullmatch(re.sub(_DASH, "-", re.sub(_SPACE, " ", chain))):
        return None
    dialled = chain[0] in "+(" or int(digits[0]) == 0
    if 13 <= len(digits) <= 19 and not dialled and luhn(digits):
        return Kind.card
    if len(digits) == 6 and len(groups) > 1 and not any(len(g) > 1 and int(g[0]) == 0 for g in groups):
        return None
    return Kind.phone if (dialled or len(groups) > 1) and 7 <= len(digits) <= 15 else Kind.number


def luhn(digits: str) -> bool:
    """The check sum of payment cards (ISO/IEC 7812-1)."""
    doubled = [int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits))]
    return sum(d - 9 * (d > 9) for d in doubled) % 10 == 0


def mod97(iban: str) -> bool:
    """The check sum of bank accounts (ISO 13616) of 15 to 34 characters; `iban` without separators."""
    return 15 <= len(iban) <= 34 and int("".join(str(int(c, 36)) for c in iban[4:] + iban[:4])) % 97 == 1


def _ibans(text: str) -> Iterator[Finding]:
    """Bank accounts. Those in groups of four end where the check sum is right, else with their last group with a digit:
    the next words of a sentence can look like more of it (`BE68 5390 0754 7034 when they come`).
    """
    end = 0
    while m := IBAN.search(text, end):
        ends = [m.start() + part.end() for part in re.finditer(r"[^ -]+", m[0])]
        right = (end for end in reversed(ends) if mod97(re.sub("[ -]", "", text[m.start() : end])))
        with_digit = (m.start() + part.end() for part in reversed(list(re.finditer(r"[^ -]*\d[^ -]*", m[0]))))
        end = next(right, next(with_digit))
        if len(DIGIT.findall(text, m.start(), end)) >= 8:
            yield Finding(Kind.iban, m.start(), end)
