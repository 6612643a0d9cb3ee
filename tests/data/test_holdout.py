from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from fusion3d.data.holdout import hold_out_with_margin, margin_warning, wanted_margin
from fusion3d.data.split import Split
from fusion3d.errors import ConfigError
from tests.data.scene import open_scene, scene_grid


def held(rows: int, cols: int, chip: int, wanted: int, **options) -> Split:
    observed = np.ones((rows, cols), bool)

    def draw(margin: int) -> Split:
        return Split.draw(scene_grid(rows, cols), observed, chip=chip, buffer=margin, **options)

    return hold_out_with_margin(draw, wanted, observed, chip)


@pytest.mark.parametrize("wanted", [4, 6, 10])
def test_a_square_kilometre_keeps_the_whole_margin_and_half_of_the_rest(wanted):
    split = held(100, 100, 8, wanted)
    assert split.buffer == wanted
    assert split.held_out().mean() == pytest.approx(0.25, abs=0.1)
    assert split.training().mean() > 0.5 * (1 - split.held_out().mean())


def test_margin_gives_way_where_it_would_leave_too_little():
    # 40 rows of which 16 are held out: chips of 16 fit into the other 24 with a margin of at most 8.
    split = held(40, 16, 16, 20)
    assert 1 <= split.buffer <= 8
    assert split.left(np.ones((40, 16), bool), 16) >= 0.25


def test_margin_gives_way_until_a_quarter_of_the_rest_is_left():
    # A strip of 25 rows is held out; of the other 75, a margin of 56 leaves 19 (0.253), one of 57 leaves 18 (0.24).
    split = held(100, 100, 8, 60)
    assert [window.rows * window.cols for window in split.windows()] == [2500]
    assert split.buffer == 56


def test_margin_as_wide_as_possible_is_taken():
    split = held(40, 16, 16, 20)
    wider = partial(Split.draw, scene_grid(40, 16), np.ones((40, 16), bool), chip=16)
    with pytest.raises(ConfigError):
        wider(buffer=split.buffer + 1)


def test_scene_without_room_for_any_margin_is_refused():
    with pytest.raises(ConfigError, match="too small"):
        held(20, 20, 16, 4)


def test_nothing_held_out_needs_no_margin():
    assert held(20, 20, 16, 4, fraction=0.0).buffer == 0


def test_share_left_counts_columns_that_a_chip_reaches():
    # Columns 0-3 are held out and 4 is margin: chips of 4 reach the other 5 of 6.
    split = Split(0.0, 0.0, 10.0, (0, 4), (0, 4, 10), ((0, 0),), 1)
    assert split.left(np.ones((4, 10), bool), 4) == pytest.approx(5 / 6)
    assert split.left(np.ones((4, 10), bool), 6) == 0.0
    narrow = Split(0.0, 0.0, 10.0, (0, 4), (0, 2, 3, 6, 10), ((0, 1), (0, 3)), 0)
    # Of columns 0, 1 and 3-5, chips of 3 reach the last three.
    assert narrow.left(np.ones((4, 10), bool), 3) == pytest.approx(3 / 5)


def test_a_pixel_larger_than_a_column_widens_the_margin(tmp_path):
    store = open_scene(tmp_path / "scene.zarr", sensors=("als", "s2", "coarse"))
    assert wanted_margin(store, ("als", "s2"), 3) == 3
    assert wanted_margin(store, ("als", "coarse"), 3) == 4


def test_warning_says_what_is_too_narrow_and_what_helps():
    assert margin_warning("a.zarr", None, 5, 5) is None
    assert margin_warning("a.zarr", 6, 6, 5) is None
    asked = margin_warning("a.zarr", 1, 1, 5)
    assert "--data.buffer 1 is less than the 5 columns" in asked
    assert "within 4 columns" in asked
    fallen = margin_warning("a.zarr", None, 2, 5)
    assert "the margin is 2" in fallen
    assert "--model.preset" in fallen
    assert not {"\n"} & {*asked, *fallen}
