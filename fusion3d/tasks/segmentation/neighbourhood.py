"""Shape of the ground around single points: a plane, a line, a crown.

From the nearest points: eigenvalues of their covariance (Weinmann et al. 2015, ISPRS 105), density and heights.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Float64 = npt.NDArray[np.float64]

NEIGHBOURS = 16
SHAPE = ("density", "linearity", "planarity", "scattering", "verticality", "height_range", "below_top")
"""Logarithm of points per cubic metre (but for a constant), shares of the eigenvalues, 1 - |vertical part of the normal|, metres
between the highest and the lowest neighbour, and from the point up to the highest."""
_AT_ONCE = 1 << 16


def neighbourhood(place: Float64, count: int, reach: float) -> Float64:
    """[count, 7] of the first points, as `SHAPE` says.

    Parameters
    ----------
    place : [N, 3] metres: east, south, height
    reach : metres within which neighbours are looked for; the point itself stands for those that are missing
    """
    tree = cKDTree(place)
    parts = [np.zeros((0, len(SHAPE)))]
    for start in range(0, count, _AT_ONCE):
        own = np.arange(start, min(start + _AT_ONCE, count))
        distance, near = tree.query(place[own], k=NEIGHBOURS, distance_upper_bound=reach)
        missing = near == len(place)
        near = np.where(missing, own[:, None], near)
        parts.append(_shape(place[near], np.where(missing, reach, distance)[:, -1], place[own, 2], (~missing).sum(axis=1)))
    return np.concatenate(parts)


def _shape(near: Float64, farthest: Float64, height: Float64, known: npt.NDArray[np.int64]) -> Float64:
    offset = near - near.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", offset, offset) / near.shape[1])
    low, middle, high = np.maximum(values, 0.0).T
    largest = np.maximum(high, 1e-12)
    top = near[:, :, 2].max(axis=1)
    return np.stack(
        [
            np.log(known / np.maximum(farthest, 1e-2) ** 3),
            (high - middle) / largest,
            (middle - low) / largest,
            low / largest,
            1.0 - np.abs(vectors[:, 2, 0]),
            top - near[:, :, 2].min(axis=1),
            top - height,
        ],
        axis=1,
    )
