"""Washington State: species and stem diameter of single trees that a drone scanned, each plot held out in turn.

44 clips of Douglas-fir (PSME) and western hemlock (TSHE) with a ground model per plot (`uas_trees_wa_usa`). Every tree is put in
the middle of a square of its own, so far from the others that the encoder sees it alone.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely

from forest_studies.embedding import SQUARE, AlsEncoders, Scale
from forest_studies.judged import Study, Values, judged, judged_classes
from fusion3d.evaluation.blocks import stratum_folds
from fusion3d.evaluation.lattice import Lattice
from fusion3d.io.las import open_points, read_chunks
from fusion3d.io.las_writer import write_points
from fusion3d.io.raster import open_raster
from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import AlsSource, Scene
from fusion3d.store import Store
from fusion3d.tasks.metric_catalogue import CATALOGUE
from fusion3d.tasks.plot_metrics import choose_metrics, plot_metrics
from fusion3d.tasks.support import read_window

SPECIES = ("PSME", "TSHE")
_KEPT = ("intensity", "return_number", "number_of_returns", "scan_angle")

Float64 = npt.NDArray[np.float64]


def study(data: Path, encoders: AlsEncoders) -> Study:
    """44 trees of 9 plots; `data` is the folder of sample files."""
    folder = data / "uas_trees_wa_usa"
    trees = pd.read_csv(folder / "trees.csv")
    place = np.array([SPECIES.index(name) for name in trees.Species])
    dbh = Values("stem diameter", "cm", trees.DBH_cm.to_numpy(np.float64))
    plot = [f"{number:02d}" for number in trees.Plot_Number]
    rows, classes = [], []
    # places on the ground, not those in the store, say which trees are neighbours
    ground = shapely.buffer(shapely.points(trees.aveBaseX, trees.aveBaseY), 1.0)
    split = stratum_folds(ground, 1.0, plot)
    with tempfile.TemporaryDirectory() as work:
        clips = normalised(folder, trees)
        described: list[tuple[str, tuple[str, ...], Float64, tuple[str, ...]]] = []
        for run, scale in encoders.scales().items():
            store, columns = lattice_store(clips, scale, encoders.reach(run, scale), Path(work) / (run or "points"))
            if not described:
                names = [metric.name for metric in choose_metrics(store, None)]
                heights = [name for name in names if not CATALOGUE[name].needs]
                for words, chosen in (("height metrics", heights), ("height, echo and intensity metrics", names)):
                    found = plot_metrics(store, columns, names=chosen)
                    described.append((words, found.names, found.values, ("ridge", "forest", "power")))
            described += [(*found, ("ridge", "forest")) for found in encoders.embedded(run, store, columns)]
    for words, names, values, heads in described:
        classes += judged_classes("species", place, 2, words, values, split, "each plot")
        rows += judged(dbh, words, (tuple(names), values), split, "each plot", heads=heads, groups=split.fold, calibrated=False)
    counts = trees.Species.value_counts()
    return Study(
        "uas_trees_wa_usa",
        "Washington State: species and diameter of single trees",
        tuple(rows),
        tuple(classes),
        reference=(
            "Species from metrics of height and intensity, published with the data for many more trees: 91.8 % right",
            f"By lot or by the commonest species: {counts.max()} of {len(trees)} right at best",
        ),
        remarks=(
            "44 trees of 9 plots, many of one species: a difference between plots looks like one between species. Intervals "
            "draw plots.",
            "The encoders learnt from aerial LiDAR with 14 to 30 returns per square metre; a drone gives over 1,000, and there "
            "is no ground under a clipped tree. No encoder has seen such points.",
        ),
    )


def normalised(folder: Path, trees: pd.DataFrame) -> list[tuple[Float64, dict[str, npt.NDArray[np.generic]]]]:
    """Of each tree, x and y from the middle of its clip and height above the plot's ground model [N, 3], and attributes."""
    clips = []
    for tree in trees.itertuples():
        parts = list(read_chunks(open_points(folder / "laz" / f"{tree.FileTitle}.laz"), _KEPT))
        x, y, z = (np.concatenate([getattr(part, axis) for part in parts]) for axis in "xyz")
        attributes = {name: np.concatenate([part.attributes[name] for part in parts]) for name in _KEPT}
        model = open_raster(folder / "ground_dtm" / f"Plot_{tree.Plot_Number:02d}_ground.tif")
        lattice = Lattice.of(model)
        window = lattice.covering(np.array([x.min(), y.min(), x.max(), y.max()]))
        ground, known = read_window(model, lattice, window)
        row = np.floor((lattice.y0 - y) / lattice.cell).astype(np.int64) - window.row
        col = np.floor((x - lattice.x0) / lattice.cell).astype(np.int64) - window.col
        row, col = np.clip(row, 0, window.rows - 1), np.clip(col, 0, window.cols - 1)
        base = np.where(known[row, col], ground[0, row, col], float(tree.aveBaseElevation))
        middle = (x.min() + x.max()) / 2, (y.min() + y.max()) / 2
        clips.append((np.column_stack([x - middle[0], y - middle[1], z - base]), attributes))
    return clips


def lattice_store(
    clips: list[tuple[Float64, dict[str, npt.NDArray[np.generic]]]], scale: Scale, reach: float, work: Path
) -> tuple[Store, npt.NDArray[np.object_]]:
    """A store with each tree in the middle of a square of 10 m, and these squares.

    Parameters
    ----------
    reach : metres from the edge of a square within which there is no other tree
    """
    work.mkdir()
    # an even number of squares: the voxels of a U-Net's coarser levels then lie alike in all of them
    apart = SQUARE * 2 * math.ceil((reach + SQUARE) / SQUARE / 2)
    side = math.ceil(math.sqrt(len(clips)))
    x0, y0 = 400_000.0, 5_000_000.0
    at = np.arange(len(clips))
    x, y = x0 + apart * (at % side) + SQUARE / 2, y0 + apart * (at // side) + SQUARE / 2
    for number, (places, attributes) in enumerate(clips):
        target = work / f"tree_{number:02d}.laz"
        write_points(target, places[:, 0] + x[number], places[:, 1] + y[number], places[:, 2], attributes, crs="EPSG:26910")
    source = AlsSource((str(work),), normalized=True)
    bounds = (x0, y0, x0 + side * apart, y0 + side * apart)
    scene = Scene(source, column=scale.column, voxel=scale.voxel, bounds=bounds)
    store = Store.open(prepare(scene, work / "trees.zarr", quiet=True).out)
    half = SQUARE / 2
    return store, shapely.box(x - half, y - half, x + half, y + half)
