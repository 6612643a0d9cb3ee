"""GEDI over scenes made by hand: what the files say against what was there, by the reader of the real files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import geopandas
import h5py
import numpy as np
import pytest
from pyproj import CRS

from fusion3d.errors import ConfigError
from fusion3d.io.description import describe
from fusion3d.io.gedi import FootprintTable, join_products, open_gedi, read_footprints
from fusion3d.simulate.gedi import GediWriter
from fusion3d.simulate.model import GEOID, TILE, Cover, Site, Tile
from fusion3d.simulate.waveform import FOOTPRINT_RADIUS
from tests.simulate.patchwork import Patchwork, halves, stand, trees_at

LAMBERT = CRS.from_epsg(2154)
SMALL = Site(300, seed=2)


def wood(site: Site, height: float = 24.0, slope: float = 0.0, **fields: float) -> Patchwork:
    """A closed stand of one height on a plane that rises to the east, with an understorey."""
    box = site.box.grow(60)
    trees = stand(box, 5.0, height=height, radius=4.0, species=1)
    ground = lambda x, y: 300.0 + slope * (x - site.box.xmin)  # noqa: E731
    trees = replace(trees, ground=ground(trees.x, trees.y), leaf_area=np.full(len(trees), 60.0))
    values = {"understorey": 0.3, "litter_1064": 0.4, "greenup_shift": 0.0, **fields}
    return Patchwork(site, Cover.FOREST, values, ground, planted=trees)


def write(folder: Path, land: Patchwork, passes: int = 4, side: int = TILE) -> Path:
    with GediWriter(land.site, folder, passes=passes) as product:
        for core in land.site.tiles(side):
            product.add(Tile(land.site, land, core, GediWriter.margin))
    return folder


def read(folder: Path, pattern: str = "*.h5") -> FootprintTable:
    return join_products([read_footprints(path, LAMBERT) for path in sorted((folder / "gedi").glob(pattern))])


def truth(folder: Path, table: FootprintTable | None = None) -> geopandas.GeoDataFrame:
    """True positions, in the order of the table's shots."""
    frame = geopandas.read_file(folder / "truth" / "gedi_positions.gpkg").set_index("shot_id", drop=False)
    return frame if table is None else frame.loc[table.shot_number.astype(np.int64)]


@pytest.fixture(scope="module")
def forest(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("forest"), wood(SMALL), passes=8)


def test_margin_holds_a_footprint_at_the_edge_of_the_core():
    assert GediWriter.margin >= FOOTPRINT_RADIUS + 1


def test_every_pass_has_three_files_with_the_names_of_the_product(forest):
    names = sorted(path.name for path in (forest / "gedi").iterdir())
    assert len(names) == 24
    with h5py.File(forest / "gedi" / names[0]) as file:
        assert file["METADATA/DatasetIdentification"].attrs["fileName"] == names[0]
    products = {name.split("_2023")[0] for name in names}
    assert products == {"GEDI01_B", "GEDI02_A", "GEDI04_A"}
    assert all(name.endswith("_01_V002.h5") for name in names)


def test_reader_of_the_real_files_finds_every_shot_in_all_three_products(forest):
    for path in (forest / "gedi").iterdir():
        file = open_gedi(path)
        assert file.product in ("L1B", "L2A", "L4A")
        assert file.release == 2
        assert file.unlocated == 0
        assert "GEDI" in describe(path)
    table = read(forest)
    assert table.product == "L1B+L2A+L4A"
    assert table.shot_number.tolist() == sorted(truth(forest).shot_id)
    assert truth(forest).shot_number.astype(np.int64).tolist() == truth(forest).shot_id.tolist()
    assert len(table) > 30


def test_files_state_the_erroneous_position_and_the_truth_keeps_the_true_one(forest):
    table = read(forest)
    frame = truth(forest, table)
    assert table.x == pytest.approx(frame.x_stated.to_numpy(), abs=1e-3)
    assert table.y == pytest.approx(frame.y_stated.to_numpy(), abs=1e-3)
    assert frame.geometry.x.to_numpy() == pytest.approx(frame.x.to_numpy())
    assert SMALL.box.contains(frame.x, frame.y).all()
    error = np.hypot(frame.x - frame.x_stated, frame.y - frame.y_stated)
    assert 5 < np.sqrt(np.mean(error**2)) < 20
    assert frame.crs.to_epsg() == 2154


