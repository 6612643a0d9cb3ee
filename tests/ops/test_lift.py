import pytest
import torch
import torch.nn.functional as F

from fusion3d.errors import ConfigError
from fusion3d.ops import lift
from fusion3d.ops.lift import _lift, _lift_backward

MODES = ("nearest", "bilinear")


def scene(dtype=torch.float64, points=60):
    generator = torch.Generator().manual_seed(0)
    raster = torch.randn(3, 4, 5, 7, generator=generator, dtype=torch.float64).to(dtype)
    chip = torch.randint(0, 3, (points,), generator=generator)
    position = torch.rand(points, 2, generator=generator, dtype=torch.float64) * torch.tensor([7.0, 9.0]) - 1
    return raster, chip, position


def grid_sample(raster, chip, position, mode):
    height, width = raster.shape[2:]
    x, y = position[:, 1] / width * 2 - 1, position[:, 0] / height * 2 - 1
    grid = torch.stack((x, y), 1).view(-1, 1, 1, 2)
    return F.grid_sample(raster[chip], grid, mode=mode, padding_mode="border", align_corners=False)[:, :, 0, 0]


@pytest.mark.parametrize("mode", MODES)
def test_equals_grid_sample_with_border_padding(mode):
    raster, chip, position = scene()
    torch.testing.assert_close(lift(raster, chip, position, mode), grid_sample(raster, chip, position, mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_keeps_the_dtype(mode, dtype):
    raster, chip, position = scene(dtype)
    lifted = lift(raster, chip, position, mode)
    assert lifted.dtype == dtype
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    expected = grid_sample(raster.double(), chip, position, mode)
    torch.testing.assert_close(lifted.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", MODES)
def test_pixel_centres_give_the_pixels(mode):
    raster = torch.arange(6.0).view(1, 1, 2, 3)
    row, col = torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij")
    position = torch.stack((row.flatten(), col.flatten()), 1) + 0.5
    assert lift(raster, torch.zeros(6, dtype=torch.int64), position, mode).flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_position_on_an_edge_belongs_to_the_pixel_of_larger_index():
    raster = torch.arange(6.0).view(1, 1, 2, 3)
    position = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 2.0]])
    assert lift(raster, torch.zeros(3, dtype=torch.int64), position, "nearest").flatten().tolist() == [1, 3, 5]


def test_bilinear_reproduces_a_plane_between_the_centres():
    row, col = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    position = torch.rand(50, 2) * torch.tensor([5.0, 7.0]) + 0.5
    lifted = lift((3 * row - 2 * col)[None, None], torch.zeros(50, dtype=torch.int64), position)
    torch.testing.assert_close(lifted[:, 0], 3 * (position[:, 0] - 0.5) - 2 * (position[:, 1] - 0.5), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_far_outside_takes_the_nearest_edge(mode):
    raster = torch.arange(6.0).view(1, 1, 2, 3)
    position = torch.tensor([[-1e6, -1e6], [1e6, 1e6]])
    assert lift(raster, torch.zeros(2, dtype=torch.int64), position, mode).flatten().tolist() == [0, 5]


@pytest.mark.parametrize("mode", MODES)
def test_gradient(mode):
    raster, chip, position = scene(points=12)
    assert torch.autograd.gradcheck(lambda x: lift(x, chip, position, mode), (raster.requires_grad_(),))


@pytest.mark.parametrize("mode", MODES)
def test_nan_reaches_only_the_points_that_read_it(mode):
    raster = torch.zeros(1, 1, 1, 4)
    raster[..., 0] = torch.nan
    position = torch.tensor([[0.5, 0.9], [0.5, 3.0]])
    assert lift(raster, torch.zeros(2, dtype=torch.int64), position, mode).isnan().flatten().tolist() == [True, False]


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (0, 3, 4, 4), (2, 3, 0, 0)])
def test_no_points(shape):
    raster = torch.zeros(shape, requires_grad=True)
    lifted = lift(raster, torch.empty(0, dtype=torch.int64), torch.empty(0, 2))
    assert lifted.shape == (0, 3)
    lifted.sum().backward()
    assert raster.grad.shape == shape


@pytest.mark.parametrize(
    ("raster", "chip", "position", "mode", "message"),
    [
        (torch.ones(1, 1, 2, 2), torch.tensor([1]), torch.ones(1, 2), "nearest", "outside"),
        (torch.ones(1, 1, 2, 2), torch.tensor([0]), torch.ones(1, 3), "nearest", "shape"),
        (torch.ones(1, 1, 2, 2), torch.tensor([0]), torch.tensor([[0.0, torch.nan]]), "bilinear", "finite"),
        (torch.ones(1, 1, 0, 2), torch.tensor([0]), torch.ones(1, 2), "nearest", "nothing to lift"),
        (torch.ones(1, 1, 2, 2), torch.tensor([0]), torch.ones(1, 2), "cubic", "mode"),
        (torch.ones(1, 2, 2), torch.tensor([0]), torch.ones(1, 2), "nearest", "dimension"),
    ],
)
def test_bad_arguments_are_refused_in_words(raster, chip, position, mode, message):
    with pytest.raises(ConfigError, match=message):
        lift(raster, chip, position, mode)


@pytest.mark.parametrize("mode", MODES)
def test_schema_fake_kernel_and_autograd_are_consistent(mode):
    raster, chip, position = scene(points=6)
    torch.library.opcheck(_lift, (raster.requires_grad_(), chip, position, mode))
    torch.library.opcheck(_lift_backward, (torch.ones(6, 4), chip, position, [3, 4, 5, 7], mode))
