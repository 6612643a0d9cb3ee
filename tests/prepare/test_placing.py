"""Tiles from several parts of the world: the grid goes where most are, and what cannot be put there is set aside."""

from __future__ import annotations

from pathlib import Path

import laspy
import numpy as np
import pytest
from pyproj import CRS

from fusion3d.errors import InputError
from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import AlsSource, Scene
from fusion3d.prepare.summary import summary_lines


def write(path: Path, crs: int | None, x: float, y: float) -> str:
    """A tile of 20 x 20 m of flat ground at a corner."""
    header = laspy.LasHeader(version="1.4", point_format=6)
    header.scales, header.offsets = np.full(3, 0.01), np.array([x, y, 0.0])
    if crs is not None:
        header.add_crs(CRS.from_epsg(crs))
    points = laspy.LasData(header)
    steps = np.arange(0.5, 20, 1.0)
    points.x, points.y = x + np.tile(steps, 20), y + np.repeat(steps, 20)
    points.z = np.full(400, 100.0)
    points.classification = np.full(400, 2, np.uint8)
    points.write(path)
    return str(path)


@pytest.fixture
def tiles(tmp_path):
    """Two tiles in UTM 32N, one in the next zone, one in Lambert-93 near them, one in the United States, one without CRS."""
    return [
        write(tmp_path / "a.laz", 32632, 399_900, 5_400_000),
        write(tmp_path / "b.laz", 32632, 399_920, 5_400_000),
        # the same place, 7.63 E 48.74 N, in other coordinates
        write(tmp_path / "next.laz", 32631, 840_500, 5_408_500),
        write(tmp_path / "us.laz", 26917, 500_000, 5_000_000),
        write(tmp_path / "plain.laz", None, 399_900, 5_400_020),
    ]


def test_the_commonest_crs_is_taken_and_what_is_far_from_it_set_aside(tiles, tmp_path):
    summary = prepare(Scene(als=AlsSource(tuple(tiles))), tmp_path / "s.zarr", quiet=True)
    assert summary.attributes.grid.pyproj_crs.to_epsg() == 32632
    assert summary.attributes.als.points == 3 * 400
    aside = {Path(path).name: reason for path, reason in summary.set_aside}
    assert "far outside of where WGS 84 / UTM zone 32N" in aside.pop("us.laz")
    assert "no CRS" in aside.pop("plain.laz")
    assert not aside
    assert any("most tiles" in note and "WGS 84 / UTM zone 31N (1)" in note for note in summary.notes)


def test_far_tiles_alone_are_used_as_they_are(tmp_path):
    # coordinates of a local system that was given a CRS for want of one
    tile = write(tmp_path / "local.laz", None, 0, 0)
    summary = prepare(Scene(als=AlsSource((tile,)), crs="EPSG:2154"), tmp_path / "s.zarr", quiet=True)
    assert summary.attributes.als.points == 400
    assert summary.set_aside == []


def test_tiles_outside_of_the_bounds_are_not_read(tiles, tmp_path, monkeypatch):
    read = []
    from fusion3d.prepare import assembly

    spill = assembly.spill_tile
    monkeypatch.setattr(
        assembly, "spill_tile", lambda number, tile, *rest: read.append(tile.file.path) or spill(number, tile, *rest)
    )
    bounds = (399_900.0, 5_400_000.0, 399_910.0, 5_400_020.0)
    summary = prepare(Scene(als=AlsSource(tuple(tiles[:2])), bounds=bounds), tmp_path / "s.zarr", quiet=True)
    assert read == tiles[:1]
    assert summary.attributes.als.points == 200
    assert "1 of 2 tiles lie outside of the area and are not read" in summary.notes
    nowhere = (0.0, 0.0, 100.0, 100.0)
    with pytest.raises(InputError, match="no point of any tile lies inside the grid"):
        prepare(Scene(als=AlsSource(tuple(tiles[:2])), bounds=nowhere), tmp_path / "none.zarr", quiet=True)


def test_many_files_of_one_reason_are_told_together(tmp_path):
    tile = write(tmp_path / "good.laz", 32632, 399_900, 5_400_000)
    bad = [write(tmp_path / f"plain{number}.laz", None, 399_900, 5_400_000) for number in range(6)]
    summary = prepare(Scene(als=AlsSource((tile, *bad))), tmp_path / "s.zarr", quiet=True)
    text = "\n".join(summary_lines(summary))
    assert "set aside: 6 files: the file has no CRS; pass its CRS with --crs" in text
    assert all(f"plain{number}.laz" in text for number in range(6))
