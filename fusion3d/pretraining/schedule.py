"""How the learning rate goes during a run."""

from __future__ import annotations

import math

_FINAL_RATE = 0.01


def rate(step: int, warmup: int, total: int) -> float:
    """Share of the learning rate at a step: linear up to `warmup`, then a cosine down to 1 % at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return _FINAL_RATE + (1 - _FINAL_RATE) * (1 + math.cos(math.pi * done)) / 2