def test_time_lies_in_the_year_and_the_sun_where_it_belongs(forest):
    table = read(forest)
    dates = table.time.astype("datetime64[D]")
    assert {str(day)[:4] for day in dates} == {"2023"}
    night = table.solar_elevation < 0
    hours = (table.time % 1) * 24
    assert 0 < night.mean() < 1
    assert (hours[night] < 4).all()
    assert ((hours[~night] > 7) & (hours[~night] < 16)).all()


def test_ground_is_ellipsoidal_and_heights_are_those_of_the_trees_on_flat_land(forest):
    table = read(forest)
    good = table.quality_flag == 1
    assert 0.5 < good.mean() < 1
    ground = table.ground_elevation[good] - GEOID
    assert np.median(ground) == pytest.approx(300.0, abs=0.15)
    assert np.percentile(np.abs(ground - 300), 90) < 0.6
    assert np.abs(np.median(table.attributes["rh98"][good]) - 24.0) < 2.0
    assert (np.abs(truth(forest, table).canopy_height - 24.0) < 1.0).all()


def test_steep_land_spreads_ground_and_canopy(tmp_path):
    slope = 0.6
    table = read(write(tmp_path, wood(SMALL, slope=slope), passes=6))
    frame = truth(tmp_path, table)
    good = (table.quality_flag == 1) & (frame.canopy_cover.to_numpy() > 0.9)
    assert frame.slope.to_numpy()[good] == pytest.approx(math.degrees(math.atan(slope)), abs=0.1)
    error = table.attributes["rh98"][good] - 24.0
    ground = table.ground_elevation[good] - GEOID - frame.ground.to_numpy()[good]
    # published: heights on slopes are wrong by up to the rise within the footprint, ground and top both blurred
    assert np.sqrt(np.mean(error**2)) > 2.0
    assert np.abs(error).max() < 2 * FOOTPRINT_RADIUS * slope
    assert np.std(ground) > 0.3


def test_cloudy_shots_have_noise_only_and_are_flagged(forest):
    table = read(forest)
    cloudy = truth(forest, table).cloudy.to_numpy(bool)
    assert cloudy.any()
    assert (table.quality_flag[cloudy] == 0).all()
    assert (table.attributes["l4_quality_flag"][cloudy] == 0).all()
    assert np.isnan(table.attributes["rh98"][cloudy]).all()
    assert np.isnan(table.attributes["agbd"][cloudy]).all()
    assert (truth(forest, table).quality.to_numpy() == table.quality_flag).all()


def test_waveforms_of_the_files_give_their_relative_heights(forest):
    path = next((forest / "gedi").glob("GEDI01_B*"))
    waves = read_footprints(path, LAMBERT)
    curves = read_footprints(next((forest / "gedi").glob(path.name.replace("01_B", "02_A").replace("005_01", "003_01"))), LAMBERT)
    joined = join_products([waves, curves])
    for shot in np.flatnonzero(joined.quality_flag == 1)[:5]:
        rows = slice(joined.row_splits[shot], joined.row_splits[shot + 1])
        heights, energy = joined.heights[rows], joined.energy[rows]
        inside = (heights > -5) & (heights < 40)
        share = np.cumsum(energy[inside][::-1]) / energy[inside].sum()
        median = np.interp(0.5, share, heights[inside][::-1])
        assert median == pytest.approx(joined.attributes["rh50"][shot], abs=1.0)


def test_beams_have_real_names_and_only_those_with_shots_have_a_group(forest):
    with h5py.File(next((forest / "gedi").glob("GEDI02_A*"))) as file:
        beams = [name for name in file if name.startswith("BEAM")]
        assert beams
        for beam in beams:
            assert len(file[beam]["shot_number"]) > 0
            assert file[beam]["rh"].shape == (len(file[beam]["shot_number"]), 101)
            assert file[beam]["rh"].attrs["units"] == "m"
            assert file[beam].attrs["description"] in ("Full power beam", "Coverage beam")


