"""Blocks are built as soon as all tiles near them are decoded, to the same bytes, and give their fragments up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion3d.errors import InputError
from fusion3d.io.las import open_points
from fusion3d.io.las_writer import write_points
from fusion3d.prepare import assembly, groups
from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import AlsSource, Scene
from tests.prepare.scenes import X0, Y0, write_tile

SIDE, ROWS, COLS = 40, 4, 2


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> tuple[str, ...]:
    """Named so that their order has nothing to do with their place."""
    folder = tmp_path_factory.mktemp("tiles")
    return tuple(
        str(
            write_tile(folder / f"{(7 * number) % 8}.laz", X0 + SIDE * (number % COLS), Y0 + SIDE * (number // COLS), seed=number)
        )
        for number in range(ROWS * COLS)
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_small_groups_make_the_same_store_and_hold_fewer_fragments(tiles, tmp_path, monkeypatch):
    scene = Scene(als=AlsSource(tiles, ground_buffer=10.0), column=2.0, block=20)
    prepare(scene, tmp_path / "whole.zarr", quiet=True)
    parts = tmp_path / "cut.zarr.partial" / "parts"
    held, made, events = [], [], []
    spill, build = assembly.spill_tile, assembly.build_block

    def spilling(number, *rest):
        events.append("tile")
        result = spill(number, *rest)
        made.extend(result["blocks"])
        return result

    def building(block, *rest):
        events.append("block")
        held.append(sum(1 for _ in parts.rglob("*.points")))
        return build(block, *rest)

    monkeypatch.setattr(groups, "GROUP", COLS)
    monkeypatch.setattr(assembly, "spill_tile", spilling)
    monkeypatch.setattr(assembly, "build_block", building)
    prepare(scene, tmp_path / "cut.zarr", quiet=True)
    assert files(tmp_path / "cut.zarr") == files(tmp_path / "whole.zarr")
    assert events.index("block") < len(events) - 1 - events[::-1].index("tile")
    # two rows of tiles are held, of four
    assert max(held) < 0.7 * len(made)


def test_a_block_waits_for_every_tile_within_reach_of_it(tiles, tmp_path, monkeypatch):
    """Ground counts from 50 m around: a block needs tiles that are decoded later than those it lies in."""
    monkeypatch.setattr(groups, "GROUP", 1)
    scene = Scene(als=AlsSource(tiles, ground_buffer=50.0), column=2.0, block=20)
    prepare(scene, tmp_path / "cut.zarr", quiet=True)
    monkeypatch.setattr(groups, "GROUP", 100)
    prepare(scene, tmp_path / "whole.zarr", quiet=True)
    assert files(tmp_path / "cut.zarr") == files(tmp_path / "whole.zarr")


def test_tiles_without_ground_in_front_of_others_stop_nothing(tmp_path, monkeypatch):
    """The sea in the north of a country: what has no ground is told when all tiles have been seen."""
    monkeypatch.setattr(groups, "GROUP", 1)
    spot = np.array([[1.0, 1.0], [5.0, 5.0]])
    sea, land = tmp_path / "sea.laz", write_tile(tmp_path / "land.laz", X0, Y0)
    water = {"classification": np.full(2, 9, np.uint8)}
    write_points(sea, X0 + spot[:, 0], Y0 + 400 + spot[:, 1], np.zeros(2), water, crs="EPSG:2154", scale=0.01)
    scene = Scene(als=AlsSource((str(land), str(sea))), column=2.0, block=20)
    summary = prepare(scene, tmp_path / "s.zarr", quiet=True)
    assert summary.attributes.als.classes["9"] == 2
    assert any("1 tiles hold no ground points" in note and "sea.laz" in note for note in summary.notes)
    with pytest.raises(InputError, match="no ground points"):
        prepare(Scene(als=AlsSource((str(sea),)), column=2.0), tmp_path / "none.zarr", quiet=True)


def test_a_tile_that_fails_holds_no_block_up(tiles, tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "GROUP", 1)
    spill = assembly.spill_tile

    def spilling(number, tile, *rest):
        if number == 3:
            raise InputError(tile.file.path, "damaged near point 7", "download it again")
        return spill(number, tile, *rest)

    monkeypatch.setattr(assembly, "spill_tile", spilling)
    scene = Scene(als=AlsSource(tiles), column=2.0, block=20)
    summary = prepare(scene, tmp_path / "s.zarr", quiet=True)
    failed = sorted(tiles)[3]
    assert summary.set_aside == [(failed, f"{failed}: damaged near point 7; download it again")]
    assert summary.attributes.als.points == sum(open_points(path).count for path in tiles if path != failed)
