from __future__ import annotations

import numpy as np
import pytest

from fusion3d.grid import Window
from fusion3d.report import embedding, scene3d
from fusion3d.report.embedding import map_place, principal_colours
from fusion3d.report.scene3d import choose_window, embedding_colours, read_square, scene_section
from fusion3d.report.store_view import StoreView
from tests.data.scene import canopy, open_scene
from tests.report.runs import write_embedding


@pytest.fixture(scope="module")
def view(tmp_path_factory) -> StoreView:
    return StoreView(open_scene(tmp_path_factory.mktemp("scene3d") / "scene.zarr", sensors=("als", "ortho")))


def test_square_lies_inside_one_block_and_varies_more_than_most(view):
    window = choose_window(view)
    assert (window.rows, window.cols) == (10, 10)
    assert window.row // 16 == (window.row_stop - 1) // 16
    assert window.col // 16 == (window.col_stop - 1) // 16
    top = canopy()
    spreads = [top[row : row + 10, col : col + 10].std() for row in range(31) for col in range(39)]
    assert top[window.row : window.row_stop, window.col : window.col_stop].std() > np.median(spreads)


def test_points_stand_where_they_are_in_the_square(view):
    window = Window(16, 16, 4, 8)
    square = read_square(view, window)
    assert (square.position[:, :2] >= 0).all()
    assert (square.position[:, :2] <= [80, 40]).all()
    # in the columns of the north-western corner: west, and north
    corner = square.position[square.column == 0]
    assert (corner[:, 0] < 10).all()
    assert (corner[:, 1] > 30).all()
    # the scene's ground is flat, so elevation is height above ground
    np.testing.assert_allclose(np.ptp(square.position[:, 2]), np.ptp(square.height), atol=0.02)


def test_number_of_points_is_bounded_and_the_choice_repeats(view, monkeypatch):
    monkeypatch.setattr(scene3d, "_MOST_POINTS", 100)
    one, two = (read_square(view, Window(0, 8, 10, 10)) for _ in range(2))
    assert len(one.position) == 100
    # 12 points a column, of which noise, withheld points and those of unknown height do not count
    assert 900 < one.in_all < 1200
    np.testing.assert_array_equal(one.position, two.position)


def test_points_have_the_colour_of_their_column_on_the_map(view, tmp_path):
    cog = write_embedding(tmp_path / "embedding.tif", view.store.grid)
    window = Window(20, 30, 5, 5)
    square = read_square(view, window)
    colours = embedding_colours(view, square, cog)
    whole, _ = principal_colours(cog, map_place(cog, view))
    expected = whole[20 + square.column // 5, 30 + square.column % 5, :3].astype(int)
    np.testing.assert_array_equal(colours, expected)


def test_map_of_coarser_pixels_still_gives_points_the_colour_of_their_own_column(view, tmp_path, monkeypatch):
    cog = write_embedding(tmp_path / "embedding.tif", view.store.grid)
    square = read_square(view, Window(20, 30, 5, 5))
    monkeypatch.setattr(embedding, "_MOST_VALUES", 8 * 24 * 20)
    assert map_place(cog, view).pixel == 20.0
    colours = embedding_colours(view, square, cog)
    by_column = [np.unique(colours[square.column == column], axis=0) for column in range(25)]
    assert {len(found) for found in by_column} == {1}
    # no two columns of the map are alike; pixels of 20 m would give at most 9 colours
    assert len(np.unique(np.concatenate(by_column), axis=0)) == 25


def test_column_without_embedding_is_grey(view, tmp_path):
    cog = write_embedding(tmp_path / "embedding.tif", view.store.grid)
    square = read_square(view, Window(0, 4, 2, 2))
    assert not (embedding_colours(view, square, cog) == 170).all(axis=1).any()
    # the embedding map does not reach beyond the store, and its corner is empty; points are put there by hand
    corner = type(square)(Window(0, 0, 2, 2), square.position, square.height, square.column, square.in_all)
    assert (embedding_colours(view, corner, cog) == 170).all()


def test_store_without_points_says_so(tmp_path):
    view = StoreView(open_scene(tmp_path / "scene.zarr", sensors=("ortho",)))
    assert "no ALS" in scene_section(view, None)
