"""Published plot metrics of aerial LiDAR: the heads of `fusion3d fit` and its intervals, without a point of our own reading.

`forest_plots/quatre_montagnes_FR_96plots.csv`: 96 plots of 15 m radius in the French Alps (lidaRtRee). `forest_plots/
MoscowMtStJoe_US_165plots.csv`: 165 plots in Idaho with metrics of LiDAR and bands of a satellite (yaImpute).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import shapely

from forest_studies.judged import HEADS, Row, Study, Values, judged
from fusion3d.evaluation.blocks import random_folds, spatial_folds, stratum_folds

_QUATRE = "quatre_montagnes_FR_96plots.csv"
_MOSCOW = "MoscowMtStJoe_US_165plots.csv"
_RADIUS = 15.0
_FOLDS = 10
_ALL_HEADS, _QUICK = "G_m2_ha", ("ridge", "forest", "power")


def study(data: Path) -> Study:
    """Both data sets; `data` is the folder of sample files."""
    folder = data / "forest_plots"
    return Study(
        "forest_plots",
        "Published plot metrics: Quatre Montagnes (96 plots) and Moscow Mountain (165 plots)",
        (*_quatre(pd.read_csv(folder / _QUATRE)), *_moscow(pd.read_csv(folder / _MOSCOW))),
        reference=(
            "Quatre Montagnes, random forest, 10 random folds: R2 of basal area 0.58, stems 0.82, mean diameter 0.64; clusters "
            "held out 0.53, 0.80, 0.37",
            "Moscow Mountain, logarithm of basal area, random forest: R2 from LiDAR 0.87, from the satellite 0.45, both 0.87",
            "Coverage by quarter of 90 % intervals of one width, published for biomass of 5,000 Danish plots: .996 to .769",
        ),
        remarks=(
            "Quatre Montagnes: three plots above 50 cm decide the scores of mean diameter. Moscow Mountain: 11 plots without "
            "trees stand at ln 0.1, and one plot of 255 m2/ha makes up much of the RMSE.",
        ),
    )


def _quatre(plots: pd.DataFrame) -> list[Row]:
    polygons = shapely.buffer(shapely.points(plots.X, plots.Y), _RADIUS)
    names = tuple(plots.loc[:, "zmax":"TreeCanopy_meanH_in_plot"].columns)
    described = names, plots[list(names)].to_numpy(np.float64)
    by_lot = random_folds(polygons, 1.0, folds=_FOLDS)
    clusters = stratum_folds(polygons, 1.0, [str(name) for name in plots.cluster_id])
    member = np.unique(plots.cluster_id, return_inverse=True)[1]
    rows = []
    for column, name, unit in (
        ("G_m2_ha", "basal area", "m2/ha"), ("N_ha", "stems", "1/ha"), ("D_mean_cm", "mean diameter", "cm")
    ):  # fmt: skip
        target = Values(f"Quatre Montagnes, {name}", unit, plots[column].to_numpy(np.float64))
        heads = HEADS if column == _ALL_HEADS else _QUICK
        rows += judged(target, f"{len(names)} metrics", described, by_lot, "10 random", heads=heads, groups=member)
        rows += judged(target, f"{len(names)} metrics", described, clusters, "each cluster", heads=_QUICK, groups=member)
    return rows


def _moscow(plots: pd.DataFrame) -> list[Row]:
    polygons = shapely.buffer(shapely.points(plots.EASTING, plots.NORTHING), _RADIUS)
    lidar = tuple(plots.loc[:, "INTMEAN":"CCMAX"].columns)
    satellite = tuple(plots.loc[:, "B1MEAN":"PANSTD"].columns)
    by_lot, blocks = random_folds(polygons, 1.0, folds=_FOLDS), spatial_folds(polygons, 1.0, folds=5)
    side = f"blocks of {blocks.side:g} m"
    natural = Values("Moscow Mountain, basal area", "m2/ha", plots.Total_BA.to_numpy(np.float64))
    logarithm = Values("Moscow Mountain, ln basal area", "ln(m2/ha)", np.log(natural.values), nonnegative=False)
    rows = []
    for words, names in (("LiDAR", lidar), ("satellite", satellite), ("both", lidar + satellite)):
        described = names, plots[list(names)].to_numpy(np.float64)
        what = f"{len(names)} of {words}"
        rows += judged(logarithm, what, described, by_lot, "10 random", heads=("ridge", "forest"))
        if words == "LiDAR":
            rows += judged(natural, what, described, blocks, side)
    return rows
