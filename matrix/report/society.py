"""The picture of a society: where its agents stand, which groups they form, and what passes between the groups.

`draw` turns agents and counted messages into a `Drawing`, places and colours alone; `society.svg.jinja` writes it as
SVG. The picture stays small and readable however large the society is: agents of one colour are one path, only the
strongest flows and the busiest groups are drawn one by one, and `Drawing.notes` counts what is left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matrix.records import Agent
from matrix.report.exchange import Exchange
from matrix.report.labels import HEIGHT, MARGIN, WIDTH, Label, Place, place_labels, shade
from matrix.report.plots import INK, PALETTE

FEW_AGENTS = 60
"""Up to so many agents, each is drawn with its name and with lines to those who came to know what it did."""
MOST_AGENTS = 12_000
MOST_GROUPS = 250
MOST_FLOWS = 120
MOST_OWN_FLOWS = 16
"""Of the traced group."""
MOST_SPOKES = 2_500
NEIGHBOURHOODS = 9
"""Colours of a society that has more groups than the palette has colours."""


@dataclass(kw_only=True)
class Mark:
    """A path of one colour; `said` is what it tells a mouse that rests on it."""

    path: str
    colour: str
    width: float = 0.0
    opacity: float = 1.0
    said: str = ""


@dataclass(kw_only=True)
class Disc:
    """The middle of a group, or an agent of a small society."""

    x: float
    y: float
    radius: float
    colour: str
    said: str


@dataclass(kw_only=True)
class Drawing:
    """What `society.svg.jinja` draws, from back to front, and what the caption says about it."""

    width: int = WIDTH
    height: int = HEIGHT
    title: str
    dot: float
    """Diameter of an agent that is no disc."""
    spokes: list[Mark]
    told: list[Mark]
    agents: list[Mark]
    flows: list[Mark]
    people: list[Disc]
    groups: list[Disc]
    labels: list[Label]
    ring: Disc | None
    notes: list[str]
    """Sentences: what is drawn, and how much is not."""


def draw(agents: Sequence[Agent], exchange: Exchange, traced: int | None = None) -> Drawing:
    """The picture of one society.

    Args:
        agents: those without a position are left out.
        exchange: the counted messages of these agents.
        traced: group to be ringed, if it is in the picture.
    """
    placed = sorted((a for a in agents if len(a.position) == 2), key=lambda a: (a.group, a.id))
    places = _scaled(placed)
    groups: dict[int, list[Agent]] = {}
    for agent in placed:
        groups.setdefault(agent.group, []).append(agent)
    centres = {group: _middle([places[a.id] for a in members]) for group, members in groups.items()}
    few, own_colours = len(placed) <= FEW_AGENTS, len(groups) <= len(PALETTE)
    hoods = {group: i for i, group in enumerate(groups)} if own_colours else _neighbourhoods(centres)
    colours = {group: shade(PALETTE[hood], 0 if own_colours else group % 3) for group, hood in hoods.items()}
    between = Counter({p: n for p, n in exchange.between.items() if p[0] in centres and p[1] in centres})
    strongest = _strongest(between, traced)
    busy = Counter[int]()
    for (source, target), number in between.items():
        busy[source] += number
        busy[target] += number
    shown = sorted(groups, key=lambda g: (g != traced, -busy[g], -len(groups[g]), g))[:MOST_GROUPS]
    swell = 0.6 if few else min(1.0, 0.25 + math.sqrt(60 / max(len(shown), 1)))
    people = [_disc(places[a.id], 7.5, colours[a.group], a.name[:60]) for a in placed] if few else []
    discs = [
        _disc(centres[g], (3 + 3.2 * math.sqrt(len(groups[g]))) * swell, colours[g], f"group {g}: {_names(groups[g])}")
        for g in reversed(shown)
    ]
    ring = _disc(centres[traced], 18, INK, f"group {traced}") if traced in centres else None
    return Drawing(
        title=f"{len(placed):,} agents in {len(groups):,} groups",
        dot=max(2.9, min(9.0, 150 / math.sqrt(len(placed) or 1))),
        spokes=_spokes(groups, places, centres, colours) if len(placed) <= MOST_SPOKES else [],
        told=_told(exchange.within, places) if few else [],
        agents=[] if few else _dots(_thinned(placed), places, colours),
        flows=[_flow(centres, pair, n, max(strongest.values()), traced) for pair, n in reversed(strongest.items())],
        people=people,
        groups=discs,
        labels=place_labels(groups, hoods, centres, traced, [(d.x, d.y) for d in people + discs] if few else []),
        ring=ring,
        notes=_notes(exchange, between, strongest, len(placed), len(groups), len(shown), own_colours),
    )


def _notes(
    exchange: Exchange, between: Counter[tuple[int, int]], drawn: Mapping[tuple[int, int], int],
    num_agents: int, num_groups: int, num_shown: int, own_colours: bool,
) -> list[str]:  # fmt: skip
    few = num_agents <= FEW_AGENTS
    notes = ["Each point is an agent, placed by the two principal components of its profile's embedding."]
    if own_colours:
        notes.append("Each colour is a group; its disc is the middle of its members.")
    else:
        notes.append(
            f"Each disc is a group, the larger the more members. Groups near each other share one of {NEIGHBOURHOODS} "
            "colours (k-means of the discs) in three shades; the words are those that set their agents' names apart."
        )
    if few:
        notes.append("Straight lines: agents who came to know what the other did.")
    if drawn:
        share = 100 * sum(drawn.values()) / between.total()
        what = (
            f"The {len(between):,} arcs" if len(drawn) == len(between) else f"{len(drawn):,} of {len(between):,} arcs"
        )
        notes.append(
            "Arcs, bent to the right of their way: actions passed on to another group; the more, the stronger. "
            f"{what} carry {share:.0f} % of these {between.total():,} messages."
        )
    left = [
        (num_agents - MOST_AGENTS, "agents"),
        (num_groups - num_shown, "groups with fewer messages (no disc)"),
        (0 if few else exchange.told, "messages within groups"),
    ]
    out = [f"{number:,} {what}" for number, what in left if number > 0]
    return [*notes, f"Not drawn: {'; '.join(out)}."] if out else notes


def _scaled(agents: Sequence[Agent]) -> dict[str, Place]:
    """Where agents stand in the drawing; both components fill it, up points up."""
    spans = []
    for axis in (0, 1):
        values = [agent.position[axis] for agent in agents] or [0.0]
        spans.append((min(values), max(values) - min(values) or 1.0))
    return {
        a.id: (
            MARGIN + (a.position[0] - spans[0][0]) / spans[0][1] * (WIDTH - 2 * MARGIN),
            HEIGHT - MARGIN - (a.position[1] - spans[1][0]) / spans[1][1] * (HEIGHT - 2 * MARGIN),
        )
        for a in agents
    }


def _middle(points: Sequence[Place]) -> Place:
    return math.fsum(x for x, _ in points) / len(points), math.fsum(y for _, y in points) / len(points)


def _neighbourhoods(centres: Mapping[int, Place]) -> dict[int, int]:
    """Group -> number of its neighbourhood: k-means over the groups' middles."""
    from sklearn.cluster import KMeans

    points = list(centres.values())
    found = KMeans(min(NEIGHBOURHOODS, len(set(points))), n_init=4, random_state=0).fit_predict(points)
    return {group: int(hood) for group, hood in zip(centres, found, strict=True)}


