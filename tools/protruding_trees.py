"""What trees that protrude into measured ground do to biomass: area-based models and a learned one, on a simulated scene.

    python tools/protruding_trees.py scene scene.zarr --pretrained runs/simulated --work disturbed --out protruding.json

Whole trees are lifted out of the point cloud (those that no taller one overtops) and set on a share of all columns; the biomass
that counts stays as it was, as with trees that stand outside of a plot and reach into it (Oehmcke et al. 2024, Remote Sensing of
Environment 302). Two kinds:

- above: the tree is scaled so that its top is 2 to 10 m above the highest return of its column;
- tall: the tree keeps its size, 20 m or more, whatever stands or does not stand there.

Models learn from undisturbed plots (discs) and, apart from that, from undisturbed columns, and are tested on ground that holds
none of these. A larger share holds the trees of a smaller one. The maps of disturbed embeddings are kept in --work and reused.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from biomass_study import LEVEL, PER_FOLD, grounds, lay

from fusion3d.data.chips import NOISE_CLASSES
from fusion3d.errors import ConfigError, Fusion3DError
from fusion3d.evaluation.blocks import centres, spatial_folds
from fusion3d.grid import Window
from fusion3d.io.raster import open_raster
from fusion3d.io.whole_file import write_whole
from fusion3d.mapping.embed import embed
from fusion3d.store import Store
from fusion3d.store.reader import StoredPoints
from fusion3d.tasks.cross_fit import fit_arrays
from fusion3d.tasks.plot_metrics import plot_metrics
from fusion3d.tasks.regressors import family
from fusion3d.tasks.scores import score
from fusion3d.tasks.support import means_under

KINDS = ("above", "tall")
MODELS = {"plot metrics": ("forest", "power"), "embedding of als": ("ridge", "forest")}
TALL = 20.0
"""Metres: height from which a tree is lifted out."""
_DONORS = 300
_STEM = 0.5
"""Metres above the ground from which returns belong to the tree."""

Float64 = npt.NDArray[np.float64]
Polygons = npt.NDArray[np.object_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path, help="folder of `fusion3d simulate`, for its truth")
    parser.add_argument("store", type=Path, help="its column store")
    parser.add_argument("--pretrained", type=Path, required=True, help="run folder of `fusion3d pretrain`")
    parser.add_argument("--share", type=float, action="append", help="of the columns with a tree, percent [default: 2, 10, 100]")
    parser.add_argument("--plots", type=int, default=100, help="plots, and columns, to learn from")
    parser.add_argument("--test", type=int, default=300, help="plots, and columns, to test on")
    parser.add_argument("--radius", type=float, default=12.0, help="of a plot, metres")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, required=True, help="folder for the maps of embeddings")
    parser.add_argument("--out", type=Path, help="JSON of all runs")
    options = parser.parse_args()
    shares = sorted(options.share or (2.0, 10.0, 100.0))
    if not all(0 < share <= 100 for share in shares):
        parser.error("--share is a percentage above 0")
    inventory = options.scene / "truth" / "trees.gpkg"
    if not inventory.is_file():
        parser.error(f"{inventory} is missing: give the folder of `fusion3d simulate`")
    try:
        runs = _runs(options, inventory, shares)
    except Fusion3DError as error:
        parser.exit(1, f"error: {error}\n")
    if options.out:
        write_whole(options.out, json.dumps(runs, indent=1) + "\n")
    print(table(runs))


def _runs(options: argparse.Namespace, inventory: Path, shares: Sequence[float]) -> list[dict[str, Any]]:
    """Scores of all seeds."""
    options.work.mkdir(parents=True, exist_ok=True)
    store = PointsInMemory(options.store)
    trees = lifted_trees(store, inventory, seed=0)
    stores = {("none", 0.0): store}
    stores |= {(kind, share): with_trees(store, trees, kind, share / 100, seed=0) for kind in KINDS for share in shares}
    maps = {key: _map(options, *key, ground) for key, ground in stores.items()}
    return [found for seed in range(options.seeds) for found in study(options, stores, maps, seed)]


def _map(options: argparse.Namespace, kind: str, share: float, store: Store) -> Path:
    path: Path = options.work / (f"als_{kind}_{share:g}.tif")
    if not path.exists():
        embed(options.pretrained, store, path, sensors=["als"], fusion="attention", features="all", progress=False)
    return path


# -- trees


def lifted_trees(store: Store, inventory: Path, seed: int) -> list[StoredPoints]:
    """Returns of single trees; offsets are east and south of the stem, metres (`row_splits` is empty)."""
    import geopandas

    found = geopandas.read_file(inventory)
    x, y = found.geometry.x.to_numpy(), found.geometry.y.to_numpy()
    height, crown = found.height_m.to_numpy(), found.crown_radius_m.to_numpy()
    near, other = shapely.STRtree(found.geometry).query(found.geometry, predicate="dwithin", distance=2 * crown)
    overtopped = np.zeros(len(found), np.bool_)
    overtopped[near[height[other] > height[near]]] = True
    free = np.flatnonzero((height >= TALL) & ~overtopped)
    chosen = np.random.default_rng(seed).permutation(free)[:_DONORS]
    trees = []
    for at in chosen:
        reach = crown[at]
        window = store.grid.covering_window((x[at] - reach, y[at] - reach, x[at] + reach, y[at] + reach))
        points = store.points(window)
        west, _, _, north = store.grid.bounds(window)
        column = np.repeat(np.arange(window.size), np.diff(points.row_splits))
        place = points.offset + np.stack([column % window.cols, column // window.cols], axis=1) * store.grid.column
        place = place - np.array([x[at] - west, north - y[at]])
        inside = (np.hypot(*place.T) <= reach) & (points.height > _STEM) & (points.height <= height[at] + 1)
        inside &= ~np.isin(points.attributes["classification"], NOISE_CLASSES)
        if inside.any() and points.height[inside].max() >= TALL:
            trees.append(_taken(points, inside, place))
    if not trees:
        raise ConfigError(f"{inventory} has no tree of {TALL:g} m that stands free and holds returns")
    return trees


def _taken(points: StoredPoints, kept: npt.NDArray[np.bool_], place: Float64) -> StoredPoints:
    attributes = {name: values[kept] for name, values in points.attributes.items()}
    return StoredPoints(
        np.zeros(0, np.int64), place[kept].astype(np.float32), points.height[kept], points.elevation[kept], attributes
    )


class PointsInMemory(Store):
    """A store whose points are read once: thousands of plots ask for them."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._whole = super().points(self.grid.window)

    def points(self, window: Window, attributes: Sequence[str] | None = None) -> StoredPoints:
        whole, grid = self._whole, self.grid.window
        inside = window.intersection(grid)
        counts, parts = np.zeros((window.rows, window.cols), np.int64), [np.zeros(0, np.int64)]
        for row in range(inside.row, inside.row_stop if inside.size else inside.row):
            splits = whole.row_splits[row * grid.cols + inside.col : row * grid.cols + inside.col_stop + 1]
            counts[row - window.row, inside.col - window.col : inside.col_stop - window.col] = np.diff(splits)
            parts.append(np.arange(splits[0], splits[-1]))
        at = np.concatenate(parts)
        names = whole.attributes if attributes is None else attributes
        stored = {name: whole.attributes[name][at] for name in names}
        splits = np.concatenate([[0], np.cumsum(counts)])
        return StoredPoints(splits, whole.offset[at], whole.height[at], whole.elevation[at], stored)


