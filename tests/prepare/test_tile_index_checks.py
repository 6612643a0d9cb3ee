"""Gaps, overlaps, copies and mixtures of an archive, on grids worked out by hand."""

from __future__ import annotations

import datetime
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
from pyproj import CRS

from fusion3d.prepare.archive_files import list_archive
from fusion3d.prepare.tile_index import Archive, areas_m2, read_archive
from fusion3d.prepare.tile_index_checks import check_archive, find_duplicates, find_gaps, find_overlaps
from tests.prepare.archives import X0, Y0, write_grid, write_tile

LAMBERT = CRS.from_epsg(2154)


def drawn(boxes, crs=LAMBERT) -> Archive:
    """An archive of which only the footprints matter."""
    tiles = tuple(SimpleNamespace(name=str(number)) for number in range(len(boxes)))
    return Archive(tiles, crs, shapely.box(*np.array(boxes, np.float64).T), ())


def grid(cols, rows, without=(), side=100.0, short=0.01):
    return [
        (side * col, side * row, side * (col + 1) - short, side * (row + 1) - short)
        for col in range(cols)
        for row in range(rows)
        if (col, row) not in without
    ]


def indexed(folder) -> Archive:
    files, aside = list_archive([str(folder)])
    return read_archive(files, set_aside=aside)


def kinds(findings):
    return {kind: [each for each in findings if each.kind == kind] for kind in {each.kind for each in findings}}


def test_missing_tiles_inside_are_gaps_and_at_the_rim_are_not():
    gaps = find_gaps(drawn(grid(5, 5, without=[(1, 1), (3, 2), (3, 3), (0, 0), (4, 2)])))
    assert [gap.area for gap in gaps] == [pytest.approx(10_000, rel=0.001)]
    assert gaps[0].geometry.bounds == pytest.approx((100, 100, 200, 200), abs=0.02)


def test_gaps_come_largest_first_with_their_areas():
    gaps = find_gaps(drawn(grid(7, 5, without=[(1, 1), (3, 2), (4, 2)])))
    assert [gap.area for gap in gaps] == pytest.approx([20_000, 10_000], rel=0.001)
    assert gaps[0].geometry.bounds == pytest.approx((300, 200, 500, 300), abs=0.02)


def test_a_gap_that_touches_the_outside_by_a_corner_is_still_a_gap():
    assert len(find_gaps(drawn(grid(3, 3, without=[(1, 1), (0, 0)])))) == 1


@pytest.mark.parametrize("short", [0.0, 0.01, 1.0, 1.9])
def test_what_headers_leave_between_neighbours_is_no_gap(short):
    assert find_gaps(drawn(grid(6, 6, short=short))) == []


def test_strips_between_tiles_that_are_wide_enough_are_gaps_only_when_closed():
    boxes = [(0, 0, 300, 90), (0, 210, 300, 300), (0, 90, 90, 210), (210, 90, 300, 210)]
    (gap,) = find_gaps(drawn(boxes))
    assert gap.area == pytest.approx(120 * 120)
    assert find_gaps(drawn(boxes[:3])) == []


def test_islands_inside_a_hole_are_covered():
    boxes = [box for box in grid(7, 7) if not (100 <= box[0] < 600 and 100 <= box[1] < 600)] + [(300, 300, 400, 400)]
    (gap,) = find_gaps(drawn(boxes))
    assert gap.area == pytest.approx(500 * 500 - 100 * 100, rel=0.001)


def test_overlaps_are_measured_and_slivers_are_none():
    overlaps = find_overlaps(drawn([(0, 0, 100, 100), (50, 0, 150, 100), (149.5, 0, 249.5, 100), (300, 0, 400, 100)]))
    assert [(each.tiles, each.area) for each in overlaps] == [((0, 1), pytest.approx(5_000))]
    assert overlaps[0].geometry.bounds == (50, 0, 100, 100)
    assert "50%" in overlaps[0].text


def test_tiles_with_a_buffer_overlap_all_their_neighbours():
    overlaps = find_overlaps(drawn(grid(4, 4, short=-10.0)))
    assert len(overlaps) == 2 * 4 * 3
    found = {each.tiles for each in overlaps}
    assert all(one < other for one, other in found)