def _strongest(between: Mapping[tuple[int, int], int], traced: int | None) -> dict[tuple[int, int], int]:
    """The flows to draw, strongest first: of the whole society, and of the traced group."""
    ranked = sorted(between.items(), key=lambda item: (-item[1], item[0]))
    own = [flow for flow in ranked if traced in flow[0]][:MOST_OWN_FLOWS]
    return dict(sorted({*ranked[:MOST_FLOWS], *own}, key=lambda item: (-item[1], item[0])))


def _flow(
    centres: Mapping[int, Place], pair: tuple[int, int], number: int, top: int, traced: int | None
) -> Mark:  # fmt: skip
    """An arc that bends to the right of its way."""
    (a, b), (c, d) = centres[pair[0]], centres[pair[1]]
    x, y = (a + c) / 2 - (d - b) * 0.18, (b + d) / 2 + (c - a) * 0.18
    share, own = number / top, traced in pair
    return Mark(
        path=f"M{a:.1f} {b:.1f}Q{x:.1f} {y:.1f} {c:.1f} {d:.1f}",
        colour=INK if own else "#66727f",
        width=round(0.6 + (2.2 if own else 3.2) * share, 1),
        opacity=round((0.5 if own else 0.14) + 0.3 * share, 2),
        said=f"group {pair[0]} to group {pair[1]}: {number:,} message{'s' * (number > 1)}",
    )


def _thinned(agents: Sequence[Agent]) -> Iterable[Agent]:
    """At most `MOST_AGENTS` of them, evenly apart."""
    step = max(1.0, len(agents) / MOST_AGENTS)
    return (agents[int(i * step)] for i in range(min(len(agents), MOST_AGENTS)))


def _dots(agents: Iterable[Agent], places: Mapping[str, Place], colours: Mapping[int, str]) -> list[Mark]:
    """Agents as strokes of no length with round caps, one path a colour."""
    paths: dict[str, list[str]] = {}
    for agent in agents:
        x, y = places[agent.id]
        paths.setdefault(colours[agent.group], []).append(f"M{x:.1f} {y:.1f}h0")
    return [Mark(path="".join(path), colour=colour) for colour, path in paths.items()]


def _spokes(
    groups: Mapping[int, Sequence[Agent]], places: Mapping[str, Place], centres: Mapping[int, Place],
    colours: Mapping[int, str],
) -> list[Mark]:  # fmt: skip
    """From the middle of each group to its members."""
    return [
        Mark(path="".join(_line(centres[group], places[member.id]) for member in members), colour=colours[group])
        for group, members in groups.items()
    ]


def _told(within: Mapping[tuple[str, str], int], places: Mapping[str, Place]) -> list[Mark]:
    """Between agents of one group of whom one came to know what the other did."""
    top = max(within.values(), default=1)
    return [
        Mark(path=_line(places[one], places[other]), colour=INK, width=round(0.5 + 2.5 * number / top, 1))
        for (one, other), number in sorted(within.items())
        if one in places and other in places
    ]


def _line(start: Place, end: Place) -> str:
    return f"M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}"


def _disc(place: Place, radius: float, colour: str, said: str) -> Disc:
    return Disc(x=round(place[0], 1), y=round(place[1], 1), radius=round(radius, 1), colour=colour, said=said)


def _names(members: Sequence[Agent]) -> str:
    names = ", ".join(member.name[:40] for member in members[:4])
    return f"{names} and {len(members) - 4} more" if len(members) > 4 else names