class TreesOnTop(Store):
    """A store to whose points those of trees are added.

    Parameters
    ----------
    own : the store
    row, col : [N] columns of the added points, inside of the grid
    added : [N] points
    """

    def __init__(self, own: Store, row: npt.NDArray[np.int64], col: npt.NDArray[np.int64], added: StoredPoints) -> None:
        super().__init__(own.path)
        self._own = own
        order = np.lexsort((col, row))
        self._row, self._col, self._order, self._added = row[order], col[order], order, added

    def points(self, window: Window, attributes: Sequence[str] | None = None) -> StoredPoints:
        own = self._own.points(window, attributes)
        rows = slice(*np.searchsorted(self._row, (window.row, window.row_stop)))
        part = np.flatnonzero((self._col[rows] >= window.col) & (self._col[rows] < window.col_stop)) + rows.start
        key = (self._row[part] - window.row) * window.cols + self._col[part] - window.col
        keys = np.concatenate([np.repeat(np.arange(window.size), np.diff(own.row_splits)), key])
        order, which = np.argsort(keys, kind="stable"), self._order[part]
        splits = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=window.size))])

        def joined(mine: npt.NDArray[Any], more: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.concatenate([mine, more[which].astype(mine.dtype)])[order]

        names = {name: joined(values, self._added.attributes[name]) for name, values in own.attributes.items()}
        offset, height = joined(own.offset, self._added.offset), joined(own.height, self._added.height)
        return StoredPoints(splits, offset, height, joined(own.elevation, self._added.elevation), names)


def with_trees(store: Store, trees: list[StoredPoints], kind: str, share: float, seed: int) -> TreesOnTop:
    """A tree at a random spot of each of a share of the columns; a crown may reach into the columns beside."""
    grid, window = store.grid, store.grid.window
    rng = np.random.default_rng(seed)
    order, spot = rng.permutation(window.size), rng.random((window.size, 2)) * grid.column
    which, over = rng.integers(len(trees), size=window.size), rng.uniform(2.0, 10.0, window.size)
    top, ground = _tops(store)
    parts: list[tuple[Float64, Float64, Float64, int]] = []
    for column in order[: max(1, round(share * window.size))]:
        tree = trees[which[column]]
        height = tree.height.astype(np.float64)
        if kind == "above":
            height = height * (top[column] + over[column]) / height.max()
        corner = np.array([column % window.cols, column // window.cols]) * grid.column
        parts.append((corner + spot[column] + tree.offset, height, height + ground[column], int(which[column])))
    place = np.concatenate([part[0] for part in parts])
    index = np.floor(place / grid.column).astype(np.int64)
    offset = (place - index * grid.column).astype(np.float32)
    kept = (
        (index >= 0).all(axis=1) & (index[:, 0] < window.cols) & (index[:, 1] < window.rows) & (offset < grid.column).all(axis=1)
    )
    attributes = {name: np.concatenate([trees[part[3]].attributes[name] for part in parts])[kept] for name in trees[0].attributes}
    height, elevation = (np.concatenate([part[at] for part in parts])[kept] for at in (1, 2))
    added = StoredPoints(np.zeros(0, np.int64), offset[kept], height.astype(np.float32), elevation, attributes)
    return TreesOnTop(store, index[kept, 1], index[kept, 0], added)


def _tops(store: Store) -> tuple[Float64, Float64]:
    """Greatest height and mean elevation of the ground [columns]; 0 where there are no returns."""
    grid, window = store.grid, store.grid.window
    top, ground = np.zeros(window.size), np.zeros(window.size)
    for block in grid.blocks_in(window):
        inside = grid.block_window(*block).intersection(window)
        points = store.points(inside, ["classification"])
        good = np.isfinite(points.height) & ~np.isin(points.attributes["classification"], NOISE_CLASSES)
        column = np.repeat(np.arange(inside.size), np.diff(points.row_splits))[good]
        at = (column // inside.cols + inside.row) * window.cols + column % inside.cols + inside.col
        np.maximum.at(top, at, points.height[good])
        low = points.elevation[good] - points.height[good]
        count = np.bincount(at, minlength=window.size)
        sums = np.bincount(at, low, window.size)
        ground += np.divide(sums, count, out=np.zeros(window.size), where=count > 0)
    return top, ground


# -- study


def study(
    options: argparse.Namespace, stores: dict[tuple[str, float], Store], maps: dict[tuple[str, float], Path], seed: int
) -> Iterator[dict[str, Any]]:
    """Scores of each model on each kind of ground, by units: plots and columns."""
    store = stores[("none", 0.0)]
    rng = np.random.default_rng(seed)
    own_ground, test_ground = grounds(rng, store, options.radius)
    crs = store.grid.pyproj_crs
    truth = open_raster(options.scene / "truth" / "agb.tif")
    for unit in ("plots", "columns"):
        train = lay(rng, own_ground, options.plots, options.radius, crs)
        test = lay(rng, test_ground, options.test, options.radius, crs)
        if unit == "columns":
            train, test = _columns(store, train), _columns(store, test)
        measured, true = (means_under(truth, units).values[:, 0] for units in (train, test))
        split = spatial_folds(train, 1.0, side=PER_FOLD, folds=5, buffer=options.radius, seed=seed)
        undisturbed = open_raster(maps[("none", 0.0)])
        learnt = {"plot metrics": plot_metrics(store, train, crs), "embedding of als": means_under(undisturbed, train)}
        asked = {
            key: {"plot metrics": plot_metrics(stores[key], test, crs), "embedding of als": means_under(open_raster(path), test)}
            for key, path in maps.items()
        }
        for features, kinds in MODELS.items():
            for name in kinds:
                own = learnt[features]
                model = fit_arrays(
                    family(name), own.values, measured, split, names=own.names, level=LEVEL, target="agb", unit="Mg/ha",
                    transform="none", nonnegative=True,
                ).model  # fmt: skip
                assert model.domain is not None
                usual = score(true, model.predict(asked[("none", 0.0)][features].values), resamples=0).rmse.value
                for (kind, share), found in asked.items():
                    values = found[features].values
                    scores = score(true, model.predict(values), resamples=0)
                    yield {
                        "unit": unit, "model": f"{features}, {name}", "trees": kind, "share": share, "seed": seed,
                        "rmse": scores.rmse.value, "r2": scores.r2.value, "bias": scores.bias.value,
                        "growth": scores.rmse.value / usual - 1, "extrapolated": float(model.domain.outside(values.T).mean()),
                    }  # fmt: skip


def _columns(store: Store, plots: Polygons) -> Polygons:
    """The columns that hold the plots' centres, each once."""
    middle = centres(plots)
    row, col = store.grid.cell_of(middle[:, 0], middle[:, 1])
    rows, cols = np.unique(np.stack([row, col], axis=1), axis=0).T
    return np.array([shapely.box(*store.grid.bounds(Window(int(r), int(c), 1, 1))) for r, c in zip(rows, cols)], dtype=object)


def table(runs: list[dict[str, Any]]) -> str:
    """RMSE without added trees, and how far it grows with them: mean (least to greatest) over the seeds."""
    levels = list(dict.fromkeys((run["trees"], run["share"]) for run in runs if run["trees"] != "none"))
    heads = [f"{kind}, {share:g} %" for kind, share in levels]
    lines = [f"| unit | model | RMSE, Mg/ha | {' | '.join(heads)} |", f"|---|---|--:|{'--:|' * len(heads)}"]
    for unit, model in dict.fromkeys((run["unit"], run["model"]) for run in runs):
        own = [run for run in runs if (run["unit"], run["model"]) == (unit, model)]
        cells = [f"{np.mean([run['rmse'] for run in own if run['trees'] == 'none']):.1f}"]
        for level in levels:
            growth = [run["growth"] for run in own if (run["trees"], run["share"]) == level]
            cells.append(f"{np.mean(growth):+.0%} ({min(growth):+.0%} to {max(growth):+.0%})")
        lines.append(f"| {unit} | {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
