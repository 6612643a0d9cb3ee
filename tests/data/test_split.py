from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion3d.data.split import Split, chip_counts
from fusion3d.errors import ConfigError
from tests.data.scene import scene_grid


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(24, 90),
    cols=st.integers(24, 90),
    seed=st.integers(0, 99),
    buffer=st.integers(0, 3),
    fraction=st.floats(0.05, 0.6),
)
def test_no_training_chip_touches_the_held_out_region_or_its_buffer(rows, cols, seed, buffer, fraction):
    chip = 8
    split = Split.draw(
        scene_grid(rows, cols), np.ones((rows, cols), bool), chip=chip, fraction=fraction, buffer=buffer, seed=seed
    )
    training, held = split.training(), split.held_out()
    origins = np.argwhere(chip_counts(training, chip, 1) == chip * chip)
    assert len(origins)
    assert (chip_counts(held, chip, 1) == chip * chip).any()
    held_at = np.argwhere(held)
    for row, col in origins[:: max(1, len(origins) // 20)]:
        apart = np.maximum(
            np.maximum(row - held_at[:, 0], held_at[:, 0] - (row + chip - 1)),
            np.maximum(col - held_at[:, 1], held_at[:, 1] - (col + chip - 1)),
        )
        assert apart.min() > buffer


def test_the_size_of_a_small_real_scene_is_split_near_the_share_asked_for():
    split = Split.draw(scene_grid(76, 51), np.ones((76, 51), bool), chip=16, fraction=0.25)
    assert 0.15 <= split.held_out().mean() <= 0.35
    assert (chip_counts(split.training(), 16, 1) == 256).any()


def test_large_scene_is_split_at_the_share_asked_for():
    split = Split.draw(scene_grid(600, 800), np.ones((600, 800), bool), chip=16, fraction=0.25)
    assert split.held_out().mean() == pytest.approx(0.25, abs=0.01)


def test_share_counts_observed_columns_only():
    observed = np.zeros((200, 200), bool)
    observed[:, :60] = True
    split = Split.draw(scene_grid(200, 200), observed, chip=8, fraction=0.3)
    assert split.held_out()[observed].mean() == pytest.approx(0.3, abs=0.08)


def test_split_depends_on_the_seed_alone_and_survives_plain_types():
    grid, observed = scene_grid(200, 200), np.ones((200, 200), bool)
    first, again, other = (Split.draw(grid, observed, chip=8, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert Split.from_plain(json.loads(json.dumps(first.to_plain()))) == first


def test_split_is_refused_on_another_grid():
    split = Split.draw(scene_grid(64, 64), np.ones((64, 64), bool), chip=8)
    split.check(scene_grid(64, 64))
    with pytest.raises(ConfigError, match="the store has"):
        split.check(scene_grid(64, 65))


def test_nothing_is_held_out_at_share_0():
    split = Split.draw(scene_grid(20, 20), np.ones((20, 20), bool), chip=16, fraction=0.0)
    assert split.training().all()
    assert not split.held_out().any()


def test_scene_too_small_for_two_chips_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match=r"--data\.size smaller, or set --data\.holdout 0"):
        Split.draw(scene_grid(20, 20), np.ones((20, 20), bool), chip=16)


def test_narrow_scene_is_cut_across_its_longer_side():
    split = Split.draw(scene_grid(16, 50), np.ones((16, 50), bool), chip=16, fraction=0.25)
    (window,) = split.windows()
    assert (window.rows, window.cols) == (16, 16)


def test_chip_counts_equal_a_sum_over_each_window():
    mask = np.random.default_rng(0).random((13, 17)) < 0.4
    counts = chip_counts(mask, 5, 3)
    assert counts.tolist() == [[mask[r : r + 5, c : c + 5].sum() for c in range(0, 13, 3)] for r in range(0, 9, 3)]
    assert chip_counts(mask, 14, 1).size == 0
