"""How much raw features already say of every truth variable of a simulated scene, by sensor.

    fusion3d simulate --out scene --size 1000
    fusion3d prepare scene/scene.yaml --out scene.zarr
    python tools/simulated_baselines.py scene scene.zarr

Raw features are what a practitioner would take: height metrics of the points, mean and spread of the pixels, and for series the
mean, the spread and two harmonics of the year. Scores are of random forests, for values the better of it and ridge regression,
on five folds of blocks of 100 m: R2 for values, accuracy for classes. What is said of trees is scored on forest alone: telling
forest from field would do most of it elsewhere. A scene is too easy where a figure exceeds 0.95.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import rasterio
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fusion3d.simulate.model import FIELDS, Cover
from fusion3d.store import Store

BLOCK = 100.0
CEILING = 0.95
PERCENTILES = (5, 25, 50, 75, 95, 99)
CLASSES = ("land_cover", "species")
OF_FOREST = ("agb", "canopy_height", "canopy_cover", "species")
COLUMNS = 2500


def als_features(store: Store) -> np.ndarray:
    """[columns, F] height metrics, densities, return and intensity statistics."""
    window = store.grid.window
    names = ("intensity", "return_number", "number_of_returns")
    points = store.points(window, names)
    rows = np.full((window.size, len(PERCENTILES) + 9), np.nan, np.float32)
    for column in range(window.size):
        part = slice(points.row_splits[column], points.row_splits[column + 1])
        height = points.height[part]
        if len(height) < 5:
            continue
        intensity = points.attributes["intensity"][part].astype(np.float64)
        first = points.attributes["return_number"][part] == 1
        rows[column] = [
            *np.percentile(height, PERCENTILES),
            height.max(),
            height.mean(),
            height.std(),
            (height > 2).mean(),
            (first & (height > 2)).sum() / max(first.sum(), 1),
            ((height > 0.3) & (height < 3)).mean(),
            points.attributes["number_of_returns"][part].mean(),
            intensity.mean(),
            intensity.std(),
        ]
    return rows


def raster_features(store: Store, name: str) -> np.ndarray:
    """[columns, F] mean and spread of the pixels by band; of a series the mean, the spread and two harmonics of the year."""
    window, info = store.grid.window, store.raster_info(name)
    per_date, days = [], []
    for step in range(len(info.dates)):
        raster = store.raster(name, window, [step])
        values = np.where(raster.valid, raster.values, np.nan)[0]
        fine = max(info.pixels_per_column, 1)
        if not info.pixels_per_column and info.columns_per_pixel > 1:
            values = values.repeat(info.columns_per_pixel, 1).repeat(info.columns_per_pixel, 2)
            row, col = raster.pixel_origin
            values = values[:, row : row + window.rows, col : col + window.cols]
        cells = values.reshape(len(values), window.rows, fine, window.cols, fine)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            statistics = [np.nanmean(cells, axis=(2, 4))] + ([np.nanstd(cells, axis=(2, 4))] if fine > 1 else [])
        per_date.append(np.concatenate(statistics).reshape(-1, window.size))
        days.append(raster.dates[0].timetuple().tm_yday if raster.dates[0] else 0)
    stack = np.stack(per_date)
    return stack[0].T if len(stack) == 1 else _harmonics(stack, np.array(days))


def _harmonics(stack: np.ndarray, days: np.ndarray) -> np.ndarray:
    """[columns, 6 F] of [dates, F, columns] with NaN where there is no observation."""
    angle = 2 * np.pi * days / 365.0
    basis = np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)], axis=1)
    features = []
    for band in stack.transpose(1, 2, 0):
        seen = np.isfinite(band)
        normal = np.einsum("nt,ti,tj->nij", seen, basis, basis) + 0.1 * np.eye(5)
        right = np.einsum("nt,ti->ni", np.where(seen, band, 0.0), basis)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            spread = np.nanstd(band, axis=1, keepdims=True)
        features.append(np.concatenate([np.linalg.solve(normal, right[..., None])[..., 0], spread], axis=1))
    return np.concatenate(features, axis=1)


def gedi_features(store: Store) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relative heights, spread and ground share of the footprints [F, .], with x and y as stated in the files."""
    table = store.footprints(store.grid.window)
    rows = []
    for start, stop in zip(table.row_splits[:-1], table.row_splits[1:], strict=True):
        heights, energy = table.heights[start:stop], table.energy[start:stop]
        order = np.argsort(heights)
        cumulative = np.cumsum(energy[order])
        quantiles = (
            np.interp([0.1, 0.25, 0.5, 0.75, 0.9, 0.98], cumulative, heights[order]) if len(heights) else np.full(6, np.nan)
        )
        rows.append([*quantiles, energy[np.abs(heights) < 1.5].sum(), energy[heights > 5].sum()])
    extra = [table.attributes[name] for name in sorted(table.attributes) if name != "agbd" and not name.startswith("agbd")]
    features = np.column_stack([np.array(rows), *extra]) if len(rows) else np.zeros((0, 8))
    return features, table.x, table.y