def test_data_sets_have_the_names_and_types_of_the_real_files(forest, data_dir):
    """Rows a shot alone: waveforms of other lengths and release 1's wider types are the only differences allowed."""
    for mine, real in (("GEDI01_B", "GEDI01_B"), ("GEDI02_A", "GEDI02_A"), ("GEDI04_A", "GEDI04_A")):
        path, peer = next((forest / "gedi").glob(f"{mine}*")), next((data_dir / "gedi").glob(f"{real}*"))
        release_2 = {
            "land_cover_data/landsat_water_persistence", "land_cover_data/urban_proportion", "land_cover_data/pft_class",
            "land_cover_data/leaf_off_flag", "ancillary/master_time_epoch",
        }  # fmt: skip
        with h5py.File(path) as file, h5py.File(peer) as other:
            group, twin = (next(item for name, item in each.items() if name.startswith("BEAM")) for each in (file, other))
            names: list[str] = []
            group.visititems(lambda name, item, names=names: names.append(name) if isinstance(item, h5py.Dataset) else None)
            for name in names:
                if (mine == "GEDI02_A" and name in release_2) or (mine == "GEDI04_A" and name == "ancillary/master_time_epoch"):
                    continue
                assert name in twin, f"{mine} {name}"
                kinds = group[name].dtype, twin[name].dtype
                assert kinds[0] == kinds[1] or name in ("rh", "predict_stratum"), (name, kinds)


