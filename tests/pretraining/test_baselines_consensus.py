from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from fusion3d.pretraining.baselines.consensus import consensus_losses
from fusion3d.pretraining.baselines.places import Places

PRESENT = torch.tensor([[1, 1, 1, 0, 1], [1, 0, 1, 1, 1], [0, 1, 1, 0, 0]], dtype=torch.bool)


def made(vectors: torch.Tensor, present: torch.Tensor = PRESENT, names=("als", "ortho", "s2")) -> Places:
    count = present.shape[1]
    position = torch.stack([torch.arange(count) * 10.0, torch.zeros(count)], dim=1).to(vectors)
    return Places(names, torch.where(present[..., None], vectors, 0.0), present, torch.zeros(count).long(), position, 0.0)


def random_vectors() -> torch.Tensor:
    return normalize(torch.randn(*PRESENT.shape, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64), dim=2)


def by_hand(vectors, sensor: int, temperature: float) -> list[float]:
    """Two-way InfoNCE of a sensor against the normalised sum of the others, place by place."""
    own, others = [], []
    for place in range(PRESENT.shape[1]):
        rest = [vectors[m, place] for m in range(3) if m != sensor and PRESENT[m, place]]
        if PRESENT[sensor, place] and rest:
            mean = sum(rest) / len(rest)
            own.append(vectors[sensor, place])
            others.append(mean / mean.norm())
    found = []
    for i in range(len(own)):
        right = math.exp(float(own[i] @ others[i]) / temperature)
        there = sum(math.exp(float(own[i] @ other) / temperature) for other in others)
        back = sum(math.exp(float(others[i] @ other) / temperature) for other in own)
        found.append(-(math.log(right / there) + math.log(right / back)) / 2)
    return found


def test_losses_are_those_of_the_formula_written_out():
    vectors = random_vectors()
    found = consensus_losses(made(vectors), torch.tensor(0.2, dtype=torch.float64))
    assert list(found) == ["als", "ortho", "s2"]
    for number, name in enumerate(found):
        assert found[name].tolist() == pytest.approx(by_hand(vectors, number, 0.2))


def test_gradients_of_vectors_and_temperature_are_those_of_finite_differences():
    temperature = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def total(vectors, temperature):
        return torch.cat(list(consensus_losses(made(vectors), temperature).values()))

    assert torch.autograd.gradcheck(total, (random_vectors().requires_grad_(), temperature))


def test_order_of_the_sensors_changes_nothing():
    vectors, order = random_vectors(), [2, 0, 1]
    found = consensus_losses(made(vectors), torch.tensor(0.2))
    again = consensus_losses(made(vectors[order], PRESENT[order], ("s2", "als", "ortho")), torch.tensor(0.2))
    assert set(found) == set(again)
    for name, values in found.items():
        torch.testing.assert_close(again[name], values)


def test_sensor_that_saw_nothing_changes_nothing():
    vectors = random_vectors()
    present = torch.cat([PRESENT, torch.zeros_like(PRESENT[:1])])
    more = made(torch.cat([vectors, vectors[:1]]), present, ("als", "ortho", "s2", "hsi"))
    found, again = (consensus_losses(places, torch.tensor(0.2)) for places in (made(vectors), more))
    assert set(found) == set(again)
    assert all(torch.equal(found[name], again[name]) for name in found)
