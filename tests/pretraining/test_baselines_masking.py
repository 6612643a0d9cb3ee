from __future__ import annotations

import pytest
import torch

from fusion3d.data.chips import read_chips
from fusion3d.data.pairs import stream
from fusion3d.pretraining.baselines.masking import drawn_columns, footprint_column, without_columns
from fusion3d.pretraining.objective import presence
from tests.data.scene import open_scene


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    store = open_scene(tmp_path_factory.mktemp("masking") / "scene.zarr", sensors=("als", "gedi", "ortho", "s2", "coarse"))
    return read_chips(store, [(6, 8), (8, 26), (17, 5)], 8)


def test_as_many_columns_of_every_chip_are_drawn(batch):
    hidden = drawn_columns(batch, 0.25, stream(1)).reshape(batch.chips, -1)
    assert hidden.sum(dim=1).tolist() == [16, 16, 16]
    assert not torch.equal(hidden[0], hidden[1])


@pytest.mark.parametrize("sensor", ["als", "gedi", "ortho", "s2"])
def test_hidden_columns_are_seen_by_no_sensor_and_the_others_as_before(batch, sensor):
    hidden = drawn_columns(batch, 0.5, stream(2))
    before, after = (presence(item, sensor) for item in (batch, without_columns(batch, hidden)))
    assert before.any()
    assert torch.equal(after, before & ~hidden)


def test_what_is_left_of_points_is_what_was_recorded_there(batch):
    hidden = drawn_columns(batch, 0.5, stream(2))
    left = without_columns(batch, hidden).als
    for column in (~hidden).nonzero()[:, 0].tolist():
        old, new = (slice(*item.row_splits[column : column + 2].tolist()) for item in (batch.als, left))
        assert torch.equal(left.height[new], batch.als.height[old])
        assert torch.equal(left.attributes[new], batch.als.attributes[old])
    assert left.row_splits[-1] == left.height.numel()


def test_what_is_left_of_footprints_is_what_was_recorded(batch):
    column = footprint_column(batch, batch.gedi)
    hidden = torch.zeros(batch.columns, dtype=torch.bool)
    hidden[column[1]] = True
    left = without_columns(batch, hidden).gedi
    stays = [number for number in range(batch.gedi.count) if column[number] != column[1]]
    assert left.count == len(stays)
    assert torch.equal(left.position, batch.gedi.position[stays])
    heights = [batch.gedi.height[batch.gedi.row_splits[at] : batch.gedi.row_splits[at + 1]] for at in stays]
    assert torch.equal(left.height, torch.cat(heights))


def test_pixel_of_four_columns_is_hidden_with_half_of_them(batch):
    hidden = torch.zeros(batch.columns, dtype=torch.bool)
    # The scene's coarse pixels begin at an odd row and column, so a chip at even ones begins with a quarter of a pixel.
    origin = batch.rasters["coarse"].pixel_origin[0].tolist()
    assert origin == [1, 1]
    hidden[[9, 10, 11]] = True  # row 1: columns 1 and 2 are half of one pixel, column 3 is a quarter of the next
    valid = without_columns(batch, hidden).rasters["coarse"].valid[0, 0, 0]
    assert not valid[1, 1]
    assert valid[1, 2]
    assert valid[0, 0]


def test_all_columns_hidden_leave_no_points_and_no_footprints(batch):
    nothing = without_columns(batch, torch.ones(batch.columns, dtype=torch.bool))
    assert nothing.als is None
    assert nothing.gedi is None
    assert not any(raster.valid.any() for raster in nothing.rasters.values())
