"""Learned maps against the area-based approach: biomass from few plots of a simulated scene, tested on ground without plots.

    fusion3d embed runs/pretrained scene.zarr --features all --fusion attention --out all.tif
    fusion3d embed runs/pretrained scene.zarr --features all --fusion attention --sensors als --out als.tif
    python tools/biomass_study.py scene scene.zarr --map all.tif --map als.tif

Each seed holds out a quarter of the blocks. Plots are discs laid at random over the rest, 25 m or more from them, and `--test`
more are laid inside them. What a plot measures is the area-weighted mean of the scene's true biomass. Learned models read the
maps under the plots, the area-based approach the returns inside them (all plot metrics); both are fitted and calibrated on the
training plots alone, in folds of blocks.

With --disturbed-store and, in the order of --map, --disturbed-map, the same models are tested on other data of the same ground,
such as points with protruding trees.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import CRS

from fusion3d.errors import ConfigError
from fusion3d.evaluation.blocks import spatial_folds
from fusion3d.evaluation.discs import discs
from fusion3d.io.raster import open_raster
from fusion3d.io.whole_file import write_whole
from fusion3d.store import Store
from fusion3d.tasks.coverage import quartiles
from fusion3d.tasks.cross_fit import fit_arrays
from fusion3d.tasks.plot_metrics import plot_metrics
from fusion3d.tasks.regressors import family
from fusion3d.tasks.support import means_under

BLOCK = 250.0
HELD_OUT = 0.25
LEVEL = 0.9
PER_FOLD = 125.0
"""Metres: side of the blocks in which training plots are held out in turn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path, help="folder of `fusion3d simulate`, for its truth")
    parser.add_argument("store", type=Path, help="its column store")
    parser.add_argument("--map", type=Path, action="append", default=[], help="map of embeddings; may be given several times")
    parser.add_argument("--plots", type=int, action="append", help="training plots [default: 30, 100, 300]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test", type=int, default=300, help="test plots")
    parser.add_argument("--radius", type=float, default=12.0, help="of a plot, metres")
    parser.add_argument("--model", action="append", help="for the maps; may be given several times [default: ridge, forest]")
    parser.add_argument("--disturbed-store", type=Path, help="another store of the test ground, for the area-based approach")
    parser.add_argument("--disturbed-map", type=Path, action="append", default=[], help="for each --map its twin on such data")
    parser.add_argument("--out", type=Path, help="JSON of all runs")
    options = parser.parse_args()
    if options.disturbed_map and len(options.disturbed_map) != len(options.map):
        parser.error("give a --disturbed-map for each --map, or none")
    store = Store.open(options.store)
    runs = [found for seed in range(options.seeds) for found in study(options, store, seed)]
    if options.out:
        write_whole(options.out, json.dumps(runs, indent=1) + "\n")
    print(table(runs))


def study(options: argparse.Namespace, store: Store, seed: int) -> Iterator[dict[str, Any]]:
    """Scores of each method with each number of plots."""
    crs = store.grid.pyproj_crs
    rng = np.random.default_rng(seed)
    own_ground, test_ground = grounds(rng, store, options.radius)
    sizes = sorted(options.plots or (30, 100, 300))
    train = lay(rng, own_ground, sizes[-1], options.radius, crs)
    test = lay(rng, test_ground, options.test, options.radius, crs)
    truth = open_raster(options.scene / "truth" / "agb.tif")
    measured, true = (means_under(truth, plots).values[:, 0] for plots in (train, test))
    described = {"area-based": (plot_metrics(store, train, crs), plot_metrics(store, test, crs))}
    disturbed = {}
    if options.disturbed_store:
        disturbed["area-based"] = plot_metrics(options.disturbed_store, test, crs)
    for number, path in enumerate(options.map):
        described[path.stem] = (means_under(open_raster(path), train), means_under(open_raster(path), test))
        if options.disturbed_map:
            disturbed[path.stem] = means_under(open_raster(options.disturbed_map[number]), test)
    for count in sizes:
        split = spatial_folds(train[:count], 1.0, side=PER_FOLD, folds=5, buffer=options.radius, seed=seed)
        for name, (own, other) in described.items():
            for kind in ("forest", "power") if name == "area-based" else options.model or ("ridge", "forest"):
                try:
                    model = fit_arrays(
                        family(kind, own.names), own.values[:count], measured[:count], split, names=own.names, level=LEVEL,
                        target="agb", unit="Mg/ha", transform="none", nonnegative=True,
                    ).model  # fmt: skip
                except ConfigError as error:
                    print(f"{name} {kind}, {count} plots, seed {seed}: {error}")
                    continue
                predicted = model.predict(other.values)
                assert model.intervals is not None
                lower, upper = model.intervals.bounds(predicted, LEVEL, True)
                covered = (true >= lower) & (true <= upper)
                other_rmse = None
                if name in disturbed:
                    other_rmse = float(np.sqrt(np.mean((model.predict(disturbed[name].values) - true) ** 2)))
                yield {
                    "method": f"{name}, {kind}", "plots": count, "seed": seed,
                    "rmse": float(np.sqrt(np.mean((predicted - true) ** 2))),
                    "rmse_disturbed": other_rmse, "bias": float(np.mean(predicted - true)),
                    "r2": float(1 - np.mean((predicted - true) ** 2) / np.var(true)),
                    "covered": float(covered.mean()) if np.isfinite(upper).all() else None,
                    "covered_by_quarter": [float(covered[part].mean()) for part in quartiles(predicted)]
                    if np.isfinite(upper).all() else None,
                }  # fmt: skip


