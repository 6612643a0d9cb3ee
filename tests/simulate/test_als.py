"""Tiles of simulated aerial LiDAR: density, heights, classes, tiling, files."""

from __future__ import annotations

from dataclasses import dataclass

import laspy
import numpy as np
import pytest

from fusion3d.errors import ConfigError, InputError
from fusion3d.grid import same_map_crs
from fusion3d.io.las import open_points, read_chunks
from fusion3d.simulate.als import AlsPoints, AlsWriter, simulate_points
from fusion3d.simulate.flight import plan_flight
from fusion3d.simulate.landscape import Landscape
from fusion3d.simulate.model import Box, Cover, Site, Tile
from tests.simulate.lands import HandmadeTile, PlaneLand, Slab

GROUND, LOW, MEDIUM, HIGH, BUILDING, LOW_NOISE, WATER, HIGH_NOISE = 2, 3, 4, 5, 6, 7, 9, 18
SITE = Site(500)


def tile_of(core=SITE.box, site=SITE, slab=None, species=255, **land):
    return HandmadeTile(site, PlaneLand(site, **land), core, slab=slab, species=species)


def corner_box(left, top, width, height):
    """A box by metres from the scene's north-western corner."""
    return Box(SITE.box.xmin + left, SITE.box.ymax - top - height, SITE.box.xmin + left + width, SITE.box.ymax - top)


def rows(points):
    """Every attribute of the points as sorted rows."""
    table = np.stack([np.asarray(getattr(points, name), np.float64) for name in AlsPoints.__dataclass_fields__], axis=1)
    return table[np.lexsort(table.T)]


def is_share(mask, expected):
    """Whether the share of true values is that of a coin, within 4 standard errors."""
    return abs(np.mean(mask) - expected) < 4 * np.sqrt(expected * (1 - expected) / np.size(mask))


@pytest.fixture(scope="module")
def flat():
    """A flat meadow at 300 m, 500 x 500 m, 8 pulses per m2."""
    return simulate_points(tile_of())


def test_flat_ground_has_the_density_asked_for_and_one_return_a_pulse(flat):
    assert len(flat) / 500**2 == pytest.approx(8, rel=2e-3)
    assert set(flat.number_of_returns) == {1}
    assert len(np.unique(flat.gps_time)) == len(flat)
    counts = np.histogram2d(flat.x, flat.y, bins=10)[0] / 50**2
    assert counts.min() > 7.8
    assert counts.max() < 8.2


def test_flat_ground_is_at_its_height_within_the_range_noise(flat):
    z = flat.z[~np.isin(flat.classification, (LOW_NOISE, HIGH_NOISE))]
    assert z.mean() == pytest.approx(300.0, abs=0.0005)
    # 2 cm along a ray; the mean square of the cosine over 20 degrees is 0.96
    assert z.std() == pytest.approx(0.02 * np.sqrt(0.96), rel=0.01)


def test_every_place_is_seen_from_two_lines_on_opposite_sides(flat):
    lines = {line.number: line for line in plan_flight(SITE, PlaneLand(SITE), 8.0).lines}
    in_place = (np.abs(flat.x - SITE.box.xmin - 250) < 5) & (np.abs(flat.y - SITE.box.ymin - 250) < 5)
    sides = set()
    for number in np.unique(flat.point_source_id[in_place]):
        of_line = flat.point_source_id == number
        eastward = np.corrcoef(flat.x[of_line], flat.gps_time[of_line])[0, 1] > 0
        assert eastward == lines[number].eastward
        angle = flat.scan_angle[in_place & of_line].mean() * (-1 if eastward else 1)
        # what is seen at 1,000 m below
        assert np.tan(np.radians(angle)) * 1000 == pytest.approx(250 - lines[number].y, abs=2)
        sides.add(np.sign(angle))
    assert sides == {-1.0, 1.0}
    assert np.abs(flat.scan_angle).max() <= 20.0
    assert (np.diff(flat.gps_time) >= 0).all()


