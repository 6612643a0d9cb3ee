"""Windows to learn from and to test on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion3d.data.split import Split
from fusion3d.errors import ConfigError
from fusion3d.evaluation.checkpoint import load_pretraining
from fusion3d.evaluation.places import largest_rectangle, probe_places
from fusion3d.grid import Window
from fusion3d.store import Store
from tests.data.scene import write_scene
from tests.evaluation.checkpoints import write_checkpoint


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_largest_rectangle_is_that_of_an_exhaustive_search(rows, cols, seed):
    mask = np.random.default_rng(seed).random((rows, cols)) < 0.7
    row, col, high, wide = largest_rectangle(mask)
    assert mask[row : row + high, col : col + wide].all()
    assert high * wide == max(
        [0]
        + [
            (bottom - top) * (right - left)
            for top in range(rows)
            for bottom in range(top + 1, rows + 1)
            for left in range(cols)
            for right in range(left + 1, cols + 1)
            if mask[top:bottom, left:right].all()
        ]
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    store = write_scene(folder / "scene.zarr", ("ortho", "s2"))
    return folder, Store.open(store)


def covered(windows: tuple[Window, ...], store: Store) -> np.ndarray:
    count = np.zeros((store.grid.rows, store.grid.cols), int)
    for window in windows:
        count[window.row : window.row_stop, window.col : window.col_stop] += 1
    return count


def test_windows_lie_in_the_parts_of_the_pretraining_and_do_not_overlap(scene):
    folder, store = scene
    module = load_pretraining(write_checkpoint(folder / "one.ckpt", store.path, ["ortho", "s2"]), "cpu")
    split = Split.from_plain(module.hparams["scene"]["splits"][0])
    places = probe_places([module], store, ["s2"])
    training, test = covered(places.training, store), covered(places.test, store)
    assert training.max() == test.max() == 1
    assert not (training.astype(bool) & ~split.training()).any()
    np.testing.assert_array_equal(test.astype(bool), split.held_out())
    assert training.sum() > 0.8 * split.training().sum()


def test_what_is_tested_on_was_held_out_by_every_checkpoint(scene):
    folder, store = scene
    module = load_pretraining(write_checkpoint(folder / "half.ckpt", store.path, ["ortho", "s2"], holdout=0.5), "cpu")
    other = load_pretraining(write_checkpoint(folder / "quarter.ckpt", store.path, ["s2"], holdout=0.25), "cpu")
    held = Split.from_plain(other.hparams["scene"]["splits"][0]).held_out()
    places = probe_places([module, other], store, ["s2"])
    test = covered(places.test, store).astype(bool)
    assert test.any()
    assert not (test & ~held).any()


def test_checkpoints_that_held_out_other_ground_are_refused(scene):
    folder, store = scene
    module = load_pretraining(write_checkpoint(folder / "a.ckpt", store.path, ["s2"]), "cpu")
    other = load_pretraining(write_checkpoint(folder / "b.ckpt", store.path, ["s2"]), "cpu")
    split = Split.from_plain(other.hparams["scene"]["splits"][0])
    turned = Split(split.x0, split.y0, split.column, (0, 20, 40), (0, 24, 48), (), 0)
    free = [
        at for at in ((0, 0), (0, 1), (1, 0), (1, 1))
        if not (Split(*list(vars(turned).values())[:5], (at,), 0).held_out() & split.held_out()).any()
    ]  # fmt: skip
    other.hparams["scene"]["splits"] = [Split(*list(vars(turned).values())[:5], (free[0],), 1).to_plain()]
    with pytest.raises(ConfigError, match="held out different columns"):
        probe_places([module, other], store, ["s2"])


def test_a_store_of_another_place_is_split_by_the_seed(scene, tmp_path):
    folder, store = scene
    module = load_pretraining(write_checkpoint(folder / "far.ckpt", store.path, ["ortho", "s2"]), "cpu")
    module.hparams["scene"]["grids"][0]["x0"] += 1e5
    module.hparams["scene"]["splits"][0]["x0"] += 1e5
    first, again = (probe_places([module], store, ["s2"], seed=4) for _ in range(2))
    assert first == again
    test = covered(first.test, store)
    assert 0.1 < test.mean() < 0.4
    assert not (covered(first.training, store) & test).any()