def test_biomass_is_calibrated_on_the_scene(tmp_path):
    """Stands of five heights whose biomass grows with the square of the height."""
    site = Site(500, seed=4)
    heights = np.array([8.0, 14.0, 20.0, 26.0, 32.0])
    box = site.box.grow(60)
    trees = stand(box, 5.0, radius=4.0, species=0)
    stripe = np.clip(((trees.y - site.box.ymin) // 100).astype(int), 0, 4)
    trees = replace(
        trees, height=heights[stripe], crown_base=0.3 * heights[stripe], agb=heights[stripe] ** 2,
        leaf_area=np.full(len(trees), 60.0),
    )  # fmt: skip
    land = Patchwork(site, Cover.FOREST, {"understorey": 0.1, "litter_1064": 0.4, "greenup_shift": 0.0}, 300.0, planted=trees)
    table = read(write(tmp_path, land, passes=12))
    frame = truth(tmp_path, table)
    good = (table.attributes["l4_quality_flag"] == 1) & (table.degrade_flag == 0)
    assert good.sum() > 30
    agb, said = frame.agb.to_numpy()[good], table.attributes["agbd"][good]
    # one tree of h^2 kg a 25 m2: h^2 * 0.4 Mg/ha
    assert agb.max() == pytest.approx(32**2 * 0.4, rel=0.05)
    assert 1 - ((said - agb) ** 2).sum() / ((agb - agb.mean()) ** 2).sum() > 0.75
    assert np.mean(said) == pytest.approx(agb.mean(), rel=0.15)
    lower, upper = table.attributes["agbd_pi_lower"][good], table.attributes["agbd_pi_upper"][good]
    assert ((lower <= agb) & (agb <= upper)).mean() > 0.75
    assert (table.attributes["agbd_se"][good] > 0).all()


def test_too_few_good_footprints_leave_biomass_out(tmp_path):
    table = read(write(tmp_path, wood(Site(100, seed=1)), passes=1))
    assert len(table) >= 1
    assert (table.attributes["l4_quality_flag"] == 0).all()
    assert np.isnan(table.attributes["agbd"]).all()
    with h5py.File(next((tmp_path / "gedi").glob("GEDI04_A*"))) as file:
        values = np.concatenate([file[name]["agbd"][:] for name in file if name.startswith("BEAM")])
        assert (values == -9999).all()


def test_litter_shows_in_the_ground_return_only(tmp_path):
    amplitude = {}
    for value in (0.25, 0.5):
        folder = write(tmp_path / str(value), wood(SMALL, litter_1064=value, understorey=0.0), passes=4)
        table = read(folder)
        shot = int(np.flatnonzero(table.quality_flag == 1)[0])
        rows = slice(table.row_splits[shot], table.row_splits[shot + 1])
        ground = np.abs(table.heights[rows]) < 4
        amplitude[value] = table.energy[rows][ground].sum() / table.energy[rows][table.heights[rows] > 4].sum()
        assert truth(folder, table).litter_1064.to_numpy() == pytest.approx(value)
    assert amplitude[0.5] / amplitude[0.25] == pytest.approx(2.0, rel=0.2)


def test_bare_broadleaves_let_more_light_to_the_ground_in_winter(tmp_path):
    land = wood(SMALL)
    land = replace(land, planted=replace(land.planted, species=np.full(len(land.planted), 2, np.uint8)))
    table = read(write(tmp_path, land, passes=8))
    day = (table.time.astype("datetime64[D]") - np.datetime64("2023-01-01")).astype(int)
    good = table.quality_flag == 1
    summer, winter = good & (day < 280), good & (day > 310)
    assert winter.any()
    rh50 = table.attributes["rh50"]
    assert np.median(rh50[winter]) < np.median(rh50[summer]) - 2
    assert (table.attributes["l4_quality_flag"][winter] == 0).all()


def test_open_land_water_and_houses(tmp_path):
    site = Site(500, seed=6)
    land = Patchwork(site, halves(site, Cover.GRASS, Cover.WATER), {"greenup_shift": 0.0}, 300.0, planted=trees_at([], []))
    table = read(write(tmp_path, land, passes=8))
    frame = truth(tmp_path, table)
    clear = ~frame.cloudy.to_numpy(bool)
    grass, water = clear & (frame.water.to_numpy() == 0), clear & (frame.water.to_numpy() == 1)
    assert (table.quality_flag[grass] == 1).all()
    assert np.median(table.attributes["rh98"][grass]) == pytest.approx(2.8, abs=0.4)
    assert (table.quality_flag[water] == 0).all()
    assert (frame.agb == 0).all()
    assert (frame.canopy_height == 0).all()


def test_roof_is_taken_for_the_ground(tmp_path):
    site = Site(300, seed=6)
    land = Patchwork(site, Cover.GRASS, {"greenup_shift": 0.0}, 300.0, house=(site.box.grow(60), 9.0), planted=trees_at([], []))
    table = read(write(tmp_path, land, passes=4))
    good = table.quality_flag == 1
    assert table.ground_elevation[good] - GEOID == pytest.approx(309.0, abs=0.3)


def test_tiling_changes_nothing(tmp_path, forest):
    write(tmp_path, wood(SMALL), passes=8, side=150)
    one, many = read(forest), read(tmp_path)
    assert one.shot_number.tolist() == many.shot_number.tolist()
    np.testing.assert_allclose(one.attributes["rh98"], many.attributes["rh98"], atol=0.05)
    np.testing.assert_allclose(one.ground_elevation, many.ground_elevation, atol=0.05)
    np.testing.assert_allclose(truth(forest).agb, truth(tmp_path).agb)


def test_same_scene_gives_the_same_bytes(tmp_path, forest):
    write(tmp_path, wood(SMALL), passes=8)
    ours = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(ours) == 25
    for path in ours:
        assert path.read_bytes() == (forest / path.relative_to(tmp_path)).read_bytes(), path.name


def test_nothing_is_left_after_an_exception(tmp_path):
    land = wood(SMALL)

    def interrupted() -> None:
        with GediWriter(SMALL, tmp_path, passes=4) as product:
            product.add(Tile(SMALL, land, SMALL.box, GediWriter.margin))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nothing_is_left_when_a_file_cannot_be_written(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fusion3d.simulate.gedi.write_truth", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, wood(Site(100, seed=1)), passes=1)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_number_of_passes_must_be_positive(tmp_path):
    with pytest.raises(ConfigError, match="--passes"):
        GediWriter(SMALL, tmp_path, passes=0)
