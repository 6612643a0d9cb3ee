"""Statistics of the points of a cell, as forest inventories take them: what an encoder knows without having to learn it."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fusion3d.data.observation import POINT_ATTRIBUTES
from fusion3d.ops import column_of_row, column_pool, column_quantile

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LAYERS = (-math.inf, 0.25, 2.0, 10.0, math.inf)
"""Heights (m) that part ground, low vegetation, shrubs and trees."""
STATISTICS = 2 * len(QUANTILES) + 2 * (1 + len(POINT_ATTRIBUTES)) + 3 * (len(LAYERS) - 1)


def cell_statistics(
    height: Float[Tensor, " points"], attributes: Float[Tensor, "points attributes"], row_splits: Int64[Tensor, " cells+1"]
) -> Float[Tensor, "cells statistics"]:
    """[cells, STATISTICS], about 1 in size each; 0 in a cell without points.

    Quantiles of height and of intensity; means of height and of each attribute; twice their standard deviations; and of each
    layer the share of the points, and their mean intensity and return fraction. Heights h are asinh(h): 20 cm are told
    from 40 cm as 20 m from 40 m. Attributes a are 2 a - 1.

    Parameters
    ----------
    height : above ground, metres, finite
    attributes : in the order of `POINT_ATTRIBUTES`, finite
    row_splits : the points of each cell, which lie together
    """
    cell = column_of_row(row_splits, height.shape[0])
    values = torch.cat((height.asinh()[:, None], 2 * attributes - 1), dim=1)

    def mean(of: Tensor) -> Tensor:
        return column_pool(of, row_splits, "mean")

    levels = height.new_tensor(QUANTILES)
    quantiles = [column_quantile(values[:, which].contiguous(), row_splits, levels).nan_to_num(0.0) for which in (0, 1)]
    middle = mean(values)
    spread = mean((values - middle[cell]).square()).sqrt()
    layers = []
    for low, high in pairwise(LAYERS):
        inside = ((height >= low) & (height < high)).to(values.dtype)[:, None]
        share = mean(inside)
        layers += [share, mean(inside * values[:, 1:3]) / share.clamp(min=torch.finfo(share.dtype).tiny)]
    return torch.cat((*quantiles, middle, 2 * spread, *layers), dim=1)
