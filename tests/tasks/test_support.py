"""Cells under plots, weighted by covered area."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from fusion3d.errors import InputError
from fusion3d.evaluation.discs import discs
from fusion3d.io.raster import open_raster
from fusion3d.tasks.support import CellReader, means_under, require_map, statistics_under, weighted_percentiles
from tests.tasks.places import LAMBERT, X0, Y0, write_map


def disc(x: float, y: float, radius: float) -> shapely.Polygon:
    return discs(np.array([x]), np.array([y]), np.array([radius]), LAMBERT)[0]


def test_mean_is_of_the_cells_under_the_plot_north_up(tmp_path):
    """Band 0 counts rows from the north, band 1 columns from the west: turned or mirrored maps give other numbers."""
    row, col = np.mgrid[:40, :60].astype(float)
    file = open_raster(write_map(tmp_path / "emb.tif", np.stack([row, col])))
    # a square of 20 m whose north-west corner is cell (3, 41), and one shifted half a cell east and a quarter of a cell south
    squares = [shapely.box(X0 + 410 + dx, Y0 - 50 - dy, X0 + 430 + dx, Y0 - 30 - dy) for dx, dy in ((0, 0), (5, 2.5))]
    found = means_under(file, np.array(squares))
    np.testing.assert_allclose(found.values, [[3.5, 41.5], [3.75, 42.0]], atol=1e-9)
    np.testing.assert_allclose(found.covered, 1.0)
    assert found.names == ("emb_000", "emb_001")


def test_cells_without_data_do_not_count_and_lower_the_covered_share(tmp_path):
    values = np.ones((2, 10, 10))
    values[:, :, 5:] = 3.0
    values[1, 4, :] = np.nan
    file = open_raster(write_map(tmp_path / "emb.tif", values))
    # 4 x 4 cells of which row 4 has no second band; 2 x 2 cells in row 4 and 5; one on row 4 alone; one off the map
    squares = [
        shapely.box(X0 + 30, Y0 - 60, X0 + 70, Y0 - 20),
        shapely.box(X0, Y0 - 60, X0 + 20, Y0 - 40),
        shapely.box(X0, Y0 - 50, X0 + 20, Y0 - 40),
        shapely.box(X0 - 500, Y0, X0 - 400, Y0 + 100),
        shapely.Polygon(),
    ]
    found = means_under(file, np.array(squares))
    np.testing.assert_allclose(found.covered, [0.75, 0.5, 0.0, 0.0, 0.0])
    assert found.usable.tolist() == [True, True, False, False, False]
    np.testing.assert_allclose(found.values[:2], [[2.0, 2.0], [1.0, 1.0]])
    assert np.isnan(found.values[2:]).all()


def test_plot_half_outside_the_map_has_half_its_area(tmp_path):
    file = open_raster(write_map(tmp_path / "emb.tif", np.ones((1, 10, 10))))
    found = means_under(file, np.array([disc(X0, Y0 - 50, 15.0), disc(X0 + 100, Y0 - 100, 15.0)]))
    np.testing.assert_allclose(found.covered, [0.5, 0.25], rtol=1e-9)


def test_large_plot_over_many_tiles_equals_the_mean_of_the_array(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, 300, 310)).astype(np.float32)
    file = open_raster(write_map(tmp_path / "emb.tif", values, pixel=2.0))
    whole = shapely.box(X0, Y0 - 600, X0 + 620, Y0)
    part = shapely.box(X0 + 100, Y0 - 550, X0 + 600, Y0 - 20)
    found = means_under(file, np.array([whole, part]))
    np.testing.assert_allclose(found.values[0], values.mean(axis=(1, 2), dtype=np.float64), atol=1e-9)
    np.testing.assert_allclose(found.values[1], values[:, 10:275, 50:300].mean(axis=(1, 2), dtype=np.float64), atol=1e-9)


def test_plots_on_one_tile_read_it_once(tmp_path, monkeypatch):
    file = open_raster(write_map(tmp_path / "emb.tif", np.ones((1, 100, 300))))
    reads = []
    original = CellReader._read
    monkeypatch.setattr(CellReader, "_read", lambda self, row, col: reads.append((row, col)) or original(self, row, col))
    rng = np.random.default_rng(0)
    polygons = np.array([disc(x, y, 15.0) for x, y in zip(X0 + rng.uniform(20, 2980, 80), Y0 - rng.uniform(20, 980, 80))])
    means_under(file, polygons)
    assert sorted(set(reads)) == [(0, 0), (0, 1), (0, 2)]
    assert len(reads) <= 5


def test_oblong_pixels_are_read_for_baselines_and_refused_as_maps(tmp_path):
    values = np.repeat(np.arange(40, dtype=np.float32)[:, None], 20, axis=1)
    profile = {"driver": "GTiff", "dtype": "float32", "width": 20, "height": 40, "count": 1, "crs": "EPSG:2154"}
    with rasterio.open(tmp_path / "oblong.tif", "w", transform=Affine(10, 0, X0, 0, -5, Y0), **profile) as dataset:
        dataset.write(values, 1)
    file = open_raster(tmp_path / "oblong.tif")
    found = means_under(file, np.array([shapely.box(X0 + 50, Y0 - 150, X0 + 150, Y0 - 50)]))
    # rows 10 to 29 of 5 m
    assert found.values[0, 0] == pytest.approx(19.5, abs=0.3)
    with pytest.raises(InputError, match="not square with north up"):
        require_map(file)


def test_percentiles_are_of_area():
    # equal weights: Hazen's rule, as numpy has it
    values = np.random.default_rng(0).normal(size=37)
    expected = np.percentile(values, [5, 50, 90], method="hazen")
    np.testing.assert_allclose(weighted_percentiles(values, np.full(37, 2.5), (5, 50, 90)), expected)
    # a cell of three times the area counts as three cells, but for the interpolation between equal values
    assert weighted_percentiles(np.array([1.0, 9.0]), np.array([1.0, 1e-9]), (50,))[0] == pytest.approx(1.0, abs=1e-6)
    assert weighted_percentiles(np.array([4.0]), np.array([2.0]), (25, 75)).tolist() == [4.0, 4.0]


def test_statistics_of_a_raster_under_a_plot(tmp_path):
    values = np.arange(100, dtype=np.float32).reshape(1, 10, 10)
    file = open_raster(write_map(tmp_path / "chm.tif", values, pixel=1.0))
    found = statistics_under(
        file, np.array([shapely.box(X0, Y0 - 10, X0 + 10, Y0), shapely.box(X0 + 900, Y0, X0 + 910, Y0 + 10)])
    )
    assert found.names == ("emb_000_mean", "emb_000_p25", "emb_000_p50", "emb_000_p75", "emb_000_p95")
    np.testing.assert_allclose(found.values[0], [49.5, *np.percentile(np.arange(100), [25, 50, 75, 95], method="hazen")])
    assert np.isnan(found.values[1]).all()
    assert found.usable.tolist() == [True, False]
