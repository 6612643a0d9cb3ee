"""Footprints over a user's LiDAR: hand-made clouds with known waveforms, and real files."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import geopandas
import numpy as np
import pytest
from pyproj import CRS

from fusion3d.errors import ConfigError, CRSError, InputError
from fusion3d.io.gedi import FootprintTable, join_products, open_gedi, read_footprints
from fusion3d.io.las import open_points, read_chunks, write_points
from fusion3d.simulate import gedi_from_als
from fusion3d.simulate.als_footprints import NOMINAL_REFLECTANCE, PointCollector
from fusion3d.simulate.footprint_positions import grid_positions, read_positions
from fusion3d.simulate.gedi_from_als import AlsSimulation, simulate_over_als

LAMBERT = CRS.from_epsg(2154)
X0, Y0 = 900_000.0, 6_570_000.0


def cloud(
    width: float = 60.0, height: float = 60.0, density: float = 6.0, canopy: float | None = 20.0, share: float = 0.5,
    seed: int = 0, left: float = X0, bottom: float = Y0, ground: float = 300.0,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Single returns, evenly spread: `share` of them on a canopy, the others on flat ground."""
    random = np.random.default_rng(seed)
    count = int(width * height * density)
    high = np.zeros(count, bool) if canopy is None else random.random(count) < share
    return {
        "x": left + random.uniform(0, width, count),
        "y": bottom + random.uniform(0, height, count),
        "z": ground + np.where(high, canopy or 0.0, 0.0),
        "classification": np.where(high, 5, 2).astype(np.uint8),
        "intensity": np.full(count, 1000, np.uint16),
        "return_number": np.ones(count, np.uint8),
        "number_of_returns": np.ones(count, np.uint8),
    }


def save(path: Path, points: dict[str, np.ndarray], crs: CRS | str | None = LAMBERT) -> Path:
    about = {name: values for name, values in points.items() if name not in "xyz"}
    return write_points(path, points["x"], points["y"], points["z"], about, crs=crs)


def joined(*clouds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([each[name] for each in clouds]) for name in clouds[0]}


def at(path: Path, *places: tuple[float, float], names: str = "x,y") -> Path:
    path.write_text("\n".join([names, *(f"{x!r},{y!r}" for x, y in places)]))
    return path


def read(result: AlsSimulation, crs: CRS = LAMBERT) -> FootprintTable:
    return join_products([read_footprints(path, crs) for path in result.files if path.suffix == ".h5"])


def layer(result: AlsSimulation) -> geopandas.GeoDataFrame:
    return geopandas.read_file(result.files[-1])


@pytest.fixture
def middle(tmp_path) -> Path:
    return at(tmp_path / "middle.csv", (X0 + 30, Y0 + 30))


def test_two_layers_have_ground_and_canopy_where_they_are(tmp_path, middle):
    result = simulate_over_als([save(tmp_path / "a.laz", cloud())], tmp_path / "out", positions=middle)
    table = read(result)
    assert len(table) == result.footprints == result.good == 1
    assert table.quality_flag.tolist() == [1]
    assert table.ground_elevation[0] == pytest.approx(300.0, abs=0.1)
    assert table.attributes["rh75"][0] == pytest.approx(20.0, abs=0.4)
    assert table.attributes["rh98"][0] == pytest.approx(22.3, abs=0.7)
    assert (table.x[0], table.y[0]) == pytest.approx((X0 + 30, Y0 + 30), abs=0.01)
    frame = layer(result)
    assert frame.als_ground[0] == pytest.approx(300.0)
    assert frame.als_rh98[0] == pytest.approx(20.0)
    assert frame.pulses_per_m2[0] == pytest.approx(6.0, rel=0.05)
    assert frame.shot_number[0] == str(table.shot_number[0])
    assert {open_gedi(path).product for path in result.files[:2]} == {"L1B", "L2A"}
    assert "4A is not written" in str(result)


