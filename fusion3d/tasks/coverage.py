"""How often measured values lie within the intervals of their predictions."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fusion3d.tasks.scores import Figure

Float64 = npt.NDArray[np.float64]
_NINETY = 1.6448536269514722
"""Of the standard normal distribution, 5 % on either side."""


@dataclass(frozen=True)
class Coverage:
    """Of held-out plots.

    Attributes
    ----------
    n : plots with an interval
    share : of those whose measured value lies within, with a 90 % interval
    width : mean upper - lower, in units of the target
    """

    n: int
    share: Figure
    width: float

    def to_json(self) -> dict[str, Any]:
        """Plain types; what is not defined is null."""
        share = {name: _null(value) for name, value in asdict(self.share).items()}
        return {"n": self.n, "share": share, "width": _null(self.width)}

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `to_json`; KeyError or TypeError when something is missing."""
        share = Figure(**{name: _nan(value) for name, value in plain["share"].items()})
        return cls(int(plain["n"]), share, _nan(plain["width"]))


def coverage(measured: Float64, lower: Float64, upper: Float64) -> Coverage:
    """Of intervals [N], those that are NaN left out; the interval of the share is Wilson's (1927, JASA 22)."""
    known = np.isfinite(lower) & np.isfinite(upper)
    count = int(known.sum())
    if not count:
        return Coverage(0, Figure(math.nan), math.nan)
    within = (measured >= lower) & (measured <= upper)
    share = float(within[known].mean())
    square = _NINETY**2 / count
    middle, reach = share + square / 2, _NINETY * math.sqrt(share * (1 - share) / count + square / (4 * count))
    low, high = max(0.0, (middle - reach) / (1 + square)), min(1.0, (middle + reach) / (1 + square))
    return Coverage(count, Figure(share, low, high), float((upper - lower)[known].mean()))


def quartiles(predicted: Float64) -> list[npt.NDArray[np.bool_]]:
    """Which of the predictions [N] lie in each quarter of them, from low to high; equal ones stay together, so a quarter that
    only equal ones would divide is not there."""
    edges = np.percentile(predicted, [25, 50, 75])
    place = np.searchsorted(edges, predicted, side="left")
    return [place == number for number in np.unique(place)]


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
