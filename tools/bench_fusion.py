"""What the fused embeddings of every subset of sensors tell, by the way of fusing them: R2 of a ridge probe on held-out ground.

    .venv/bin/python tools/bench_fusion.py runs/pretrain_demo scene.zarr canopy_height=truth/canopy_height.tif agb=truth/agb.tif

Sensors are encoded once; subsets are fused from that. Truth is averaged over columns. The probe learns on the columns that
pretraining trained on and is scored on those that it held out. GEDI is left out: it sees too few columns for subsets of its own.
"""

from __future__ import annotations

import argparse
from itertools import combinations

import numpy as np
import torch

from fusion3d.data.split import Split
from fusion3d.encoders import ColumnEmbedding
from fusion3d.encoders.fusion import ColumnFusion
from fusion3d.evaluation.checkpoint import choose_sensors, load_pretraining
from fusion3d.evaluation.ridge import fit_ridge
from fusion3d.io.raster import Target, open_raster
from fusion3d.mapping.mapper import Mapper
from fusion3d.store import Store

TILE = 32


def encoded(mapper: Mapper) -> dict[str, ColumnEmbedding]:
    """What each sensor says of every column of the store, rows first."""
    grid = mapper.store.grid
    whole: dict[str, list[np.ndarray]] = {}
    for window in mapper.map.tiles(TILE):
        cells = mapper.map.cells_of(window)
        inside = np.s_[cells.row : cells.row_stop, cells.col : cells.col_stop]
        for name, part in mapper.encode(window, mapper.read(window)).items():
            for at, values in enumerate((part.shared, part.features, part.present)):
                values = values.cpu().numpy().reshape(TILE, TILE, *values.shape[1:])
                arrays = whole.setdefault(name, [])
                if len(arrays) <= at:
                    arrays.append(np.zeros((grid.rows, grid.cols, *values.shape[2:]), values.dtype))
                arrays[at][inside] = values[: cells.rows, : cells.cols]
    flat = {name: [torch.from_numpy(a.reshape(-1, *a.shape[2:])) for a in arrays] for name, arrays in whole.items()}
    return {name: ColumnEmbedding(*arrays, grid.column, grid.rows, grid.cols) for name, arrays in flat.items()}


def representations(fusion: ColumnFusion, parts: dict[str, ColumnEmbedding]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    attended = fusion.attention(parts)
    found = {
        "mean": fusion.mean(parts).shared,
        "precision": fusion.precision(parts).shared,
        "attention": attended.shared,
        "fused features": attended.features,
        "precision + features": torch.cat((fusion.precision(parts).shared, attended.features), dim=1),
    }
    return {name: (values.double().numpy(), attended.observed.numpy()) for name, values in found.items()}


def score(values: np.ndarray, truth: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    model = fit_ridge(values[train], truth[train]).ridge
    error = truth[test] - model.predict(values[test])
    return 1 - float((error**2).sum() / ((truth[test] - truth[test].mean()) ** 2).sum())


def column_means(path: str, store: Store) -> np.ndarray:
    grid, file = store.grid, open_raster(path)
    fine = max(1, round(grid.column / (file.transform.a * grid.unit)))
    patch = file.read(0, Target(file.crs, grid.x0, grid.y0, grid.column / grid.unit / fine, grid.rows * fine, grid.cols * fine))
    values = np.where(patch.valid[0], patch.values[0], np.nan).reshape(grid.rows, fine, grid.cols, fine)
    return np.nanmean(values, axis=(1, 3)).reshape(-1).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("store")
    parser.add_argument("truth", nargs="+", help="NAME=RASTER")
    options = parser.parse_args()
    module, store = load_pretraining(options.checkpoint, "cpu"), Store.open(options.store)
    if module.fusion is None:
        raise SystemExit("the checkpoint has no trained fusion")
    names = [name for name in choose_sensors(module, store, None) if name != "gedi"]
    split = Split.from_plain(module.hparams["scene"]["splits"][0])
    with torch.inference_mode():
        parts = encoded(Mapper(module, store, names))
    variances = module.fusion.log_variances(parts)
    spread = {name: value[parts[name].present].exp().sqrt() for name, value in variances.items()}
    print(
        "s, median (5 % to 95 %):",
        {n: "{:.2f} ({:.2f} to {:.2f})".format(*np.quantile(v.detach(), (0.5, 0.05, 0.95))) for n, v in spread.items()},
    )
    for text in options.truth:
        name, path = text.split("=", 1)
        truth = column_means(path, store)
        print(f"\n{name}, R2 on held-out columns, mean over subsets\n")
        report(module.fusion, parts, truth, split)


@torch.no_grad()
def report(fusion: ColumnFusion, parts: dict[str, ColumnEmbedding], truth: np.ndarray, split: Split) -> None:
    table: dict[str, list[float]] = {}
    alone: dict[str, dict[str, float]] = {}
    for size in range(1, len(parts) + 1):
        rows: dict[str, list[float]] = {}
        for subset in combinations(parts, size):
            for way, (values, observed) in representations(fusion, {name: parts[name] for name in subset}).items():
                known = observed & np.isfinite(truth)
                train, test = (known & mask.reshape(-1) for mask in (split.training(), split.held_out()))
                rows.setdefault(way, []).append(score(values, truth, train, test))
                if size == 1:
                    alone.setdefault(way, {})[subset[0]] = rows[way][-1]
        for way, scores in rows.items():
            table.setdefault(way, []).append(float(np.mean(scores)))
    print("| way | " + " | ".join(f"{size} of {len(parts)}" for size in range(1, len(parts) + 1)) + " | all sizes |")
    print("|---" * (len(parts) + 2) + "|")
    for way, scores in table.items():
        print(f"| {way} | " + " | ".join(f"{value:.3f}" for value in (*scores, np.mean(scores))) + " |")
    print({way: {name: round(value, 3) for name, value in scores.items()} for way, scores in alone.items()})


if __name__ == "__main__":
    main()