def test_light_is_weighted_by_the_footprint(tmp_path, middle):
    """Canopy beyond 11 m, two sigma, is seen by exp(-2) of the light."""
    points = cloud(canopy=None, density=20)
    far = np.hypot(points["x"] - X0 - 30, points["y"] - Y0 - 30) > 11
    points["z"][far] += 20
    result = simulate_over_als([save(tmp_path / "a.laz", points)], tmp_path / "out", positions=middle)
    table = read(result)
    rows = table.heights > 10
    share = (np.exp(-2) - np.exp(-4.5)) / (1 - np.exp(-4.5))
    energy = table.energy
    strong = energy > 0.002
    assert energy[rows & strong].sum() / energy[strong].sum() == pytest.approx(share, abs=0.02)


def test_overlapping_flight_lines_do_not_count_twice(tmp_path, middle):
    """Canopy in the west, ground in the east; a second line flown over the west alone changes nothing."""
    west = cloud(width=30, share=1.0)
    east = cloud(width=30, left=X0 + 30, canopy=None, seed=1)
    again = cloud(width=30, share=1.0, seed=2, density=18)
    heights = []
    for name, points in (("once", joined(west, east)), ("twice", joined(west, east, again))):
        result = simulate_over_als([save(tmp_path / f"{name}.laz", points)], tmp_path / name, positions=middle)
        heights.append([read(result).attributes[key][0] for key in ("rh25", "rh75")])
    assert heights[0] == pytest.approx(heights[1], abs=0.3)


def test_pulse_with_several_returns_shares_its_energy(tmp_path, middle):
    """As many pulses with returns on canopy and ground as on the ground alone: a quarter of the energy comes from above."""
    low = cloud(canopy=None)
    double_low, double_high = cloud(canopy=None, seed=5), cloud(canopy=20.0, share=1.1, seed=5)
    for each, number in ((double_low, 2), (double_high, 1)):
        each["number_of_returns"][:] = 2
        each["return_number"][:] = number
    path = save(tmp_path / "a.laz", joined(low, double_low, double_high))
    by = {
        weighting: read(simulate_over_als([path], tmp_path / weighting, positions=middle, weighting=weighting))
        for weighting in ("fraction", "count", "intensity")
    }
    above = {}
    for weighting, table in by.items():
        strong = table.energy > 0.002
        above[weighting] = table.energy[strong & (table.heights > 10)].sum() / table.energy[strong].sum()
    assert above["fraction"] == pytest.approx(1 / 4, abs=0.03)
    assert above["count"] == pytest.approx(1 / 3, abs=0.03)
    assert above["intensity"] == pytest.approx(1 / 3, abs=0.03)


def test_noise_and_withheld_points_are_not_seen(tmp_path, middle):
    noise = cloud(density=1, canopy=80.0, share=1.1, seed=8)
    noise["classification"][::2], noise["classification"][1::2] = 7, 18
    path = save(tmp_path / "a.laz", joined(cloud(), noise))
    assert read(simulate_over_als([path], tmp_path / "out", positions=middle)).attributes["rh100"][0] < 25