def test_noise_points_float_above_and_lie_below_the_ground(flat):
    above, below = flat.z[flat.classification == HIGH_NOISE] - 300, flat.z[flat.classification == LOW_NOISE] - 300
    # 2e-5 of 2 million pulses are 40 each; 4 standard deviations of a Poisson number
    assert 15 <= len(above) <= 65
    assert 15 <= len(below) <= 65
    assert above.min() > 9.9
    assert above.max() < 200.1
    assert below.min() > -15.1
    assert below.max() < -0.9


def test_sloped_ground_is_met_on_the_plane():
    tile = tile_of(corner_box(200, 200, 60, 60), slope=(0.3, -0.4))
    points = simulate_points(tile, 20.0)
    off = points.z - tile.land.ground(points.x, points.y)
    off = off[np.abs(off) < 0.5]
    assert len(off) > 0.999 * len(points)
    assert off.mean() == pytest.approx(0, abs=0.002)
    # 2 cm of range, and 5 cm east and north times the slope
    assert off.std() == pytest.approx(np.hypot(0.02, 0.05 * 0.5), rel=0.1)


def test_roof_is_met_at_its_height_and_hides_the_ground():
    house = corner_box(210, 210, 20, 10)
    points = simulate_points(tile_of(corner_box(200, 200, 40, 30), house=(house, 6.0)))
    inside = house.grow(-0.5).contains(points.x, points.y)
    assert inside.sum() > 8 * 19 * 9 * 0.9
    assert points.z[inside].mean() == pytest.approx(306.0, abs=0.01)
    outside = ~house.grow(0.5).contains(points.x, points.y) & ~np.isin(points.classification, (LOW_NOISE, HIGH_NOISE))
    assert points.z[outside].max() < 300.2


def test_most_pulses_on_water_are_lost_and_the_rest_is_water():
    tile = tile_of(cover_code=Cover.WATER)
    points = simulate_points(tile, 4.0)
    # nadir strips come back more often than the rest, and how much of the scene they take depends on where it lies
    assert len(points) / 500**2 / 4.0 == pytest.approx(0.15, abs=0.02)
    near_nadir = np.abs(points.scan_angle) < 3
    assert near_nadir.mean() > 2 * 0.144
    assert set(points.classification) <= {WATER, LOW_NOISE, HIGH_NOISE}


def test_ground_is_sometimes_taken_for_low_vegetation(flat):
    ground = np.abs(flat.z - 300) < 0.5
    assert set(flat.classification[ground]) == {GROUND, LOW}
    assert is_share(flat.classification[ground] == LOW, 0.015)


def test_low_vegetation_is_sometimes_taken_for_ground():
    points = simulate_points(tile_of(corner_box(0, 0, 150, 150), slab=Slab(0, 2, 4.0), cover_code=Cover.FOREST))
    height = points.z - 300
    # leaves beyond doubt, and on one side of a limit beyond doubt
    low, medium, high = (height > 0.15) & (height < 0.4), (height > 0.6) & (height < 1.4), (height > 1.6) & (height < 2.1)
    assert set(points.classification[low]) == {GROUND, LOW}
    assert is_share(points.classification[low] == GROUND, 0.015)
    assert set(points.classification[medium]) == {MEDIUM}
    assert set(points.classification[high]) == {HIGH}


def test_roofs_and_trees_beside_them_are_sometimes_confused():
    house = corner_box(100, 100, 60, 60)
    roofs = simulate_points(tile_of(house.grow(-5), house=(house, 8.0)), 20.0)
    assert is_share(roofs.classification == HIGH, 0.03)
    assert set(roofs.classification) <= {BUILDING, HIGH, LOW_NOISE, HIGH_NOISE}
    trees = simulate_points(tile_of(house.grow(10), house=(house, 8.0), slab=Slab(9, 20, 0.2), cover_code=Cover.FOREST), 20.0)
    crown = trees.z > 309
    beside = crown & house.grow(1.5).contains(trees.x, trees.y)
    away = crown & ~house.grow(3.5).contains(trees.x, trees.y)
    assert is_share(trees.classification[beside] == BUILDING, 0.03)
    assert (trees.classification[away] != BUILDING).all()


def test_some_road_stays_unclassified():
    points = simulate_points(tile_of(corner_box(0, 0, 120, 120), cover_code=Cover.ROAD))
    assert is_share(points.classification == 1, 0.02)
    assert not (simulate_points(tile_of(corner_box(0, 0, 120, 120))).classification == 1).any()


