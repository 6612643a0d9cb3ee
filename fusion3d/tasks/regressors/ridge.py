"""Ridge regression (Hoerl and Kennard 1970, Technometrics 12), its penalty chosen on held-out groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from fusion3d.evaluation.ridge import Ridge, fit_ridge
from fusion3d.tasks.regressors.protocol import AnyFeatures, Fitted, Float64, Int64, Parts, numbers

_VECTORS = ("mean", "scale", "coefficients")


class RidgeFamily(AnyFeatures):
    """Linear in standardised features."""

    name = "ridge"
    method = "ridge regression (Hoerl and Kennard 1970), the penalty chosen by cross-validation on blocks of the training plots"
    transforms: tuple[str, ...] = ("none", "sqrt", "log1p")
    weighted = True

    def fit(
        self, features: Float64, target: Float64, *, groups: Int64, seed: int, weights: Float64 | None = None
    ) -> Fitted[Ridge]:
        found = fit_ridge(features, target, weights=weights, groups=groups, seed=seed)
        return Fitted(found.ridge, found.residuals, {"penalty": found.ridge.penalty})

    def pack(self, regressor: Ridge) -> Parts:
        settings = {"intercept": regressor.intercept, "penalty": regressor.penalty}
        return Parts(settings, {name: getattr(regressor, name) for name in _VECTORS})

    def unpack(self, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], dimensions: int) -> Ridge:
        vectors = {name: numbers(arrays[name], (dimensions,)) for name in _VECTORS}
        return Ridge(**vectors, intercept=float(settings["intercept"]), penalty=float(settings["penalty"]))

    def remarks(self, regressor: Ridge, names: tuple[str, ...]) -> tuple[str, ...]:
        return ()
