import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import voxelize
from fusion3d.sparse import SparseTensor, UNet


def coordinates(count=400, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randint(0, size, (count, 4), generator=generator)
    points[:, 0] %= 2
    return voxelize(points).coordinates


def scene(count=400, seed=0, dtype=torch.float32):
    voxels = coordinates(count, seed=seed)
    return SparseTensor(torch.randn(len(voxels), 2, generator=torch.Generator().manual_seed(1), dtype=dtype), voxels)


def network(channels=(6, 8, 10), blocks=(1, 1, 1), dtype=torch.float32):
    torch.manual_seed(0)
    return UNet(2, channels, blocks).to(dtype)


@pytest.mark.parametrize("stop_level", [0, 1, 2])
def test_output_lives_on_the_voxels_of_the_level_where_the_decoder_stops(stop_level):
    x = scene()
    y = network()(x, stop_level)
    cells = x.coordinates.clone()
    cells[:, 1:] = cells[:, 1:].div(2**stop_level, rounding_mode="floor")
    assert y.stride == 2**stop_level
    assert torch.equal(y.coordinates, voxelize(cells).coordinates)
    assert y.features.shape == (y.voxels, (6, 8, 10)[stop_level])


def test_gradient_reaches_every_parameter():
    model = network()
    model(scene()).features.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_stopping_at_a_coarser_level_runs_fewer_layers():
    model, ran = network(), []
    for name in ("up.0", "up.1"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    model(scene(), 1)
    assert ran == ["up.1"]


def test_chips_do_not_mix():
    x, model = scene(), network()
    alone = x.coordinates[:, 0] == 1
    chip = SparseTensor(x.features[alone], x.coordinates[alone])
    torch.testing.assert_close(model(x).features[alone], model(chip).features, rtol=1e-4, atol=1e-5)


def test_order_of_the_points_does_not_matter():
    generator = torch.Generator().manual_seed(4)
    points, shuffle = torch.randint(0, 12, (200, 4), generator=generator), torch.randperm(200, generator=generator)
    model, results = network(), []
    for listed in (points, points[shuffle]):
        voxels = voxelize(listed)
        results.append(
            model(SparseTensor(torch.stack((voxels.counts, voxels.counts**2), 1).float(), voxels.coordinates)).features
        )
    assert torch.equal(*results)


@pytest.mark.parametrize("shift", [(0, 4, 0, 0), (0, 0, -4, 8), (3, 8, 12, -400)])
def test_translation_by_whole_coarsest_voxels_changes_nothing(shift):
    x, model = scene(), network()
    moved = SparseTensor(x.features, x.coordinates + torch.tensor(shift))
    torch.testing.assert_close(model(moved).features, model(x).features, rtol=0, atol=0)


def test_translation_by_part_of_a_coarsest_voxel_changes_the_result():
    x, model = scene(), network()
    moved = SparseTensor(x.features, x.coordinates + torch.tensor((0, 0, 2, 0)))
    assert not torch.allclose(model(moved).features, model(x).features)


def influence(model, output, stop_level, length):
    """First and last voxel of a filled line, counted from its middle, that the output at voxel `output` depends on."""
    line = torch.arange(-length, length + 1)
    voxels = torch.stack((line * 0, line * 0, line * 0, line), 1)
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(len(line), 2, generator=generator, dtype=torch.float64, requires_grad=True)
    y = model(SparseTensor(features, voxels), stop_level)
    y.features[y.coordinates[:, 3] == output].square().sum().backward()
    reached = line[features.grad.abs().sum(1) > 0]
    return int(reached[0]), int(reached[-1])


@pytest.mark.parametrize(
    ("channels", "blocks"), [((4,), (1,)), ((4, 4), (1, 0)), ((4, 4), (0, 1)), ((4, 4, 4), (1, 0, 0)), ((4, 4, 4), (0, 1, 1))]
)
def test_receptive_field_is_what_perturbation_finds(channels, blocks):
    model = network(channels, blocks, torch.float64)
    phases, length = range(2 ** (len(channels) - 1)), 2 * model.receptive_field
    spans = [(x, *influence(model, x, 0, length)) for x in phases]
    assert max(max(x - low, high - x) for x, low, high in spans) == model.receptive_field


def test_receptive_field_of_stem_alone_is_its_kernel():
    assert network((4,), (0,)).receptive_field == 1
    assert network((4,), (2,)).receptive_field == 5


@pytest.mark.parametrize("stop_level", [1, 2])
def test_coarser_outputs_see_no_further_from_their_edges(stop_level):
    model = network((4, 4, 4), (0, 1, 0), torch.float64)
    low, high = influence(model, 0, stop_level, 3 * model.receptive_field)
    assert -low <= model.receptive_field
    assert high - (2**stop_level - 1) <= model.receptive_field


def test_a_chip_cut_with_a_halo_of_the_receptive_field_gives_the_values_of_the_scene():
    model = network((4, 4), (1, 0), torch.float64)
    reach, generator = model.receptive_field, torch.Generator().manual_seed(6)
    points = torch.randint(0, 60, (6000, 4), generator=generator)
    points[:, 0], points[:, 1] = 0, points[:, 1] % 6
    voxels = voxelize(points).coordinates
    features = torch.randn(len(voxels), 2, generator=generator, dtype=torch.float64)
    row, column = voxels[:, 2], voxels[:, 3]
    core = (row >= 23) & (row < 37) & (column >= 23) & (column < 37)
    kept = (row >= 23 - reach) & (row < 37 + reach) & (column >= 23 - reach) & (column < 37 + reach)
    assert not kept.all()
    whole = model(SparseTensor(features, voxels)).features[core]
    cut = model(SparseTensor(features[kept], voxels[kept])).features[core[kept]]
    torch.testing.assert_close(cut, whole)


def test_gradcheck_in_double_precision():
    model = network((2, 3), (1, 0), torch.float64)
    x = scene(count=12, dtype=torch.float64)
    x.features.requires_grad_()
    assert torch.autograd.gradcheck(lambda features: model(x.with_features(features)).features, (x.features,))


@pytest.mark.parametrize("stop_level", [0, 2])
@pytest.mark.parametrize("count", [0, 1])
def test_no_voxel_and_one_voxel(stop_level, count):
    y = network()(scene(count), stop_level)
    assert y.voxels == count
    assert y.features.isfinite().all()


def test_state_round_trip_gives_the_same_features():
    one, other, x = network(), UNet(2, (6, 8, 10), (1, 1, 1)), scene()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x).features, other(x).features)


