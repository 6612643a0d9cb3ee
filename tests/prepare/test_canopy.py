"""Canopy height from the store against the canopy height models that were supplied with the same points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import AlsSource, Scene
from fusion3d.store.reader import Store


def canopy(store: Store, noise: tuple[int, ...] = (7, 18)) -> np.ndarray:
    """Greatest height in each column, metres, [rows, cols]; NaN where there is no point."""
    grid = store.grid
    points = store.points(grid.window)
    column = np.repeat(np.arange(grid.window.size), np.diff(points.row_splits))
    kept = np.isfinite(points.height) & ~np.isin(points.attributes["classification"], noise)
    top = np.full(grid.window.size, -np.inf)
    np.maximum.at(top, column[kept], points.height[kept])
    return np.where(np.isfinite(top), top, np.nan).reshape(grid.rows, grid.cols)


def greatest_pixel(store: Store, raster: Path) -> np.ndarray:
    """Greatest pixel of a canopy height model whose centre lies in each column, [rows, cols]; NaN where there is none."""
    grid = store.grid
    with rasterio.open(raster) as file:
        values = file.read(1, masked=True).filled(np.nan).ravel()
        rows, cols = np.indices(file.shape)
        x, y = rasterio.transform.xy(file.transform, rows.ravel(), cols.ravel())
    row, col = grid.cell_of(np.asarray(x), np.asarray(y))
    kept = (row >= 0) & (row < grid.rows) & (col >= 0) & (col < grid.cols) & (values > -100)
    top = np.full(grid.window.size, -np.inf)
    np.maximum.at(top, (row * grid.cols + col)[kept], values[kept])
    return np.where(np.isfinite(top), top, np.nan).reshape(grid.rows, grid.cols)


def compare(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Pearson's r and the median difference where both are known."""
    known = np.isfinite(one) & np.isfinite(other)
    return float(np.corrcoef(one[known], other[known])[0, 1]), float(np.median(one[known] - other[known]))


# The supplied model is on whole metres, the points begin at 0.6 and 0.8 m: at its own 1 m pixels r is 0.947, because of the
# edges of crowns; a column of 2 m holds four of them.
def test_canopy_height_of_sjer_052_agrees_with_its_canopy_height_model(data_dir, tmp_path):
    tile = str(data_dir / "neon" / "SJER_052.laz")
    summary = prepare(
        Scene(als=AlsSource((tile,), normalized=True), crs="EPSG:32611", column=2.0), tmp_path / "s.zarr", quiet=True
    )
    store = Store.open(summary.out)
    r, difference = compare(canopy(store), greatest_pixel(store, data_dir / "neon" / "SJER_052_CHM.tif"))
    assert r > 0.95
    assert abs(difference) < 0.5


def test_height_above_ground_of_lidar_hd_agrees_with_its_height_model(data_dir, tmp_path):
    tiles = str(data_dir / "ign_lidarhd_fr" / "laz")
    store = Store.open(prepare(Scene(als=AlsSource((tiles,)), column=1.0), tmp_path / "s.zarr", quiet=True).out)
    r, difference = compare(canopy(store), greatest_pixel(store, data_dir / "ign_lidarhd_fr" / "DHM_77055_627760_50cm.tif"))
    assert r > 0.9
    assert abs(difference) < 0.5


@pytest.mark.parametrize(
    ("name", "points", "crs"),
    [
        ("als_forest/Amazon.las", 19730, "EPSG:32718"),
        ("als_forest/Megaplot.laz", 81590, None),
        ("als_forest/MixedConifer.laz", 37657, None),
        ("als_forest/Topography.laz", 73403, None),
        ("las_formats/autzen_trim.laz", 110000, None),
        ("las_formats/simple.copc.laz", 1065, None),
        ("las_formats/simple.laz", 1065, "EPSG:2993"),
        ("chablais3_fr/las_chablais3.laz", 92097, None),
    ],
)
def test_real_files_keep_every_point(data_dir, tmp_path, name, points, crs):
    summary = prepare(Scene(als=AlsSource((str(data_dir / name),)), crs=crs), tmp_path / "s.zarr", quiet=True)
    assert summary.attributes.als.points == points
    assert not summary.set_aside
