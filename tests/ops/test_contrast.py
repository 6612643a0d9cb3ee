import pytest
import torch
import torch.nn.functional as F

from fusion3d.errors import ConfigError
from fusion3d.ops import contrast, contrast_rows
from fusion3d.ops.contrast import _contrast, _contrast_backward


def views(rows=50, channels=8, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, rows, channels, generator=generator, dtype=torch.float64)
    return F.normalize(a, dim=1).to(dtype), F.normalize(a + b, dim=1).to(dtype)


def places(rows=50, scenes=2):
    generator = torch.Generator().manual_seed(3)
    position = torch.rand(rows, 2, generator=generator, dtype=torch.float64) * 100
    return position, torch.randint(0, scenes, (rows,), generator=generator)


def dense(a, b, temperature, position=None, scene=None, radius=0.0):
    """The formula on the whole matrix, by cross entropy."""
    logits = a @ b.T / temperature
    if radius > 0:
        excluded = torch.cdist(position, position) < radius
        if scene is not None:
            excluded &= scene[:, None] == scene
        logits = logits.masked_fill(excluded & ~torch.eye(len(a), dtype=torch.bool), -torch.inf)
    target = torch.arange(len(a))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


EXCLUSIONS = [(None, None, 0.0), (*places(), 20.0), (places()[0], None, 20.0)]


@pytest.mark.parametrize("tile", [7, 50, 2048])
@pytest.mark.parametrize(("position", "scene", "radius"), EXCLUSIONS)
def test_value_and_gradients_equal_the_dense_formula(tile, position, scene, radius):
    results = []
    for function in (lambda *x: contrast(*x, position, scene, radius, tile), lambda *x: dense(*x, position, scene, radius)):
        a, b = (x.requires_grad_() for x in views())
        temperature = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        loss = function(a, b, temperature)
        loss.backward()
        results.append((loss.detach(), a.grad, b.grad, temperature.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-5), (torch.bfloat16, 1e-5)])
def test_every_dtype_is_computed_in_float32_at_least(dtype, tolerance):
    a, b = views(rows=300, channels=32, dtype=dtype)
    loss = contrast(a, b, 0.07, tile=64)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), dense(a.double(), b.double(), 0.07), rtol=tolerance, atol=tolerance)
    a.requires_grad_()
    contrast(a, b, 0.07).backward()
    assert a.grad.dtype == dtype


def test_autocast_does_not_round_the_similarities():
    a, b = views(rows=300, channels=32, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrast(a, b, 0.01, tile=64)
    torch.testing.assert_close(loss, contrast(a, b, 0.01), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("position", "scene", "radius"), EXCLUSIONS)
def test_gradient(position, scene, radius):
    a, b = (x[:9].requires_grad_() for x in views())
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    position, scene = (None if x is None else x[:9] for x in (position, scene))
    assert torch.autograd.gradcheck(lambda *x: contrast(*x, position, scene, radius, 4), (a, b, temperature))


def test_gradient_of_single_rows():
    a, b = (x[:6].requires_grad_() for x in views())
    assert torch.autograd.gradcheck(lambda x, y: contrast_rows(x, y, 0.2, tile=4), (a, b))


def test_mean_of_the_rows_is_the_loss():
    a, b = views()
    torch.testing.assert_close(contrast_rows(a, b, 0.1).mean(), contrast(a, b, 0.1))


def test_independent_views_cost_the_logarithm_of_the_rows():
    a = torch.eye(64)[:, :1].repeat(1, 3) * 0
    assert contrast(a, a, 0.1).item() == pytest.approx(torch.tensor(64.0).log().item())


def test_exchanging_the_views_changes_nothing():
    a, b = views()
    torch.testing.assert_close(contrast(a, b, 0.1), contrast(b, a, 0.1))


def test_order_of_the_rows_changes_nothing():
    (a, b), (position, scene) = views(), places()
    order = torch.randperm(50)
    shuffled = contrast(a[order], b[order], 0.1, position[order], scene[order], 20.0, tile=16)
    torch.testing.assert_close(shuffled, contrast(a, b, 0.1, position, scene, 20.0))


def test_row_alone_costs_nothing():
    a, b = views(rows=1)
    assert contrast(a, b, 0.1).item() == pytest.approx(0, abs=1e-12)


def test_rows_that_all_exclude_one_another_cost_nothing():
    a, b = views()
    assert contrast(a, b, 0.1, torch.zeros(50, 2), None, 1.0, tile=8).item() == pytest.approx(0, abs=1e-12)


def test_same_place_in_another_scene_stays_a_negative():
    a, b = views(rows=2)
    apart = contrast(a, b, 0.1, torch.zeros(2, 2), torch.tensor([0, 1]), 1.0)
    torch.testing.assert_close(apart, dense(a, b, 0.1))


def test_exclusion_resolves_metres_at_map_coordinates():
    a, b = views(rows=2)
    position = torch.tensor([[700_000.0, 6_860_000.0], [700_003.0, 6_860_000.0]], dtype=torch.float64)
    assert contrast(a, b, 0.1, position, None, 3.5).item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(contrast(a, b, 0.1, position, None, 3.0), dense(a, b, 0.1))


def test_no_rows_cost_nothing_and_have_a_gradient():
    a = torch.zeros(0, 4, requires_grad=True)
    loss = contrast(a, torch.zeros(0, 4), 0.1)
    assert loss.item() == 0
    loss.backward()
    assert a.grad.shape == (0, 4)


def test_nan_is_not_hidden():
    a, b = views()
    a[3, 0] = torch.nan
    assert contrast(a, b, 0.1).isnan()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": torch.ones(4, 2)}, "same shape"),
        ({"b": torch.ones(3, 2).double()}, "convert"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": torch.ones(2)}, "temperature"),
        ({"tile": 0}, "tile"),
        ({"exclusion_radius": 5.0}, "positions"),
        ({"exclusion_radius": -1.0}, "exclusion_radius"),
        ({"exclusion_radius": 5.0, "position": torch.ones(2, 2)}, "position"),
        ({"exclusion_radius": 5.0, "position": torch.ones(3, 2), "scene": torch.ones(2, dtype=torch.int64)}, "scene"),
    ],
)
def test_bad_arguments_are_refused_in_words(change, message):
    good = {"a": torch.ones(3, 2), "b": torch.ones(3, 2), "temperature": 0.1}
    with pytest.raises(ConfigError, match=message):
        contrast(**{**good, **change})


def test_schema_fake_kernel_and_autograd_are_consistent():
    (a, b), (position, scene) = views(), places()
    arguments = position, scene, 20.0, 16
    torch.library.opcheck(_contrast, (a.clone().requires_grad_(), b.clone().requires_grad_(), *arguments))
    forth, back = _contrast(a, b, *arguments)
    torch.library.opcheck(_contrast_backward, (torch.ones(50).double(), torch.ones(50).double(), forth, back, a, b, *arguments))