def test_footprint_across_tiles_is_the_same_as_in_one_file_whatever_their_order(tmp_path, middle):
    points = cloud()
    parts = []
    for row in range(2):
        for col in range(2):
            inside = (points["x"] // 30 % 2 == (X0 // 30 + col) % 2) & (points["y"] // 30 % 2 == (Y0 // 30 + row) % 2)
            path = tmp_path / f"{row}{col}.laz"
            parts.append(save(path, {name: values[inside] for name, values in points.items()}))
    whole = read(simulate_over_als([save(tmp_path / "all.laz", points)], tmp_path / "whole", positions=middle))
    for name, order in (("split", parts), ("reversed", parts[::-1])):
        split = read(simulate_over_als(order, tmp_path / name, positions=middle))
        np.testing.assert_allclose(split.attributes["rh50"], whole.attributes["rh50"], atol=0.02)
        np.testing.assert_allclose(split.energy, whole.energy, atol=1e-5)


def test_footprints_beyond_the_data_are_left_out_with_a_note(tmp_path):
    places = at(tmp_path / "p.csv", (X0 + 30, Y0 + 30), (X0 + 2, Y0 + 30), (X0 + 500, Y0))
    result = simulate_over_als([save(tmp_path / "a.laz", cloud())], tmp_path / "out", positions=places)
    assert (result.footprints, result.left_out) == (1, 2)
    notes = layer(result).note.tolist()
    assert not notes[0]
    assert "% of it only" in notes[1]
    assert notes[2] == "no points"
    assert layer(result).shot_id.tolist()[1:] == [0, 0]


def test_sparse_points_give_quality_0(tmp_path, middle):
    result = simulate_over_als([save(tmp_path / "a.laz", cloud(density=0.7))], tmp_path / "out", positions=middle)
    assert result.footprints == 1
    assert result.good == 0
    assert read(result).quality_flag.tolist() == [0]
    assert "too sparse" in layer(result).note[0]


def test_feet_become_metres(tmp_path):
    feet = CRS.from_epsg(2992)  # Oregon, international feet
    points = cloud()
    for axis, start in (("x", X0), ("y", Y0)):
        points[axis] = 1_000_000 + (points[axis] - start) / 0.3048
    points["z"] /= 0.3048
    place = at(tmp_path / "p.csv", (1_000_000 + 30 / 0.3048, 1_000_000 + 30 / 0.3048))
    table = read(simulate_over_als([save(tmp_path / "a.laz", points, feet)], tmp_path / "out", positions=place), feet)
    assert table.ground_elevation[0] == pytest.approx(300.0, abs=0.1)
    assert table.attributes["rh75"][0] == pytest.approx(20.0, abs=0.4)
    assert (table.x[0], table.y[0]) == pytest.approx((1_000_000 + 30 / 0.3048, 1_000_000 + 30 / 0.3048), abs=0.1)


def test_degrees_no_crs_and_mixed_crs_are_refused(tmp_path, middle):
    points = cloud(density=1)
    lonlat = points | {"x": 5.0 + (points["x"] - X0) * 1e-5, "y": 46.0 + (points["y"] - Y0) * 1e-5}
    write_points(tmp_path / "deg.laz", lonlat["x"], lonlat["y"], lonlat["z"], crs="EPSG:4326", scale=1e-7)
    with pytest.raises(CRSError, match=r"deg\.laz.*degrees"):
        simulate_over_als([tmp_path / "deg.laz"], tmp_path / "out")
    bare = save(tmp_path / "none.laz", points, None)
    with pytest.raises(CRSError, match=r"none\.laz.*no CRS"):
        simulate_over_als([bare], tmp_path / "out", positions=middle)
    assert simulate_over_als([bare], tmp_path / "out", positions=middle, crs="EPSG:2154").footprints == 1
    with pytest.raises(CRSError, match=r"b\.laz.*UTM"):
        simulate_over_als([save(tmp_path / "a.laz", points), save(tmp_path / "b.laz", points, "EPSG:32631")], tmp_path / "out")


def test_impossible_options_are_refused(tmp_path, middle):
    path = save(tmp_path / "a.laz", cloud(density=1))
    with pytest.raises(ConfigError, match="no LAS"):
        simulate_over_als([], tmp_path / "out")
    with pytest.raises(ConfigError, match="--weighting"):
        simulate_over_als([path], tmp_path / "out", weighting="height")
    with pytest.raises(ConfigError, match="BEAM9"):
        simulate_over_als([path], tmp_path / "out", beam="BEAM9")
    for spacing in (0.0, -5.0, float("nan"), 1e-4):
        with pytest.raises(ConfigError, match="--spacing"):
            simulate_over_als([path], tmp_path / "out", spacing=spacing)
    with pytest.raises(InputError, match="no footprint could be simulated"):
        simulate_over_als([path], tmp_path / "out", positions=at(tmp_path / "far.csv", (X0 + 9000, Y0)))
    empty = save(tmp_path / "empty.laz", {name: values[:0] for name, values in cloud().items()})
    with pytest.raises(InputError, match="has no points"):
        simulate_over_als([empty], tmp_path / "out", positions=middle)
    assert not (tmp_path / "out").exists()


def test_points_without_intensity_cannot_be_weighted_by_it(tmp_path, middle):
    points = cloud()
    points["intensity"][:] = 0
    with pytest.raises(InputError, match="weights asked for"):
        simulate_over_als([save(tmp_path / "a.laz", points)], tmp_path / "out", positions=middle, weighting="intensity")


def test_same_seed_gives_the_same_files_and_another_one_other_noise(tmp_path, middle):
    path = save(tmp_path / "a.laz", cloud())
    kept = {}
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        result = simulate_over_als([path], tmp_path / name, positions=middle, seed=seed, day=date(2021, 7, 1))
        kept[name] = [file.read_bytes() for file in result.files]
    assert kept["one"] == kept["again"]
    assert kept["one"][0] != kept["other"][0]


def test_geoid_lifts_elevations_and_day_and_beam_are_stated(tmp_path, middle):
    path = save(tmp_path / "a.laz", cloud())
    result = simulate_over_als(
        [path], tmp_path / "out", positions=middle, geoid=48.5, day=date(2021, 7, 1), beam="BEAM0000", night=False
    )
    table = read(result)
    assert table.ground_elevation[0] == pytest.approx(348.5, abs=0.15)
    assert str(table.time[:1].astype("datetime64[D]")[0]) == "2021-07-01"
    assert not table.power_beam[0]
    assert table.solar_elevation[0] > 0
    assert "_2021182000000_" in result.files[0].name


def test_nothing_is_left_when_a_file_cannot_be_written(tmp_path, middle, monkeypatch):
    def full(*_: object) -> None:
        raise InputError("x", "cannot be written", "free space")

    monkeypatch.setattr("fusion3d.simulate.gedi_from_als.write_points", full)
    with pytest.raises(InputError):
        simulate_over_als([save(tmp_path / "a.laz", cloud())], tmp_path / "out", positions=middle)
    assert not list((tmp_path / "out").iterdir())


def test_grid_of_neighbouring_tiles_is_that_of_both():
    west, east = (0.0, 0.0, 100.0, 100.0), (100.0, 0.0, 200.0, 100.0)
    x, y = grid_positions([west, east], 30.0)
    assert set(zip(x, y, strict=True)) == {(a, b) for a in range(0, 200, 30) for b in range(0, 100, 30)}
    assert len(x) == 7 * 4
    assert y[0] == 90
    assert len(grid_positions([(1.0, 1.0, 2.0, 2.0)], 30.0)[0]) == 0


def test_positions_come_from_degrees_and_from_layers(tmp_path):
    lonlat = at(tmp_path / "p.csv", (3.0, 46.5), names="Longitude, Latitude")
    # the origin of Lambert-93
    assert np.concatenate(read_positions(lonlat, LAMBERT)) == pytest.approx([700_000, 6_600_000], abs=1e-3)
    path = tmp_path / "p.gpkg"
    geopandas.GeoDataFrame(geometry=geopandas.points_from_xy([3.0], [46.5]), crs=4326).to_file(path)
    assert np.concatenate(read_positions(path, LAMBERT)) == pytest.approx([700_000, 6_600_000], abs=1e-3)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no columns"),
        ("x,y\n", "no positions"),
        ("a,b\n1,2\n", "it has a, b"),
        ("x,y\n1,2\n3,oops\n", "position 2 is not two numbers"),
        ("x,y\n1\n", "position 1 is not two numbers"),
        ("x,y\n1,nan\n", "position 1 is not a place"),
        ("lon,lat\n3,95\n", "position 1 is not a place"),
    ],
)
def test_tables_that_hold_no_places_are_refused_in_words(tmp_path, text, problem):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=problem):
        read_positions(path, LAMBERT)


