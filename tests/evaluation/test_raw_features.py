"""Baseline features by hand and against NumPy."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from fusion3d.evaluation.places import patches
from fusion3d.evaluation.raw_features import harmonics, height_metrics, raster_features, raw_features, waveform_metrics
from fusion3d.grid import Window
from fusion3d.store import Store
from tests.data.scene import CLOUDED, DATES, NO_POINTS, write_scene


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    names = ("als", "gedi", "ortho", "s2", "coarse")
    return Store.open(write_scene(tmp_path_factory.mktemp("raw") / "scene.zarr", names))


def test_harmonics_of_a_cosine_are_its_terms_whatever_dates_are_clouded():
    days = np.arange(1, 366, 5, dtype=float)
    angle = 2 * np.pi * days / 365.2425
    series = 3 + 2 * np.cos(angle) - 0.5 * np.sin(2 * angle)
    stack = np.repeat(series[:, None, None], 3, axis=2)
    stack[::3, 0, 1] = np.nan
    stack[:, 0, 2] = np.nan
    found = harmonics(stack, days)
    np.testing.assert_allclose(found[:2], np.tile([3, 2, 0, 0, -0.5], (2, 1)), atol=0.01)
    assert np.isnan(found[2]).all()


def test_one_date_gives_a_mean_and_small_terms():
    found = harmonics(np.full((1, 1, 1), 8.0), np.array([180.0]))
    assert found[0, 0] == pytest.approx(8.0, abs=1e-6)
    np.testing.assert_allclose(found[0, 1:], 0.0, atol=1e-6)


def test_height_metrics_are_of_usable_points_alone(store):
    window = Window(0, 0, 6, 6)
    found = height_metrics(store, window)
    points = store.points(window)
    column = 5 * 6 + 5
    part = slice(points.row_splits[column], points.row_splits[column + 1])
    kind, withheld = points.attributes["classification"][part], points.attributes["withheld"][part]
    height = points.height[part]
    height = height[~np.isin(kind, (7, 18)) & ~withheld.astype(bool) & np.isfinite(height)]
    assert found[column, 2] == pytest.approx(np.median(height), rel=1e-5)
    assert found[column, 6] == pytest.approx(height.max(), rel=1e-5)
    assert found[column, 9] == pytest.approx((height > 2).mean())
    rows = found.reshape(6, 6, -1)
    assert np.isnan(rows[NO_POINTS]).all()


def test_pixels_of_one_date_become_mean_spread_and_percentiles(store):
    found = raster_features(store, "ortho", Window(7, 9, 2, 3))
    pixels = store.raster("ortho", Window(8, 10, 1, 1)).values[0, 1].ravel().astype(float)
    # the second row's second column; bands R, G, B of five statistics each
    assert found.shape == (6, 15)
    np.testing.assert_allclose(found[4, [1, 4, 7, 10, 13]], [pixels.mean(), pixels.std(), *np.percentile(pixels, (10, 50, 90))])


def test_a_series_leaves_clouds_and_undated_images_out_of_its_harmonics(store):
    row, col = CLOUDED[0].start, CLOUDED[1].start
    found = raster_features(store, "s2", Window(row, col, 1, 1))[0]
    series = store.raster("s2", Window(row, col, 1, 1)).values[1:, :, 0, 0].astype(float)
    np.testing.assert_allclose(found[:4], series.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found[12:16], np.median(series, axis=0), rtol=1e-6)
    days = [datetime.date.fromisoformat(date).timetuple().tm_yday for date in DATES[1:] if date]
    expected = harmonics(series[: len(days), :, None], np.array(days, float))
    np.testing.assert_allclose(found[20:], expected[0], rtol=1e-5)


def test_pixels_larger_than_columns_stand_for_all_that_they_cover(store):
    whole = raster_features(store, "coarse", Window(0, 0, 6, 6)).reshape(6, 6)
    parts = [raster_features(store, "coarse", Window(row, col, 1, 1))[0, 0] for row in range(6) for col in range(6)]
    np.testing.assert_array_equal(whole.ravel(), parts)
    assert len(np.unique(whole)) < 36


def test_footprints_give_their_relative_heights_to_the_column_they_lie_in(store):
    """Energy rises evenly with height up to the canopy: the relative height of a share is that share of it."""
    table = store.footprints(Window(0, 0, 20, 20))
    row, col = (int(part[0]) for part in store.grid.cell_of(table.x, table.y))
    found = waveform_metrics(store, Window(0, 0, 20, 20)).reshape(20, 20, -1)
    top = table.heights[: table.row_splits[1]].max()
    assert found[row, col, 2] == pytest.approx(0.475 * top, rel=0.03)
    assert np.isnan(found[0, 0]).all()


def test_columns_of_patches_come_once_and_in_order(store):
    chosen = patches(Window(4, 4, 24, 20), 16)
    wanted = np.zeros((store.grid.rows, store.grid.cols), bool)
    wanted[4:28, 4:20:2] = True
    columns, found = raw_features(store, chosen[::-1], ["als", "gedi", "s2"], wanted)
    assert columns.tolist() == np.flatnonzero(wanted.ravel()).tolist()
    expected = height_metrics(store, Window(10, 6, 1, 1))[0]
    np.testing.assert_array_equal(found["als"][columns.tolist().index(10 * store.grid.cols + 6)], expected)
    assert {len(values) for values in found.values()} == {len(columns)}
