"""Nouragues, French Guiana: biomass of a tropical forest from a raster of canopy height alone.

Four plots of 1 ha with 2,050 trees (`nouragues_gf/trees_agb.csv`, biomass by the data's authors) under a canopy height raster of
1 m. There are no points and no image, so no encoder has anything to read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely

from forest_studies.judged import Row, Study, Values, judged
from fusion3d.evaluation.blocks import spatial_folds, stratum_folds
from fusion3d.io.raster import open_raster
from fusion3d.tasks.support import statistics_under

_CRS = "EPSG:2972"
_PLOT, _BLOCK = 100.0, 50.0
_ASTRAY = 5.0
"""Metres outside of its plot from which a tree is left out; nearer ones count in the square beside."""
_MEDIAN = "_p50"

Polygons = npt.NDArray[np.object_]


def study(data: Path) -> Study:
    """64 subplots of 25 m and 16 of 50 m; `data` is the folder of sample files."""
    folder = data / "nouragues_gf"
    rows, plain = [], []
    for side in (25.0, 50.0):
        found, correlation = _at(folder, side)
        rows += found
        plain.append(f"{len(found[0].measured)} subplots of {side:g} m: {correlation:.2f}")
    return Study(
        "nouragues_gf",
        "Nouragues: biomass of tropical forest from canopy height",
        tuple(rows),
        reference=(
            "R2 of a straight line through the median canopy height, fitted and scored on the same plots: 0.20 on 64 subplots, "
            f"0.54 on 16 quadrants; here {', '.join(plain)}",
        ),
        remarks=(
            "No embedding: the data hold a raster of canopy height, and no encoder reads one. A point cloud or an image of the "
            "place is what is missing.",
            "The authors say that some trees are virtual, added for teaching.",
        ),
    )


def _at(folder: Path, side: float) -> tuple[list[Row], float]:
    polygons, plot, measured = subplots(folder, side)
    chm = open_raster(folder / "als_chm_2012_1m.tif", crs=_CRS)
    found = statistics_under(chm, polygons)
    median = [at for at, name in enumerate(found.names) if name.endswith(_MEDIAN)]
    sets = {
        "median height": ((found.names[median[0]],), found.values[:, median], ("ridge", "power")),
        "mean and percentiles": (found.names, found.values, ("ridge", "forest", "boosting", "mlp", "power")),
    }
    target = Values(f"biomass of {side:g} m squares", "Mg/ha", measured)
    strata = stratum_folds(polygons, 1.0, [str(name) for name in plot])
    blocks = spatial_folds(polygons, 1.0, side=_BLOCK)
    rows = []
    held_out = [(strata, "each plot of 1 ha")] + ([(blocks, f"blocks of {_BLOCK:g} m")] if side < _BLOCK else [])
    for split, words in held_out:
        for features, (names, values, heads) in sets.items():
            rows += judged(
                target, features, (names, values), split, words, heads=heads, groups=blocks.group, calibrated=len(polygons) > 30
            )
    return rows, float(np.corrcoef(found.values[:, median[0]], measured)[0, 1] ** 2)


def subplots(folder: Path, side: float) -> tuple[Polygons, npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Squares [P] on the map, the plot that each is in, and their biomass, Mg/ha.

    Trees are placed by coordinates along the sides of the plot; its four corners say where these lie on the map.
    """
    trees, corners = pd.read_csv(folder / "trees_agb.csv"), pd.read_csv(folder / "plot_corners.csv")
    polygons, plots, biomass = [], [], []
    for number, own in corners.groupby("Plot"):
        field = own[["Xfield", "Yfield"]].to_numpy(np.float64)
        start = field.min(axis=0)
        affine, *_ = np.linalg.lstsq(np.column_stack([field - start, np.ones(len(field))]), own[["Xutm", "Yutm"]].to_numpy())
        inside = trees[trees.Plot == number]
        place = inside[["Xfield", "Yfield"]].to_numpy(np.float64) - start
        near = ((place > -_ASTRAY) & (place < _PLOT + _ASTRAY)).all(axis=1)
        square = np.where(near[:, None], np.clip(place // side, 0, _PLOT // side - 1), -1).astype(np.int64)
        for row in range(int(_PLOT // side)):
            for col in range(int(_PLOT // side)):
                ring = side * np.array([(col, row), (col + 1, row), (col + 1, row + 1), (col, row + 1)])
                polygons.append(shapely.Polygon(np.column_stack([ring, np.ones(4)]) @ affine))
                plots.append(int(number))
                biomass.append(inside.AGB.to_numpy()[(square == (col, row)).all(axis=1)].sum() / (side**2 / 1e4))
    return np.array(polygons, dtype=object), np.array(plots), np.array(biomass)
