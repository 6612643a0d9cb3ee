"""Orthophotos of scenes made by hand: shadows, rows, place, and what our readers make of the file."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rasterio

from fusion3d.errors import ConfigError
from fusion3d.io.raster import open_raster
from fusion3d.simulate.model import Box, Cover, Site, Tile
from fusion3d.simulate.ortho import OrthoWriter
from fusion3d.simulate.phenology import EQUAL_CROPS
from fusion3d.simulate.sun import sun_at
from tests.simulate.patchwork import Patchwork, check_cog, contents, halves, north_west, simulate, stand

SITE = Site(100)
BOX = SITE.box
NAME = "ortho/ortho_20230614.tif"


def image_of(tmp_path, land, side=500):
    simulate(OrthoWriter(land.site, tmp_path), land, side)
    return contents(tmp_path)[NAME].astype(float)


def test_file_is_a_cog_that_our_reader_knows_the_bands_of(tmp_path):
    image_of(tmp_path, Patchwork(Site(150)))
    check_cog(tmp_path / NAME, Site(150), 0.2)
    opened = open_raster(tmp_path / NAME)
    assert [band.name for band in opened.bands] == ["red", "green", "blue", "nir"]
    assert [band.wavelength for band in opened.bands] == [660, 560, 480, 830]
    assert str(opened.date) == "2023-06-14"
    assert opened.dtype == np.uint8
    assert opened.alpha is None
    with rasterio.open(tmp_path / NAME) as image:
        assert image.count == 4


def test_water_in_the_north_west_appears_there(tmp_path):
    land = Patchwork(SITE, north_west(SITE, Cover.WATER, Cover.GRASS))
    nir = image_of(tmp_path, land)[3]
    assert nir[:240, :240].max() < nir[260:].min()
    assert nir[:240, :240].max() < nir[:, 260:].min()


def test_image_does_not_depend_on_the_tiles(tmp_path):
    house = (Box(BOX.xmin + 40, BOX.ymin + 40, BOX.xmin + 60, BOX.ymin + 60), 9.0)
    trees = stand(Box(BOX.xmin + 45, BOX.ymin, BOX.xmax, BOX.ymin + 30), 7.0, species=2)
    fields = {"row_direction": halves(SITE, 30.0, np.nan)}
    land = Patchwork(SITE, halves(SITE, Cover.WINTER_CROP, Cover.FOREST), fields, lambda x, y: 300 + 0.1 * (x - BOX.xmin),
                     house, trees)  # fmt: skip
    whole = image_of(tmp_path / "one", land)
    cut = image_of(tmp_path / "four", land, 50)
    np.testing.assert_array_equal(whole, cut)


def test_shadow_of_a_house_is_as_long_as_the_sun_makes_it(tmp_path):
    high = 12.0
    house = Box(BOX.xmin + 45, BOX.ymin + 45, BOX.xmin + 55, BOX.ymin + 55)
    nir = image_of(tmp_path, Patchwork(SITE, house=(house, high)))[3]
    dark = nir < 0.55 * np.median(nir)
    rows, cols = np.nonzero(dark)
    x, y = cols * 0.2 + 0.1 - 50, 50 - rows * 0.2 - 0.1
    sun = sun_at(EQUAL_CROPS, 9.7)
    assert 100 < sun.azimuth < 160
    away = -math.sin(math.radians(sun.azimuth)), -math.cos(math.radians(sun.azimuth))
    beyond = x * away[0] + y * away[1] - 5 * (abs(away[0]) + abs(away[1]))
    # The last corner of the roof; the image may be misplaced by a metre.
    assert beyond.max() == pytest.approx(high / math.tan(math.radians(sun.elevation)), abs=1.2)
    assert x.mean() < -3
    assert y.mean() > 2


def test_sunny_sides_of_crowns_are_brighter_than_their_backs(tmp_path):
    trees = stand(Box(BOX.xmin + 10, BOX.ymin + 10, BOX.xmax, BOX.ymax), 20.0, species=3, height=18.0, radius=5.0)
    nir = image_of(tmp_path, Patchwork(SITE, planted=trees))[3]
    east, north = (trees.x - BOX.xmin), (trees.y - BOX.ymin)
    at = [(round((100 - n) / 0.2), round(e / 0.2)) for e, n in zip(east, north)]
    # The sun stands in the south-east.
    front = np.mean([nir[row + 5 : row + 14, col + 5 : col + 14].mean() for row, col in at])
    back = np.mean([nir[row - 13 : row - 4, col - 13 : col - 4].mean() for row, col in at])
    assert front > 1.5 * back


@pytest.mark.parametrize("direction", [0.0, 30.0, 90.0, 120.0])
def test_rows_of_crops_run_in_their_direction_a_metre_apart(tmp_path, direction):
    land = Patchwork(SITE, Cover.SUMMER_CROP, {"row_direction": direction})
    red = image_of(tmp_path, land)[0][100:356, 100:356]
    power = np.abs(np.fft.fft2(red - red.mean())) ** 2
    frequency = np.fft.fftfreq(256, 0.2)
    north, east = np.meshgrid(-frequency, frequency, indexing="ij")
    radius = np.hypot(north, east)
    power[(radius < 0.5) | (east < -1e-9)] = 0
    peak = np.unravel_index(np.argmax(power), power.shape)
    assert radius[peak] == pytest.approx(1.0, abs=0.05)
    # The wave runs across the rows.
    across = math.degrees(math.atan2(east[peak], north[peak]))
    difference = (across - 90 - direction + 90) % 180 - 90
    assert abs(difference) < 3


def test_crops_cannot_be_told_apart(tmp_path):
    land = Patchwork(SITE, halves(SITE, Cover.WINTER_CROP, Cover.SUMMER_CROP), {"row_direction": 45.0})
    image = image_of(tmp_path, land)
    assert abs(image[:, :, :240].mean(axis=(1, 2)) - image[:, :, 260:].mean(axis=(1, 2))).max() < 2.5


def test_private_variables_of_other_sensors_change_nothing(tmp_path):
    trees = stand(Box(BOX.xmin, BOX.ymin, BOX.xmax, BOX.ymin + 40))
    others = {
        "lignin": 1.0,
        "mowing_day": 140.0,
        "soil_moisture": 0.4,
        "greenup_shift": 9.0,
        "understorey": 2.0,
        "litter_1064": 0.4,
    }
    plain = image_of(tmp_path / "a", Patchwork(SITE, planted=trees))
    changed = image_of(tmp_path / "b", Patchwork(SITE, fields=others, planted=trees))
    np.testing.assert_array_equal(plain, changed)


def test_house_cannot_be_missed_on_the_image_by_more_than_a_metre(tmp_path):
    house = Box(BOX.xmin + 30, BOX.ymin + 60, BOX.xmin + 50, BOX.ymin + 70)
    nir = image_of(tmp_path, Patchwork(SITE, Cover.WATER, house=(house, 3.0)))[3]
    rows, cols = np.nonzero(nir > 45)
    assert cols.mean() * 0.2 == pytest.approx(40, abs=1.3)
    assert 100 - rows.mean() * 0.2 == pytest.approx(65, abs=1.3)


def test_nothing_is_left_after_an_error(tmp_path):
    folder = tmp_path / "scene"

    def interrupted():
        with OrthoWriter(SITE, folder) as writer:
            writer.add(Tile(SITE, Patchwork(SITE), BOX, 60.0))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert not folder.exists()


def test_odd_pixels_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"0\.3 m"):
        OrthoWriter(SITE, tmp_path, pixel=0.3)
