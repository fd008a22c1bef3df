"""Windows of measured values: absolute bounds, or quantiles of what the rows at hand have.

Scales differ between reward models and between models to be trained, so quantiles are what carries over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from matrix.filtering.base import Rejection


class Unit(StrEnum):
    """What the bounds of a window are."""

    absolute = "absolute"
    quantile = "quantile"


@dataclass(kw_only=True)
class Window:
    """The values that are kept, bounds included; a bound that is null keeps all on its side."""

    low: float | None = None
    high: float | None = None
    unit: Unit = Unit.quantile
    """`quantile`: bounds are shares (0..1) of the rows that reach the filter. Ties are kept: 0.2 drops at most a
    fifth."""

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        if self.unit is Unit.quantile and not all(0 <= bound <= 1 for bound in bounds):
            raise ValueError(f"bounds of unit=quantile lie in [0, 1], not {bounds}; or set unit=absolute")
        if len(bounds) == 2 and bounds[0] > bounds[1]:
            raise ValueError(f"low={bounds[0]} is above high={bounds[1]}, so every row would be dropped")

    def bounds(self, values: Sequence[float]) -> tuple[float, float]:
        """The lowest and the highest value that is kept of `values`."""
        low, high = float("-inf"), float("inf")
        if self.unit is Unit.absolute:
            return low if self.low is None else self.low, high if self.high is None else self.high
        ranked = sorted(values)
        if ranked and self.low is not None:
            low = ranked[min(_share(self.low, ranked), len(ranked) - 1)]
        if ranked and self.high is not None:
            high = ranked[-1 - min(_share(1 - self.high, ranked), len(ranked) - 1)]
        return low, high

    def judge(self, values: Sequence[float | None], name: str, missing: str) -> list[Rejection | None]:
        """One verdict a value: `<name> too low`, `<name> too high`, or `missing` for None."""
        low, high = self.bounds([value for value in values if value is not None])
        verdicts: list[Rejection | None] = []
        for value in values:
            if value is None:
                verdicts.append(Rejection(missing))
            elif low <= value <= high:
                verdicts.append(None)
            else:
                verdicts.append(Rejection(f"{name} too {'low' if value < low else 'high'}", f"{value:.4g}"))
        return verdicts


def _share(part: float, ranked: Sequence[float]) -> int:
    """A share of so many, rounded down; the small number makes 0.3 of 10 three, in spite of binary fractions."""
    return int(part * len(ranked) + 1e-9)
