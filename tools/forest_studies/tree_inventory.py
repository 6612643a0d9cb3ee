"""Chablais, French Alps: biomass of 10 m columns from a tree inventory, against the points above them.

110 trees with diameter and position on about 50 x 50 m (`chablais3_fr`, lidaRtRee). A tree counts in the column of its stem.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely

from forest_studies.embedding import SQUARE, AlsEncoders
from forest_studies.judged import Row, Study, Values, judged
from fusion3d.evaluation.blocks import spatial_folds
from fusion3d.io.las import open_points, read_chunks
from fusion3d.io.las_writer import write_points
from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import AlsSource, Scene
from fusion3d.simulate.allometry import biomass_by_group
from fusion3d.store import Store
from fusion3d.tasks.plot_metrics import plot_metrics

GROUPS = {
    "PIAB": "spruce",
    "ABAL": "true fir or hemlock",
    "TABA": "cedar or larch",
    "FASY": "hard maple, oak, hickory or beech",
    "ACPS": "hard maple, oak, hickory or beech",
    "BEPE": "soft maple or birch",
}
"""Groups of equations of the inventory's species; others are mixed hardwood."""
_MOVED = "points.laz"
_COLUMNS, _MARGIN, _BLOCK = 5, 20.0, 20.0
_KEPT = ("classification", "intensity", "return_number", "number_of_returns", "scan_angle")

Float64 = npt.NDArray[np.float64]


def study(data: Path, encoders: AlsEncoders) -> Study:
    """25 columns of 10 m; `data` is the folder of sample files."""
    folder = data / "chablais3_fr"
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as work:
        trees, west, south = on_lines_of_columns(folder, Path(work))
        measured, inside = column_sums(trees, west, south)
        columns = _squares(west, south)
        split = spatial_folds(columns, 1.0, side=_BLOCK)
        described: list[tuple[str, tuple[str, ...], Float64, tuple[str, ...]]] = []
        for run, scale in encoders.scales().items():
            side = SQUARE * _COLUMNS + _MARGIN
            bounds = (west - _MARGIN, south - _MARGIN, west + side, south + side)
            scene = Scene(AlsSource((str(Path(work) / _MOVED),)), column=scale.column, voxel=scale.voxel, bounds=bounds)
            store = Store.open(prepare(scene, Path(work) / f"{run or 'points'}.zarr", quiet=True).out)
            if not described:
                metrics = plot_metrics(store, columns)
                described.append(("plot metrics", metrics.names, metrics.values, ("ridge", "forest", "power")))
            described += [(*found, ("ridge", "forest")) for found in encoders.embedded(run, store, columns)]
    for target in measured:
        for words, names, values, heads in described:
            rows += judged(target, words, (names, values), split, f"blocks of {_BLOCK:g} m", heads=heads, calibrated=False)
    return Study(
        "chablais3_fr",
        "Chablais: biomass of 10 m columns from an inventory of trees",
        tuple(rows),
        remarks=(
            f"{inside} of {len(trees)} trees stand in the 25 columns, dead and broken ones too. Biomass of a tree: equations by "
            "diameter of Jenkins et al. 2003 for groups of species. They are North American and know no height; what is shown "
            "is how well columns are told apart, not how much biomass there is. Basal area beside it needs no equation.",
            "Columns that touch a held-out one are not learnt from. 25 columns of one stand are few, and a crown reaches over "
            "the edge of the column of its stem.",
        ),
    )


def on_lines_of_columns(folder: Path, work: Path) -> tuple[pd.DataFrame, float, float]:
    """Trees, west and south of the 25 columns about their middle. Columns begin at multiples of their size, the inventory does
    not: stems and points are moved together, and the points written to the folder `work`."""
    trees = pd.read_csv(folder / "tree_inventory.csv")
    corner = [(trees[axis].min() + trees[axis].max() - SQUARE * _COLUMNS) / 2 for axis in "xy"]
    west, south = (float(np.floor(edge / SQUARE) * SQUARE) for edge in corner)
    east, north = corner[0] - west, corner[1] - south
    parts = list(read_chunks(open_points(folder / "las_chablais3.laz"), _KEPT))
    x, y, z = (np.concatenate([getattr(part, axis) for part in parts]) for axis in "xyz")
    attributes = {name: np.concatenate([part.attributes[name] for part in parts]) for name in _KEPT}
    write_points(work / _MOVED, x - east, y - north, z, attributes, crs="EPSG:2154")
    return trees.assign(x=trees.x - east, y=trees.y - north), west, south


def column_sums(trees: pd.DataFrame, west: float, south: float) -> tuple[tuple[Values, Values], int]:
    """Biomass and basal area of the columns (row-major from the north-west), and how many trees stand in them."""
    col = np.floor((trees.x - west) / SQUARE).to_numpy().astype(np.int64)
    row = _COLUMNS - 1 - np.floor((trees.y - south) / SQUARE).to_numpy().astype(np.int64)
    inside = (row >= 0) & (row < _COLUMNS) & (col >= 0) & (col < _COLUMNS)
    group = trees.s.map(GROUPS).fillna("mixed hardwood")
    kilograms = np.array([float(biomass_by_group(d, name)) for d, name in zip(trees.d, group, strict=True)])
    square_metres = np.pi / 4 * (trees.d.to_numpy() / 100) ** 2
    place = (row * _COLUMNS + col)[inside]
    hectares = SQUARE**2 / 1e4
    biomass, area = (
        np.bincount(place, values[inside], _COLUMNS**2) / hectares for values in (kilograms / 1000, square_metres)
    )  # fmt: skip
    return (Values("biomass", "Mg/ha", biomass), Values("basal area", "m2/ha", area)), int(inside.sum())


def _squares(west: float, south: float) -> npt.NDArray[np.object_]:
    """The 25 columns, row-major from the north-west."""
    place = np.arange(_COLUMNS**2)
    x, y = west + SQUARE * (place % _COLUMNS), south + SQUARE * (_COLUMNS - 1 - place // _COLUMNS)
    squares: npt.NDArray[np.object_] = shapely.box(x, y, x + SQUARE, y + SQUARE)
    return squares
