"""Folds that keep neighbours together."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion3d.errors import ConfigError
from fusion3d.evaluation.blocks import blocks_of, deal, default_side, random_folds, spatial_folds, stratum_folds


def plots(x: np.ndarray, y: np.ndarray, radius: float = 5.0) -> np.ndarray:
    return shapely.buffer(shapely.points(x, y), radius)


def scattered(count: int = 200, extent: float = 1000.0, seed: int = 0) -> np.ndarray:
    return plots(*np.random.default_rng(seed).uniform(0, extent, (2, count)))


def test_plots_of_one_square_are_held_out_together():
    polygons = scattered()
    found = spatial_folds(polygons, 1.0, side=200.0, seed=1)
    middle = shapely.centroid(polygons)
    square = np.floor(shapely.get_x(middle) / 200) * 100 + np.floor(shapely.get_y(middle) / 200)
    for number in np.unique(square):
        assert len(set(found.fold[square == number])) == 1
        assert len(set(found.group[square == number])) == 1
    assert found.groups == 25
    assert found.count == 5


def test_every_plot_is_held_out_once_and_never_trained_with_then():
    found = spatial_folds(scattered(), 1.0, buffer=30.0)
    times = np.zeros(200, int)
    for number in range(found.count):
        training, held_out = found.split(number)
        assert not (training & held_out).any()
        times += held_out
    assert (times == 1).all()


@pytest.mark.parametrize("buffer", [0.0, 60.0])
def test_no_training_plot_is_within_the_buffer_of_a_held_out_one(buffer):
    polygons = shapely.buffer(scattered(), 20.0)
    found = spatial_folds(polygons, 1.0, side=200.0, buffer=buffer)
    distance = shapely.distance(polygons[:, None], polygons[None, :])
    left_out = 0
    for number in range(found.count):
        training, held_out = found.split(number)
        near = distance[:, held_out].min(axis=1) <= buffer
        np.testing.assert_array_equal(training, ~held_out & ~near)
        left_out += int((~held_out & near).sum())
    assert left_out > 0


def test_folds_hold_about_equally_many_plots():
    found = spatial_folds(scattered(500), 1.0, side=100.0)
    assert np.ptp(np.bincount(found.fold)) <= 10


def test_seed_decides_and_only_it():
    one, again, other = (spatial_folds(scattered(), 1.0, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.fold, again.fold)
    assert (one.fold != other.fold).any()


@pytest.mark.parametrize("scale", [1.0, 0.1, 37.0])
def test_default_blocks_are_round_and_about_four_a_fold(scale):
    found = spatial_folds(scattered(300, 1000 * scale), 1.0)
    assert found.groups >= 20
    assert found.side is not None
    digits = found.side / 10 ** np.floor(np.log10(found.side) + 1e-9)
    assert round(digits, 9) in (1, 2, 5)
    # the next larger round side would not do
    larger = found.side * (2.5 if round(digits) == 2 else 2)
    centre = shapely.centroid(scattered(300, 1000 * scale))
    assert len(np.unique(blocks_of(np.stack([shapely.get_x(centre), shapely.get_y(centre)], 1), larger))) < 20


def test_few_plots_still_share_blocks():
    found = spatial_folds(scattered(30), 1.0)
    assert 10 <= found.groups <= 24


def test_sides_are_metres_in_a_crs_of_feet():
    feet = scattered(200, 1000 / 0.3048)
    assert spatial_folds(feet, 0.3048, side=200.0).groups == 25
    near = spatial_folds(plots(np.array([0.0, 100.0]), np.zeros(2)), 0.3048, side=20.0, buffer=27.0)
    # 90 feet between the edges are 27.4 m
    assert near.near.size == 0
    assert spatial_folds(plots(np.array([0.0, 100.0]), np.zeros(2)), 0.3048, side=20.0, buffer=28.0).near.shape == (2, 2)


def test_fewer_blocks_than_folds_is_said_and_one_block_refused():
    two = plots(np.array([1.0, 2.0, 101.0, 102.0]), np.zeros(4), 0.1)
    found = spatial_folds(two, 1.0, side=100.0)
    assert found.count == 2
    assert "2 folds instead of 5" in found.notes[0]
    with pytest.raises(ConfigError, match="one block of 1000 m"):
        spatial_folds(two, 1.0, side=1000.0)
    with pytest.raises(ConfigError, match="one spot"):
        spatial_folds(plots(np.zeros(4), np.zeros(4)), 1.0)


def test_random_folds_warn_and_split_neighbours():
    polygons = scattered()
    found = random_folds(polygons, 1.0)
    assert found.notes[0].startswith("warning")
    assert found.side is None
    square = blocks_of(np.stack([shapely.get_x(shapely.centroid(polygons)), shapely.get_y(shapely.centroid(polygons))], 1), 200.0)
    assert any(len(set(found.fold[square == number])) > 1 for number in range(25))
    assert found.near.size == 0
    assert np.bincount(found.fold).tolist() == [40] * 5


@pytest.mark.parametrize(
    "options", [{"folds": 1}, {"buffer": -1.0}, {"side": 0.0}, {"side": float("nan")}, {"buffer": float("inf")}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="--"):
        spatial_folds(scattered(), 1.0, **options)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_dealing_never_splits_a_group_and_uses_every_fold(groups, folds, seed):
    group = np.array(groups)
    found = deal(group, folds, seed)
    assert all(len(set(found[group == number])) == 1 for number in set(groups))
    assert len(set(found)) == min(folds, len(set(groups)))


def test_plots_on_the_lines_of_a_grid_are_not_scattered_by_rounding():
    """Plots of a systematic inventory every 500 m, in blocks of 1 km: 2 x 2 plots each."""
    x, y = np.meshgrid(np.arange(8) * 500.0 + 652_000, np.arange(8) * 500.0 + 6_862_000)
    found = spatial_folds(plots(x.ravel(), y.ravel(), 15.0), 1.0, side=1000.0)
    assert np.bincount(found.group).tolist() == [4] * 16


def test_default_side_of_a_line_of_plots():
    assert default_side(np.stack([np.arange(0.0, 2000.0, 10.0), np.zeros(200)], axis=1), 5) == 100.0


def test_strata_are_held_out_one_by_one_and_their_blocks_stay_whole():
    polygons = scattered()
    x = shapely.get_x(shapely.centroid(polygons))
    strata = np.where(x < 300, "pine", np.where(x < 650, "oak", "beech"))
    found = stratum_folds(polygons, 1.0, list(strata), side=200.0)
    assert [set(strata[found.fold == number]) for number in range(found.count)] == [{"beech"}, {"oak"}, {"pine"}]
    for group in np.unique(found.group):
        assert len(set(strata[found.group == group])) == 1
        assert np.ptp(x[found.group == group]) <= 200
    # two strata share the squares from 200 to 400 m and from 600 to 800 m
    assert found.groups == 25 + 5 + 5


def test_one_stratum_or_a_block_without_a_size_is_refused():
    with pytest.raises(ConfigError, match="all plots are of one stratum"):
        stratum_folds(scattered(), 1.0, ["oak"] * 200)
    with pytest.raises(ConfigError, match="--block -1"):
        stratum_folds(scattered(), 1.0, ["oak", "pine"] * 100, side=-1.0)
