"""COPC windows hold exactly the points of the file that lie in them."""

from __future__ import annotations

import re
import struct

import laspy
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fusion3d.errors import Fusion3DError, InputError
from fusion3d.io.las import open_points, query_window, read_chunks


@pytest.fixture(scope="module")
def path(data_dir):
    return data_dir / "las_formats" / "simple.copc.laz"


@pytest.fixture(scope="module")
def whole(path):
    return laspy.read(path)


def rows(x, y, z, gps_time):
    return sorted(zip(x.tolist(), y.tolist(), z.tolist(), gps_time.tolist(), strict=True))


def test_copc_is_recognised_and_reads_whole(path, whole):
    file = open_points(path)
    assert file.copc
    assert file.count == len(whole) == 1065
    points = next(read_chunks(file))
    assert (points.X == whole.X).all()
    assert (points.attributes["classification"] == np.asarray(whole.classification)).all()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(west=st.floats(0, 1), south=st.floats(0, 1), width=st.floats(0, 1), height=st.floats(0, 1))
def test_window_holds_the_points_that_lie_in_it(path, whole, west, south, width, height):
    file = open_points(path, check=False)
    xmin, ymin, xmax, ymax = file.bounds
    bounds = (xmin + west * (xmax - xmin), ymin + south * (ymax - ymin))
    bounds = (*bounds, bounds[0] + width * (xmax - xmin), bounds[1] + height * (ymax - ymin))
    points = query_window(file, bounds, ["gps_time"])
    inside = (points.x >= bounds[0]) & (points.x < bounds[2]) & (points.y > bounds[1]) & (points.y <= bounds[3])
    assert inside.all()
    X, Y = np.asarray(whole.X), np.asarray(whole.Y)
    x, y = X / 100 + file.offsets[0], Y / 100 + file.offsets[1]
    wanted = (x >= bounds[0]) & (x < bounds[2]) & (y > bounds[1]) & (y <= bounds[3])
    expected = rows(X[wanted], Y[wanted], np.asarray(whole.Z)[wanted], np.asarray(whole.gps_time)[wanted])
    assert rows(points.X, points.Y, points.Z, points.attributes["gps_time"]) == expected


def test_windows_that_share_an_edge_share_no_point_and_lose_none(path):
    file = open_points(path)
    edge_x = float(np.median(next(read_chunks(file)).x))
    edge_y = float(np.median(next(read_chunks(file)).y))
    wide = (file.bounds[0] - 1, file.bounds[1] - 1, file.bounds[2] + 1, file.bounds[3] + 1)
    parts = [
        (wide[0], wide[1], edge_x, edge_y), (edge_x, wide[1], wide[2], edge_y),
        (wide[0], edge_y, edge_x, wide[3]), (edge_x, edge_y, wide[2], wide[3]),
    ]  # fmt: skip
    assert sum(len(query_window(file, part)) for part in parts) == len(query_window(file, wide)) == 1065


def test_window_beside_the_file_is_empty_with_typed_attributes(path):
    points = query_window(open_points(path), (0.0, 0.0, 1.0, 1.0))
    assert len(points) == 0
    assert points.x.dtype == np.float64
    assert points.attributes["withheld"].dtype == np.bool_


def test_plain_laz_has_no_windows(data_dir):
    file = open_points(data_dir / "las_formats" / "simple.laz")
    with pytest.raises(InputError, match=r"is not COPC.*make a COPC"):
        query_window(file, (0.0, 0.0, 1.0, 1.0))


INFO = 375 + 54


