"""What a random forest is usually given of a point: height, return, intensity, and the shape of its neighbourhood.

Shape is that of the nearest points, from the eigenvalues of their covariance (Weinmann et al. 2015, ISPRS 105).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from fusion3d.data.observation import POINT_ATTRIBUTES
from fusion3d.tasks.segmentation.pieces import Piece

Float32 = npt.NDArray[np.float32]

NEIGHBOURS = 16
NAMES = (
    "height", *POINT_ATTRIBUTES, "density", "linearity", "planarity", "scattering", "verticality", "height_range", "below_top",
)  # fmt: skip
_AT_ONCE = 1 << 16


def simple_features(piece: Piece) -> Float32:
    """[N, 12] of the points of a square, as `NAMES` says; neighbours are looked for in the halo too."""
    cloud, height = piece.around, piece.height.numpy()
    centre = np.array([cloud.east.mean(), cloud.south.mean(), 0.0])
    place = np.stack([cloud.east, cloud.south, height.astype(np.float64)], axis=1) - centre
    tree, count = cKDTree(place), len(piece)
    wanted = min(NEIGHBOURS, len(place))
    parts = []
    for start in range(0, count, _AT_ONCE):
        some = place[start : min(start + _AT_ONCE, count)]
        distance, near = tree.query(some, k=list(range(1, wanted + 1)))
        parts.append(_shape(place[near], distance[:, -1], some[:, 2]))
    own = np.concatenate([height[:count, None], piece.attributes[:count].numpy()], axis=1)
    return np.concatenate([own, np.concatenate(parts)], axis=1).astype(np.float32)


def _shape(near: npt.NDArray[np.float64], reach: npt.NDArray[np.float64], height: npt.NDArray[np.float64]) -> Float32:
    offset = near - near.mean(axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", offset, offset) / near.shape[1])
    low, middle, high = np.maximum(values, 0.0).T
    largest = np.maximum(high, 1e-12)
    top = near[:, :, 2].max(axis=1)
    density = near.shape[1] / np.maximum(reach, 1e-3) ** 3
    return np.stack(
        [
            np.log(density),
            (high - middle) / largest,
            (middle - low) / largest,
            low / largest,
            1.0 - np.abs(vectors[:, 2, 0]),
            top - near[:, :, 2].min(axis=1),
            top - height,
        ],
        axis=1,
    ).astype(np.float32)
