"""Real plots with metrics of their point clouds: Quatre Montagnes (France) and Moscow Mountain (Idaho)."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import shapely

from fusion3d.evaluation.blocks import random_folds
from fusion3d.tasks.conformal import nested_bounds
from fusion3d.tasks.coverage import coverage
from fusion3d.tasks.cross_fit import cross_fit
from fusion3d.tasks.regressors import FAMILIES


def quatre_montagnes(folder):
    """Heights, intensities and covers of 96 plots; basal area, m2/ha."""
    table = pandas.read_csv(folder / "forest_plots" / "quatre_montagnes_FR_96plots.csv")
    metrics = table.loc[:, "zmax":"p_hmin"].select_dtypes("number")
    return metrics.to_numpy(float), table.G_m2_ha.to_numpy(), table[["X", "Y"]].to_numpy()


def moscow_mountain(folder):
    """Height, cover and intensity of 165 plots; basal area."""
    table = pandas.read_csv(folder / "forest_plots" / "MoscowMtStJoe_US_165plots.csv")
    metrics = table[["INTMEAN", "INTSTD", "INTMAX", "HTMEAN", "HTSTD", "HTMAX", "CCMEAN", "CCSTD", "CCMAX", "ELEVMEAN"]]
    return metrics.to_numpy(float), table.Total_BA.to_numpy(), table[["EASTING", "NORTHING"]].to_numpy()


@pytest.mark.parametrize(
    ("place", "kind", "least"),
    [(quatre_montagnes, "ridge", 0.45), (quatre_montagnes, "power", 0.35), (moscow_mountain, "forest", 0.5)],
)
def test_models_explain_basal_area_and_their_intervals_cover(data_dir, monkeypatch, place, kind, least):
    """Published for Quatre Montagnes: R2 0.58 of a random forest."""
    monkeypatch.setattr("fusion3d.tasks.regressors.forest.TREES", 80)
    features, values, spot = place(data_dir)
    split = random_folds(shapely.points(spot), 1.0, folds=5, seed=0)
    about = {"target": "basal area", "unit": "m2/ha", "transform": "none", "nonnegative": True}
    predicted = cross_fit(FAMILIES[kind], features, values, split, about).predicted
    explained = 1 - np.square(predicted - values).sum() / np.square(values - values.mean()).sum()
    assert least < explained < 0.9
    share = coverage(values, *nested_bounds(values, predicted, split, 0.9, True)).share
    assert share.low < 0.9 < share.high
