"""Noise, gaps and shifts on hand-made observations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion3d.data.chips import read_chips
from fusion3d.data.observation import ChipBatch, FootprintObservation, PointObservation, RasterObservation
from fusion3d.evaluation.disturbance import NOISE, gappy, noisy, shift_steps, shifted
from fusion3d.io.bands import Band
from tests.data.scene import open_scene

SIZE, COLUMN = 4, 10.0


def points(east: list[float], south: list[float]) -> PointObservation:
    """Points by their distance from the chip's corner, metres, sorted by column."""
    place = torch.tensor([east, south]).T
    cell = (place / COLUMN).floor().long()
    column = cell[:, 1] * SIZE + cell[:, 0]
    order = column.argsort(stable=True)
    splits = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(column, minlength=SIZE**2).cumsum(0)])
    # the height numbers the points
    height = torch.arange(len(east), dtype=torch.float32)[order]
    return PointObservation((place - cell * COLUMN)[order], height, torch.zeros(len(east), 4), splits)


def raster(values: torch.Tensor, fine: int = 1, coarse: int = 0) -> RasterObservation:
    """One date and band of values [H, W]."""
    pixel = COLUMN / fine if fine else COLUMN * coarse
    return RasterObservation(
        values[None, None, None], torch.ones(1, 1, 1, *values.shape, dtype=torch.bool), torch.zeros(1, 1),
        torch.ones(1, 1, dtype=torch.bool), (Band("B", 500.0),), pixel, fine, coarse, torch.zeros(1, 2, dtype=torch.int64),
    )  # fmt: skip


def footprints(position: list[list[float]], energy: list[float], per: int) -> FootprintObservation:
    count = len(position)
    return FootprintObservation(
        torch.tensor(position), torch.zeros(count, dtype=torch.int64), torch.zeros(len(energy)), torch.tensor(energy),
        torch.arange(0, per * count + 1, per), torch.zeros(count, 3), torch.arange(count, dtype=torch.float32),
    )  # fmt: skip


def batch(**observed: object) -> ChipBatch:
    return ChipBatch(torch.zeros(1, 2, dtype=torch.int64), SIZE, COLUMN, 0.5, **observed)  # type: ignore[arg-type]


def place_of(found: PointObservation) -> dict[float, tuple[float, float]]:
    """East and south of each point from the chip's corner, by its number."""
    column = torch.arange(SIZE**2).repeat_interleave(found.row_splits.diff())
    east, south = column % SIZE * COLUMN + found.offset[:, 0], column // SIZE * COLUMN + found.offset[:, 1]
    return {number: (float(x), float(y)) for number, x, y in zip(found.height.tolist(), east, south)}


# -- shifts


@pytest.mark.parametrize(("east", "south"), [(0.25, 0.0), (0.0, -0.5), (-1.0, 0.0), (0.0, 2.0), (0.3, -0.7)])
def test_points_move_by_any_distance_and_those_that_leave_are_lost(east, south):
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 40, 300).astype(np.float32), rng.uniform(0, 40, 300).astype(np.float32)
    found = shifted("als", east, south)(batch(als=points(x.tolist(), y.tolist()))).als
    there = place_of(found)
    moved_x, moved_y = x + east * COLUMN, y + south * COLUMN
    inside = (moved_x >= 0) & (moved_x < 40) & (moved_y >= 0) & (moved_y < 40)
    assert set(there) == set(np.flatnonzero(inside).astype(float).tolist())
    for number, (found_x, found_y) in there.items():
        assert found_x == pytest.approx(moved_x[int(number)], abs=1e-4)
        assert found_y == pytest.approx(moved_y[int(number)], abs=1e-4)
    assert ((found.offset >= 0) & (found.offset < COLUMN)).all()


def test_a_point_moved_onto_a_shared_edge_belongs_to_the_column_of_larger_index():
    found = shifted("als", 0.25, 0.0)(batch(als=points([7.5], [0.0]))).als
    assert found.row_splits.diff().tolist() == [0, 1] + [0] * 14
    assert found.offset.tolist() == [[0.0, 0.0]]


def test_when_all_points_leave_the_sensor_is_absent():
    assert shifted("als", 2.0, 0.0)(batch(als=points([35.0], [5.0]))).als is None


def test_footprints_move_and_a_raster_moves_by_whole_pixels():
    moved = shifted("gedi", 0.5, -0.25)(batch(gedi=footprints([[12.0, 20.0]], [1.0], 1)))
    assert moved.gedi.position.tolist() == [[17.0, 17.5]]
    values = torch.arange(1.0, 17.0).reshape(4, 4)
    found = shifted("s2", 1.0, 0.0)(batch(rasters={"s2": raster(values)})).rasters["s2"]
    assert found.values[0, 0, 0].tolist() == [[0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11], [0, 13, 14, 15]]
    assert found.valid[0, 0, 0].sum(dim=1).tolist() == [3] * 4
    north = shifted("s2", 0.0, -2.0)(batch(rasters={"s2": raster(values)})).rasters["s2"]
    assert north.values[0, 0, 0].tolist() == [[9, 10, 11, 12], [13, 14, 15, 16], [0] * 4, [0] * 4]


