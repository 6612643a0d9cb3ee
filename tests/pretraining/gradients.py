"""Loss and gradients of one step of a small model, in float64, to compare two ways to compute them."""

from __future__ import annotations

import pytest
import torch

from fusion3d.data.observation import ChipBatch
from fusion3d.data.pairs import DrawnPair, draw_pairs, stream
from fusion3d.pretraining.module import CrossModalPretraining
from fusion3d.pretraining.objective import meeting_pairs

Step = tuple[float, dict[str, float], dict[str, torch.Tensor]]


def gradients(batch: ChipBatch, drawn: list[DrawnPair] | None = None, sensors: int = 4, **options: object) -> Step:
    """Loss, terms and gradients by parameter of a step, of all pairs that meet when none are given."""
    names = ["als", "gedi", "ortho", "s2"][:sensors]
    module = CrossModalPretraining(scene={"sensors": names}, **options)  # type: ignore[arg-type]
    module.configure_model()
    module.double()
    pairs = draw_pairs(meeting_pairs(batch), 6, stream(0)) if drawn is None else drawn
    loss, parts = module.loss(batch, pairs, (0, 0))
    loss.backward()
    found = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    return loss.item(), {name: float(value) for name, value in parts.items()}, found


def assert_same_gradients(found: Step, expected: Step) -> None:
    """The same loss, and the same gradient of each parameter."""
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert set(found[2]) == set(expected[2])
    for name, gradient in expected[2].items():
        torch.testing.assert_close(found[2][name], gradient, rtol=1e-4, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")
