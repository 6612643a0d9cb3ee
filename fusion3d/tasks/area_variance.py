"""Variance of a sum of spatially correlated values over the cells of an area: the double sum of their covariances.

Var(sum of w_i e_i) = sum over i and j of w_i w_j C(|x_i - x_j|). On a lattice, all pairs with the same lag share their
covariance, so this is the autocorrelation of the weights, which a fast Fourier transform gives, times the covariance by lag: no
matrix of all pairs (block variance; Journel and Huijbregts 1978, Mining Geostatistics, p. 95).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.fft import irfft2, next_fast_len, rfft2

Float64 = npt.NDArray[np.float64]
Covariance = Callable[[Float64], Float64]

MOST_CELLS = 1024
"""On a side of the lattice: about 150 MB; areas of more cells are summed up to coarser ones first."""
_NEAR = 3
"""Lags up to which the covariance of two coarse cells is averaged over their parts."""
_PARTS = 64


def variance_of_sum(weights: Float64, cell: float, covariance: Covariance, *, split: int = 1) -> float:
    """Variance of the weighted sum of a field over cells, squared units of weight times value.

    Parameters
    ----------
    weights : [H, W] of each cell, 0 outside of the area
    cell : side of a cell, metres
    covariance : of values at a distance in metres
    split : finer cells on a side of each, of which `weights` are sums: near lags are averaged over them
    """
    rows, cols = weights.shape
    shape = next_fast_len(2 * rows - 1, real=True), next_fast_len(2 * cols - 1, real=True)
    autocorrelation = irfft2(np.abs(rfft2(weights, shape)) ** 2, shape)
    total = 0.0
    for row in range(rows):
        by_lag = lag_covariance(np.full(cols, float(row)), np.arange(cols, dtype=np.float64), cell, covariance, split)
        # lags of both signs: rows +-row, columns +-col; each pair of cells is counted from both of its ends
        for down in {row, -row % shape[0]}:
            total += float(autocorrelation[down, :cols] @ by_lag)
            total += float(autocorrelation[down, shape[1] - cols + 1 :][::-1] @ by_lag[1:])
    return max(total, 0.0)


def lag_covariance(down: Float64, right: Float64, cell: float, covariance: Covariance, split: int = 1) -> Float64:
    """Covariance [n] of two cells at lags [n] in cells; of their means, over their parts, where cells are coarse and near."""
    found = covariance(np.hypot(down, right) * cell)
    parts = min(split, _PARTS)
    near = np.maximum(down, right) <= _NEAR
    if parts < 2 or not near.any():
        return found
    offset = np.arange(-(parts - 1), parts)
    share = (parts - np.abs(offset)) / parts**2
    dy = (down[near, None] + offset / parts)[:, :, None]
    dx = (right[near, None] + offset / parts)[:, None, :]
    found[near] = np.einsum("nij,i,j->n", covariance(np.hypot(dy, dx) * cell), share, share)
    return found


def independent_cells(weights: Float64, cell: float, covariance: Covariance, *, split: int = 1) -> float:
    """Number of independent values whose mean would vary as much as that of the area (Griffith 2005, Annals of the Association of
    American Geographers 95, 740-760): C(0) over the variance of the mean."""
    variance = variance_of_sum(weights, cell, covariance, split=split) / float(weights.sum()) ** 2
    return float(covariance(np.zeros(1))[0]) / variance if variance > 0 else np.inf