def grounds(rng: np.random.Generator, store: Store, radius: float) -> tuple[shapely.Geometry, shapely.Geometry]:
    """Where centres of training plots may lie, and where those of test plots: inside of blocks that are held out."""
    west, south, east, north = store.grid.bounds(store.grid.window)
    cols, rows = int((east - west) // BLOCK), int((north - south) // BLOCK)
    held = rng.permutation(cols * rows)[: max(1, round(HELD_OUT * cols * rows))]
    blocks = [
        shapely.box(west + BLOCK * (at % cols), south + BLOCK * (at // cols), west + BLOCK * (at % cols + 1),
                    south + BLOCK * (at // cols + 1))
        for at in held
    ]  # fmt: skip
    inside = shapely.union_all(blocks)
    whole = shapely.box(west, south, east, north).buffer(-2 * radius)
    return whole.difference(inside.buffer(BLOCK / 10)), inside.buffer(-radius).intersection(whole)


def lay(rng: np.random.Generator, ground: shapely.Geometry, count: int, radius: float, crs: CRS) -> np.ndarray:
    """[count] discs with their centres spread at random over a region."""
    west, south, east, north = ground.bounds
    centres = np.zeros((0, 2))
    while len(centres) < count:
        drawn = rng.uniform((west, south), (east, north), (4 * count, 2))
        centres = np.concatenate([centres, drawn[shapely.contains_xy(ground, drawn)]])
    return discs(centres[:count, 0], centres[:count, 1], np.full(count, radius), crs)


def table(runs: list[dict[str, Any]]) -> str:
    """Means over seeds, with the standard deviation of the RMSE; `disturbed` is how far the RMSE grows on the other data."""
    lines = [
        "| method | plots | RMSE, Mg/ha | to area-based forest | R2 | bias | in 90 % intervals | least quarter | disturbed |"
    ]
    lines.append("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    keys = list(dict.fromkeys((run["method"], run["plots"]) for run in runs))
    for method, plots in sorted(keys, key=lambda key: key[1]):
        own = [run for run in runs if (run["method"], run["plots"]) == (method, plots)]
        standard = {run["seed"]: run["rmse"] for run in runs if (run["method"], run["plots"]) == ("area-based, forest", plots)}
        ratio = np.mean([run["rmse"] / standard[run["seed"]] for run in own if run["seed"] in standard])
        rmse = np.array([run["rmse"] for run in own])
        covered = [run["covered"] for run in own if run["covered"] is not None]
        quarters = [run["covered_by_quarter"] for run in own if run["covered_by_quarter"] is not None]
        shown = ("-", "-") if not covered else (f"{np.mean(covered):.2f}", f"{np.mean(quarters, axis=0).min():.2f}")
        grown = [run["rmse_disturbed"] / run["rmse"] - 1 for run in own if run.get("rmse_disturbed") is not None]
        r2, bias = (np.mean([run[name] for run in own]) for name in ("r2", "bias"))
        lines.append(
            f"| {method} | {plots} | {rmse.mean():.1f} ± {rmse.std(ddof=1) if len(rmse) > 1 else 0:.1f} | {ratio - 1:+.0%} | "
            f"{r2:.2f} | {bias:+.1f} | {shown[0]} | {shown[1]} | {f'{np.mean(grown):+.0%}' if grown else '-'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
