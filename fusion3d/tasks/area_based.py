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
from fusion3d.io.raster import RasterFile
from fusion3d.tasks.cross_fit import cross_fit
from fusion3d.tasks.plot_metrics import plot_metrics
from fusion3d.tasks.regressors import family
from fusion3d.tasks.support import PlotFeatures, band_names

Float64 = npt.NDArray[np.float64]

ABA = "aba"
"""Name of the approach as a model of its own: random forest on the metrics of the returns inside each plot."""
METHODS = {"area-based, random forest": "forest", "area-based, power law": "power"}


def described_by_returns(store: str | Path | None, table: PlotTable, embedding: RasterFile) -> PlotFeatures:
    """Metrics of the returns inside each plot, by the names of the bands of the map of metrics that the model is for.

    Raises
    ------
    ConfigError
        There is no store, or the labels are footprints.
    InputError
        The map has a band that is no metric of the store's points.
    """
    if store is None:
        raise ConfigError("--model aba takes the metrics of the returns inside each plot: say where they are with --store STORE")
    if table.gaussian is not None:
        raise ConfigError("--model aba is for field plots, not for GEDI footprints")
    names = band_names(embedding)
    try:
        found = plot_metrics(store, table.geometry, table.crs, names=names)
    except ConfigError as error:
        remedy = f"make it with `fusion3d metrics {store} --out METRICS.tif`"
        raise InputError(embedding.path, f"is no map of plot metrics ({error})", remedy) from None
    return PlotFeatures(found.names, found.values, np.where(np.isfinite(found.values).all(axis=1), found.covered, 0.0))


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
