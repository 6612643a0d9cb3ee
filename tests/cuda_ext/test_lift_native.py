"""The compiled lift and its gradient give what the references give, in any layout, and refuse what they refuse."""

from __future__ import annotations

import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import lift
from fusion3d.ops.lift import _lift, _lift_backward, lift_backward_reference, lift_reference

pytestmark = pytest.mark.usefixtures("compiled")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU")

MODES = ("nearest", "bilinear")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Up to 100 numbers near 1 added up in another order than the reference's. Half types are added in float32 by both and rounded
# once, and may differ by one step; a sum near zero by as much as one step of its largest term.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-13, torch.float16: 2**-9, torch.bfloat16: 2**-6}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=cuda)])
def device(request):
    return request.param


def scene(channels=4, dtype=torch.float32, points=400, height=5, width=37, chips=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    raster = torch.randn(chips, channels, height, width, generator=generator, dtype=torch.float64).to(dtype)
    chip = torch.randint(0, chips, (points,), generator=generator)
    sides = torch.tensor([height + 4.0, width + 4.0], dtype=torch.float64)
    position = torch.rand(points, 2, generator=generator, dtype=torch.float64) * sides - 2
    position[::5] = position[::5].round()  # on edges of pixels
    position[1::5] = position[1::5].floor() + 0.5  # and on centres
    return raster, chip, position


def assert_same_as_reference(raster, chip, position, mode, device):
    moved = [t.to(device) for t in (raster, chip, position)]
    tolerance = TOLERANCE[raster.dtype]
    expected = lift_reference(raster, chip, position, mode)
    torch.testing.assert_close(_lift(*moved, mode).cpu(), expected, rtol=tolerance, atol=tolerance, equal_nan=True)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(raster.dtype)
    gradient = _lift_backward(grad.to(device), *moved[1:], list(raster.shape), mode)
    wanted = lift_backward_reference(grad, chip, position, list(raster.shape), mode)
    assert gradient.is_contiguous()
    torch.testing.assert_close(gradient.cpu(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 8, 32, 37])  # less than, as much as and more than the packets
def test_equals_the_reference(device, channels, dtype, mode):
    assert_same_as_reference(*scene(channels, dtype), mode, device)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_few_points_on_a_large_raster(device, dtype, mode):
    assert_same_as_reference(*scene(6, dtype, points=20, height=64, width=70), mode, device)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_rasters_of_one_row_or_column(device, height, width, mode):
    assert_same_as_reference(*scene(5, height=height, width=width), mode, device)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_positions_of_every_type(device, dtype, mode):
    raster, chip, position = scene()
    assert_same_as_reference(raster, chip, position.to(dtype), mode, device)


@pytest.mark.parametrize("mode", MODES)
def test_positions_farther_away_than_an_integer_reaches_read_the_edge(device, mode):
    raster = torch.arange(6.0, device=device).view(1, 1, 2, 3)
    position = torch.tensor([[-1e300, 1e300], [1e300, -1e300], [1e19, 1e19], [-1e19, 1e10]], dtype=torch.float64)
    chip = torch.zeros(4, dtype=torch.int64)
    expected = [[2.0], [3.0], [5.0], [2.0]]
    assert lift(raster, chip.to(device), position.to(device), mode).tolist() == expected
    assert lift_reference(raster.cpu(), chip, position, mode).tolist() == expected
    gradient = _lift_backward(torch.ones(4, 1, device=device), chip.to(device), position.to(device), [1, 1, 2, 3], mode)
    assert gradient.flatten().tolist() == [0, 0, 2, 1, 0, 1]


@pytest.mark.parametrize("mode", MODES)
def test_many_points_in_one_pixel(device, mode):
    raster, _, _ = scene(3, torch.float64)
    position = torch.full((50_000, 2), 2.25, dtype=torch.float64)
    assert_same_as_reference(raster, torch.ones(50_000, dtype=torch.int64), position, mode, device)


@pytest.mark.parametrize("mode", MODES)
def test_rasters_in_any_layout(device, mode):
    raster, chip, position = (t.to(device) for t in scene(8))
    expected = lift(raster, chip, position, mode)
    for layout in (raster.contiguous(memory_format=torch.channels_last), raster.permute(3, 0, 1, 2).clone().permute(1, 2, 3, 0)):
        assert torch.equal(lift(layout, chip, position, mode), expected)
        few = slice(0, 10)
        assert torch.equal(lift(layout, chip[few], position[few], mode), expected[few])
    wide = torch.stack([position, position], 2)[..., 0]
    assert torch.equal(lift(raster, torch.stack([chip, chip], 1)[:, 0], wide, mode), expected)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_in_any_layout(device, mode):
    raster, chip, position = (t.to(device) for t in scene(2, torch.float64))
    raster.requires_grad_()
    lift(raster, chip, position, mode).sum().backward()  # an expanded scalar
    assert raster.grad.sum().item() == pytest.approx(2 * len(chip))  # the weights of a point add up to 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_special_values_reach_the_points_that_read_them(device, value, mode):
    raster, chip, position = scene(3)
    raster[1, 1, 2, 20] = value
    assert_same_as_reference(raster, chip, position, mode, device)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (0, 3, 4, 4), (2, 3, 0, 0), (2, 0, 4, 4)])
