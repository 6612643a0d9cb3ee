from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion3d.data.chips import collate, read_chips
from fusion3d.data.datamodule import ChipDataModule
from fusion3d.data.turn import TURNS, ground_position, turned, turns
from fusion3d.pretraining.objective import column_position, column_valid, to_columns
from tests.data.scene import open_scene

ORIGIN, SIZE = (9, 7), 6  # of odd phase for the coarse raster


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_scene(tmp_path_factory.mktemp("turn") / "scene.zarr", sensors=("als", "gedi", "ortho", "s2", "coarse"))


@pytest.fixture(scope="module")
def chip(store):
    return read_chips(store, [ORIGIN], SIZE)


def on_the_ground(batch, position):
    return ground_position(batch, torch.zeros(len(position), dtype=torch.int64), position)


def points_on_the_ground(batch):
    column = torch.arange(batch.columns).repeat_interleave(batch.als.row_splits.diff())
    corner = torch.stack((column % SIZE, column // SIZE), dim=1) * batch.column
    place = on_the_ground(batch, corner + batch.als.offset)
    return torch.cat((place, batch.als.height[:, None], batch.als.attributes), dim=1)


def in_order(rows):
    return rows[np.lexsort(rows.round(decimals=3).numpy().T)]


def values_on_the_ground(batch, name):
    """By column of the ground: values, validity and the days of what a raster recorded there."""
    raster = batch.rasters[name]
    parts = torch.cat((raster.values, raster.valid.float()), dim=2).flatten(1, 2)
    found = to_columns(parts, raster, SIZE)[0]
    order = np.lexsort(column_position(batch).numpy().T)
    return found.permute(1, 2, 0, 3, 4).reshape(batch.columns, *found.shape[:1], *found.shape[3:])[order]


def test_all_turns_differ_and_none_is_the_chip_itself(chip):
    seen = {tuple(column_position(turned(chip, turn)).flatten().tolist()) for turn in range(TURNS)}
    assert len(seen) == TURNS
    assert torch.equal(column_position(turned(chip, 0)), column_position(chip))


@pytest.mark.parametrize("turn", range(TURNS))
def test_every_sensor_keeps_its_place_on_the_ground(chip, turn):
    other = turned(chip, turn)
    assert torch.allclose(in_order(points_on_the_ground(other)), in_order(points_on_the_ground(chip)), atol=1e-3)
    assert (other.als.offset >= 0).all()
    assert (other.als.offset < chip.column).all()
    footprints = [in_order(on_the_ground(batch, batch.gedi.position)) for batch in (chip, other)]
    assert len(footprints[0]) > 0
    assert torch.allclose(*footprints, atol=1e-3)
    for name in ("s2", "coarse"):
        assert torch.equal(values_on_the_ground(other, name), values_on_the_ground(chip, name))
    assert torch.equal(other.rasters["s2"].days.nan_to_num(), chip.rasters["s2"].days.nan_to_num())


@pytest.mark.parametrize("turn", range(TURNS))
def test_pixels_within_a_column_turn_with_it(chip, turn):
    before, after = chip.rasters["ortho"], turned(chip, turn).rasters["ortho"]
    side = before.values.shape[-1]
    at = torch.arange(side)
    row, col = (axis.flatten() for axis in torch.meshgrid(at, at, indexing="ij"))
    place = on_the_ground(turned(chip, turn), torch.stack((col, row), dim=1).add(0.5) * before.pixel)
    first = torch.tensor(ORIGIN).flip(0) * chip.column
    east, south = ((place - first) / before.pixel).floor().long().unbind(1)
    assert before.pixels_per_column > 1
    assert before.values.unique().numel() > SIZE
    assert torch.equal(after.values[..., row, col], before.values[..., south, east])


def test_points_on_the_edge_of_a_column_stay_inside_of_it(chip):
    chip.als.offset[0] = 0.0
    for turn in range(TURNS):
        assert (turned(chip, turn).als.offset < chip.column).all()


def test_chips_turned_in_different_ways_make_one_batch(store):
    chips = [
        turned(read_chips(store, [ORIGIN], SIZE), 5),
        read_chips(store, [(2, 3)], SIZE),
        turned(read_chips(store, [(4, 4)], SIZE), 2),
    ]
    batch = collate(chips)
    assert turns(batch).tolist() == [5, 0, 2]
    alone = torch.cat([column_position(item) for item in chips])
    assert torch.equal(column_position(batch), alone)
    assert torch.equal(column_position(batch.part(2, 3)), column_position(chips[2]))
    assert column_valid(batch.rasters["coarse"], SIZE).sum() == sum(
        column_valid(item.rasters["coarse"], SIZE).sum() for item in chips
    )


def test_a_chip_is_turned_once_and_alone(store, chip):
    with pytest.raises(ValueError, match="2 chips"):
        turned(read_chips(store, [(2, 3), ORIGIN], SIZE), 1)
    with pytest.raises(ValueError, match="turned by"):
        turned(turned(chip, 1), 1)


def test_training_chips_are_turned_and_those_of_validation_are_not(store):
    data = ChipDataModule(str(store.path), size=SIZE, batch_size=4, min_columns=1, augment=True)
    data.setup()
    batches = iter(data.train_dataloader())
    drawn = torch.cat([turns(next(batches)) for _ in range(16)])
    assert len(drawn.unique()) == TURNS
    assert all(batch.turn is None for batch in data.val_dataloader())
    again = iter(data.train_dataloader())
    assert torch.equal(drawn[:4], turns(next(again)))
