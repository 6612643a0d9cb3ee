import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion3d.errors import ConfigError
from fusion3d.ops import column_pool, voxel_row_splits, voxelize
from fusion3d.ops.voxelize import COORDINATE_RANGE, _voxelize, pack_coordinates, unpack_keys

COORDINATE = st.tuples(*(st.integers(low, high - 1) for low, high in COORDINATE_RANGE))


def random_points(points=500, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([0, -3, -5, -5]), torch.tensor([3, 4, 5, 5])
    return low + (torch.rand(points, 4, generator=generator) * (high - low)).long()


@given(COORDINATE)
def test_packing_any_coordinate_in_range_and_unpacking_gives_it_back(coordinate):
    coordinates = torch.tensor([coordinate])
    assert unpack_keys(pack_coordinates(coordinates)).tolist() == [list(coordinate)]


@given(COORDINATE, COORDINATE)
def test_keys_order_by_chip_then_row_then_column_then_level(one, other):
    key, other_key = pack_coordinates(torch.tensor([one, other])).tolist()
    chip, level, row, column = zip(one, other, strict=True)
    expected = (chip[0], row[0], column[0], level[0]) < (chip[1], row[1], column[1], level[1])
    assert (key < other_key) == expected


def test_equals_numpy_unique():
    points = random_points()
    voxels = voxelize(points)
    order = [0, 2, 3, 1]  # numpy sorts lexicographically; the key's order is chip, row, column, level
    expected, inverse, counts = np.unique(points.numpy()[:, order], axis=0, return_inverse=True, return_counts=True)
    np.testing.assert_array_equal(voxels.coordinates.numpy()[:, order], expected)
    np.testing.assert_array_equal(voxels.inverse.numpy(), inverse.ravel())
    np.testing.assert_array_equal(voxels.counts.numpy(), counts)


def test_points_of_a_voxel_are_listed_in_their_first_order():
    voxels = voxelize(random_points())
    for v in range(voxels.coordinates.shape[0]):
        listed = voxels.permutation[voxels.row_splits[v] : voxels.row_splits[v + 1]]
        assert listed.tolist() == (voxels.inverse == v).nonzero().flatten().tolist()


def test_order_of_the_points_does_not_change_the_voxels():
    points, shuffle = random_points(), torch.randperm(500)
    voxels, shuffled = voxelize(points), voxelize(points[shuffle])
    assert torch.equal(voxels.coordinates, shuffled.coordinates)
    assert torch.equal(voxels.inverse[shuffle], shuffled.inverse)


def test_point_features_pool_to_voxels_through_the_csr():
    points = random_points()
    voxels = voxelize(points)
    pooled = column_pool(torch.ones(500, 1), voxels.row_splits, "sum", voxels.permutation)
    assert torch.equal(pooled[:, 0].long(), voxels.counts)


def test_no_point_and_one_point():
    nothing = voxelize(torch.empty(0, 4, dtype=torch.int64))
    assert nothing.coordinates.shape == (0, 4)
    assert nothing.row_splits.tolist() == [0]
    one = voxelize(torch.tensor([[2, -7, -1, 5]]))
    assert one.coordinates.tolist() == [[2, -7, -1, 5]]
    assert one.counts.tolist() == [1]


@settings(deadline=None)
@given(st.integers(0, 3), st.booleans())
def test_coordinate_past_its_range_is_refused_by_name(axis, above):
    coordinate = [0, 0, 0, 0]
    low, high = COORDINATE_RANGE[axis]
    coordinate[axis] = high if above else low - 1
    with pytest.raises(ConfigError, match=("chip", "level", "row", "column")[axis]):
        voxelize(torch.tensor([coordinate]))


@pytest.mark.parametrize(
    "coordinates", [torch.zeros(3, 3, dtype=torch.int64), torch.zeros(3, 4), torch.zeros(4, dtype=torch.int64)]
)
def test_other_shapes_and_types_are_refused(coordinates):
    with pytest.raises(ConfigError, match=r"\[V, 4\]"):
        voxelize(coordinates)


def test_voxels_pool_to_coarse_cells_and_the_halo_is_left_out():
    voxels = voxelize(torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 2], [0, 5, 0, -1]]))
    row, column = voxels.coordinates[:, 2], voxels.coordinates[:, 3]
    cell = torch.where((column < 0), -1, row.div(2, rounding_mode="floor") * 2 + column.div(2, rounding_mode="floor"))
    row_splits, permutation = voxel_row_splits(cell, 4)
    assert column_pool(torch.ones(5, 1), row_splits, "sum", permutation).flatten().tolist() == [3, 1, 0, 0]


def test_schema_and_fake_kernel_are_consistent():
    torch.library.opcheck(_voxelize, (random_points(20),))
