"""The standard method beside the learned one: plot metrics of aerial LiDAR with a random forest and with a power law.

The area-based approach (Naesset 2002, Remote Sensing of Environment 80; White et al. 2013, Canadian Forest Service FI-X-010) is
what a new method has to beat. It gets the same plots, held out in the same folds, and the returns inside each plot at full
resolution.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.blocks import Folds
from fusion3d.evaluation.plots import PlotTable
from fusion3d.tasks.cross_fit import cross_fit
from fusion3d.tasks.plot_metrics import plot_metrics
from fusion3d.tasks.regressors import family

Float64 = npt.NDArray[np.float64]

METHODS = {"area-based, random forest": "forest", "area-based, power law": "power"}


def area_based(
    store: str | Path, table: PlotTable, split: Folds, about: dict[str, Any], notes: list[str], fewest: int
) -> dict[str, Float64]:
    """By name of the method, [P] held-out predictions, NaN for plots without metrics.

    Parameters
    ----------
    store : column store with aerial LiDAR
    split : the folds that the learned model was scored in
    about : target, unit, transform and nonnegative, as for `cross_fit`
    notes : what could not be done is added, in words
    fewest : plots that must have metrics

    Raises
    ------
    InputError
        Fewer plots than that have metrics.
    StoreError
        The store cannot be read or holds no aerial LiDAR.
    """
    found = plot_metrics(store, table.geometry, table.crs)
    used = found.usable & np.isfinite(found.values).all(axis=1)
    missing = int((~used).sum())
    if used.sum() < fewest:
        raise InputError(store, f"has returns enough for metrics under {int(used.sum())} of {len(table)} plots",
                         "give the store of the plots' place")  # fmt: skip
    if missing:
        notes.append(f"{missing} plots have too few returns for metrics: the area-based approach is scored on {int(used.sum())}")
    features = np.where(used[:, None], found.values, 0.0)
    predicted: dict[str, Float64] = {}
    for name, kind in METHODS.items():
        chosen = family(kind)
        transform = about["transform"] if about["transform"] in chosen.transforms else "none"
        try:
            settings = {**about, "transform": transform}
            predicted[name] = cross_fit(chosen, features, table.values, split, settings, used, table.noise).predicted
        except ConfigError as error:
            notes.append(f"{name}: not scored ({error})")
    return predicted
