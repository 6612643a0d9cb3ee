"""Ranks worked by hand, chance, and retrieval on held-out columns of a small scene."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS

from fusion3d.data.split import Split
from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation import retrieval as retrieval_module
from fusion3d.evaluation.checkpoint import load_pretraining
from fusion3d.evaluation.places import held_out_windows, patches
from fusion3d.evaluation.retrieval import chance_recall, ranks, retrieval, score_pair
from fusion3d.grid import Grid, Window
from fusion3d.store import Store
from tests.data.scene import write_scene
from tests.evaluation.checkpoints import write_checkpoint


def unit(values) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


# -- ranks


def test_identical_embeddings_of_both_sensors_are_all_found():
    assert ranks(np.eye(5), np.eye(5)).tolist() == [1] * 5


def test_a_cyclic_permutation_has_the_ranks_of_its_angles():
    angle = np.deg2rad(np.arange(6) * 10.0)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    # Query i lies at 10 i degrees, its right answer at 10 (i + 1), the last one's at 0.
    gallery = np.roll(points, -1, axis=0)
    # Query 0: the gallery is 10, 20, 30, 40, 50, 0 degrees off, so the right one is second.
    # Queries 1-4: one is 0 degrees off, and the right one ties with another at 10. Query 5: the right one is farthest of six.
    assert ranks(points, gallery).tolist() == [2, 3, 3, 3, 3, 6]


def test_ties_count_against_the_network():
    same = np.ones((4, 2)) / np.sqrt(2)
    assert ranks(same, same).tolist() == [4] * 4


def test_two_columns_that_say_the_same_share_the_worse_rank():
    vectors = unit([[1, 0], [1, 0], [0, 1]])
    assert ranks(vectors, vectors).tolist() == [2, 2, 1]


def test_a_vector_that_is_not_finite_is_last():
    gallery = np.eye(3)
    gallery[1] = np.nan
    found = ranks(np.eye(3), gallery)
    assert found[1] == 3
    assert (found[[0, 2]] == 2).all()


def test_a_neighbour_within_the_hit_radius_counts_as_right():
    # The query prefers its neighbour 10 m away, then a stranger 1 km away, then the right column.
    query = unit([[1, 0], [0, 1], [1, 1]])
    gallery = unit([[0, 1], [1, 0], [1, 0.1]])
    position = np.array([[0.0, 0.0], [10.0, 0.0], [1000.0, 0.0]])
    assert ranks(query, gallery, position, 0.0)[0] == 3
    assert ranks(query, gallery, position, 10.0)[0] == 1
    assert ranks(query, gallery, position, 9.9)[0] == 3


def test_a_hit_radius_needs_positions():
    with pytest.raises(ConfigError, match="positions"):
        ranks(np.eye(2), np.eye(2), hit_radius=5.0)


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_columns_does_not_change_their_ranks(count, seed):
    rng = np.random.default_rng(seed)
    query, gallery = unit(rng.normal(size=(count, 4))), unit(rng.normal(size=(count, 4)))
    order = rng.permutation(count)
    np.testing.assert_array_equal(ranks(query[order], gallery[order]), ranks(query, gallery)[order])


def test_more_columns_than_are_compared_at_once_have_the_ranks_of_a_sort():
    rng = np.random.default_rng(0)
    query, gallery = unit(rng.normal(size=(1500, 6))), unit(rng.normal(size=(1500, 6)))
    similar = query @ gallery.T
    expected = [int(np.flatnonzero(np.argsort(-similar[i]) == i)[0]) + 1 for i in range(1500)]
    assert ranks(query, gallery).tolist() == expected


def test_unrelated_embeddings_are_found_by_chance():
    rng = np.random.default_rng(1)
    count = 1000
    query, gallery = (unit(rng.normal(size=(count, 16))) for _ in range(2))
    score = score_pair(("a", "b"), query, gallery, np.zeros((count, 2)), 0.0)
    assert score.chance == {1: pytest.approx(0.001), 5: pytest.approx(0.005), 10: pytest.approx(0.01)}
    # Binomial: 10 hits expected, standard deviation 3.1.
    assert 0 <= score.recall[10] < 0.025
    assert score.median_rank == pytest.approx(500, abs=60)


def test_noise_lowers_recall_and_leaves_it_above_chance():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(400, 16))
    near, far = (
        score_pair(("a", "b"), unit(truth), unit(truth + level * rng.normal(size=truth.shape)), np.zeros((400, 2)), 0.0)
        for level in (0.3, 1.5)
    )
    assert near.recall[1] > 0.95
    assert far.chance[1] < far.recall[1] < near.recall[1]
    assert far.recall[1] <= far.recall[5] <= far.recall[10]


# -- chance


def test_chance_of_one_right_column_is_k_over_n():
    assert chance_recall(np.ones(3, np.int64), 50, 5) == pytest.approx(0.1)


def test_chance_of_two_right_columns_among_four():
    # Of the 6 pairs out of 4, one holds neither of the two right ones.
    assert chance_recall(np.array([2]), 4, 2) == pytest.approx(5 / 6)


def test_chance_is_certain_when_the_gallery_is_no_larger_than_k():
    assert chance_recall(np.ones(4, np.int64), 4, 5) == 1.0
    assert chance_recall(np.array([3]), 4, 2) == 1.0


# -- windows


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_patches_lie_inside_the_window_and_own_each_column_once(rows, cols, side):
    window = Window(5, -7, rows, cols)
    owned = np.zeros((rows, cols), int)
    for patch in patches(window, side):
        assert patch.window.intersection(window) == patch.window
        assert patch.window.rows == patch.window.cols
        assert patch.own.intersection(patch.window) == patch.own
        owned[patch.own.row - 5 : patch.own.row_stop - 5, patch.own.col + 7 : patch.own.col_stop + 7] += 1
    assert (owned == 1).all()


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> tuple[str, str]:
    """A store of three sensors and a checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("retrieval")
    store = write_scene(folder / "scene.zarr", ("gedi", "ortho", "s2"))
    return str(write_checkpoint(folder / "random.ckpt", store, ["gedi", "ortho", "s2"])), store


