from __future__ import annotations

import numpy as np
import pytest

from fusion3d.io.bands import Band
from fusion3d.report import store_view
from fusion3d.report.store_view import StoreView, visible_bands
from tests.data.scene import COLS, NO_POINTS, ROWS, canopy, open_scene


@pytest.fixture(scope="module")
def view(tmp_path_factory) -> StoreView:
    return StoreView(open_scene(tmp_path_factory.mktemp("view") / "scene.zarr", sensors=("als", "gedi", "ortho", "s2", "coarse")))


def test_canopy_is_the_highest_trusted_point_of_each_column(view):
    values, place = view.canopy
    assert values.shape == (ROWS, COLS)
    assert place.bounds == (652_000.0, 6_862_000.0, 652_480.0, 6_862_400.0)
    assert np.isnan(values[NO_POINTS]).all()
    highest = np.full((ROWS, COLS), np.nan)
    for row in range(0, ROWS, 7):
        for col in range(5, COLS, 9):
            points = view.store.points(view.store.grid.window.__class__(row, col, 1, 1))
            good = ~np.isin(points.attributes["classification"], (7, 18)) & (points.attributes["withheld"] == 0)
            highest[row, col] = np.nanmax(points.height[good])
    chosen = np.isfinite(highest)
    np.testing.assert_array_equal(values[chosen], highest[chosen].astype(np.float32))
    # no point is above the canopy that the scene was made with, and few columns stay far below it
    known = np.isfinite(values)
    assert (values[known] <= canopy()[known] + 1e-4).all()
    assert np.median((canopy()[known] - values[known]) / np.maximum(canopy()[known], 1)) < 0.15


def test_smaller_picture_keeps_the_highest_point(view, monkeypatch):
    whole = view.canopy[0]
    monkeypatch.setattr(store_view, "_LONGEST", 16)
    values, place = StoreView(view.store).canopy
    assert values.shape == (14, 16)
    assert place.pixel == 30.0
    assert values[13, 15] == np.nanmax(whole[39:, 45:])
    assert values[4, 7] == np.nanmax(whole[12:15, 21:24])


def test_photo_is_the_finest_image_north_up(view):
    photo = view.photo
    assert (photo.sensor, photo.date, photo.place.pixel) == ("ortho", None, 2.5)
    assert photo.rgba.shape == (4 * ROWS, 4 * COLS, 4)
    grey = photo.rgba[..., :3].mean(axis=2)
    truth = canopy().repeat(4, 0).repeat(4, 1)
    assert np.corrcoef(grey.ravel(), truth.ravel())[0, 1] > 0.95
    assert np.corrcoef(grey[::-1].ravel(), truth.ravel())[0, 1] < 0.5


def test_photo_of_a_series_is_of_its_clearest_date_and_decimated_in_place(tmp_path, monkeypatch):
    monkeypatch.setattr(store_view, "_LONGEST", 24)
    view = StoreView(open_scene(tmp_path / "scene.zarr", sensors=("s2",)))
    photo = view.photo
    # clouds lie in the middle on the first date
    assert (photo.sensor, photo.date) == ("s2", "2021-04-15")
    assert photo.rgba.shape == (20, 24, 4)
    truth = canopy().reshape(20, 2, 24, 2).mean(axis=(1, 3))
    assert np.corrcoef(photo.rgba[..., 1].ravel(), truth.ravel())[0, 1] > 0.98


def test_store_without_visible_bands_or_points_has_no_picture(tmp_path):
    view = StoreView(open_scene(tmp_path / "scene.zarr", sensors=("coarse",)))
    assert view.photo is None
    assert view.canopy is None


def test_coverage_counts_columns(view):
    als, gedi, coarse = (view.coverage(name) for name in ("als", "gedi", "coarse"))
    assert als.seen == pytest.approx(1 - 16 / (ROWS * COLS))
    assert (als.share[NO_POINTS] == 0).all()
    # 26 shots on a column each, one of them degraded
    assert gedi.share.sum() == 25
    assert gedi.share[4, 10] == 1
    assert coarse.seen == 1


def test_coverage_of_very_many_blocks_is_a_sample_of_them(view, monkeypatch):
    monkeypatch.setattr(store_view, "_MOST_BLOCKS", 4)
    cover = view.coverage("als")
    # 3 x 3 blocks of 16 columns, every second one looked at
    assert cover.sampled
    assert cover.share.shape == (2, 2)
    assert cover.place.pixel == 320.0
    assert cover.share[0, 0] == pytest.approx(1 - 16 / 256)
    assert cover.share[1, 1] == 1


def test_very_large_store_is_shown_by_its_middle(view, monkeypatch):
    monkeypatch.setattr(store_view, "_WIDEST", 20)
    middle = StoreView(view.store)
    assert not middle.whole
    assert middle.place.bounds == (652_140.0, 6_862_100.0, 652_340.0, 6_862_300.0)
    np.testing.assert_array_equal(middle.canopy[0], view.canopy[0][10:30, 14:34])


@pytest.mark.parametrize(
    ("wavelengths", "bands"),
    [
        ((480.0, 560.0, 660.0, 830.0), [2, 1, 0]),
        ((443.0, 492.0, 560.0, 665.0, 704.0), [3, 2, 1]),
        ((830.0, 660.0, 560.0), None),
        ((None, None), None),
        ((), None),
    ],
)
def test_red_green_and_blue_are_found_by_wavelength(wavelengths, bands):
    assert visible_bands(tuple(Band("b", wavelength) for wavelength in wavelengths)) == bands
