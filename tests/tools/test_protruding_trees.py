"""Trees that are lifted out of a small written forest and set on other columns."""

from __future__ import annotations

import sys
from pathlib import Path

import geopandas
import numpy as np
import pytest

from fusion3d.errors import ConfigError
from fusion3d.grid import Window
from fusion3d.io.las_writer import write_points
from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import AlsSource, Scene
from fusion3d.store import Store

sys.path.append(str(Path(__file__).parents[2] / "tools"))
import protruding_trees

X0, Y0, SIDE = 652_000.0, 6_862_000.0, 12
TREES = ((25.0, 95.0, 24.0, 3.0), (31.0, 95.0, 12.0, 2.0), (75.0, 35.0, 30.0, 4.0), (75.0, 95.0, 9.0, 2.0))
"""East and north of the corner, height and crown radius, metres: the second is beside a taller one, the fourth is low."""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> tuple[Store, Path]:
    """Ground everywhere in 12 x 12 columns and four trees, each with a stem of returns and a crown; and their inventory."""
    folder, rng = tmp_path_factory.mktemp("trees"), np.random.default_rng(3)
    points = [np.column_stack([rng.uniform(0, 120, (2000, 2)), np.zeros(2000)])]
    for east, north, height, crown in TREES:
        reach, turn = crown * np.sqrt(rng.random(200)), rng.uniform(0, 2 * np.pi, 200)
        level = np.append(rng.uniform(0.5 * height, height, 199), height)
        points.append(np.column_stack([east + reach * np.cos(turn), north + reach * np.sin(turn), level]))
    x, y, z = np.concatenate(points).T
    number = {"classification": np.where(z > 0, 5, 2), "return_number": np.ones(len(z)), "number_of_returns": np.ones(len(z))}
    attributes = {name: values.astype(np.uint8) for name, values in number.items()}
    write_points(folder / "tile.laz", x + X0, y + Y0, z, attributes, crs="EPSG:2154")
    source = AlsSource((str(folder / "tile.laz"),), normalized=True)
    bounds = (X0, Y0, X0 + 120, Y0 + 120)
    prepare(Scene(source, voxel=1.0, block=8, bounds=bounds), folder / "trees.zarr", quiet=True)
    east, north, height, crown = np.array(TREES).T
    inventory = geopandas.GeoDataFrame(
        {"height_m": height, "crown_radius_m": crown}, geometry=geopandas.points_from_xy(X0 + east, Y0 + north), crs="EPSG:2154"
    )
    inventory.to_file(folder / "trees.gpkg")
    return Store.open(folder / "trees.zarr"), folder / "trees.gpkg"


@pytest.fixture(scope="module")
def lifted(place):
    return protruding_trees.lifted_trees(*place, seed=0)


def tops(store: Store) -> np.ndarray:
    """[144] greatest height of each column."""
    points = store.points(store.grid.window, [])
    column = np.repeat(np.arange(store.grid.window.size), np.diff(points.row_splits))
    found = np.zeros(store.grid.window.size)
    np.maximum.at(found, column, points.height)
    return found


def test_only_tall_trees_that_no_taller_one_overtops_are_lifted_whole_and_without_the_ground(lifted):
    assert sorted(float(tree.height.max()) for tree in lifted) == pytest.approx([24.0, 30.0], abs=1e-3)
    for tree in lifted:
        crown = {24: 3.0, 30: 4.0}[round(float(tree.height.max()))]
        assert 195 <= len(tree) <= 200
        assert np.hypot(*tree.offset.T).max() <= crown + 1e-3
        assert (tree.attributes["classification"] == 5).all()


def test_a_scene_without_tall_trees_is_refused(place, tmp_path):
    low = geopandas.read_file(place[1]).assign(height_m=15.0)
    low.to_file(tmp_path / "low.gpkg")
    with pytest.raises(ConfigError, match="has no tree of 20 m"):
        protruding_trees.lifted_trees(place[0], tmp_path / "low.gpkg", seed=0)


def test_a_tree_above_the_canopy_ends_2_to_10_m_above_the_highest_return_of_its_column(place, lifted):
    store = place[0]
    changed = protruding_trees.with_trees(store, lifted, "above", 1 / 144, seed=1)
    before, after = tops(store), tops(changed)
    risen = np.flatnonzero(after > before)
    # one tree; its crown reaches into at most the columns about its own
    assert 1 <= len(risen) <= 4
    assert 2.0 <= (after - before)[risen].max() <= 10.0


def test_a_tall_tree_keeps_its_size(place, lifted):
    changed = protruding_trees.with_trees(place[0], lifted, "tall", 0.2, seed=1)
    assert tops(changed).max() == pytest.approx(30.0, abs=1e-3)
    assert (tops(changed) >= tops(place[0])).all()


def test_a_larger_share_holds_the_trees_of_a_smaller_one(place, lifted):
    few, many = (protruding_trees.with_trees(place[0], lifted, "tall", share, seed=1) for share in (0.05, 0.5))
    window = place[0].grid.window
    rows = [
        {(row, *map(float, place), float(height)) for row, place, height in zip(np.repeat(np.arange(window.size),
         np.diff(points.row_splits)), points.offset, points.height, strict=True)}
        for points in (store.points(window, []) for store in (place[0], few, many))
    ]  # fmt: skip
    assert rows[0] < rows[1] < rows[2]


def test_points_of_a_window_are_those_of_the_store_and_of_the_trees_in_its_columns(place, lifted):
    store = place[0]
    changed = protruding_trees.with_trees(store, lifted, "tall", 0.3, seed=2)
    whole = changed.points(store.grid.window)
    counts = np.diff(whole.row_splits).reshape(SIDE, SIDE)
    assert counts.sum() > np.diff(store.points(store.grid.window, []).row_splits).sum() + 1000
    # across the edge of blocks, and beyond the grid
    part = changed.points(Window(5, 6, 9, 4), ["classification"])
    inside = np.diff(part.row_splits).reshape(9, 4)
    assert (inside[:7] == counts[5:, 6:10]).all()
    assert (inside[7:] == 0).all()
    assert list(part.attributes) == ["classification"]
    for values in (part.offset, whole.offset):
        assert ((values >= 0) & (values < 10)).all()
    assert (np.abs(part.elevation - part.height) < 1e-3).all()


def test_points_in_memory_are_those_of_the_store(place):
    store, kept = place[0], protruding_trees.PointsInMemory(place[0].path)
    for window in (store.grid.window, Window(5, 6, 9, 4), Window(-2, -3, 6, 5), Window(20, 20, 2, 2)):
        own, found = (each.points(window) for each in (store, kept))
        assert (found.row_splits == own.row_splits).all()
        for name in ("offset", "height", "elevation"):
            assert (getattr(found, name) == getattr(own, name)).all()
        assert own.attributes.keys() == found.attributes.keys()
        assert all((found.attributes[name] == values).all() for name, values in own.attributes.items())


def test_growth_is_shown_over_seeds():
    base = {"unit": "plots", "model": "plot metrics, forest", "trees": "none", "share": 0.0, "rmse": 20.0, "growth": 0.0}
    runs = [{**base, "seed": seed} for seed in (0, 1)]
    runs += [
        {**base, "seed": seed, "trees": "tall", "share": 2.0, "rmse": 20 * (1 + grown), "growth": grown}
        for seed, grown in ((0, 0.1), (1, 0.5))
    ]
    assert protruding_trees.table(runs).splitlines()[2] == "| plots | plot metrics, forest | 20.0 | +30% (+10% to +50%) |"