def split_of(checkpoint: str) -> Split:
    hyper = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    return Split.from_plain(hyper["scene"]["splits"][0])


def test_every_ordered_pair_is_scored_on_held_out_columns(scene):
    checkpoint, store = scene
    report = retrieval(checkpoint, store)
    held = split_of(checkpoint).held_out()
    assert report.held_out == int(held.sum())
    found = {(pair.query, pair.gallery): pair for pair in report.pairs}
    assert set(found) == {(a, b) for a in ("gedi", "ortho", "s2") for b in ("gedi", "ortho", "s2") if a != b}
    assert found["ortho", "s2"].candidates == found["s2", "ortho"].candidates == int(held.sum())
    footprints = Store.open(store)
    table = footprints.footprints(footprints.grid.window)
    row, col = footprints.grid.cell_of(table.x, table.y)
    assert found["gedi", "s2"].candidates == int(held[row, col].sum())
    for pair in report.pairs:
        assert pair.chance[1] == pytest.approx(1 / pair.candidates)
        assert 1 <= pair.median_rank <= pair.candidates


def test_no_column_that_training_saw_is_read(scene, monkeypatch):
    checkpoint, store = scene
    held, read = split_of(checkpoint).held_out(), []

    def spy(store, origins, size, sensors):
        read.extend((*origin, size) for origin in origins)
        return read_chips(store, origins, size, sensors)

    read_chips = retrieval_module.read_chips
    monkeypatch.setattr(retrieval_module, "read_chips", spy)
    retrieval(checkpoint, store)
    assert read
    assert all(held[row : row + size, col : col + size].sum() == size * size for row, col, size in read)


def test_the_same_seed_gives_the_same_report_and_fewer_columns_on_request(scene):
    checkpoint, store = scene
    first, again = (retrieval(checkpoint, store, max_columns=20, seed=5) for _ in range(2))
    assert first == again
    assert {pair.candidates for pair in first.pairs if "gedi" not in (pair.query, pair.gallery)} == {20}
    assert retrieval(checkpoint, store, max_columns=20, seed=6).pairs != first.pairs


def test_a_perfect_encoder_is_found_perfect(scene, monkeypatch):
    """Both sensors say the same unit vector of each column: every column ranks first."""
    checkpoint, store = scene

    def place(module, batch, sensor):
        row = torch.arange(batch.size).repeat_interleave(batch.size) + int(batch.origin[0, 0])
        col = torch.arange(batch.size).repeat(batch.size) + int(batch.origin[0, 1])
        angles = torch.stack([row, col], dim=1) / 100.0
        vectors = torch.cat([angles.cos(), angles.sin()], dim=1) / 2**0.5
        return vectors, torch.ones(batch.columns, dtype=torch.bool)

    monkeypatch.setattr(retrieval_module, "_unit", place)
    report = retrieval(checkpoint, store, sensors=["ortho", "s2"])
    assert [pair.recall[1] for pair in report.pairs] == [1.0, 1.0]