def test_autocast_to_bfloat16_stays_close():
    x, model = scene(), network()
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x).features
    torch.testing.assert_close(half.float(), model(x).features, rtol=0.1, atol=0.15)


@pytest.mark.parametrize(("channels", "blocks"), [((), ()), ((4, 4), (1,)), ((4,), (-1,)), ((0,), (1,))])
def test_channels_and_blocks_that_name_no_levels_are_refused(channels, blocks):
    with pytest.raises(ConfigError):
        UNet(2, channels, blocks)


@pytest.mark.parametrize("stop_level", [-1, 3])
def test_stop_level_outside_the_levels_is_refused(stop_level):
    with pytest.raises(ConfigError, match="stop_level"):
        network()(scene(), stop_level)


class _OnTensors(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = network((4, 6), (1, 1))

    def forward(self, features, voxels):
        return self.network(SparseTensor(features, voxels)).features


def test_exports_with_a_free_number_of_voxels():
    model, (x, other) = _OnTensors(), (scene(200), scene(77, seed=2))
    voxels = torch.export.Dim("voxels")
    exported = torch.export.export(model, (x.features, x.coordinates), dynamic_shapes=({0: voxels}, {0: voxels})).module()
    for case in (x, other):
        torch.testing.assert_close(exported(case.features, case.coordinates), model(case.features, case.coordinates))
