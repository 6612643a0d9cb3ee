"""Families of models of a measured variable on features, by the name that `fusion3d fit --model` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fusion3d.errors import ConfigError
from fusion3d.tasks.regressors.banded import BandedFamily
from fusion3d.tasks.regressors.boosting import BoostingFamily
from fusion3d.tasks.regressors.forest import ForestFamily
from fusion3d.tasks.regressors.mlp import MlpFamily
from fusion3d.tasks.regressors.power import PowerFamily
from fusion3d.tasks.regressors.protocol import Family, Fitted, Regressor
from fusion3d.tasks.regressors.ridge import RidgeFamily

__all__ = ["FAMILIES", "Family", "Fitted", "Regressor", "family"]

_ALL: tuple[Family[Any], ...] = (RidgeFamily(), BandedFamily(), ForestFamily(), BoostingFamily(), MlpFamily(), PowerFamily())
FAMILIES = {each.name: each for each in _ALL}


def family(name: str, features: Sequence[str] = ()) -> Family[Any]:
    """The family of a name, for features of such names; ConfigError where there is none."""
    if name not in FAMILIES:
        raise ConfigError(f"--model {name!r}: give one of {', '.join(FAMILIES)}")
    return FAMILIES[name].on(features)
