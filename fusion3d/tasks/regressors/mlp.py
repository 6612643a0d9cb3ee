"""A small multilayer perceptron on standardised features: the mean of a few networks that differ in their starting weights.

A mean of networks errs less than one of them (Hansen and Salamon 1990, IEEE TPAMI 12), and depends less on the seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.tasks.regressors.inner_folds import inner_folds
from fusion3d.tasks.regressors.protocol import AnyFeatures, Fitted, Float64, Int64, Parts, numbers

_NETWORKS = 5
_HIDDEN = 16
_DECAYS = (1.0, 10.0, 100.0)
_STEPS = 200
_CELLS = 4096
_CONSTANT = 1e-10


@dataclass(frozen=True)
class Perceptron:
    """Networks of one hidden layer side by side.

    Attributes
    ----------
    mean, scale : [D] of the features in training
    inward : [D, H] weights, [H] bias of the hidden units of all networks
    outward : [H] weights of the units and their common constant, on the target's scale
    """

    mean: Float64
    scale: Float64
    inward: Float64
    bias: Float64
    outward: Float64
    constant: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.constant) and (self.scale > 0).all()):
            raise ValueError("the constant of a perceptron must be finite, its scale positive")

    def predict_bands(self, bands: npt.NDArray[np.floating]) -> Float64:
        """Sums run feature by feature: a matrix product may round a cell differently beside other cells."""
        flat = bands.reshape(len(bands), -1)
        found = np.empty(flat.shape[1])
        for first in range(0, flat.shape[1], _CELLS):
            part = slice(first, first + _CELLS)
            units = np.repeat(self.bias[:, None], found[part].size, axis=1)
            for band, mean, scale, weights in zip(flat[:, part], self.mean, self.scale, self.inward, strict=True):
                units += weights[:, None] * ((band.astype(np.float64) - mean) / scale)
            total = np.full(found[part].size, self.constant)
            for unit, weight in zip(np.maximum(units, 0.0), self.outward, strict=True):
                total += weight * unit
            found[part] = total
        return found.reshape(bands.shape[1:])


class MlpFamily(AnyFeatures):
    """Fixed size; the weight decay is the one of least error on held-out groups of the rows."""

    name = "mlp"
    method = (
        f"mean of {_NETWORKS} multilayer perceptrons of {_HIDDEN} hidden units (rectified, L-BFGS) on standardised features, the "
        "weight decay chosen by cross-validation on blocks of the training plots"
    )
    transforms: tuple[str, ...] = ("none", "sqrt", "log1p")
    weighted = False

    def fit(
        self, features: Float64, target: Float64, *, groups: Int64, seed: int, weights: Float64 | None = None
    ) -> Fitted[Perceptron]:
        fold = inner_folds(groups, seed)
        residuals = np.zeros((len(_DECAYS), len(target)))
        for number in range(int(fold.max()) + 1):
            out, into = fold == number, fold != number
            for at, decay in enumerate(_DECAYS):
                part = _train(features[into], target[into], decay, 1, seed)
                residuals[at, out] = target[out] - part.predict_bands(features[out].T)
        best = int(np.argmin((residuals**2).sum(axis=1)))
        whole = _train(features, target, _DECAYS[best], _NETWORKS, seed)
        return Fitted(whole, residuals[best], {"decay": _DECAYS[best]})

    def pack(self, regressor: Perceptron) -> Parts:
        names = ("mean", "scale", "inward", "bias", "outward")
        return Parts({"constant": regressor.constant}, {name: getattr(regressor, name) for name in names})

    def unpack(self, settings: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], dimensions: int) -> Perceptron:
        units = len(arrays["bias"])
        shapes = {"mean": (dimensions,), "scale": (dimensions,), "inward": (dimensions, units), "bias": (units,)}
        found = {name: numbers(arrays[name], shape) for name, shape in {**shapes, "outward": (units,)}.items()}
        return Perceptron(**found, constant=float(settings["constant"]))

    def remarks(self, regressor: Perceptron, names: tuple[str, ...]) -> tuple[str, ...]:
        return ()


def _train(features: Float64, target: Float64, decay: float, networks: int, seed: int) -> Perceptron:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor
    from threadpoolctl import threadpool_limits

    mean, spread = features.mean(axis=0), features.std(axis=0)
    scale = np.where(spread > _CONSTANT * np.maximum(np.abs(mean), 1e-300), spread, 1.0)
    centre, width = float(target.mean()), float(target.std()) or 1.0
    inward, bias, outward, constant = [], [], [], 0.0
    # sums of several threads would round differently from run to run
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for number in range(networks):
            network = MLPRegressor(
                hidden_layer_sizes=(_HIDDEN,),
                solver="lbfgs",
                alpha=decay,
                max_iter=_STEPS,
                random_state=seed * _NETWORKS + number,
            ).fit((features - mean) / scale, (target - centre) / width)
            inward.append(network.coefs_[0])
            bias.append(network.intercepts_[0])
            outward.append(network.coefs_[1][:, 0] * width / networks)
            constant += float(network.intercepts_[1][0]) * width / networks
    return Perceptron(mean, scale, np.hstack(inward), np.concatenate(bias), np.concatenate(outward), constant + centre)
