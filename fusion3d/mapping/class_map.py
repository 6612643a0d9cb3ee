"""The map of a classification: one band of class codes with a palette, and beside it how sure each cell is.

A palette belongs to a raster of one band: desktop programs show such a file in its colours at once, and one of two bands as a
mixed picture. So the probabilities are a file of their own, `<name>_confidence.tif`. Names of the classes are tags of the map
(`class_4`) and, as GDAL's categories, in `<name>.tif.aux.xml`, from where QGIS takes its legend.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from fusion3d.io.delivery import delivery, final_name
from fusion3d.io.whole_file import write_whole
from fusion3d.mapping.cell_by_cell import Array, Blocks, CellMap, Layer, check_name
from fusion3d.tasks.classes.class_model import ClassModel
from fusion3d.tasks.classes.class_model_file import read_class_model, write_class_model
from fusion3d.tasks.classes.legend import Legend
from fusion3d.tasks.model import same_origin


@dataclass(frozen=True)
class ClassMapSummary:
    """What was mapped.

    Attributes
    ----------
    output, confidence : files
    legend : classes
    counts : [K] cells of each
    rows, cols : of the map
    cell_area : of a cell, m2
    mean_confidence : mean probability of the mapped classes
    notes : in words
    seconds : wall time
    """

    output: Path | str
    confidence: Path | str
    legend: Legend
    counts: tuple[int, ...]
    rows: int
    cols: int
    cell_area: float
    mean_confidence: float
    notes: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        mapped = sum(self.counts)
        parts = [
            f"{name} {100 * count / mapped:.1f} % ({count * self.cell_area / 1e4:.4g} ha)"
            for name, count in zip(self.legend.names, self.counts, strict=True)
        ]
        text = (
            f"{self.output}: {', '.join(parts)}; {mapped} of {self.rows * self.cols} cells, mean confidence "
            f"{self.mean_confidence:.2f} (in {self.confidence}); {self.seconds:.0f} s"
        )
        return "\n".join([*(f"note: {note}" for note in self.notes), text])


def confidence_path(path: str | Path) -> Path | str:
    """Where the probabilities of a map are."""
    stem, ending = os.path.splitext(str(final_name(path)))
    return final_name(f"{stem}_confidence{ending}")


def class_map(
    model: str | Path | ClassModel,
    embedding_map: str | Path,
    out: str | Path,
    *,
    crs: str | None = None,
    block: int = 256,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = False,
) -> ClassMapSummary:
    """Write the likeliest class of every cell of a map of embeddings and its calibrated probability, two COGs on the same cells.

    Cells without an embedding are nodata in both: 0 (255 where 0 is a class) and NaN.

    Parameters
    ----------
    model : folder or model.json of `fusion3d fit --task landcover`, or the model itself
    out : file that ends in .tif; also a URL, such as s3://bucket/crops.tif
    crs : of a raster without one
    block, workers, scheduler, progress : as for `predict`; a killed run is continued in the same way

    Raises
    ------
    InputError
        A file cannot be read or written, the bands are not those of the fit, or the map has no data; nothing is left under `out`.
    ConfigError
        An option is out of range.
    """
    began = time.monotonic()
    check_name(out, embedding_map)
    model = model if isinstance(model, ClassModel) else read_class_model(model)
    legend, blocks = model.legend, Blocks(block, workers, scheduler, progress)
    named = {f"class_{code}": name for code, name in zip(legend.codes, legend.names, strict=True)}
    counts, total = np.zeros(256, np.int64), 0.0

    def tally(found: Sequence[Array]) -> None:
        nonlocal counts, total
        codes, sure = found
        counts += np.bincount(codes[0], minlength=256)
        total += float(sure.sum(dtype=np.float64))

    with delivery([out]) as (path,):
        beside = Path(confidence_path(path))
        layers = [
            Layer(path, [model.target], dtype="uint8", nodata=legend.nodata, resampling="mode", palette=_palette(legend)),
            Layer(beside, [f"{model.target}_confidence"], ["1"]),
        ]
        cells = CellMap.open(model, embedding_map, [path, beside], crs=crs)
        notes = cells.write(
            layers, cells.tags(task=model.task, **named), partial(_classify, model), tally, write_class_model, blocks
        )
        write_whole(path.with_name(f"{path.name}.aux.xml"), _categories(legend))
    difference = same_origin(model, cells.file.tags)
    lattice = cells.lattice
    return ClassMapSummary(
        final_name(out), confidence_path(out), legend, tuple(int(counts[code]) for code in legend.codes),
        lattice.rows, lattice.cols, cells.metres**2,
        total / int(counts.sum()), (*notes, *(() if difference is None else (difference,))), time.monotonic() - began,
    )  # fmt: skip


def _classify(model: ClassModel, bands: Array) -> list[Array]:
    codes, sure = model.classify_bands(bands)
    return [codes[None], sure[None].astype(np.float32)]


def _palette(legend: Legend) -> dict[int, tuple[int, int, int, int]]:
    found = {legend.nodata: (0, 0, 0, 0)}
    for code, colour in zip(legend.codes, legend.colours, strict=True):
        red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
        found[code] = (red, green, blue, 255)
    return found


def _categories(legend: Legend) -> str:
    """GDAL's side file: names by code, from 0."""
    names = dict(zip(legend.codes, legend.names, strict=True))
    lines = "\n".join(f"      <Category>{escape(names.get(code, ''))}</Category>" for code in range(max(names) + 1))
    return (
        f'<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n{lines}\n    </CategoryNames>\n'
        "  </PAMRasterBand>\n</PAMDataset>\n"
    )
