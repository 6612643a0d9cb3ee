from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fusion3d.data.observation import ChipBatch, PointObservation
from fusion3d.encoders import AlsEncoder, build
from fusion3d.encoders.als import HIGHEST, LOWEST
from fusion3d.errors import ConfigError
from tests.encoders.batches import Cloud, chips, cloud


@pytest.fixture(scope="module")
def encoder() -> AlsEncoder:
    torch.manual_seed(0)
    return build("als", "tiny").eval()


def cut(points: Cloud, origin: tuple[int, int], size: int, column: float = 8.0, voxel: float = 1.0) -> ChipBatch:
    corner = torch.tensor([origin])
    return ChipBatch(corner, size, column, voxel, als=points.cut(corner, size, column))


@pytest.fixture(scope="module")
def scenes() -> dict[float, Cloud]:
    return {column: cloud(36, 36, per_column=6, column=column) for column in (5.0, 8.0, 16.0)}


@pytest.mark.parametrize(
    ("column", "cell", "origins"),
    [
        (8.0, None, [(3, 5), (8, 1), (13, 16)]),
        (8.0, 4.0, [(3, 5)]),
        (8.0, 16.0, [(2, 6)]),
        (16.0, 64.0, [(4, 8), (8, 0)]),
        # 5 voxels a column: grown voxels straddle the edges of columns, cells and chips
        (5.0, None, [(1, 2), (7, 5)]),
        (5.0, 2.5, [(7, 3)]),
        (5.0, 10.0, [(2, 10)]),
        (5.0, 15.0, [(3, 9)]),
    ],
)
def test_tiles_with_halo_have_the_values_of_the_whole(encoder, scenes, column, cell, origins):
    size, merge = 36, max(1, round((cell or column) / column))
    per_column = max(1, round(column / (cell or column)))
    halo = encoder.receptive_field(column, voxel=1.0, cell=cell)
    with torch.no_grad():
        whole = encoder(cut(scenes[column], (0, 0), size, column), cell=cell)
        image = whole.features.view(whole.rows, whole.cols, -1)
        for row, col in origins:
            side = 2 * merge * -(-halo // merge) + max(3, merge) // merge * merge
            assert max(row, col) + side <= size
            tile = encoder(cut(scenes[column], (row, col), side, column), cell=cell)
            edge = -(-halo * per_column // merge)
            inner = slice(edge, tile.rows - edge)
            found = tile.features.view(tile.rows, tile.cols, -1)[inner, inner]
            top, left = row * per_column // merge, col * per_column // merge
            expected = image[top : top + tile.rows, left : left + tile.cols][inner, inner]
            assert found.numel()
            assert float((found - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("origin", [(0, 0), (1, 3), (-3, 6)])
def test_nothing_beyond_the_receptive_field_changes_a_column(encoder, origin):
    points = cloud(9, 9, per_column=40)
    reach = encoder.receptive_field(8.0, voxel=1.0)
    batch = replace(cut(points, (0, 0), 9), origin=torch.tensor([origin]))
    als = batch.als
    distance = (torch.arange(9) - 4).abs()
    distance = torch.maximum(distance[:, None], distance[None]).flatten().repeat_interleave(als.row_splits.diff())
    beyond = replace(batch, als=replace(als, height=torch.where(distance > reach, als.height + 1.5, als.height)))
    beside = replace(batch, als=replace(als, height=torch.where(distance == 1, als.height + 1.5, als.height)))
    centre = 4 * 9 + 4
    with torch.no_grad():
        before, after, near = (encoder(one).features[centre] for one in (batch, beyond, beside))
    assert float((before - after).abs().max()) < 1e-5
    assert float((before - near).abs().max()) > 1e-3


def test_coarser_cells_are_encoded_on_fewer_voxels(encoder):
    counts = []
    handle = encoder.unet.register_forward_pre_hook(lambda module, arguments: counts.append(arguments[0].voxels))
    with torch.no_grad():
        for cell in (4.0, 8.0, 16.0, 32.0):
            encoder(cut(cloud(8, 8, per_column=100), (0, 0), 8), cell=cell)
    handle.remove()
    assert counts[0] == counts[1] > 2 * counts[2]
    assert counts[2] > 4 * counts[3]


@pytest.mark.parametrize("cell", [0.5, 0.8])
def test_cells_smaller_than_a_voxel_are_refused(encoder, cell):
    with pytest.raises(ConfigError, match=r"smaller than the voxels of 1 m"):
        encoder(chips(), cell=cell)


def test_chip_that_is_no_whole_number_of_cells_is_refused(encoder):
    with pytest.raises(ConfigError, match="take chips of a multiple of 3 columns"):
        encoder(chips(size=4), cell=24.0)


@pytest.mark.parametrize(("cell", "rows"), [(None, 6), (4.0, 12), (16.0, 3)])
def test_tower_in_the_north_east_stands_in_the_first_row_and_last_column(encoder, cell, rows):
    points = cloud(6, 6, per_column=30)
    flat = Cloud(points.plane, torch.zeros_like(points.height), torch.zeros_like(points.attributes))
    # 40 to 48 m east, less than 8 m south of the corner of 6 x 6 columns; a little of it in each quarter of the column
    stands = (points.plane[:, 0] >= 40) & (points.plane[:, 1] < 8)
    if cell == 4.0:
        stands = (points.plane[:, 0] >= 44) & (points.plane[:, 1] < 4)
    tower = Cloud(flat.plane, torch.where(stands, 60.0, 0.0), flat.attributes)
    with torch.no_grad():
        change = (encoder(cut(tower, (0, 0), 6), cell=cell).features - encoder(cut(flat, (0, 0), 6), cell=cell).features).norm(
            dim=1
        )
    assert int(change.argmax()) == rows - 1


def test_points_below_the_ground_or_above_the_trees_do_not_count(encoder):
    batch = chips(sensors=("als",))
    als = batch.als
    noise = torch.tensor([LOWEST - 0.01, HIGHEST, 500.0, -1e9, 1e30])
    # Ahead of all others, in the first column, which they are alone in.
    first = int(als.row_splits[1])
    only_noise = PointObservation(
        torch.cat((torch.ones(5, 2), als.offset[first:])),
        torch.cat((noise, als.height[first:])),
        torch.cat((torch.ones(5, 4), als.attributes[first:])),
        torch.cat((torch.zeros(1, dtype=torch.int64), als.row_splits[1:] - first + 5)),
    )
    nothing = replace(
        als,
        offset=als.offset[first:],
        height=als.height[first:],
        attributes=als.attributes[first:],
        row_splits=(als.row_splits - first).clamp(min=0),
    )
    with torch.no_grad():
        found, expected = encoder(replace(batch, als=only_noise)), encoder(replace(batch, als=nothing))
    assert found.present.tolist() == [False] + [True] * (batch.columns - 1)
    assert torch.equal(found.present, expected.present)
    assert torch.equal(found.features, expected.features)


@pytest.mark.parametrize("height", [LOWEST, 0.0, 119.9])
def test_heights_within_the_limits_count(encoder, height):
    batch = chips(sensors=("als",))
    found = encoder(replace(batch, als=replace(batch.als, height=torch.full_like(batch.als.height, height))))
    assert found.present.all()


def test_point_on_the_far_edge_of_a_column_stays_in_it(encoder):
    # The offset of a point a hair before the edge may round to the column's size.
    batch = chips(origin=((0, 0),), size=2, sensors=("als",))
    splits = torch.tensor([0, 1, 1, 1, 1])
    one = PointObservation(torch.tensor([[8.0, 8.0]]), torch.tensor([2.0]), torch.zeros(1, 4), splits)
    found = encoder(replace(batch, als=one))
    assert found.present.tolist() == [True, False, False, False]


def test_offsets_point_east_and_south(encoder):
    batch = chips(origin=((0, 0),), size=1, sensors=("als",))
    east = PointObservation(torch.tensor([[7.5, 0.5]]), torch.tensor([2.0]), torch.zeros(1, 4), torch.tensor([0, 1]))
    # cells of half a column: north-west, north-east, south-west, south-east
    assert encoder(replace(batch, als=east), cell=4.0).present.tolist() == [False, True, False, False]


def test_embeddings_tell_tall_from_low_and_dense_from_sparse(encoder):
    batch = chips(sensors=("als",))
    with torch.no_grad():
        plain = encoder(batch).features
        tall = encoder(replace(batch, als=replace(batch.als, height=batch.als.height + 20))).features
        bright = encoder(replace(batch, als=replace(batch.als, attributes=batch.als.attributes * 2))).features
    assert (plain - tall).norm(dim=1).min() > 0.1
    assert (plain - bright).norm(dim=1).min() > 1e-3


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ConfigError, match="16 channels cannot be shared out between 5 heads"):
        build("als", "tiny", heads=5)


def test_statistics_of_cells_tell_intensity():
    batch = chips(sensors=("als",))
    change = {}
    for statistics in (False, True):
        torch.manual_seed(0)
        found = build("als", "tiny", statistics=statistics)
        assert found.hyperparameters["statistics"] is statistics
        with torch.no_grad():
            plain = found(batch).features
            bright = found(replace(batch, als=replace(batch.als, attributes=batch.als.attributes * 2))).features
        change[statistics] = (plain - bright).norm(dim=1).min()
    assert change[True] > 2 * change[False]


def test_an_encoder_of_before_the_statistics_has_none():
    kept = {name: value for name, value in AlsEncoder.presets["tiny"].items() if name != "statistics"}
    assert not AlsEncoder(**kept).statistics
    assert build("als", "tiny").statistics