def test_files_that_are_no_layer_of_points_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_positions(tmp_path / "none.csv", LAMBERT)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(InputError, match="not a table"):
        read_positions(tmp_path / "binary.csv", LAMBERT)
    (tmp_path / "no.gpkg").write_text("nothing")
    with pytest.raises(InputError, match="cannot be read as a layer"):
        read_positions(tmp_path / "no.gpkg", LAMBERT)
    geopandas.GeoDataFrame(geometry=geopandas.points_from_xy([0], [0]).buffer(1), crs=2154).to_file(tmp_path / "area.gpkg")
    with pytest.raises(InputError, match="no points"):
        read_positions(tmp_path / "area.gpkg", LAMBERT)


def test_collector_gives_every_footprint_the_points_within_its_radius():
    random = np.random.default_rng(0)
    x, y = random.uniform(0, 200, (2, 20_000))
    centres = random.uniform(0, 200, (2, 40))
    collector = PointCollector(*centres)
    for part in np.array_split(np.arange(len(x)), 7):
        ones = np.ones(len(part))
        collector.add(x[part], y[part], 10 * ones, ones, ones, ones > 0)
    for row, (a, b) in enumerate(centres.T):
        points = collector.take(row)
        assert len(points) == (np.hypot(x - a, y - b) < 16.5).sum()
        assert points.returns("count").energy.sum() == pytest.approx(NOMINAL_REFLECTANCE)
    assert len(collector.take(0)) == 0


