"""Embeddings of columns, against those of the map and of footprints by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion3d.data.chips import read_chips
from fusion3d.evaluation.checkpoint import load_pretraining
from fusion3d.evaluation.columns import columns_of, embed_columns
from fusion3d.evaluation.places import Patch, patches
from fusion3d.grid import Window
from fusion3d.store import Store
from tests.data.scene import NO_POINTS, write_scene
from tests.evaluation.checkpoints import write_checkpoint

SENSORS = ("als", "gedi", "ortho", "s2")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns")
    store = write_scene(folder / "scene.zarr", SENSORS)
    return load_pretraining(write_checkpoint(folder / "random.ckpt", store, list(SENSORS)), "cpu"), Store.open(store)


def test_every_sensor_says_of_a_column_what_its_encoder_does(scene):
    module, store = scene
    window = Window(0, 0, 12, 12)
    found = embed_columns(module, store, [Patch(window, window)], SENSORS)
    batch = read_chips(store, [(0, 0)], 12)
    with torch.inference_mode():
        direct = module.encoders["s2"](batch, "s2")
    at = [int(np.flatnonzero(found.columns == row * store.grid.cols + col)[0]) for row in range(12) for col in range(12)]
    np.testing.assert_allclose(found.sensors["s2"].features[at], direct.features.numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.sensors["s2"].shared, axis=1), 1.0, atol=1e-5)
    grid_row, grid_col = np.divmod(found.columns, store.grid.cols)
    hidden = (grid_row < NO_POINTS[0].stop) & (grid_col < NO_POINTS[1].stop)
    np.testing.assert_array_equal(found.sensors["als"].present, ~hidden)
    assert not found.sensors["als"].features[hidden].any()


def test_columns_are_rising_and_once_whatever_the_order_of_the_patches(scene):
    module, store = scene
    chosen = patches(Window(4, 6, 20, 30), 12)
    wanted = np.zeros((store.grid.rows, store.grid.cols), bool)
    wanted[::2] = True
    first = embed_columns(module, store, chosen, ["s2"], wanted)
    again = embed_columns(module, store, chosen[::-1], ["s2"], wanted)
    expected = [row * store.grid.cols + col for row in range(4, 24, 2) for col in range(6, 36)]
    assert first.columns.tolist() == again.columns.tolist() == expected
    assert columns_of(chosen, store.grid.cols, wanted).tolist() == expected
    np.testing.assert_allclose(first.sensors["s2"].shared, again.sensors["s2"].shared, atol=1e-6)


def test_fusion_of_one_sensor_is_that_sensor_and_of_all_covers_what_any_saw(scene):
    module, store = scene
    window = Window(0, 0, 40, 40)
    found = embed_columns(module, store, [Patch(window, window)], SENSORS)
    one, seen = found.fused(["ortho"])
    np.testing.assert_allclose(one, found.sensors["ortho"].shared, atol=1e-6)
    np.testing.assert_array_equal(seen, found.sensors["ortho"].present)
    _, any_saw = found.fused()
    assert any_saw.all()
    joined, _ = found.joined(["als", "s2"])
    assert joined.shape[1] == module.encoders["als"].width + module.encoders["s2"].width
    assert 0 < found.sensors["gedi"].present.sum() < len(found.columns)


def test_a_batch_can_be_altered_before_it_is_encoded(scene):
    module, store = scene
    window = Window(0, 0, 8, 8)

    def blind(batch):
        return type(batch)(batch.origin, batch.size, batch.column, batch.voxel, rasters={"s2": batch.rasters["s2"]})

    found = embed_columns(module, store, [Patch(window, window)], ["ortho", "s2"], alter=blind)
    assert not found.sensors["ortho"].present.any()
    assert found.sensors["s2"].present.all()
