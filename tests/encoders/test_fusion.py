from __future__ import annotations

from itertools import permutations

import pytest
import torch

from fusion3d.encoders import fuse
from fusion3d.errors import ConfigError

SEEN = {"als": [1, 1, 0, 0], "gedi": [1, 0, 1, 0], "s2": [1, 0, 0, 0]}


def parts(*names: str, dtype: torch.dtype = torch.float32) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    made = {}
    for index, name in enumerate(SEEN):
        values = torch.randn(4, 5, generator=torch.Generator().manual_seed(index)).to(dtype)
        made[name] = values, torch.tensor(SEEN[name]).bool()
    return {name: made[name] for name in names or made}


def test_mean_of_unit_vectors_by_hand():
    seen = torch.tensor([True])
    fused, observed = fuse({"a": (torch.tensor([[3.0, 0.0]]), seen), "b": (torch.tensor([[0.0, 0.5]]), seen)})
    assert fused[0].tolist() == pytest.approx([2**-0.5, 2**-0.5])
    assert observed.tolist() == [True]


def test_result_has_unit_norm_where_observed_and_is_zero_elsewhere():
    fused, observed = fuse(parts())
    assert observed.tolist() == [True, True, True, False]
    assert fused.norm(dim=1).tolist() == pytest.approx([1, 1, 1, 0])


def test_order_of_the_sensors_changes_no_bit():
    expected, _ = fuse(parts())
    for order in permutations(SEEN):
        assert torch.equal(fuse(parts(*order))[0], expected)


def test_sensor_that_saw_nothing_changes_nothing():
    nothing = torch.full((4, 5), 7.0), torch.zeros(4, dtype=torch.bool)
    fused, observed = fuse({**parts(), "b": nothing})
    assert torch.allclose(fused, fuse(parts())[0])
    assert torch.equal(observed, fuse(parts())[1])


def test_value_of_a_sensor_where_it_saw_nothing_changes_nothing():
    expected, _ = fuse(parts())
    for garbage in (1e30, float("nan"), float("inf")):
        spoiled = {name: (torch.where(seen[:, None], values, garbage), seen) for name, (values, seen) in parts().items()}
        assert torch.equal(fuse(spoiled)[0], expected)


def test_one_sensor_is_its_own_direction():
    values, seen = parts("als")["als"]
    fused, observed = fuse({"als": (values, seen)})
    assert torch.allclose(fused[:2], values[:2] / values[:2].norm(dim=1, keepdim=True))
    assert torch.equal(observed, seen)


def test_length_of_an_embedding_has_no_weight():
    scaled = {name: (100 * values if name == "als" else values, seen) for name, (values, seen) in parts().items()}
    assert torch.allclose(fuse(scaled)[0], fuse(parts())[0], atol=1e-6)


def test_nothing_observed_gives_zeros_and_false():
    values = torch.ones(3, 4)
    fused, observed = fuse({"als": (values, torch.zeros(3, dtype=torch.bool))})
    assert not fused.any()
    assert not observed.any()


def test_opposite_directions_stay_finite():
    seen = torch.tensor([True])
    fused, _ = fuse({"a": (torch.tensor([[1.0, 0.0]]), seen), "b": (torch.tensor([[-1.0, 0.0]]), seen)})
    assert fused.isfinite().all()


def test_no_cells_and_double_precision():
    fused, observed = fuse({"als": (torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool))})
    assert fused.shape == (0, 4)
    assert observed.shape == (0,)
    assert fuse(parts(dtype=torch.float64))[0].dtype == torch.float64


def test_no_sensor_is_an_error():
    with pytest.raises(ConfigError, match="name at least one sensor"):
        fuse({})
