"""Real plots: four hectares of tropical forest at Nouragues, French Guiana, against canopy height from airborne LiDAR."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pandas
import pytest
import shapely

from fusion3d.tasks.fit import fit


def subplots(folder: Path, side: int) -> geopandas.GeoDataFrame:
    """Squares of `side` metres with the biomass density of their trees, Mg/ha, placed by the surveyed corners."""
    trees, corners = pandas.read_csv(folder / "trees_agb.csv"), pandas.read_csv(folder / "plot_corners.csv")
    rows = []
    for plot, corner in corners.groupby("Plot"):
        field = np.column_stack([np.ones(4), corner.Xfield, corner.Yfield])
        to_map = np.linalg.lstsq(field, corner[["Xutm", "Yutm"]].to_numpy())[0]
        own = trees[trees.Plot == plot]
        for x in range(int(corner.Xfield.min()), int(corner.Xfield.max()), side):
            for y in range(int(corner.Yfield.min()), int(corner.Yfield.max()), side):
                ring = np.array([[1, x, y], [1, x + side, y], [1, x + side, y + side], [1, x, y + side]]) @ to_map
                inside = (own.Xfield >= x) & (own.Xfield < x + side) & (own.Yfield >= y) & (own.Yfield < y + side)
                rows.append({"site": plot, "agb": own.AGB[inside].sum() / (side**2 / 1e4), "geometry": shapely.Polygon(ring)})
    return geopandas.GeoDataFrame(rows, crs=2972)


@pytest.mark.parametrize(("side", "plain"), [(25, 0.20), (50, 0.54)])
def test_nouragues_canopy_height_explains_as_much_biomass_as_in_a_plain_regression(data_dir, tmp_path, side, plain):
    """Plain regressions on median canopy height have R2 0.20 and 0.54; 64 and 16 subplots leave wide intervals."""
    folder = data_dir / "nouragues_gf"
    subplots(folder, side).to_file(tmp_path / "plots.gpkg")
    chm = folder / "als_chm_2012_1m.tif"
    found = fit(chm, tmp_path / "plots.gpkg", "agb", tmp_path / "out", unit="Mg/ha", crs="EPSG:2972", scheme="random")
    scores = found.scorecard.model
    assert scores.n == (100 // side) ** 2 * 4
    assert scores.r2.low < plain < scores.r2.high
    # 1,638 Mg of trees on four hectares
    assert scores.measured_mean == pytest.approx(1638 / 4, rel=0.02)
    assert scores.r2.value > found.scorecard.null.r2.value + 0.2
