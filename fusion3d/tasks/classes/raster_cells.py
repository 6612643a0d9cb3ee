"""Cells that the pixels of a raster of classes, as fine as the map or finer, put into classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import shapely

from fusion3d.errors import InputError
from fusion3d.evaluation.lattice import Lattice
from fusion3d.grid import Window
from fusion3d.io.pixels import Target
from fusion3d.io.raster import RasterFile
from fusion3d.tasks.classes.cell_samples import LEAST_SHARE, SIDE, Float64, Int64, LabelledCells, not_empty, say_mixed
from fusion3d.tasks.classes.legend import MOST_CLASSES, ClassNames, legend_of
from fusion3d.tasks.classes.raster_categories import raster_categories

FINEST = 16
"""Samples on a cell's side from which the shares of classes are counted, at most."""
_UNNAMED = int(np.iinfo(np.int64).min)


def raster_cells(embedding: RasterFile, file: RasterFile, target: str, names: ClassNames | None) -> LabelledCells:
    """Cells that the one band of a raster puts into classes; as for `labelled_cells`."""
    lattice, notes = Lattice.of(embedding), list[str]()
    if file.count != 1:
        raise InputError(file.path, f"has {file.count} bands", "give a raster of one band of classes")
    own = raster_categories(file.path)
    known = names or own
    fine = _samples_a_side(embedding, file)
    parts: list[list[Int64]] = [[], [], []]
    shares, mixed, unnamed = [], 0, dict[int, None]()
    for window in Window(0, 0, lattice.rows, lattice.cols).squares(SIDE):
        codes, valid = _pixels(embedding, file, lattice, window, fine)
        merged, strange = _merged(codes, valid, known)
        unnamed |= dict.fromkeys(strange)
        code, share = _majority(merged, valid, window, fine)
        kept = share >= LEAST_SHARE
        mixed += int(((_squares(valid, window, fine).mean(axis=2) >= LEAST_SHARE) & ~kept).sum())
        row, col = np.nonzero(kept)
        for values, more in zip(parts, (row + window.row, col + window.col, code[kept]), strict=True):
            values.append(more)
        shares.append(share[kept])
    say_mixed(mixed, notes)
    row, col, code = (np.concatenate(values) for values in parts)
    share, usable = np.concatenate(shares), code != _UNNAMED
    if not len(row):
        raise InputError(file.path, f"puts no cell of {embedding.path} into a class", "give labels of the same place")
    strange_codes = ", ".join(map(str, sorted(unnamed)))
    if not usable.any():
        raise InputError(file.path, "holds no class that --classes names", f"it holds {strange_codes}")
    if not usable.all():
        notes.append(f"{int((~usable).sum())} cells left out: --classes does not name {strange_codes}")
    row, col, code, share = (values[usable] for values in (row, col, code, share))
    there, of_code = np.unique(code, return_inverse=True)
    if len(there) > MOST_CLASSES:
        raise InputError(file.path, f"holds {len(there)} values", "give a raster of classes, or name the classes with --classes")
    labels = [known.names.get(str(value), str(value)) for value in there.tolist()]
    legend = legend_of(labels, dict(zip(labels, there.tolist(), strict=True)), {**own.colours, **known.colours})
    place = np.array([legend.names.index(name) for name in labels], np.int64)[of_code.reshape(-1)]
    x, y = lattice.x0 + (col + 0.5) * lattice.cell, lattice.y0 - (row + 0.5) * lattice.cell
    found = LabelledCells(
        file.path, target, legend, row, col, place, share, np.arange(len(row)), shapely.points(x, y), None, place, None,
        tuple(notes),
    )  # fmt: skip
    return not_empty(found)


def _samples_a_side(embedding: RasterFile, file: RasterFile) -> int:
    cell, pixel = embedding.pixel_metres, file.pixel_metres
    return int(np.clip(round(cell / pixel), 1, FINEST)) if pixel > 0 else 1


def _pixels(
    embedding: RasterFile, file: RasterFile, lattice: Lattice, window: Window, fine: int
) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Codes and where there are any, [rows * fine, cols * fine]."""
    x0, y0 = lattice.x0 + window.col * lattice.cell, lattice.y0 - window.row * lattice.cell
    target = Target(embedding.crs, x0, y0, lattice.cell / fine, window.rows * fine, window.cols * fine, "classes")
    patch = file.read(0, target)
    values, valid = patch.values[0], patch.valid[0]
    if values.dtype.kind == "f" and (values[valid] != np.round(values[valid])).any():
        raise InputError(file.path, "holds values that are no whole numbers", "give a raster of classes")
    return np.where(valid, values, 0).astype(np.int64), valid


def _merged(codes: Int64, valid: npt.NDArray[np.bool_], names: ClassNames) -> tuple[Int64, list[int]]:
    """Codes of one name made the least of them, those without one in a complete table `_UNNAMED`; and the latter."""
    if not names.complete:
        return codes, []
    least: dict[str, int] = {}
    for label, name in names.names.items():
        if label.lstrip("-").isdecimal():
            least[name] = min(int(label), least.get(name, int(label)))
    there, place = np.unique(codes[valid], return_inverse=True)
    told = np.array([least.get(names.names.get(str(code), ""), _UNNAMED) for code in there.tolist()], np.int64)
    merged = codes.copy()
    merged[valid] = told[place.reshape(-1)]
    return merged, there[told == _UNNAMED].tolist()


def _majority(codes: Int64, valid: npt.NDArray[np.bool_], window: Window, fine: int) -> tuple[Int64, Float64]:
    """Commonest code of each cell [rows, cols] and its share, 0 where two are equally common."""
    cells, seen = _squares(codes, window, fine), _squares(valid, window, fine)
    code, most, tied = (np.zeros((window.rows, window.cols), np.int64) for _ in range(3))
    for each in np.unique(cells[seen]):
        count = ((cells == each) & seen).sum(axis=2)
        tied = np.where(count > most, 0, np.where((count == most) & (count > 0), 1, tied))
        code, most = np.where(count > most, each, code), np.maximum(count, most)
    return code, np.where(tied == 1, 0.0, most / fine**2)


def _squares(values: npt.NDArray, window: Window, fine: int) -> npt.NDArray:  # type: ignore[type-arg]
    """[rows, cols, fine * fine] from [rows * fine, cols * fine]."""
    return values.reshape(window.rows, fine, window.cols, fine).transpose(0, 2, 1, 3).reshape(window.rows, window.cols, -1)