def test_species_differ_in_intensity_and_colour_and_crops_do_not():
    box = corner_box(0, 0, 50, 50)
    spruce, beech = (simulate_points(tile_of(box, slab=Slab(8, 30, 2.0), species=kind)) for kind in (0, 2))
    assert beech.intensity.mean() / spruce.intensity.mean() == pytest.approx(0.30 / 0.17, rel=0.01)
    assert beech.nir.mean() > 1.3 * spruce.nir.mean()
    winter, summer = (simulate_points(tile_of(box, cover_code=kind)) for kind in (Cover.WINTER_CROP, Cover.SUMMER_CROP))
    np.testing.assert_array_equal(rows(winter), rows(summer))


def test_lidar_asks_the_land_for_none_of_the_variables_of_other_sensors():
    @dataclass(frozen=True)
    class Secretive(PlaneLand):
        def field(self, name, x, y):
            raise AssertionError(name)

    assert len(simulate_points(HandmadeTile(SITE, Secretive(SITE), corner_box(0, 0, 20, 20)))) > 3000


def test_four_tiles_and_one_give_the_same_points():
    house = corner_box(235, 240, 30, 20)
    land = {"slope": (0.1, 0.35), "house": (house, 7.0), "slab": Slab(3, 28, 0.1), "species": 1, "cover_code": Cover.FOREST}
    whole = simulate_points(tile_of(**land), 1.0)
    parts = [simulate_points(tile_of(core, **land), 1.0) for core in SITE.tiles(250)]
    for core, part in zip(SITE.tiles(250), parts, strict=True):
        assert core.contains(part.x, part.y).all()
    together = AlsPoints(*(np.concatenate([getattr(part, name) for part in parts]) for name in AlsPoints.__dataclass_fields__))
    assert len(np.unique(whole.return_number)) == 6
    np.testing.assert_array_equal(rows(together), rows(whole))


def test_seed_and_year_decide_and_nothing_else():
    def points(**site):
        site = Site(500, **site)
        return rows(simulate_points(tile_of(Box(*vars(corner_box(0, 0, 30, 30)).values()), site=site, slab=Slab(2, 9, 0.3))))

    first = points()
    np.testing.assert_array_equal(points(), first)
    for other in (points(seed=1), points(year=2)):
        assert len(other) != len(first) or (other != first).any(axis=1).mean() > 0.99


@pytest.mark.parametrize("shift", [0.3, 0.0004])
def test_tile_off_the_cells_of_the_scene_is_refused(shift):
    box = SITE.box
    core = Box(box.xmin + shift, box.ymin, box.xmin + shift + 100, box.ymin + 100)
    with pytest.raises(ConfigError, match="whole number"):
        simulate_points(tile_of(core))


def test_tile_without_the_margin_is_refused():
    with pytest.raises(ConfigError, match="margin"):
        simulate_points(Tile(SITE, Landscape(SITE), SITE.box, 10.0))


@pytest.fixture(scope="module")
def forest():
    """The points of a landscape of 250 m, and its tile."""
    site = Site(250)
    tile = Tile(site, Landscape(site), site.box, 40.0)
    return tile, simulate_points(tile)


def test_canopy_height_from_the_points_is_that_of_the_crowns(forest):
    tile, points = forest
    useful = ~np.isin(points.classification, (LOW_NOISE, HIGH_NOISE, BUILDING))
    box, surface = tile.core, tile.surface(0.5, 40.0)
    row = np.floor(box.ymax - points.y[useful]).astype(int)
    col = np.floor(points.x[useful] - box.xmin).astype(int)
    highest = np.full((250, 250), -np.inf)
    np.maximum.at(highest, (row, col), points.z[useful])

    def cells(raster):
        return raster[80:-80, 80:-80].reshape(250, 2, 250, 2).swapaxes(1, 2).reshape(250, 250, 4)

    ground, crowns = cells(surface.ground).mean(axis=2), cells(surface.canopy).max(axis=2)
    seen = np.isfinite(highest) & (cells(surface.building).max(axis=2) == 0)
    height = highest[seen] - ground[seen]
    assert (crowns[seen] > 10).mean() > 0.1
    assert np.corrcoef(height, crowns[seen])[0, 1] > 0.95
    # pulses go into crowns before they are reflected
    tall = crowns[seen] > 10
    assert -3 < (height - crowns[seen])[tall].mean() < 0