def test_steps_of_a_raster_are_whole_pixels(tmp_path):
    store = open_scene(tmp_path / "scene.zarr", sensors=("als", "ortho", "s2", "coarse"), rows=16, cols=16)
    assert shift_steps(store, "als") == (0, 0.25, 0.5, 1, 2)
    assert shift_steps(store, "ortho") == (0, 0.25, 0.5, 1, 2)  # pixels of 2.5 m in columns of 10 m
    assert shift_steps(store, "s2") == (0, 1, 2)
    assert shift_steps(store, "coarse") == (0, 2)  # pixels of 20 m


# -- gaps


def test_gaps_leave_out_whole_columns_and_a_larger_share_holds_a_smaller_one():
    rng = np.random.default_rng(2)
    whole = batch(
        als=points(rng.uniform(0, 40, 400).tolist(), rng.uniform(0, 40, 400).tolist()),
        rasters={"ortho": raster(torch.ones(8, 8), fine=2)},
    )
    left = {}
    for share in (0.3, 0.6):
        als = gappy("als", share, 5, 0)(whole).als
        counts, before = als.row_splits.diff(), whole.als.row_splits.diff()
        assert ((counts == 0) | (counts == before)).all()
        ortho = gappy("ortho", share, 5, 0)(whole).rasters["ortho"]
        cells = ortho.valid[0, 0, 0].reshape(4, 2, 4, 2).permute(0, 2, 1, 3).reshape(16, 4)
        assert (cells.all(dim=1) | ~cells.any(dim=1)).all()
        assert (ortho.values[~ortho.valid] == 0).all()
        left[share] = counts > 0, cells.any(dim=1)
    for few, many in zip(left[0.6], left[0.3]):
        assert (few <= many).all()
        assert few.sum() < many.sum()


def test_a_large_share_of_many_columns_is_missing_and_draws_differ():
    big = ChipBatch(torch.zeros(1, 2, dtype=torch.int64), 64, COLUMN, 0.5, rasters={"s2": raster(torch.ones(64, 64))})
    masks = [gappy("s2", 0.75, 0, draw)(big).rasters["s2"].valid for draw in (0, 1)]
    # 4096 draws: 0.75 within five standard deviations of 0.0068
    assert all(abs(float(mask.float().mean()) - 0.25) < 0.034 for mask in masks)
    assert not torch.equal(*masks)


def test_a_footprint_is_missing_with_the_column_of_its_centre():
    place = [[5.0 + 10 * col, 5.0 + 10 * row] for row in range(4) for col in range(4)]
    whole = batch(
        gedi=footprints(place, [float(number) for number in range(32)], 2),
    )
    found = gappy("gedi", 0.5, 3, 0)(whole).gedi
    assert 0 < found.count < 16
    kept = found.day.long()  # the number of the footprint
    assert found.energy.tolist() == [value for number in kept.tolist() for value in (2 * number, 2 * number + 1)]
    assert torch.equal(found.position, whole.gedi.position[kept])


# -- noise


def test_noise_has_the_level_that_it_says(tmp_path):
    store = open_scene(tmp_path / "scene.zarr", sensors=("als", "gedi", "s2"))
    whole = read_chips(store, [(8, 8)], 32)
    heights = noisy("als", 2.0, 0, 0)(whole).als.height - whole.als.height
    assert float(heights.std()) == pytest.approx(2.0, rel=0.05)
    s2, noise = whole.rasters["s2"], noisy("s2", 0.5, 0, 0)(whole).rasters["s2"]
    assert float((noise.values - s2.values)[s2.valid].std()) == pytest.approx(0.5, rel=0.05)
    assert (noise.values[~s2.valid] == 0).all()
    assert torch.equal(noise.valid, s2.valid)
    energy = noisy("gedi", 0.25, 0, 0)(whole).gedi.energy - whole.gedi.energy
    assert float(energy.std()) == pytest.approx(0.25 / 20, rel=0.15)  # 20 points of 1/20 of the energy each


def test_more_noise_is_the_same_noise_stronger_and_other_draws_other_noise():
    whole = batch(rasters={"s2": raster(torch.zeros(4, 4)), "s1": raster(torch.zeros(4, 4))})

    def noise(sensor, level, seed, draw):
        return noisy(sensor, level, seed, draw)(whole).rasters[sensor].values

    assert torch.allclose(noise("s2", 2.0, 0, 0), 4 * noise("s2", 0.5, 0, 0))
    for other in (noise("s1", 0.5, 0, 0), noise("s2", 0.5, 1, 0), noise("s2", 0.5, 0, 1)):
        assert not torch.allclose(noise("s2", 0.5, 0, 0), other)


@pytest.mark.parametrize("alter", [noisy("als", 1.0, 0, 0), gappy("gedi", 0.5, 0, 0), shifted("s2", 1.0, 0.0)])
def test_a_sensor_that_is_not_there_stays_absent(alter):
    empty = batch()
    assert alter(empty).sensors == ()


def test_every_kind_of_sensor_has_three_rising_levels():
    assert set(NOISE) == {"als", "gedi", "raster"}
    assert all(len(levels) == 3 and list(levels) == sorted(levels) for levels, _ in NOISE.values())
