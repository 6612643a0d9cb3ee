"""The compiled voxelize gives what its reference gives, to the last index, and refuses what the reference refuses."""

from __future__ import annotations

import itertools

import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import voxelize
from fusion3d.ops.voxelize import COORDINATE_RANGE, _voxelize, voxelize_reference

pytestmark = pytest.mark.usefixtures("compiled")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=cuda)]
WHOLE_RANGE = COORDINATE_RANGE
TILE = ((0, 1), (-20, 180), (-9_000, -7_000), (30_000, 32_000))  # 1 km at 0.5 m
CHIPS = ((0, 16), (-4, 60), (0, 256), (0, 256))
COLUMN = ((3, 4), (-4096, 4096), (-65_536, -65_535), (65_535, 65_536))


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def points(ranges, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(low, high, (count,), generator=generator) for low, high in ranges], 1)


def assert_same_as_reference(coordinates, device="cpu"):
    for ours, expected in zip(_voxelize(coordinates.to(device)), voxelize_reference(coordinates), strict=True):
        assert torch.equal(ours.cpu(), expected)


@pytest.mark.parametrize("count", [1, 2, 23, 25, 26, 1000, 100_000, 300_001])  # insertion sort, one bucket, several
@pytest.mark.parametrize("ranges", [WHOLE_RANGE, TILE, CHIPS, COLUMN], ids=["whole", "tile", "chips", "column"])
def test_equals_the_reference(device, ranges, count):
    assert_same_as_reference(points(ranges, count), device)


def test_no_point(device):
    assert_same_as_reference(torch.empty(0, 4, dtype=torch.int64), device)


def test_all_points_in_one_voxel(device):
    for corner in itertools.product(*((low, high - 1) for low, high in COORDINATE_RANGE)):
        assert_same_as_reference(torch.tensor([corner]).expand(9000, 4), device)


def test_one_stray_point_at_each_end_of_the_range(device):
    """Almost every point then falls into one bucket, whose keys need more than 32 bits."""
    ends = torch.tensor([[low for low, _ in COORDINATE_RANGE], [high - 1 for _, high in COORDINATE_RANGE]])
    for extra in (ends, ends[:1], ends[1:]):
        assert_same_as_reference(torch.cat([points(TILE, 60_000), extra]), device)


@pytest.mark.parametrize("axis", range(4))
def test_coordinates_that_differ_along_one_axis_only(device, axis):
    coordinates = torch.tensor([5, -7, -9, 11]).repeat(20_000, 1)
    coordinates[:, axis] = points([COORDINATE_RANGE[axis]], 20_000)[:, 0]
    assert_same_as_reference(coordinates, device)


def test_points_already_in_order_and_in_reverse(device):
    ordered = voxelize_reference(points(TILE, 50_000))[0]
    assert_same_as_reference(ordered.repeat_interleave(3, 0), device)
    assert_same_as_reference(ordered.flip(0), device)


def test_lambert_93_northings_at_half_a_metre(device):
    """A tile near 6.9 million metres: rows and columns count from an origin that its user chose, exactly, in float64."""
    generator = torch.Generator().manual_seed(4)
    x, y, z = (torch.rand(40_000, generator=generator, dtype=torch.float64) * size for size in (500.0, 500.0, 60.0))
    east, north = 843_000 + x, 6_890_000 + y
    row, column = ((6_900_000 - north) / 0.5).floor().long(), ((east - 840_000) / 0.5).floor().long()
    assert_same_as_reference(torch.stack([row * 0, (z / 0.5).floor().long(), row, column], 1), device)


def test_memory_in_any_layout(device):
    coordinates = points(CHIPS, 5000).to(device)
    expected = _voxelize(coordinates)
    wide = torch.cat([coordinates, coordinates], 1)[:, :4]
    for other in (wide, coordinates.T.contiguous().T, torch.stack([coordinates] * 2, 1)[:, 1]):
        assert not other.is_contiguous()
        assert all(torch.equal(a, b) for a, b in zip(_voxelize(other), expected, strict=True))


@pytest.mark.parametrize("ranges", [WHOLE_RANGE, TILE, COLUMN], ids=["whole", "tile", "column"])
def test_any_number_of_threads_gives_the_same(threads, ranges):
    coordinates, results = points(ranges, 200_000), []
    for count in (1, 2, 3):
        threads(count)
        results.append(_voxelize(coordinates))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("value", ["below", "above", -(1 << 63), (1 << 63) - 1])
def test_a_coordinate_past_its_range_is_refused_in_the_reference_s_words(device, axis, value):
    coordinates = points(CHIPS, 70_000).to(device)
    low, high = COORDINATE_RANGE[axis]
    coordinates[40_000, axis] = {"below": low - 1, "above": high}.get(value, value)
    with pytest.raises(ConfigError) as expected:
        voxelize_reference(coordinates)
    with pytest.raises(ConfigError) as refused:
        voxelize(coordinates)
    assert str(refused.value) == str(expected.value)


@pytest.mark.parametrize(
    "coordinates", [torch.zeros(3, 3, dtype=torch.int64), torch.zeros(3, 4), torch.zeros(4, dtype=torch.int64)]
)
def test_the_operator_itself_refuses_other_shapes_and_types(device, coordinates):
    with pytest.raises(RuntimeError, match=r"\[V, 4\]"):
        _voxelize(coordinates.to(device))


def test_opcheck(device):
    torch.library.opcheck(_voxelize, (points(CHIPS, 50).to(device),))