def test_landscape_has_the_same_points_in_tiles_of_another_size(forest):
    tile, points = forest
    parts = [simulate_points(Tile(tile.site, tile.land, core, 40.0)) for core in tile.site.tiles(150)]
    together = AlsPoints(*(np.concatenate([getattr(part, name) for part in parts]) for name in AlsPoints.__dataclass_fields__))
    np.testing.assert_array_equal(rows(together), rows(points))


def test_ground_points_of_a_landscape_lie_on_its_terrain(forest):
    tile, points = forest
    ground = points.classification == GROUND
    off = points.z[ground] - tile.land.ground(points.x[ground], points.y[ground])
    assert abs(np.median(off)) < 0.01
    # low vegetation that was taken for ground is the rest
    assert np.mean(np.abs(off) < 0.1) > 0.98


def test_file_is_what_laspy_and_the_reader_read(tmp_path):
    site = Site(100)
    tile = HandmadeTile(site, PlaneLand(site), site.box, slab=Slab(4, 18, 0.2))
    with AlsWriter(site, tmp_path, density=5.0) as writer:
        writer.add(tile)
        assert not (tmp_path / "als").exists()
    (path,) = (tmp_path / "als").iterdir()
    assert path.name == "als_0900000_6570100.laz"
    assert [entry.name for entry in tmp_path.iterdir()] == ["als"]
    points = simulate_points(tile, 5.0)
    las = laspy.read(path)
    assert (str(las.header.version), las.point_format.id, las.header.are_points_compressed) == ("1.4", 8, True)
    np.testing.assert_allclose(las.x, points.x, atol=1e-6)
    np.testing.assert_allclose(las.z, points.z, atol=1e-6)
    for name in (
        "intensity",
        "return_number",
        "number_of_returns",
        "classification",
        "point_source_id",
        "gps_time",
        "nir",
        "red",
    ):
        np.testing.assert_array_equal(np.asarray(las[name]), getattr(points, name), name)
    file = open_points(path)
    assert (file.point_format, file.count) == (8, len(points))
    assert same_map_crs(file.crs, site.crs)
    assert [part.to_epsg() for part in file.crs.sub_crs_list] == [2154, 5720]
    assert file.scales == (0.001, 0.001, 0.001)
    (chunk,) = read_chunks(file)
    np.testing.assert_allclose(chunk.attributes["scan_angle"], points.scan_angle, atol=0.004)
    assert site.box.contains(chunk.x, chunk.y).all()


def test_tile_without_returns_is_a_file_without_points(tmp_path):
    site = Site(100)
    core = Box(site.box.xmin, site.box.ymin, site.box.xmin + 1, site.box.ymin + 1)
    tile = HandmadeTile(site, PlaneLand(site, cover_code=Cover.WATER), core)
    with AlsWriter(site, tmp_path, density=0.01) as writer:
        writer.add(tile)
    (path,) = (tmp_path / "als").iterdir()
    assert open_points(path).count == 0
    assert same_map_crs(open_points(path).crs, site.crs)
    assert len(laspy.read(path)) == 0


def test_nothing_is_left_after_an_exception(tmp_path):
    site = Site(100)
    with pytest.raises(RuntimeError, match="power cut"), AlsWriter(site, tmp_path) as writer:  # noqa: PT012
        writer.add(HandmadeTile(site, PlaneLand(site), site.box))
        raise RuntimeError("power cut")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_exists_is_not_touched(tmp_path):
    (tmp_path / "als").mkdir()
    (tmp_path / "als" / "mine.laz").write_text("mine")
    with pytest.raises(InputError, match="exists already"), AlsWriter(Site(100), tmp_path):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["als", "mine.laz"]


def test_missing_folder_is_told_in_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot be made") as caught, AlsWriter(Site(100), tmp_path / "nowhere"):
        pass
    assert "\n" not in str(caught.value)
