"""Small places with a map of embeddings, plots and a known relation between the two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
from pyproj import CRS
from scipy.ndimage import gaussian_filter

from fusion3d.io.geotiff import write_cog

X0, Y0 = 900_000.0, 6_571_000.0
"""North-west corner in Lambert-93."""
LAMBERT = CRS.from_epsg(2154)


def write_map(path: Path, values: np.ndarray, pixel: float = 10.0, **tags: str) -> Path:
    """A map of [D, H, W] embeddings at (X0, Y0), as `fusion3d embed` writes it."""
    names = [f"emb_{number:03d}" for number in range(len(values))]
    return write_cog(
        path, values.astype(np.float32), x0=X0, y0=Y0, pixel=pixel, crs=LAMBERT, band_names=names, units="1", tags=tags
    )


def write_points(path: Path, x: np.ndarray, y: np.ndarray, **columns: object) -> Path:
    """Points in Lambert-93 with columns; the format by the ending."""
    geopandas.GeoDataFrame(columns, geometry=geopandas.points_from_xy(x, y), crs=LAMBERT).to_file(path)
    return path


@dataclass(frozen=True)
class Planted:
    """A place where the measured value is a linear function of smooth embeddings at the plot's cell, plus noise."""

    embedding: Path
    labels: Path
    values: np.ndarray
    signal: np.ndarray
    coefficients: np.ndarray
    row: np.ndarray
    col: np.ndarray


def planted(
    folder: Path, *, plots: int = 300, noise: float = 20.0, slope: float = 30.0, bands: int = 12, seed: int = 0
) -> Planted:
    """Plots of radius 4 m in the middles of cells of 10 m, so that a plot is its cell; signal of standard deviation near `slope`
    times the root of `bands`, mean 200."""
    rng = np.random.default_rng(seed)
    values = np.stack([gaussian_filter(rng.normal(size=(100, 120)), 3, mode="wrap") for _ in range(bands)])
    values = (values / values.std(axis=(1, 2), keepdims=True)).astype(np.float32)
    coefficients = slope * rng.choice([-1.0, 1.0], bands)
    cell = rng.choice(100 * 120, plots, replace=False)
    row, col = cell // 120, cell % 120
    signal = 200.0 + coefficients @ values[:, row, col].astype(np.float64)
    measured = np.maximum(signal + rng.normal(scale=noise, size=plots), 0.0)
    embedding = write_map(folder / "emb.tif", values, sensors="als", checkpoint="run", resolution="10")
    stratum = np.where(col < 60, "west", "east")
    labels = write_points(
        folder / "plots.gpkg", X0 + (col + 0.5) * 10, Y0 - (row + 0.5) * 10, agb=measured, radius=4.0, half=stratum, plot_id=cell
    )
    return Planted(embedding, labels, values, signal, coefficients, row, col)