def test_overlaps_agree_with_all_pairs_tried(monkeypatch):
    monkeypatch.setattr("fusion3d.prepare.tile_index_checks._ROWS_AT_ONCE", 7)
    random = np.random.default_rng(0)
    low = random.uniform(0, 1000, (60, 2))
    boxes = np.c_[low, low + random.uniform(20, 200, (60, 2))]
    expected = {}
    for one in range(60):
        for other in range(one + 1, 60):
            a, b = boxes[one], boxes[other]
            area = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
            if area > 0.01 * min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])):
                expected[one, other] = area
    found = {each.tiles: each.area for each in find_overlaps(drawn(boxes.tolist()))}
    assert found == pytest.approx(expected)


def test_a_heap_of_tiles_in_one_place_ends_the_search_and_says_so(monkeypatch):
    monkeypatch.setattr("fusion3d.prepare.tile_index_checks._ROWS_AT_ONCE", 8)
    monkeypatch.setattr("fusion3d.prepare.tile_index_checks._MOST_OVERLAPS", 1000)
    overlaps = find_overlaps(drawn([(0, 0, 100, 100 + number) for number in range(200)]))
    assert 1000 < len(overlaps) < 200 * 199 / 2
    assert "the search was ended" in overlaps[-1].text


def test_areas_are_square_metres_whatever_the_unit():
    box = np.array([shapely.box(0, 0, 100, 100)])
    assert areas_m2(box, CRS.from_epsg(2225))[0] == pytest.approx(1e4 * (1200 / 3937) ** 2)
    degree = np.array([shapely.box(3, 46, 3.01, 46.01)])
    # a hundredth of a degree: 1111.4 m of meridian by 111.32 km * cos(46.005)
    assert areas_m2(degree, CRS.from_epsg(4326))[0] == pytest.approx(1111.4 * 775.4, rel=0.003)
    assert math.isnan(areas_m2(box, None)[0])


def test_copies_are_found_by_their_bytes_and_only_likely_ones_are_read(tmp_path):
    write_grid(tmp_path, 2, 2)
    (tmp_path / "backup").mkdir()
    shutil.copy(tmp_path / "t_0_0.laz", tmp_path / "backup" / "other name.LAZ")
    archive = indexed(tmp_path)
    found = kinds(check_archive(archive))
    (copy,) = found["duplicate"]
    assert sorted(archive.tiles[at].name for at in copy.tiles) == ["other name.LAZ", "t_0_0.laz"]
    assert "overlap" not in found
    read = []
    find_duplicates(archive.tiles, lambda path: read.append(path) or "same")
    assert len(read) == 2


def test_same_header_and_size_with_other_points_is_no_copy(tmp_path):
    write_tile(tmp_path / "a.las", X0, Y0)
    raw = bytearray((tmp_path / "a.las").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "b.las").write_bytes(raw)
    found = kinds(check_archive(indexed(tmp_path)))
    assert "duplicate" not in found
    assert len(found["overlap"]) == 1


def test_mixtures_are_counted_and_the_unusual_tiles_named(tmp_path):
    write_grid(tmp_path, 3, 2)
    write_tile(tmp_path / "utm.laz", 452_500, 5_420_000, crs="EPSG:32631", created=datetime.date(2019, 1, 1))
    write_tile(tmp_path / "feet.laz", 6_000_000, 2_000_000, crs="EPSG:2225", side=300)
    write_tile(tmp_path / "bare.laz", X0, Y0 + 900, crs=None)
    write_tile(tmp_path / "sparse.laz", X0 + 900, Y0, count=5)
    archive = indexed(tmp_path)
    found = kinds(check_archive(archive))
    named = {kind: sorted(archive.tiles[at].name for each in group for at in each.tiles) for kind, group in found.items()}
    assert named["mixed CRS"] == ["feet.laz", "utm.laz"]
    assert named["mixed units"] == ["feet.laz"]
    assert named["mixed dates"] == ["utm.laz"]
    assert named["no CRS"] == ["bare.laz"]
    assert named["odd density"] == ["sparse.laz"]
    assert found["mixed CRS"][0].text == "EPSG:2154 (7), EPSG:2225 (1), EPSG:32631 (1)"
    assert found["mixed units"][0].text == "metre (8), US survey foot (1)"
    assert found["mixed dates"][0].text == "2021 (9), 2019 (1)"


def test_an_orderly_archive_has_no_findings(tmp_path):
    assert check_archive(indexed(write_grid(tmp_path, 4, 3))) == []
