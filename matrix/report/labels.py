"""The words on the picture of a society: which ones set a neighbourhood apart, and where they hide nothing.

A neighbourhood is a group, where there are few, or the groups of one colour.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from matrix.records import Agent
from matrix.report.plots import INK, PALETTE

WIDTH, HEIGHT, MARGIN = 1000, 620, 48
"""Of the drawing, in its own units: pixels on a wide page."""
LETTER, LINE = 16.0, 29.0
"""Width of a letter and height of a line on a narrow page, where they are largest in these units."""
PLAIN = {"and", "the", "for", "with", "who", "from", "senior", "junior", "former"}
"""Words of a name that say nothing about a role."""
Place = tuple[float, float]


@dataclass(kw_only=True)
class Label:
    """Words around a place, one line above the other."""

    x: float
    y: float
    lines: list[str]
    colour: str

    @property
    def half(self) -> Place:
        """Half its width and height."""
        return max(map(len, self.lines)) * LETTER / 2, len(self.lines) * LINE / 2

    def touches(self, x: float, y: float, half: Place) -> bool:
        """Whether a box with this middle and these halves of its sides would lie over it."""
        return abs(self.x - x) < self.half[0] + half[0] and abs(self.y - y) < self.half[1] + half[1]


def shade(colour: str, number: int) -> str:
    """The colour `#rrggbb` as it is (0), lighter (1) or darker (2)."""
    towards, share = ((0, 0.0), (255, 0.34), (0, 0.24))[number]
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (towards - part) * share):02x}" for part in parts)


def place_labels(
    groups: Mapping[int, Sequence[Agent]],
    hoods: Mapping[int, int],
    centres: Mapping[int, Place],
    traced: int | None,
    occupied: Sequence[Place],
) -> list[Label]:
    """A label for every neighbourhood, none over another, and one for the traced group.

    Args:
        groups: members of each group.
        hoods: neighbourhood of each group.
        centres: middle of each group.
        traced: group of the traced scenario.
        occupied: points that no label should hide.
    """
    counts: dict[int, Counter[str]] = {}
    for group, members in groups.items():
        counts.setdefault(hoods[group], Counter()).update(term for member in members for term in terms(member.name))
    everywhere = sum(counts.values(), Counter[str]())
    labels: list[Label] = []
    numbered = len(counts) == len(groups)
    if traced is not None and traced in centres and not numbered:
        x, y = centres[traced]
        labels.append(Label(x=x, y=y - 36, lines=[f"traced: group {traced}"], colour=INK))
    for hood, found in counts.items():
        inside = [group for group in groups if hoods[group] == hood]
        number = [f"{'traced: ' * (inside[0] == traced)}group {inside[0]}"] if numbered else []
        x = math.fsum(centres[group][0] for group in inside) / len(inside)
        y = math.fsum(centres[group][1] for group in inside) / len(inside)
        words = telling(found, everywhere)
        if number + words:
            colour = shade(PALETTE[hood], 2)
            labels.append(_freed(Label(x=x, y=y, lines=number + words, colour=colour), labels, occupied))
    return labels


def terms(name: str) -> set[str]:
    """Words of an agent's name, and neighbours among them as one."""
    words = [word for word in re.findall(r"[^\W\d_]{3,}", name.lower()) if word not in PLAIN]
    return {*words, *map(" ".join, pairwise(words))}


def telling(found: Counter[str], everywhere: Counter[str]) -> list[str]:
    """The one or two terms that are most frequent here and rare elsewhere, of at most 20 letters each."""
    ranked = sorted(
        (term for term in found if len(term) <= 20), key=lambda t: (-(found[t] ** 2) / everywhere[t], -len(t), t)
    )
    first = ranked[:1]
    second = [term for term in ranked if not set(term.split()) & set(" ".join(first).split())][:1]
    return [f"{first[0]},", *second] if second else first


def _freed(label: Label, others: Sequence[Label], occupied: Sequence[Place]) -> Label:
    """The label at the nearest spot inside the drawing where it touches no other and hides few points."""
    wide, high = label.half
    best = (math.inf, label)
    for step in range(18 * 16):
        reach, turn = step // 16 * 18, step % 16 * math.pi / 8
        x = min(max(label.x + reach * math.cos(turn), wide), WIDTH - wide)
        y = min(max(label.y + reach * math.sin(turn), high), HEIGHT - high)
        moved = replace(label, x=round(x, 1), y=round(y, 1))
        if not any(other.touches(x, y, label.half) for other in others):
            hidden = sum(moved.touches(*point, (10, 9)) for point in occupied)
            best = min(best, (250 * hidden + reach, moved), key=lambda one: one[0])
            if best[0] <= reach:  # farther spots are worse
                break
    return best[1]
