from __future__ import annotations

import math

import pytest

from fusion3d.pretraining.schedule import rate


def test_rate_rises_to_one_and_falls_to_a_hundredth():
    assert [rate(step, 4, 104) for step in (0, 3, 4)] == [0.25, 1.0, 1.0]
    assert rate(54, 4, 104) == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi / 2)) / 2)
    assert rate(104, 4, 104) == pytest.approx(0.01)
    assert rate(0, 0, 1) == 1.0
