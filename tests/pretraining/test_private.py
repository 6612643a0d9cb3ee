from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion3d.data.chips import read_chips
from fusion3d.data.pairs import DrawnPair, draw_pairs, stream
from fusion3d.errors import ConfigError
from fusion3d.pretraining.module import CrossModalPretraining
from fusion3d.pretraining.objective import meeting_pairs
from fusion3d.pretraining.private import LEAST_SITES, cross_correlation
from tests.data.scene import open_scene
from tests.pretraining.gradients import assert_same_gradients, gradients

SENSORS = ["als", "gedi", "ortho", "s2"]


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    store = open_scene(tmp_path_factory.mktemp("private") / "scene.zarr")
    return read_chips(store, [(6, 8), (8, 26), (16, 4)], 8)


def parts(sites: int = 200, seed: int = 0):
    drawn = torch.randn(sites, 7, generator=stream(seed), dtype=torch.float64)
    return drawn[:, :4] + 0.5 * drawn[:, 4:5], drawn[:, 4:] * torch.tensor([1.0, 5.0, 0.1]) + 3.0


def everywhere(rows: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(rows), dtype=torch.bool)


def correlations(shared: torch.Tensor, private: torch.Tensor) -> np.ndarray:
    return np.corrcoef(shared.numpy(), private.numpy(), rowvar=False)[: shared.shape[1], shared.shape[1] :]


def test_value_is_the_sum_of_squared_correlations_by_private_dimension():
    shared, private = parts()
    expected = (correlations(shared, private) ** 2).sum() / 3
    assert expected > 0.1
    assert cross_correlation(shared, private, everywhere(shared)).item() == pytest.approx(expected, rel=1e-10)


def test_absent_sites_do_not_count():
    shared, private = parts()
    present = torch.arange(200) % 3 > 0
    expected = (correlations(shared[present], private[present]) ** 2).sum() / 3
    shared[~present] = private[~present] = 1e3
    assert cross_correlation(shared, private, present).item() == pytest.approx(expected, rel=1e-8)


def test_neither_scale_nor_offset_of_a_part_changes_the_value():
    shared, private = parts()
    scaled = cross_correlation(shared * 1e-2 + 1, private * torch.tensor([9.0, 1e-2, -4.0]), everywhere(shared))
    assert scaled.item() == pytest.approx(cross_correlation(shared, private, everywhere(shared)).item(), rel=1e-8)


def test_copy_of_a_shared_dimension_counts_one_and_what_is_at_right_angles_nothing():
    angle = torch.arange(64) * (2 * torch.pi / 64)
    shared = angle.sin()[:, None].double()
    assert cross_correlation(shared, -2 * shared, everywhere(shared)).item() == pytest.approx(1.0)
    assert cross_correlation(shared, angle.cos()[:, None].double(), everywhere(shared)).item() == pytest.approx(0.0, abs=1e-9)


def test_gradient_is_that_of_finite_differences():
    shared, private = (part[:40].clone().requires_grad_() for part in parts())
    present = torch.arange(40) > 3
    assert torch.autograd.gradcheck(lambda one, other: cross_correlation(one, other, present), (shared, private))


def test_constant_part_gives_a_finite_gradient():
    shared, private = (part.clone() for part in parts())
    private[:] = 2.0
    private.requires_grad_()
    cross_correlation(shared, private, everywhere(shared)).backward()
    assert private.grad.isfinite().all()


@pytest.mark.parametrize(("sites", "asked"), [(LEAST_SITES - 1, False), (LEAST_SITES, True), (0, False)])
def test_correlations_of_few_sites_are_not_asked_for(sites, asked):
    shared, private = parts(sites)
    assert (cross_correlation(shared, private, everywhere(shared)) is not None) == asked


def test_a_term_of_each_sensor_that_ran_with_its_weight(batch):
    drawn = [DrawnPair(("als", "s2"), 6.0, (2.0, 1.0))]
    without, _, _ = gradients(batch, drawn, private=16, private_weight=0.0)
    loss, said, _ = gradients(batch, drawn, private=16, private_weight=0.5)
    assert {name for name in said if name.startswith("private")} == {"private_als", "private_s2"}
    assert loss == pytest.approx(without + 0.5 * (2.0 * said["private_als"] + said["private_s2"]), rel=1e-6)


def test_retention_decodes_nothing_but_the_two_parts():
    module = CrossModalPretraining(scene={"sensors": SENSORS}, private=8)
    module.configure_model()
    for name, decoder in module.decoders.items():
        entrance = decoder.layers if name in ("als", "gedi") else decoder.content
        assert entrance[0].in_features == 64 + 8


def test_gradients_in_pieces_are_those_of_the_whole_batch(batch):
    assert_same_gradients(gradients(batch, private=16, chips_at_once=1), gradients(batch, private=16))


def test_gradient_reaches_every_parameter(batch):
    module = CrossModalPretraining(scene={"sensors": SENSORS}, private=16)
    module.configure_model()
    loss, _ = module.loss(batch, draw_pairs(meeting_pairs(batch), 6, stream(0)), (0, 0))
    loss.backward()
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None and "prediction" not in name] == []


def trained(batch, steps: int, **options):
    """Correlation of the parts of two sensors after so many steps on one batch, and their retention by sensor."""
    module = CrossModalPretraining(scene={"sensors": ["als", "s2"]}, prediction=0.0, **options)
    module.configure_model()
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    drawn = [DrawnPair(("als", "s2"), 1.0, (1.0, 1.0))]
    for step in range(steps):
        loss, _ = module.loss(batch, drawn, (0, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        _, said = module.loss(batch, drawn, (0, 10_000))
        split = [module.private.dependence(name, module.encode(batch, name)).item() for name in ("als", "s2")]
    return split, {name: float(said[f"retention_{name}"]) for name in ("als", "s2")}


def test_parts_grow_apart_in_training_and_the_signal_is_still_told(batch):
    small = batch.part(0, 1)
    (before, asked), (after, told) = trained(small, 0, private=16), trained(small, 20, private=16, private_weight=1.0)
    free, _ = trained(small, 20, private=16, private_weight=0.0)
    for number in range(2):
        assert after[number] < 0.2 * before[number]
        assert after[number] < 0.2 * free[number]
    assert told["s2"] < 0.5 * asked["s2"]
    assert told["als"] < asked["als"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"private": -1}, r"--model\.private -1 must be 0 or more"),
        ({"private": 8, "retention": 0.0}, r"--model\.private 8 learns from reconstruction alone"),
        ({"private": 8, "private_weight": -2.0}, r"--model\.private_weight -2\.0"),
        ({"private": 33}, r"--model\.private 33 does not fit the features of \w+: 96 dimensions, 64 of them shared; take 32"),
    ],
)
def test_impossible_options_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        CrossModalPretraining(scene={"sensors": SENSORS}, **options).configure_model()
