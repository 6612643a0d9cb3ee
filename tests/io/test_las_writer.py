"""What is written comes back, for laspy and for the reader, and never half of it."""

from __future__ import annotations

import datetime

import laspy
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import CRS

from fusion3d.errors import InputError
from fusion3d.io.las import open_points, read_chunks, write_points


def cloud(count=500):
    rng = np.random.default_rng(1)
    return (
        770_500 + rng.integers(0, 50_000, count) / 1000,
        6_860_000 + rng.integers(0, 50_000, count) / 1000,
        rng.integers(0, 900, count) / 100,
    )


def test_written_file_is_what_laspy_reads(tmp_path):
    x, y, z = cloud()
    attributes = {
        "classification": np.arange(500) % 256, "intensity": np.arange(500), "return_number": np.arange(500) % 15 + 1,
        "number_of_returns": np.full(500, 15), "scan_angle": np.linspace(-30, 30, 500), "withheld": np.arange(500) % 2 == 0,
        "gps_time": np.linspace(3e8, 3e8 + 1, 500), "red": np.arange(500), "green": np.arange(500), "blue": np.arange(500),
        "height": z.astype(np.float32), "normal": np.ones((500, 3), np.float32), "tree": np.arange(500, dtype=np.uint64),
    }  # fmt: skip
    path = write_points(tmp_path / "out.laz", x, y, z, attributes, crs="EPSG:2154")
    las = laspy.read(path)
    assert (str(las.header.version), las.point_format.id, las.header.are_points_compressed) == ("1.4", 7, True)
    assert las.header.global_encoding.wkt
    assert las.header.parse_crs().to_epsg() == 2154
    for values, read in zip((x, y, z), (las.x, las.y, las.z), strict=True):
        np.testing.assert_allclose(read, values, rtol=0, atol=1e-9)
    for name, values in attributes.items():
        if name != "scan_angle":
            np.testing.assert_array_equal(np.asarray(las[name]), values, name)
    np.testing.assert_allclose(np.asarray(las.scan_angle) * 0.006, attributes["scan_angle"], atol=0.003)
    file = open_points(path)
    assert file.extra_dimensions == ("height", "normal", "tree")
    assert file.crs.to_epsg() == 2154
    (points,) = read_chunks(file, file.dimensions)
    for name, values in attributes.items():
        np.testing.assert_allclose(points.attributes[name], values, atol=0.0031 if name == "scan_angle" else 0)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(*[st.integers(-(10**8), 10**8)] * 3), max_size=30), digits=st.integers(0, 4))
def test_coordinates_on_the_scale_come_back_exactly(tmp_path, steps, digits):
    xyz = np.array(steps, np.int64).reshape(-1, 3) / 10**digits
    path = write_points(tmp_path / "out.laz", *xyz.T, crs=None, scale=float(f"1e-{digits}"), offsets=(0.0, 0.0, 0.0))
    back = [np.stack([points.x, points.y, points.z], 1) for points in read_chunks(open_points(path))]
    np.testing.assert_array_equal(np.concatenate([*back, np.empty((0, 3))]), xyz)


@pytest.mark.parametrize("suffix", ["las", "laz"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_points_and_none_are_written(tmp_path, suffix, count):
    x, y, z = (values[:count] for values in cloud())
    path = write_points(tmp_path / f"out.{suffix}", x, y, z, {"nir": np.zeros(count, int)}, crs="EPSG:2154")
    file = open_points(path)
    assert (file.count, file.point_format, file.compressed) == (count, 8, suffix == "laz")
    assert sum(len(points) for points in read_chunks(file)) == count


@pytest.mark.parametrize("text", ["EPSG:2154+5720", "EPSG:4979"])
def test_crs_with_heights_is_written_even_when_wkt_1_cannot_say_it(tmp_path, text):
    x, y, z = cloud(3)
    assert open_points(write_points(tmp_path / "out.laz", x, y, z, crs=text)).crs.equals(CRS(text), ignore_axis_order=True)


@pytest.mark.parametrize(("change", "words"), [
    ({"x": [0.0, float("nan")]}, "x has values that are not finite"),
    ({"z": [0.0, 1e9]}, "z spans too much"),
    ({"y": [0.0]}, "y has shape"),
    ({"scale": 0.0}, "scale 0.0"),
    ({"attributes": {"classification": [0, 256]}}, "classification has values outside of 0 to 255"),
    ({"attributes": {"return_number": [0, 16]}}, "return_number has values outside of 0 to 15"),
    ({"attributes": {"intensity": [0.0, float("nan")]}}, "intensity has values outside"),
    ({"attributes": {"scan_angle": [0.0, 400.0]}}, "scan_angle has values outside"),
    ({"attributes": {"intensity": [1]}}, "intensity has shape"),
    ({"attributes": {"name": ["a", "b"]}}, "cannot be an extra dimension"),
    ({"attributes": {"x" * 40: [1, 2]}}, "cannot be an extra dimension"),
    ({"attributes": {"Z": [1, 2]}}, "cannot be an extra dimension"),
])  # fmt: skip
def test_what_las_cannot_store_is_refused_and_nothing_is_written(tmp_path, change, words):
    given_values = {"x": [0.0, 1.0], "y": [0.0, 1.0], "z": [0.0, 1.0], "crs": None} | change
    with pytest.raises(InputError, match=words):
        write_points(tmp_path / "out.laz", **given_values)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write_points(tmp_path / "out.laz", *cloud(10), crs=None)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(laspy.LasData, "write", full)
    with pytest.raises(InputError, match=r"cannot be written .*No space left"):
        write_points(path, *cloud(20), crs=None)
    assert [item.name for item in tmp_path.iterdir()] == ["out.laz"]
    assert path.read_bytes() == before


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_points(tmp_path / "none" / "out.laz", *cloud(2), crs=None)


def test_written_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "any").touch()
    path = write_points(tmp_path / "out.laz", *cloud(2), crs=None)
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode


def test_header_states_the_date_and_the_kind_of_gps_time(tmp_path):
    times = np.array([3.5e8, 3.5e8 + 1])
    path = write_points(tmp_path / "a.laz", [1, 2], [1, 2], [1, 2], {"gps_time": times}, crs="EPSG:2154",
                        created=datetime.date(2023, 7, 19), adjusted_gps_time=True)  # fmt: skip
    with laspy.open(path) as file:
        assert file.header.creation_date == datetime.date(2023, 7, 19)
        assert file.header.global_encoding.gps_time_type == laspy.header.GpsTimeType.STANDARD
        assert file.header.global_encoding.wkt
        assert np.array_equal(file.read().gps_time, times)
