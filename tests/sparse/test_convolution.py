import pytest
import torch
import torch.nn.functional as F

from fusion3d.errors import ConfigError
from fusion3d.ops import voxelize
from fusion3d.sparse import InverseConv3d, ResidualBlock, SparseTensor, StridedConv3d, SubmanifoldConv3d

SIZE = 8


def scene(channels=3, count=300, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randint(0, SIZE, (count, 4), generator=generator)
    points[:, 0] %= 2
    coordinates = voxelize(points).coordinates
    return SparseTensor(torch.randn(len(coordinates), channels, generator=generator, dtype=dtype), coordinates)


def dense(x, size=SIZE):
    volume = x.features.new_zeros(2, x.features.shape[1], size, size, size)
    chip, level, row, column = x.coordinates.unbind(1)
    volume[chip, :, level, row, column] = x.features
    return volume


def at(volume, coordinates):
    chip, level, row, column = coordinates.unbind(1)
    return volume[chip, :, level, row, column]


def conv3d_weight(layer):
    k = layer.kernel_size
    return layer.weight.unflatten(0, (k, k, k)).permute(4, 3, 0, 1, 2)


def check_against(layer, x, found, volume):
    """Values and all gradients of a sparse layer against those of the dense one read at the same voxels."""
    expected = at(volume, found.coordinates)
    torch.testing.assert_close(found.features, expected)
    upstream = torch.randn_like(expected)
    inputs = x.features, layer.weight, layer.bias
    found_gradients = torch.autograd.grad((found.features * upstream).sum(), inputs)
    for one, other in zip(found_gradients, torch.autograd.grad((expected * upstream).sum(), inputs), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 2), (5, 1)])
def test_submanifold_equals_dense_conv3d_at_the_voxels(kernel, dilation):
    x, layer = scene(), SubmanifoldConv3d(3, 5, kernel, dilation).double()
    x.features.requires_grad_()
    volume = F.conv3d(dense(x), conv3d_weight(layer), layer.bias, padding=kernel // 2 * dilation, dilation=dilation)
    check_against(layer, x, layer(x), volume)


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (4, 2), (4, 4)])
def test_strided_equals_dense_conv3d_at_the_coarse_voxels(kernel, stride):
    x, layer = scene(), StridedConv3d(3, 5, kernel, stride).double()
    x.features.requires_grad_()
    before = (kernel - 1) // 2
    padded = F.pad(dense(x), (before, kernel) * 3)
    found = layer(x)
    assert found.stride == stride
    check_against(layer, x, found, F.conv3d(padded, conv3d_weight(layer), layer.bias, stride=stride))


@pytest.mark.parametrize(("kernel", "stride"), [(2, 2), (3, 2), (4, 4)])
def test_inverse_equals_dense_conv_transpose3d_at_the_fine_voxels(kernel, stride):
    fine = scene()
    coarse = StridedConv3d(3, 3, kernel, stride).double()(fine)
    coarse = coarse.with_features(torch.randn(coarse.voxels, 3, dtype=torch.float64, requires_grad=True))
    layer = InverseConv3d(3, 5, kernel, stride).double()
    weight = conv3d_weight(layer).transpose(0, 1)
    before = (kernel - 1) // 2
    volume = F.conv_transpose3d(dense(coarse), weight, stride=stride)[:, :, before:, before:, before:]
    volume = F.pad(volume, (0, SIZE) * 3)[:, :, :SIZE, :SIZE, :SIZE] + layer.bias.view(-1, 1, 1, 1)
    found = layer(coarse, fine)
    assert (found.stride, found.coordinates is fine.coordinates) == (1, True)
    check_against(layer, coarse, found, volume)


def test_no_bias():
    x, layer = scene(), SubmanifoldConv3d(3, 5, bias=False).double()
    assert layer.bias is None
    torch.testing.assert_close(layer(x.with_features(x.features * 0)).features, torch.zeros(x.voxels, 5, dtype=torch.float64))


def test_weights_start_as_those_of_conv3d():
    layer, reference = SubmanifoldConv3d(16, 32), torch.nn.Conv3d(16, 32, 3)
    assert layer.weight.abs().max().item() == pytest.approx(reference.weight.abs().max().item(), rel=0.01)
    assert layer.weight.std().item() == pytest.approx(reference.weight.std().item(), rel=0.05)


@pytest.mark.parametrize("layer", [SubmanifoldConv3d(3, 5), StridedConv3d(3, 5), ResidualBlock(3)])
def test_chips_do_not_mix(layer):
    x = scene(dtype=torch.float32)
    alone = x.coordinates[:, 0] == 1
    chip = SparseTensor(x.features[alone], x.coordinates[alone])
    together = layer(x)
    torch.testing.assert_close(together.features[together.coordinates[:, 0] == 1], layer(chip).features)


def test_residual_block_without_its_last_convolution_is_the_identity():
    x, block = scene(dtype=torch.float32), ResidualBlock(3)
    torch.nn.init.zeros_(block.conv2.weight)
    torch.nn.init.zeros_(block.conv2.bias)
    assert torch.equal(block(x).features, x.features)


def test_residual_block_reaches_as_far_as_its_radius():
    block, line = ResidualBlock(1, dilation=2).double(), torch.arange(-9, 10)
    torch.nn.init.normal_(block.norm1.bias)  # LayerNorm over one channel gives its bias: pass the input through the skip
    coordinates = torch.stack((line * 0, line * 0, line * 0, line), 1)
    block.norm1 = block.norm2 = torch.nn.Identity()
    features = torch.randn(19, 1, dtype=torch.float64, requires_grad=True)
    block(SparseTensor(features, coordinates)).features[9].sum().backward()
    assert block.radius == 4
    assert (features.grad.flatten().nonzero().flatten() - 9).tolist() == [-4, -2, 0, 2, 4]


@pytest.mark.parametrize("layer", [SubmanifoldConv3d(3, 5), StridedConv3d(3, 5), ResidualBlock(3)])
@pytest.mark.parametrize("count", [0, 1])
def test_no_voxel_and_one_voxel(layer, count):
    x = scene(count=count, dtype=torch.float32)
    y = layer(x)
    assert y.voxels == count
    y.features.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize(
    "build",
    [
        lambda: SubmanifoldConv3d(3, 5, 2),
        lambda: SubmanifoldConv3d(3, 0),
        lambda: SubmanifoldConv3d(3, 5, 3, 0),
        lambda: StridedConv3d(3, 5, 2, 3),
        lambda: InverseConv3d(3, 5, 2, 3),
    ],
)
def test_sizes_that_make_no_convolution_are_refused(build):
    with pytest.raises(ConfigError):
        build()


def test_inverse_convolution_between_the_wrong_levels_is_refused():
    x = scene(dtype=torch.float32)
    with pytest.raises(ConfigError, match="stride 1 to 1"):
        InverseConv3d(3, 5)(x, x)
