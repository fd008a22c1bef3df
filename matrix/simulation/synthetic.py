"""A synthetic population: people composed from the written material in `data/`, the default source of profiles.

The paper's 1,000 users are real people and were not released. These are invented: 130 occupations over all ten major
groups of ISCO-08, ages, places, circumstances, interests and ways of writing, each with its own phrases. The posts of
a person come from their occupation, interests and circumstance, so that they hang together and two people differ.
"""

from __future__ import annotations

import random
from functools import lru_cache
from importlib.resources import files
from typing import TypeVar

import msgspec

from matrix.provenance import derive_seed
from matrix.records import Profile

KINDS = ("did", "trouble", "plan", "view")
INITIALS = "ABCDEFGHJKLMNOPRSTUVWYZ"
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("January", "February", "March", "April", "May", "June",
          "July", "August", "September", "October", "November", "December")  # fmt: skip
OLDEST = 66
YOUNGEST = {"isco_1": 30, "isco_2": 26}
"""Years; 20 in the other groups."""
POSTS = (5, 20)
"""Least and most posts of a person."""
STRIDE = 1009
"""Step between the names of neighbours; coprime to the 4,416 names of a region, so that all of them are used."""

S = TypeVar("S")


class Topic(msgspec.Struct, kw_only=True):
    """Something to post about; phrases of one kind are separated by ` / `."""

    did: str
    """Past tense, without subject."""
    trouble: str
    """Noun phrases."""
    plan: str
    """Infinitives, without `to`."""
    view: str
    """Sentences."""

    def phrases(self) -> list[tuple[str, str]]:
        """All (kind, phrase)."""
        return [(kind, phrase) for kind in KINDS for phrase in getattr(self, kind).split(" / ")]


class Occupation(Topic, kw_only=True):
    """A job; its file name gives the ISCO-08 major group."""

    title: str
    place: str
    regions: list[str] = []
    """Where it can be done; empty: everywhere."""
    youngest: int = 20


class Interest(Topic, kw_only=True):
    """What somebody does after work."""

    label: str


class Circumstance(msgspec.Struct, kw_only=True):
    """What else shapes a life."""

    about: str
    ages: tuple[int, int]
    posts: str


class Region(msgspec.Struct, kw_only=True):
    """Cities, and the names that people there may have. Family names are invented."""

    region: str
    cities: list[str]
    given: list[str]
    family: list[str]


class Voice(msgspec.Struct, kw_only=True):
    """A way of writing: sentence frames for each kind of phrase."""

    about: str
    did: list[str]
    trouble: list[str]
    plan: list[str]
    view: list[str]


class Material(msgspec.Struct, kw_only=True):
    """Everything in `data/`."""

    occupations: list[Occupation]
    interests: list[Interest]
    circumstances: list[Circumstance]
    places: list[Region]
    voices: list[Voice]


@lru_cache
def material() -> Material:
    """Read `data/`, checked against the types above."""
    data = files("matrix.simulation") / "data"

    def read(name: str, kind: type[S]) -> list[S]:
        return msgspec.yaml.decode((data / name).read_bytes(), type=list[kind])  # type: ignore[valid-type]

    occupations = []
    for name in sorted(file.name for file in (data / "occupations").iterdir()):
        for occupation in read(f"occupations/{name}", Occupation):
            occupation.youngest = YOUNGEST.get(name[:6], occupation.youngest)
            occupations.append(occupation)
    return Material(
        occupations=occupations,
        interests=read("interests.yaml", Interest),
        circumstances=read("circumstances.yaml", Circumstance),
        places=read("places.yaml", Region),
        voices=read("voices.yaml", Voice),
    )


def synthetic_profile(seed: int, index: int) -> Profile:
    """Person number `index` (0-based) of the population `seed`; depends on nothing else.

    Occupations are dealt from shuffled decks: any 130 people in a row that start at a multiple of 130 have 130 jobs.
    """
    m = material()
    draw = random.Random(derive_seed(seed, "synthetic", index))
    round_, card = divmod(index, len(m.occupations))
    job = m.occupations[_deck(seed, round_)[card]]
    age = draw.randint(job.youngest, OLDEST)
    region = draw.choice([r for r in m.places if not job.regions or r.region in job.regions])
    circumstance = draw.choice([c for c in m.circumstances if c.ages[0] <= age <= c.ages[1]])
    interests = draw.sample(m.interests, 2)
    voice = draw.choice(m.voices)
    facts = [
        f"{job.title}, {age}, from {draw.choice(region.cities)}",
        f"workplace: {job.place}, for {_years(draw.randint(1, age - job.youngest + 1))}",
        circumstance.about,
        f"into {interests[0].label} and {interests[1].label}",
        voice.about.rstrip("."),
    ]
    return Profile(
        id=f"synthetic-{seed}-{index:05}",
        name=_name(region, index * STRIDE + derive_seed(seed, "synthetic names")),
        description=" ".join(f"{_capital(fact)}." for fact in facts),
        posts=_posts(job, interests, circumstance, voice, draw),
    )


@lru_cache(maxsize=1)
def _deck(seed: int, round_: int) -> list[int]:
    """Numbers of all occupations in the order in which they are dealt to 130 neighbours."""
    cards = range(len(material().occupations))
    return random.Random(derive_seed(seed, "synthetic deck", round_)).sample(cards, len(cards))


def _posts(
    job: Occupation, interests: list[Interest], circumstance: Circumstance, voice: Voice, draw: random.Random
) -> list[str]:
    """A bit more than half about the job, no phrase twice."""
    count = draw.randint(*POSTS)
    work = draw.sample(job.phrases(), count * 11 // 20)
    rest = [phrase for interest in interests for phrase in interest.phrases()]
    rest += [("", post) for post in circumstance.posts.split(" / ")]
    chosen = work + draw.sample(rest, count - len(work))
    draw.shuffle(chosen)
    return [_post(kind, phrase, voice, draw) for kind, phrase in chosen]


def _post(kind: str, phrase: str, voice: Voice, draw: random.Random) -> str:
    if not kind:
        return phrase
    frame: str = draw.choice(getattr(voice, kind))
    return _capital(frame.format(phrase, day=draw.choice(DAYS), month=draw.choice(MONTHS)))


def _name(region: Region, number: int) -> str:
    number, given = divmod(number, len(region.given))
    number, family = divmod(number, len(region.family))
    return f"{region.given[given]} {INITIALS[number % len(INITIALS)]}. {region.family[family]}"


def _years(count: int) -> str:
    return f"{count} year{'s' * (count > 1)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
