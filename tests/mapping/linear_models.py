"""Models of known formulas, to be mapped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fusion3d.evaluation.ridge import Ridge
from fusion3d.tasks.conformal import Conformal
from fusion3d.tasks.domain import Domain
from fusion3d.tasks.model import TargetModel
from fusion3d.tasks.regressors import Fitted


def model(transform: str = "none", nonnegative: bool = True) -> TargetModel:
    """z = 2 a - b + 1 with residuals -1 and 1."""
    ridge = Ridge(np.array([3.0, 4.0]), np.array([5.0, 2.0]), np.array([10.0, -2.0]), 3.0, 1.0)
    about = {"target": "agb", "unit": "Mg/ha", "features": ("emb_000", "emb_001"), "nonnegative": nonnegative}
    return TargetModel.of(Fitted(ridge, np.array([1.0, -1.0])), transform=transform, trained_on={"checkpoint": "run"}, **about)


def with_intervals() -> TargetModel:
    """Errors of 4 below a prediction of 50, of 20 above; at home where a is between 20 and 50, b anywhere."""
    predicted = np.concatenate([np.linspace(-50, 49, 60), np.linspace(51, 150, 60)])
    error = np.where(predicted < 50, 4.0, 20.0) * np.where(np.arange(120) % 2, 1, -1)
    plots = np.arange(20.0, 51.0)[:, None]
    domain = Domain(np.zeros(2), np.ones(2), np.array([1.0, 0.0]), plots, distance=10.0, threshold=0.15)
    return replace(model(), intervals=Conformal.of(predicted + error, predicted), domain=domain)
