"""Cells of a map under an area."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from pyproj import CRS

from fusion3d.errors import CRSError, InputError
from fusion3d.io.geotiff import write_cog
from fusion3d.mapping import area_cells
from fusion3d.mapping.area_cells import MapCells
from fusion3d.tasks.estimators import Spread
from tests.tasks.places import X0, Y0, write_map

LEVEL = Spread(1.0, 0.0)


def box(left: float, top: float, width: float, height: float) -> shapely.Polygon:
    """Metres east and south of the corner."""
    return shapely.box(X0 + left, Y0 - top - height, X0 + left + width, Y0 - top)


@pytest.fixture(scope="module")
def surface(tmp_path_factory) -> MapCells:
    """Band 1: 0, 1, 2, ... by row, without data in rows 8 and 9; a second band without any data in half of the map."""
    values = np.stack([np.arange(600.0).reshape(20, 30), np.ones((20, 30))])
    values[0, 8:10] = np.nan
    values[1, :, :15] = np.nan
    return MapCells(write_map(tmp_path_factory.mktemp("cells") / "map.tif", values))


def test_cells_count_by_the_area_that_lies_on_them(surface):
    """A square of 20 m over cells 0, 1, 30, 31 that is moved by half a cell east and a quarter south."""
    found = surface.cells(box(5, 2.5, 20, 20), LEVEL, 1e9)
    weights = np.outer([0.75, 1, 0.25], [0.5, 1, 0.5])
    values = np.add.outer([0, 30, 60], [0, 1, 2])
    assert found.mean == pytest.approx((weights * values).sum() / 4)
    assert (found.area, found.covered) == pytest.approx((400, 400))
    np.testing.assert_allclose(found.weights, 100 * weights, atol=1e-6)
    assert (found.cell, found.split) == (10.0, 1)


def test_part_without_data_is_left_out_whatever_other_bands_say(surface):
    found = surface.cells(box(0, 60, 10, 40), LEVEL, 200.0)
    assert found.covered == pytest.approx(200)
    assert found.area == pytest.approx(400)
    assert found.mean == pytest.approx((180 + 210) / 2)
    assert found.above_plots == pytest.approx(0.5)


def test_spread_follows_the_map(surface):
    found = surface.cells(box(0, 0, 20, 10), Spread(2.0, 3.0), 1e9)
    np.testing.assert_allclose(found.weights, [[200, 500]])


def test_area_over_many_tiles_and_coarse_cells_keeps_its_sums(tmp_path, monkeypatch):
    values = np.random.default_rng(0).uniform(0, 100, (1, 300, 520)).astype(np.float32)
    surface = MapCells(write_map(tmp_path / "map.tif", values, pixel=2.0))
    ring = shapely.Point(X0 + 500, Y0 - 300).buffer(280) - shapely.Point(X0 + 520, Y0 - 290).buffer(90)
    fine = surface.cells(ring, LEVEL, 1e9)
    monkeypatch.setattr(area_cells, "MOST_CELLS", 64)
    coarse = surface.cells(ring, LEVEL, 1e9)
    assert coarse.split == 5
    assert coarse.cell == 10.0
    assert max(coarse.weights.shape) <= 64
    assert coarse.mean == fine.mean
    assert fine.covered == pytest.approx(ring.area, rel=1e-6)
    assert coarse.weights.sum() == pytest.approx(ring.area, rel=1e-6)
    # the coarse cells are sums of the fine ones
    rows, cols = (-(-size // 5) * 5 for size in fine.weights.shape)
    padded = np.zeros((rows, cols))
    padded[: fine.weights.shape[0], : fine.weights.shape[1]] = fine.weights
    np.testing.assert_allclose(coarse.weights, padded.reshape(rows // 5, 5, cols // 5, 5).sum(axis=(1, 3)), atol=1e-6)


def test_means_under_plots(surface):
    plots = np.array([box(0, 0, 20, 10), box(0, 75, 10, 20), box(0, 70, 10, 20), box(-500, 0, 10, 10)], dtype=object)
    np.testing.assert_allclose(surface.means(plots), [0.5, np.nan, 210, np.nan])


def test_feet_become_hectares(tmp_path):
    """Washington North in US survey feet: a cell of 100 feet is 929.03 m2."""
    path = write_cog(
        tmp_path / "feet.tif", np.ones((1, 10, 10), np.float32), x0=1.5e6, y0=7e5, pixel=100.0, crs=CRS.from_epsg(2285)
    )
    found = MapCells(path).cells(shapely.box(1.5e6, 7e5 - 1000, 1.5e6 + 1000, 7e5), LEVEL, 1e9)
    assert found.area / 1e4 == pytest.approx(9.2903, abs=1e-3)
    assert found.cell == pytest.approx(30.48, abs=1e-3)


def test_maps_whose_areas_are_none_are_refused(tmp_path):
    one = np.ones((1, 10, 10), np.float32)
    web = write_cog(tmp_path / "web.tif", one, x0=600_000, y0=5.9e6, pixel=10.0, crs=CRS.from_epsg(3857))
    with pytest.raises(InputError, match=r"areas in its CRS .* are \+1\d\d % off"):
        MapCells(web)
    degrees = write_cog(tmp_path / "degrees.tif", one, x0=5.0, y0=46.0, pixel=0.001, crs=CRS.from_epsg(4326))
    with pytest.raises(CRSError, match="degrees"):
        MapCells(degrees)
