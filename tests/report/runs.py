"""A run folder with everything that a report shows, made by the writers of the commands, on the small store of tests/data."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import shapely

from fusion3d.evaluation.blocks import spatial_folds
from fusion3d.evaluation.outcome import Evaluation
from fusion3d.evaluation.table import PairRetrieval, RetrievalReport
from fusion3d.grid import Grid
from fusion3d.io.geotiff import CogWriter
from fusion3d.store import Store
from fusion3d.tasks.card_file import SCORES_FILE
from fusion3d.tasks.held_out import PREDICTIONS_FILE, HeldOut
from fusion3d.tasks.scorecard import FoldFacts, Scorecard
from fusion3d.tasks.scores import score
from tests.data.scene import canopy, write_scene
from tests.evaluation.reports import probe_report, robustness_report

_HEADER = (
    "step,train/contrast_als-s2,train/learning_rate,train/loss,train/retention_als,train/temperature,val/contrast_als-s2,val/loss"
)
METRICS = f"""{_HEADER}
0,5.5,0.001,6.5,1.0,0.07,,
1,4.5,0.001,5.25,0.75,0.07,,
1,,,,,,5.0,5.0
2,3.5,0.001,4.0,0.5,0.07,,
3,2.5,0.001,2.75,0.25,0.0725,4.0,4.0
"""


def truth_of(grid: Grid) -> np.ndarray:
    """[rows, cols] biomass, Mg/ha: 4 a metre of canopy, plus a rise to the north so that an upside-down map differs."""
    return 4 * canopy(grid.rows, grid.cols) + 2.0 * (grid.rows - np.arange(grid.rows))[:, None]


def write_map(path: Path, grid: Grid, bands: np.ndarray, names: list[str], unit: str, **tags: str) -> Path:
    bands = np.asarray(bands, np.float32)
    with CogWriter(
        path, x0=grid.x0, y0=grid.y0, pixel=grid.cell, width=grid.cols, height=grid.rows, count=len(bands), crs=grid.pyproj_crs,
        band_names=names, units=unit, tags=tags,
    ) as writer:  # fmt: skip
        writer.write(bands, 0, 0)
    return path


def write_embedding(path: Path, grid: Grid) -> Path:
    row, col = np.mgrid[: grid.rows, : grid.cols]
    angles = np.stack([canopy(grid.rows, grid.cols) / 10, row / 9.0, col / 13.0, (row + col) / 7.0])
    bands = np.concatenate([np.cos(angles), np.sin(angles)]) / math.sqrt(len(angles))
    bands[:, :2, :3] = np.nan
    return write_map(path, grid, bands, [f"emb_{at:03d}" for at in range(8)], "1", sensors="als,s2")


def write_retrieval(path: Path, sensors: tuple[str, ...] = ("als", "ortho", "s2")) -> Path:
    pairs = tuple(
        PairRetrieval(query, gallery, 200, {1: 0.25, 5: 0.5, 10: 0.75}, {1: 0.005, 5: 0.025, 10: 0.05}, 4.0)
        for query in sensors
        for gallery in sensors
        if query != gallery
    )
    found = RetrievalReport("run", "scene.zarr", 40, False, 480, 2000, 0, 0.0, pairs, ("gedi: too few columns",))
    return Evaluation(found, probe_report(), robustness_report()).write(path)


def write_fit(folder: Path, grid: Grid) -> Path:
    """60 plots whose predictions are the truth plus 10 everywhere and plus or minus 5 in turn: bias 10, RMSE sqrt(125)."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    row, col = rng.integers(2, grid.rows - 2, 60), rng.integers(2, grid.cols - 2, 60)
    x, y = grid.x0 + (col + 0.5) * grid.cell, grid.y0 - (row + 0.5) * grid.cell
    measured = truth_of(grid)[row, col]
    predicted = measured + 10 + np.where(np.arange(60) % 2, 5.0, -5.0)
    split = spatial_folds(shapely.points(x, y), 1.0, side=60.0, folds=4, buffer=0.0, seed=0)
    null = np.full(60, measured.mean())
    names = tuple(f"plot {at}" for at in range(60))
    HeldOut(names, x, y, split.fold, split.group, measured, predicted, null).write(folder / PREDICTIONS_FILE)
    card = Scorecard(
        task="biomass",
        target="agb",
        unit="Mg/ha",
        transform="none",
        embedding="embedding.tif",
        labels="plots.gpkg",
        baseline_file=None,
        dimensions=8,
        plots=60,
        folds=FoldFacts("blocks", split.count, split.groups, split.side, split.buffer, 0),
        chosen={"penalty": 1.0},
        fold_chosen=({"penalty": 1.0},) * split.count,
        model=score(measured, predicted, resamples=100),
        null=score(measured, null, resamples=100),
        notes=("2 plots left out: outside the map",),
    )
    card.write(folder / SCORES_FILE)
    return folder


def write_run(folder: Path, *, sensors: tuple[str, ...] = ("als", "gedi", "ortho", "s2")) -> Path:
    """What training alone leaves; the store lies beside the folder."""
    folder.mkdir()
    store = write_scene(folder.parent / "scene.zarr", sensors)
    (folder / "config.yaml").write_text(f"data:\n  store: {store}\nmodel:\n  preset: tiny\nout: {folder}\n")
    log = folder / "logs" / "version_0"
    log.mkdir(parents=True)
    (log / "metrics.csv").write_text(METRICS)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"weights")
    return folder


def write_everything(folder: Path) -> Path:
    """A run with all that a report picks up by itself, and truth_agb.tif."""
    run = write_run(folder)
    grid = Store.open(folder.parent / "scene.zarr").grid
    write_embedding(run / "embedding.tif", grid)
    write_retrieval(run / "retrieval.json")
    write_fit(run / "biomass", grid)
    truth = truth_of(grid)
    write_map(run / "agb.tif", grid, (truth + 10)[None], ["agb_Mg_ha"], "Mg/ha")
    write_map(run / "truth_agb.tif", grid, truth[None], ["agb"], "Mg/ha")
    return run