def truth(scene: Path, name: str, rows: int, cols: int, cell: float) -> np.ndarray:
    """[rows, cols] of a truth raster on the columns: greatest canopy height, majority of classes, else mean."""
    with rasterio.open(scene / "truth" / f"{name}.tif") as file:
        values = file.read(1).astype(np.float64)
        nodata, pixel = file.nodata, file.res[0]
    if nodata is not None and not np.isnan(nodata):
        values[values == nodata] = np.nan
    fine = round(cell / pixel)
    cells = values[: rows * fine, : cols * fine].reshape(rows, fine, cols, fine).transpose(0, 2, 1, 3).reshape(rows, cols, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        if name == "canopy_height":
            return np.nanmax(cells, axis=2)
        if name in CLASSES:
            return _majority(cells)
        return np.nanmean(cells, axis=2)


def _majority(cells: np.ndarray) -> np.ndarray:
    kinds = np.unique(cells[np.isfinite(cells)])
    counts = np.stack([(cells == kind).sum(axis=2) for kind in kinds])
    winner = kinds[counts.argmax(axis=0)]
    return np.where(counts.max(axis=0) >= 0.5 * cells.shape[2], winner, np.nan)


def score(name: str, features: np.ndarray, target: np.ndarray, x: np.ndarray, y: np.ndarray) -> float | None:
    """Of held-out blocks; None where there is too little to score."""
    usable = np.flatnonzero(np.isfinite(target) & np.isfinite(features).any(axis=1))
    usable = np.sort(np.random.default_rng(0).permutation(usable)[:COLUMNS])
    groups = np.floor(x[usable] / BLOCK) * 10_000 + np.floor(y[usable] / BLOCK)
    features, target = features[usable], target[usable]
    if len(np.unique(groups)) < 5 or len(target) < 40:
        return None
    features = np.nan_to_num(np.where(np.isfinite(features), features, np.nanmedian(features, axis=0)))
    folds = list(GroupKFold(5).split(features, target, groups))
    forest = {"n_estimators": 40, "max_features": 0.2, "min_samples_leaf": 2, "n_jobs": 2, "random_state": 0}
    if name in CLASSES:
        return _held_out(RandomForestClassifier(**forest), features, target, folds, accuracy_score)
    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 5, 8)))
    turned = np.radians(2 * target)
    parts = (np.cos(turned), np.sin(turned)) if name == "row_direction" else (target,)
    models = ridge, RandomForestRegressor(**forest)
    return max(float(np.mean([_held_out(model, features, part, folds, r2_score) for part in parts])) for model in models)


def _held_out(model, features, target, folds, metric) -> float:
    predicted = np.empty_like(target)
    for train, test in folds:
        predicted[test] = model.fit(features[train], target[train]).predict(features[test])
    return float(metric(target, predicted))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scene", type=Path, help="folder of `fusion3d simulate`")
    parser.add_argument("store", type=Path, help="its store")
    options = parser.parse_args()
    store = Store.open(options.store)
    grid = store.grid
    col, row = np.meshgrid(np.arange(grid.cols), np.arange(grid.rows))
    x, y = (grid.x0 + (col + 0.5) * grid.cell).ravel(), (grid.y0 - (row + 0.5) * grid.cell).ravel()
    variables = ["agb", "canopy_height", "canopy_cover", *CLASSES, *FIELDS]
    targets = {name: truth(options.scene, name, grid.rows, grid.cols, grid.cell).ravel() for name in variables}
    outside = targets["land_cover"] != Cover.FOREST
    for name in OF_FOREST:
        targets[name][outside] = np.nan
    sensors: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    for name in store.sensors:
        if name == "gedi":
            sensors[name] = gedi_features(store)
        else:
            features = als_features(store) if name == "als" else raster_features(store, name)
            sensors[name] = features, x, y
    columns = [item for item in sensors.items() if item[0] != "gedi"]
    sensors["all columns"] = np.concatenate([item[1][0] for item in columns], axis=1), x, y
    print("Simulated data: R2 (accuracy for classes) of raw features on held-out blocks of 100 m\n")
    print("| variable | " + " | ".join(sensors) + " |\n|---|" + "---|" * len(sensors))
    too_easy = []
    for name in variables:
        cells = []
        for sensor, (features, at_x, at_y) in sensors.items():
            target = targets[name]
            if sensor == "gedi":
                rows, cols = grid.cell_of(at_x, at_y)
                target = target.reshape(grid.rows, grid.cols)[rows, cols]
            found = score(name, features, target, at_x, at_y)
            cells.append("-" if found is None else f"{found:.2f}")
            if found is not None and found > CEILING:
                too_easy.append(f"{name} from {sensor} ({found:.3f})")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print("\n" + (f"too easy, above {CEILING}: {', '.join(too_easy)}" if too_easy else f"nothing exceeds {CEILING}"))


if __name__ == "__main__":
    main()