@pytest.mark.parametrize(("position", "layout", "value", "words"), [
    (INFO + 24, "<d", float("nan"), "no cube"),
    (INFO + 24, "<d", 0.0, "no cube"),
    (INFO + 40, "<Q", 2**60, "cannot be read"),
    (INFO + 48, "<Q", 2**60, "cannot be read"),
    (INFO + 48, "<Q", 33, "cannot be read"),
    (INFO + 48, "<Q", 32, "octree holds"),
])  # fmt: skip
def test_damaged_octree_is_refused(path, tmp_path, position, layout, value, words):
    raw = bytearray(path.read_bytes())
    struct.pack_into(layout, raw, position, value)
    broken = tmp_path / "broken.copc.laz"
    broken.write_bytes(raw)
    with pytest.raises(InputError, match=words):
        open_points(broken)


def page(raw: bytes) -> tuple[int, int]:
    return struct.unpack_from("<QQ", raw, INFO + 40)


@pytest.mark.parametrize(("field", "layout", "value"), [
    (0, "<i", -1), (0, "<i", 40), (4, "<i", 5), (16, "<Q", 12), (24, "<i", 3), (28, "<i", 1), (28, "<i", -7),
])  # fmt: skip
def test_octree_entry_that_is_no_chunk_is_refused(path, tmp_path, field, layout, value):
    raw = bytearray(path.read_bytes())
    struct.pack_into(layout, raw, page(raw)[0] + field, value)
    broken = tmp_path / "broken.copc.laz"
    broken.write_bytes(raw)
    with pytest.raises(InputError):
        open_points(broken)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_octree_that_lies_elsewhere_than_the_points_is_refused(path, tmp_path, axis):
    """Its squares would touch no window: a query would find nothing and say nothing."""
    raw = bytearray(path.read_bytes())
    (centre,) = struct.unpack_from("<d", raw, INFO + 8 * axis)
    struct.pack_into("<d", raw, INFO + 8 * axis, centre * 2.0**512)
    broken = tmp_path / "elsewhere.copc.laz"
    broken.write_bytes(raw)
    with pytest.raises(InputError, match="outside of its COPC octree"):
        open_points(broken)


def test_octree_that_runs_in_a_circle_is_refused(path, tmp_path):
    raw = bytearray(path.read_bytes())
    start, size = page(raw)
    struct.pack_into("<Qii", raw, start + 16, start, size, -1)
    broken = tmp_path / "circle.copc.laz"
    broken.write_bytes(raw)
    with pytest.raises(InputError, match="cannot be read"):
        open_points(broken)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 2300), st.integers(1, 255)), min_size=1, max_size=3), tail=st.booleans())
@example(flips=[(436, 2)], tail=False)
def test_damage_gives_points_or_an_error_in_words(path, tmp_path, flips, tail):
    raw = bytearray(path.read_bytes())
    for position, change in flips:
        raw[-1 - position if tail else position] ^= change
    broken = tmp_path / "broken.copc.laz"
    broken.write_bytes(raw)
    try:
        file = open_points(broken)
        if file.copc:
            assert len(query_window(file, (-1e9, -1e9, 1e9, 1e9))) == file.count
    except Fusion3DError as error:
        if not re.fullmatch(r".*broken\.copc\.laz.*", str(error)):
            raise


def test_chunks_for_a_window_are_nodes_of_a_copc_and_all_of_other_files(path, data_dir, tmp_path):
    file = open_points(path)
    xmin, ymin, xmax, ymax = file.bounds
    corner = (xmin, ymin, xmin + 0.2 * (xmax - xmin), ymin + 0.2 * (ymax - ymin))
    part = np.concatenate([points.attributes["gps_time"] for points in read_chunks(file, ["gps_time"], bounds=corner, chunk=7)])
    wanted = query_window(file, corner, ["gps_time"]).attributes["gps_time"]
    assert set(wanted) <= set(part)
    assert sum(len(points) for points in read_chunks(file, bounds=(0.0, 0.0, 1.0, 1.0))) == 0
    plain = open_points(data_dir / "las_formats" / "simple.laz")
    assert sum(len(points) for points in read_chunks(plain, bounds=(0.0, 0.0, 1.0, 1.0))) == plain.count
