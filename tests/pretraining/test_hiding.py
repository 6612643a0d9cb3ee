from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion3d.data.chips import collate, read_chips
from fusion3d.data.pairs import stream
from fusion3d.pretraining.hiding import PROFILE_BINS, hide
from tests.data.scene import open_scene

ALL = ("als", "gedi", "ortho", "s2", "coarse")


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    store = open_scene(tmp_path_factory.mktemp("hiding") / "scene.zarr", sensors=ALL)
    return collate([read_chips(store, [(8, 6)], 8), read_chips(store, [(0, 0)], 8, max_dates=3)])


def test_hidden_and_shown_points_are_all_the_points(batch):
    shown, hidden = hide(batch, "als", stream(0))
    before, after = batch.als.row_splits.diff(), shown.als.row_splits.diff()
    assert (after <= before).all()
    assert 0.35 < after.sum() / before.sum() < 0.65
    assert not hidden.known[~batch.als.present].any()
    assert not hidden.known[after == 0].any()


def test_profile_is_the_root_of_the_share_of_hidden_points_by_metre(batch):
    shown, hidden = hide(batch, "als", stream(0))
    column = int(hidden.known.nonzero()[5])
    every = batch.als.height[batch.als.row_splits[column] : batch.als.row_splits[column + 1]].tolist()
    left = shown.als.height[shown.als.row_splits[column] : shown.als.row_splits[column + 1]].tolist()
    gone = [height for height in every if height not in left]
    share = np.histogram(gone, bins=np.arange(-1, 65))[0] / len(gone)
    assert np.allclose(hidden.target[column], np.sqrt(share * PROFILE_BINS), atol=1e-5)


def test_whole_cells_of_a_column_are_hidden(batch):
    shown, _ = hide(batch, "als", stream(0))
    column = 20
    cells = {
        (int(east * 4 / 10), int(south * 4 / 10))
        for east, south in shown.als.offset[shown.als.row_splits[column] : shown.als.row_splits[column + 1]].tolist()
    }
    inside = [
        tuple(int(part * 4 / 10) for part in offset) in cells
        for offset in batch.als.offset[batch.als.row_splits[column] : batch.als.row_splits[column + 1]].tolist()
    ]
    assert sum(inside) == shown.als.row_splits.diff()[column]


def test_hidden_energy_of_a_footprint_adds_up_to_one(batch):
    shown, hidden = hide(batch, "gedi", stream(0))
    assert shown.gedi.count == batch.gedi.count == hidden.known.numel()
    assert 0 < len(shown.gedi.height) < len(batch.gedi.height)
    assert torch.allclose((hidden.target[hidden.known] ** 2).sum(1) / PROFILE_BINS, torch.ones(int(hidden.known.sum())))


def test_some_bands_and_dates_are_hidden_and_some_left(batch):
    shown, hidden = hide(batch, "s2", stream(0))
    before, after = batch.rasters["s2"], shown.rasters["s2"]
    assert (before.date_present & ~after.date_present).sum(1).tolist() == [2, 1]
    left = after.valid.flatten(3).any(3).any(1)
    assert left.sum(1).tolist() == [3, 3]
    assert not (after.valid & ~before.valid).any()
    assert (after.values[~after.valid] == 0).all()
    assert not (hidden.known & ~before.date_present[:, :, None, None, None]).any()


def test_answer_is_the_mean_of_the_hidden_pixels_of_a_column(batch):
    shown, hidden = hide(batch, "ortho", stream(0))
    before, after = batch.rasters["ortho"], shown.rasters["ortho"]
    gone = before.valid & ~after.valid
    chip, date, band, row, col = hidden.known.nonzero()[37].tolist()
    window = (chip, date, band, slice(row * 4, row * 4 + 4), slice(col * 4, col * 4 + 4))
    assert hidden.target[chip, date, band, row, col] == pytest.approx(before.values[window][gone[window]].mean().item(), rel=1e-5)
    assert hidden.known.sum() == sum(
        bool(gone[c, 0, b, r * 4 : r * 4 + 4, k * 4 : k * 4 + 4].any())
        for c in range(2)
        for b in range(3)
        for r in range(8)
        for k in range(8)
    )


def test_raster_with_nothing_to_spare_is_asked_for_what_it_shows(batch):
    shown, hidden = hide(batch, "coarse", stream(0))
    coarse = batch.rasters["coarse"]
    assert torch.equal(shown.rasters["coarse"].valid, coarse.valid)
    assert hidden.known.all()
    # Chip 0 begins at row 8, column 6: inside pixels of 2 x 2 columns that begin at -1.
    assert coarse.pixel_origin[0].tolist() == [1, 1]
    values = coarse.values[0, 0, 0]
    assert hidden.target[0, 0, 0, :4, :4].tolist() == [
        [values[(r + 1) // 2, (c + 1) // 2].item() for c in range(4)] for r in range(4)
    ]


def test_what_is_hidden_depends_on_the_stream_alone(batch):
    for sensor in ALL:
        first, again = (hide(batch, sensor, stream(4))[1] for _ in range(2))
        assert torch.equal(first.target, again.target)


def test_absent_sensor_has_nothing_to_hide(batch):
    assert hide(batch, "hsi", stream(0)) is None