def test_real_forest_tiles_give_the_heights_of_their_points(tmp_path, data_dir):
    files = [data_dir / "als_forest" / f"bcts_{number}.laz" for number in (1, 2)]
    result = simulate_over_als(files, tmp_path)
    assert result.good == result.footprints >= 20
    table, frame = read(result, CRS.from_epsg(3005)), layer(result)
    frame = frame[frame.shot_id > 0]
    assert frame.shot_id.tolist() == table.shot_number.astype(np.int64).tolist()
    assert np.percentile(np.abs(table.ground_elevation - frame.als_ground), 80) < 1.0
    error = table.attributes["rh98"] - frame.als_rh98
    assert np.abs(np.median(error)) < 1.5
    assert np.corrcoef(table.attributes["rh98"], frame.als_rh98)[0, 1] > 0.9


def test_few_footprints_over_a_copc_are_read_by_window_with_the_same_result(tmp_path, data_dir, monkeypatch):
    path = data_dir / "las_formats" / "simple.copc.laz"
    file = open_points(path)
    x, y = np.concatenate([np.stack([points.x, points.y]) for points in read_chunks(file, [])], axis=1)[:, [5, 500, 1000]]
    places = at(tmp_path / "p.csv", *zip(x.tolist(), y.tolist(), strict=True))
    # the file is so sparse that its points cover no footprint
    monkeypatch.setattr("fusion3d.simulate.gedi_from_als.MIN_COVERED", 0.0)
    windows: list[object] = []
    real = gedi_from_als.query_window
    monkeypatch.setattr(gedi_from_als, "query_window", lambda *given: windows.append(given) or real(*given))
    by_window = layer(simulate_over_als([path], tmp_path / "window", positions=places))
    assert len(windows) == 3
    monkeypatch.setattr(gedi_from_als, "_FEW", 0.0)
    whole = layer(simulate_over_als([path], tmp_path / "whole", positions=places))
    assert len(windows) == 3
    assert (whole.pulses_per_m2 > 0).all()
    for column in ("shot_id", "covered", "pulses_per_m2", "als_rh98"):
        np.testing.assert_array_equal(whole[column], by_window[column])


def test_what_is_there_already_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "footprints.gpkg").write_text("mine")
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(0, 60, 0.5), np.arange(0, 60, 0.5)))
    attributes = {"classification": np.full(x.size, 2), "return_number": np.ones(x.size), "number_of_returns": np.ones(x.size)}
    tile = write_points(tmp_path / "a.laz", 900_000 + x, 6_570_000 + y, np.full(x.size, 100.0), attributes, crs="EPSG:2154")
    with pytest.raises(InputError, match="exists already"):
        simulate_over_als([tile], tmp_path / "out", spacing=25)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["footprints.gpkg"]


@pytest.mark.parametrize("geoid", [float("nan"), 1e9])
def test_geoid_that_is_none_is_refused(tmp_path, geoid):
    with pytest.raises(ConfigError, match="--geoid"):
        simulate_over_als([tmp_path / "a.laz"], tmp_path / "out", geoid=geoid)
