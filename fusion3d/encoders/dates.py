"""Dates as inputs: season and year, with a learned vector for observations without a date."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

_YEAR = 365.2425
_REFERENCE = 50.0
"""Years from 1970 to the middle of the period that the sensors cover."""


class DateFeatures(nn.Module):
    """Days since 1970-01-01 to a vector: two harmonics of the day of the year and a small linear trend; NaN is 'undated'."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dated = nn.Linear(5, width)
        self.undated = nn.Parameter(torch.randn(width) * 0.1)

    def forward(self, days: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape width"]:
        known = torch.isfinite(days)
        # float64: the fraction of a float16 or bfloat16 count of years would be no season at all
        years = torch.where(known, days, 0.0).double() / _YEAR
        angle = 2 * math.pi * (years - years.floor())
        parts = (angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos(), (years - _REFERENCE) / 10)
        dated = self.dated(torch.stack(parts, dim=-1).to(self.undated.dtype))
        return torch.where(known.unsqueeze(-1), dated, self.undated.to(dated.dtype))
