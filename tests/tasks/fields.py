"""Gaussian random fields of known covariance."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist


def exponential(distance: np.ndarray, sill: float, reach: float) -> np.ndarray:
    """Covariance that is down to 5 % at `reach`."""
    return sill * np.exp(-3 * distance / reach)


def realisations(places: np.ndarray, count: int, *, sill: float, reach: float, nugget: float = 0.0, seed: int = 0) -> np.ndarray:
    """[count, N] draws at places [N, 2], by Cholesky's factor of the covariance matrix."""
    covariance = exponential(cdist(places, places), sill, reach) + (nugget + 1e-9 * sill) * np.eye(len(places))
    return np.random.default_rng(seed).normal(size=(count, len(places))) @ np.linalg.cholesky(covariance).T


def lattice(rows: int, cols: int, cell: float) -> np.ndarray:
    """[rows * cols, 2] x and y of the cells' centres, row by row."""
    row, col = np.mgrid[:rows, :cols]
    return np.stack([(col.ravel() + 0.5) * cell, -(row.ravel() + 0.5) * cell], axis=1)
