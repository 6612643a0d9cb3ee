from __future__ import annotations

import numpy as np

from fusion3d.data.candidates import coverage, find_candidates, fixed_chips, seen_by_enough
from tests.data.scene import NO_POINTS, open_scene

SIZE = 4


def masks() -> list[dict[str, np.ndarray]]:
    """ALS everywhere, ortho in the west half, s2 in one corner, gedi in one column."""
    als = np.ones((40, 40), bool)
    ortho, s2, gedi = (np.zeros((40, 40), bool) for _ in range(3))
    ortho[:, :20], s2[:8, :8], gedi[33, 33] = True, True, True
    return [{"als": als, "ortho": ortho, "s2": s2, "gedi": gedi}]


def candidates():
    return find_candidates(masks(), [np.ones((40, 40), bool)], SIZE, min_columns=16)


def test_pairs_that_never_meet_are_no_candidates():
    assert {item.pair for item in candidates()} == {("als", "gedi"), ("als", "ortho"), ("als", "s2"), ("ortho", "s2")}


def test_every_candidate_holds_enough_columns_of_both_sensors():
    seen = masks()[0]
    for item in candidates():
        least = 1 if "gedi" in item.pair else 16
        both = seen[item.pair[0]] & seen[item.pair[1]]
        assert all(both[row : row + SIZE, col : col + SIZE].sum() >= least for row, col in item.origin)


def test_fixed_chips_do_not_overlap_and_take_turns():
    chips = fixed_chips(candidates(), SIZE, 9)
    assert len(chips) == 9
    assert chips == fixed_chips(candidates(), SIZE, 9)
    for i, first in enumerate(chips):
        assert all(abs(first.row - other.row) >= SIZE or abs(first.col - other.col) >= SIZE for other in chips[:i])
    assert any(chip.row <= 33 < chip.row + SIZE and chip.col <= 33 < chip.col + SIZE for chip in chips)


def test_candidates_are_found_in_several_stores_and_allowed_columns_only():
    allowed = np.zeros((40, 40), bool)
    allowed[:20] = True
    found = find_candidates([{"als": np.ones((40, 40), bool)}, *masks()], [np.ones((40, 40), bool), allowed], SIZE)
    for item in found:
        assert set(item.store.tolist()) == {1}
        assert (item.origin[:, 0] + SIZE <= 20).all()


def test_coverage_puts_blocks_together(tmp_path):
    store = open_scene(tmp_path / "scene.zarr", sensors=("als", "gedi", "far"))
    seen = coverage(store, store.sensors)
    assert not seen["als"][NO_POINTS].any()
    assert seen["als"].sum() == seen["als"].size - 16
    assert not seen["far"].any()
    assert seen["gedi"][4, 10]
    assert not seen["gedi"][5, 10]
    assert seen_by_enough(seen, 2).sum() == (seen["als"] & seen["gedi"]).sum() > 0