def test_untrained_weights_are_those_that_training_began_with(scene, tmp_path):
    checkpoint, store = scene
    changed = torch.load(checkpoint, weights_only=True)
    changed["state_dict"] = {name: value + 0.5 for name, value in changed["state_dict"].items()}
    torch.save(changed, tmp_path / "trained.ckpt")
    untrained = retrieval(tmp_path / "trained.ckpt", store, untrained=True)
    assert untrained.untrained
    assert untrained.pairs == retrieval(checkpoint, store).pairs


def test_a_run_folder_stands_for_its_last_checkpoint(scene, tmp_path):
    checkpoint, _ = scene
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    shutil.copy(checkpoint, folder / "last.ckpt")
    assert load_pretraining(tmp_path / "run", "cpu").sensors == ("gedi", "ortho", "s2")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 truncated"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "bad.ckpt").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.ckpt.*not a checkpoint") as error:
        load_pretraining(tmp_path / "bad.ckpt", "cpu")
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="not a checkpoint"):
        load_pretraining(tmp_path / "other.ckpt", "cpu")


def test_weights_that_do_not_fit_are_named(scene, tmp_path):
    changed = torch.load(scene[0], weights_only=True)
    name = next(name for name in changed["state_dict"] if name.startswith("encoders.s2."))
    changed["state_dict"][name] = torch.zeros(7, 7, 7)
    torch.save(changed, tmp_path / "other.ckpt")
    with pytest.raises(
        InputError,
        match=rf"other\.ckpt: its s2 encoder does not fit .*{name.split('.', 2)[2]}.*train one of another version again",
    ) as error:
        load_pretraining(tmp_path / "other.ckpt", "cpu")
    assert "\n" not in str(error.value)


def test_missing_checkpoints_and_devices_are_named(tmp_path, scene):
    with pytest.raises(InputError, match="no checkpoint there"):
        load_pretraining(tmp_path, "cpu")
    with pytest.raises(ConfigError, match="toaster"):
        load_pretraining(scene[0], "toaster")


def test_a_checkpoint_trained_on_everything_has_nothing_to_evaluate(scene, tmp_path):
    _, store = scene
    everything = write_checkpoint(tmp_path / "all.ckpt", store, ["ortho", "s2"], holdout=0.0)
    with pytest.raises(ConfigError, match="holdout"):
        retrieval(everything, store)


def test_a_single_sensor_cannot_be_compared(scene):
    with pytest.raises(ConfigError, match="two sensors"):
        retrieval(*scene, sensors=["s2"])


def test_a_sensor_of_another_store_is_named(scene):
    with pytest.raises(ConfigError, match="no encoder for sensor 'hsi'"):
        retrieval(*scene, sensors=["s2", "hsi"])


class _Elsewhere:
    """A store's grid and path."""

    path = "elsewhere.zarr"

    def __init__(self, **changes) -> None:
        grid = {"crs": CRS.from_epsg(2154).to_wkt(), "x0": 652_000.0, "y0": 6_862_400.0, "column": 10.0, "rows": 40, "cols": 48}
        self.grid = Grid(**{**grid, **changes})


def test_a_store_of_another_place_is_held_out_as_a_whole(scene):
    module = load_pretraining(scene[0], "cpu")
    assert held_out_windows(module, _Elsewhere(x0=700_000.0)) == [Window(0, 0, 40, 48)]
    # 30 T is UTM 30 north: its easting of 652 km lies 6 degrees from the training scene.
    utm = _Elsewhere(crs=CRS.from_epsg(32630).to_wkt(), y0=4_862_400.0)
    assert held_out_windows(module, utm) == [Window(0, 0, 40, 48)]


def test_the_training_place_on_another_grid_is_refused(scene):
    module = load_pretraining(scene[0], "cpu")
    with pytest.raises(ConfigError, match="overlaps the training scene"):
        held_out_windows(module, _Elsewhere(column=5.0, rows=80, cols=96))
    with pytest.raises(ConfigError, match="overlaps the training scene"):
        held_out_windows(module, _Elsewhere(x0=652_300.0))
