"""People whose texts have identifiers of every kind planted in them: what the detectors of `privacy` are measured on.

Made from the synthetic population and random numbers of the right form; the check sums of cards and accounts hold.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from matrix.provenance import derive_seed
from matrix.records import Profile
from matrix.simulation.privacy import Kind, luhn, mod97
from matrix.simulation.synthetic import synthetic_profile

FRAMES = [
    "Find me under {}.",
    "New one: {}, the old one is dead.",
    "({}) is mine!",
    "It was {} all along.",
    "{}",
    "So {}?",
]
HOSTS = ["mail.example", "oven-and-mill.com", "kiln.org", "post.co.uk", "shop.riga.lv.example", "my.page.de"]
PHONES = [
    "+44 20 7946 0ddd", "(020) 7946 0ddd", "555-01dd", "+1 (555) 010-0ddd", "(555) 010-0ddd", "212-555-01dd",
    "212.555.01dd", "06 12 34 5d dd", "+33 6 12 34 5d dd", "030/1234ddd", "+49 (0)30 123 4ddd", "0044 20 7946 0ddd",
    "1-800-555-01dd", "612 345 6dd", "7946 0ddd", "+4420794600dd", "09012345ddd", "+91-98765-432dd",
    "+44\u00a020\u00a07946\u00a00ddd", "555‑01dd",
]  # fmt: skip
NUMBERS = [
    "dddddd",
    "ddddddddd",
    "1dd-4d-6ddd",
    "1dddddd",
    "20dddd",
    "12 3dddddd",
    "9dddddd/dddd",
    "dddddddddddddddddddddd",
]
ACCOUNTS = ["DEdddddddddddddddddd", "GBNWBKdddddddddddddd", "FRdddddddddddddddddddddM02", "NOddddddddddd",
            "NLABNAdddddddddd", "MTMALT011000012345MTLCAST001S"]  # fmt: skip
FULL_WIDTH, ARABIC = (str.maketrans("0123456789", digits) for digits in ("０１２３４５６７８９", "٠١٢٣٤٥٦٧٨٩"))


class Planted(NamedTuple):
    """A profile and what was planted in its description and posts."""

    profile: Profile
    identifiers: list[tuple[Kind, str]]


def planted_profile(seed: int, index: int, each: int = 2) -> Planted:
    """Person `index` of the synthetic population `seed`, with `each` identifiers of every kind."""
    person = synthetic_profile(seed, index)
    draw = random.Random(derive_seed(seed, "planted", index))
    identifiers = [(kind, MAKERS[kind](draw, person.name)) for kind in Kind for _ in range(each)]
    description, posts = person.description, list(person.posts)
    for _, identifier in identifiers:
        text = draw.choice(FRAMES).format(identifier)
        where = draw.randrange(len(posts) + 1)
        if where == len(posts):
            description = f"{description} {text}"
        else:
            posts[where] = draw.choice([f"{posts[where]} {text}", f"{text} {posts[where]}"])
    return Planted(msgspec.structs.replace(person, description=description, posts=posts), identifiers)


def left(identifiers: Iterable[tuple[Kind, str]], texts: Iterable[str]) -> Counter[str]:
    """How many of the identifiers of each kind still stand in one of the texts, in any case; a name as a whole word."""
    everything = "\n".join(texts).casefold()
    count: Counter[str] = Counter()
    for kind, identifier in identifiers:
        letter = r"[^\W\d_]" if kind is Kind.name else r"\0"  # `Ling` does not stand in `sling`
        whole = rf"(?<!{letter}){re.escape(identifier.casefold())}(?!{letter})"
        count[kind.value] += re.search(whole, everything) is not None
    return count


def _digits(draw: random.Random, form: str) -> str:
    return "".join(draw.choice("0123456789") if c == "d" else c for c in form)


def _grouped(text: str, sizes: Iterable[int], separator: str) -> str:
    parts, rest = [], text
    for size in sizes:
        parts.append(rest[:size])
        rest = rest[size:]
    return separator.join(filter(None, [*parts, rest]))


def _url(draw: random.Random, name: str) -> str:
    host, path = draw.choice(HOSTS), f"{_family(name)}/{draw.randrange(99)}"
    forms = [f"https://{host}/{path}?ref=me&x=1", f"http://{host}", f"www.{host}/{path}", f"{host}/~{path}", host,
             f"https://10.1.2.3:8080/{path}", f"t.me/{path}", f"https://{_family(name)}.{host}/#top"]  # fmt: skip
    return draw.choice(forms)


def _email(draw: random.Random, name: str) -> str:
    user, host = f"{_given(name)}.{_family(name)}{draw.randrange(100)}", draw.choice(HOSTS)
    spelt = host.replace(".", " dot ")
    forms = [f"{user}@{host}", f"{user}+news@{host}".upper(), f"kiln_{draw.randrange(999)}@{host}", f"o'{user}@{host}",
             f"baker (at) {spelt}", f"{user} at {spelt}", f"baker [at] {host}", f"baker@ {host}", f"baker @ {host}",
             f"baker[at]{host.replace('.', '[dot]')}", f"{user} AT {spelt.upper()}"]  # fmt: skip
    return draw.choice(forms)


def _iban(draw: random.Random, name: str) -> str:
    account = _digits(draw, draw.choice(ACCOUNTS))
    country, rest = account[:2], account[2:]
    check = next(c for c in range(2, 99) if mod97(f"{country}{c:02}{rest}"))
    wrong = draw.random() < 0.2  # a mistyped account is no less somebody's
    compact = f"{country}{check + wrong:02}{rest}"
    return draw.choice([compact, _grouped(compact, [4] * 9, " "), _grouped(compact, [4] * 9, "-"), compact.lower()])


def _ip(draw: random.Random, name: str) -> str:
    v4 = ".".join(str(draw.randrange(1, 255)) for _ in range(4))
    groups = [f"{draw.randrange(4096, 65536):x}" for _ in range(8)]
    return draw.choice([v4, f"{v4}:8080", ":".join(groups), f"2001:db8::{groups[0]}:{groups[1]}", f"::ffff:{v4}",
                        ":".join(groups).upper(), f"fe80::{groups[2]}%eth0"])  # fmt: skip


def _card(draw: random.Random, name: str) -> str:
    body, sizes = draw.choice([("4" + "d" * 14, [4] * 4), ("55" + "d" * 13, [4] * 4), ("37" + "d" * 12, [4, 6, 5])])
    body = _digits(draw, body)
    digits = next(body + check for check in "0123456789" if luhn(body + check))
    grouped = [_grouped(digits, sizes, separator) for separator in " -.\u00a0"]
    return draw.choice([digits, digits.translate(FULL_WIDTH), *grouped])


def _phone(draw: random.Random, name: str) -> str:
    return _digits(draw, draw.choice(PHONES))


def _number(draw: random.Random, name: str) -> str:
    return _digits(draw, draw.choice(NUMBERS)).translate(draw.choice([{}, FULL_WIDTH, ARABIC]))


def _handle(draw: random.Random, name: str) -> str:
    given, family, number = _given(name), _family(name), draw.randrange(100)
    return draw.choice([f"@{given}_{family}", f"@{family.title()}{number}", f"@kiln.{number}x", f"@_{given}_",
                        f"@{given}@kiln.social", f"@50{family}"])  # fmt: skip


def _name(draw: random.Random, name: str) -> str:
    given, family = _given(name), _family(name)
    marked = family.title().replace("a", "a\u0301").replace("o", "o\u0308")
    accented = unicodedata.normalize(draw.choice(["NFC", "NFD"]), marked)
    return draw.choice([name, name.upper(), given.title(), family.title(), family, accented, given + family,
                        f"{family.title()}, {given.title()}", f"{given}_{family}{draw.randrange(9)}",
                        f"{given.title()}-{accented}"])  # fmt: skip


def _given(name: str) -> str:
    return name.split()[0].lower()


def _family(name: str) -> str:
    """The last word of the name without hyphen and apostrophe parts, lower case."""
    return "".join(c if c.isalpha() else " " for c in name).split()[-1].lower()


MAKERS: dict[Kind, Callable[[random.Random, str], str]] = {
    Kind.url: _url, Kind.email: _email, Kind.iban: _iban, Kind.ip: _ip, Kind.card: _card, Kind.phone: _phone,
    Kind.number: _number, Kind.handle: _handle, Kind.name: _name,
}  # fmt: skip