def test_no_points(device, shape, mode):
    raster = torch.zeros(shape)
    assert_same_as_reference(raster, torch.empty(0, dtype=torch.int64), torch.empty(0, 2), mode, device)


@pytest.mark.parametrize("mode", MODES)
def test_gradcheck(device, mode):
    raster, chip, position = (t.to(device) for t in scene(2, torch.float64, points=12, width=7))
    assert torch.autograd.gradcheck(lambda x: lift(x, chip, position, mode), (raster.requires_grad_(),))


@pytest.mark.parametrize("mode", MODES)
def test_opcheck(device, mode):
    raster, chip, position = (t.to(device) for t in scene(4, torch.float64, points=6, width=7))
    torch.library.opcheck(_lift, (raster.requires_grad_(), chip, position, mode))
    grad = torch.ones(6, 4, dtype=torch.float64, device=device)
    torch.library.opcheck(_lift_backward, (grad, chip, position, [3, 4, 5, 7], mode))


@pytest.mark.parametrize("mode", MODES)
def test_one_and_two_threads_agree_to_the_bit(mode):
    raster, chip, position = scene(24, points=300_000, height=40, width=50)
    grad, before, results = torch.randn(len(chip), 24), torch.get_num_threads(), []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append((_lift(raster, chip, position, mode), _lift_backward(grad, chip, position, list(raster.shape), mode)))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("chip", "position", "message"),
    [
        (2, 0.0, "chip holds values"),
        (-1, 0.0, "chip holds values"),
        (1 << 62, 0.0, "chip holds values"),
        (0, torch.nan, "finite"),
        (0, torch.inf, "finite"),
        (0, -torch.inf, "finite"),
    ],
)
def test_hostile_points_are_refused_in_words_and_read_nothing(device, chip, position, message, mode):
    chips, positions = torch.tensor([1, chip], device=device), torch.tensor([[1.0, 1.0], [1.0, position]], device=device)
    with pytest.raises(ConfigError, match=message):
        lift(torch.ones(2, 3, 4, 4, device=device), chips, positions, mode)
    with pytest.raises(RuntimeError, match=message):
        _lift_backward(torch.ones(2, 3, device=device), chips, positions, [2, 3, 4, 4], mode)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad": torch.ones(2, 2)}, "grad must have shape"),
        ({"grad": torch.ones(1, 3, dtype=torch.int64)}, "grad must be float32"),
        ({"chip": torch.zeros(1, 1, dtype=torch.int64)}, "chip must be one-dimensional int64"),
        ({"position": torch.ones(2, 2)}, "position must have shape"),
        ({"position": torch.ones(1, 2, dtype=torch.int64)}, "position must be float32"),
        ({"shape": [2, 3, 4]}, "shape must name"),
        ({"shape": [2, 3, -4, 4]}, "no raster"),
        ({"shape": [2, 3, 1 << 40, 1 << 40]}, "no raster"),
        ({"shape": [2, 3, 0, 4]}, "nothing to lift"),
        ({"mode": "cubic"}, "nearest, bilinear"),
    ],
)
def test_the_operator_itself_refuses_arguments_that_do_not_fit(change, message):
    arguments = {
        "grad": torch.ones(1, 3),
        "chip": torch.zeros(1, dtype=torch.int64),
        "position": torch.ones(1, 2),
        "shape": [2, 3, 4, 4],
        "mode": "nearest",
    }
    with pytest.raises(RuntimeError, match=message):
        _lift_backward(*(arguments | change).values())
