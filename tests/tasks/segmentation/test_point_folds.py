"""Blocks of points: what is held out, and what is too near to it."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from fusion3d.errors import ConfigError
from fusion3d.tasks.segmentation.cloud import Cloud
from fusion3d.tasks.segmentation.point_folds import point_folds


def cloud(count: int = 3000, seed: int = 0) -> Cloud:
    rng = np.random.default_rng(seed)
    east, south = rng.uniform(-70, 90, count), rng.uniform(-6_860_050, -6_859_950, count)
    return Cloud(east, south, np.zeros(count), np.zeros((count, 4), np.float32), np.zeros(count, np.uint8), np.arange(count))


def test_points_within_the_buffer_of_held_out_blocks_are_not_learned_from():
    points = cloud()
    split = point_folds([points.take(np.arange(1000)), points.take(np.arange(1000, 3000))], 20.0, 3, 4.0, 0)
    assert split.count == 3
    place = shapely.points(points.east, points.south)
    corner = np.floor(np.stack([points.east, points.south]) / 20.0) * 20.0
    square = shapely.box(corner[0], corner[1], corner[0] + 20.0, corner[1] + 20.0)
    for number in range(3):
        held = split.fold_of(points) == number
        assert 0.2 < held.mean() < 0.5
        apart = shapely.distance(place, shapely.union_all(square[held]))
        np.testing.assert_array_equal(split.learned(points, number), apart >= 4.0)


def test_a_block_is_held_out_whole():
    points = cloud()
    split = point_folds([points], None, 4, 0.0, 1)
    for block in np.unique(split.block_of(points)):
        assert len(np.unique(split.fold_of(points)[split.block_of(points) == block])) == 1
    assert split.blocks == len(np.unique(split.block_of(points)))


@pytest.mark.parametrize(
    ("options", "said"),
    [((1000.0, 3, 0.0), "all points lie in one block"), ((20.0, 1, 0.0), "--folds 1"), ((-5.0, 3, 0.0), "--block -5"),
     ((20.0, 3, 21.0), "the buffer of 21")],
)  # fmt: skip
def test_options_out_of_range_are_refused(options, said):
    points = cloud(200)
    points = points.take((points.east > 0) & (points.south < -6_860_000))
    with pytest.raises(ConfigError, match=said):
        point_folds([points], *options, 0)
