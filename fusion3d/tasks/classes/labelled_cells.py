"""Cells of a map with a class each: the one that polygons, or the pixels of a finer raster, put on most of the cell.

A cell is a sample where one class has at least half of it; its weight is that share. Where polygons of different classes lie on
each other, what they dispute is taken off the share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.lattice import Lattice
from fusion3d.evaluation.plots import PlotTable, read_plots
from fusion3d.grid import Window, map_crs, metric_unit
from fusion3d.io.pixels import Target
from fusion3d.io.raster import RasterFile, open_raster
from fusion3d.tasks.classes.legend import MOST_CLASSES, ClassNames, Legend, legend_of
from fusion3d.tasks.classes.raster_categories import raster_categories

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Polygons = npt.NDArray[np.object_]

LEAST_SHARE = 0.5
"""Of a cell that a class must have."""
RASTERS = (".tif", ".tiff", ".vrt", ".img", ".jp2")
SIDE = 128
"""Cells on the side of a window that is read at once."""
FINEST = 16
"""Samples on a cell's side from which the shares of classes are counted, at most."""
_ROUNDING = 1e-9
_UNNAMED = int(np.iinfo(np.int64).min)


@dataclass(frozen=True)
class LabelledCells:
    """Samples.

    Attributes
    ----------
    path, target : of the labels
    legend : of the classes that they have, K
    row, col : [N] cells of the map
    place : [N] class, as place in the legend
    share : [N] of the cell that the class has undisputed
    unit : [N] polygon that has most of the cell, or the cell itself
    geometry : [U] polygons, or centres of cells, in the map's CRS
    unit_names : [U] of polygons; None for a raster
    unit_place : [U] class of each
    strata : [U] or None
    notes : what was left out or assumed, in words
    """

    path: str
    target: str
    legend: Legend
    row: Int64
    col: Int64
    place: Int64
    share: Float64
    unit: Int64
    geometry: Polygons
    unit_names: tuple[str, ...] | None
    unit_place: Int64
    strata: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.row)

    @property
    def units(self) -> str:
        """What is not split, in the plural."""
        return "cells" if self.unit_names is None else "polygons"

    def take(self, kept: npt.NDArray[np.bool_], *notes: str) -> LabelledCells:
        """The cells where `kept` [N] is true, the units that have any of them, and their classes."""
        units, unit = np.unique(self.unit[kept], return_inverse=True)
        classes, place = np.unique(self.place[kept], return_inverse=True)
        old = self.legend
        parts = ([values[at] for at in classes] for values in (old.codes, old.names, old.colours))
        of_class = np.full(len(old), -1)
        of_class[classes] = np.arange(len(classes))
        return replace(
            self, legend=Legend(*map(tuple, parts)) if len(classes) else old, row=self.row[kept], col=self.col[kept],
            place=place.reshape(-1).astype(np.int64), share=self.share[kept], unit=unit.reshape(-1).astype(np.int64),
            geometry=self.geometry[units], unit_place=of_class[self.unit_place[units]],
            unit_names=None if self.unit_names is None else tuple(self.unit_names[at] for at in units),
            strata=None if self.strata is None else tuple(self.strata[at] for at in units), notes=(*self.notes, *notes),
        )  # fmt: skip


def is_raster(path: str | Path) -> bool:
    """Whether labels are a raster, by their name."""
    return Path(path).suffix.lower() in RASTERS


def labelled_cells(
    embedding: RasterFile,
    labels: str | Path,
    target: str | None,
    *,
    names: ClassNames | None = None,
    radius: float | None = None,
    layer: str | None = None,
    crs: str | None = None,
    stratum: str | None = None,
) -> LabelledCells:
    """Cells of a map that a file of labels puts into classes.

    Parameters
    ----------
    embedding : the map
    labels : polygons (or points with a radius) in a vector file, or a raster, in any CRS
    target : column of classes, text or whole numbers; several, comma-separated, as in `landuse,natural`: the first that has an
        entry, the class being `landuse=forest` (tags of OpenStreetMap). For a raster a name of what it shows
    names : of the classes by label; labels that it does not name are left out
    radius, layer, crs, stratum : as for `read_plots`; `crs` also stands for rasters without one

    Raises
    ------
    InputError
        The file cannot be used, or puts no cell into a class.
    ConfigError
        An option does not fit.
    """
    if is_raster(labels):
        if stratum is not None or radius is not None or layer is not None:
            raise ConfigError("--stratum, --radius and --layer are for polygons and points: the labels are a raster")
        return _of_raster(embedding, open_raster(labels, crs=crs), target or Path(labels).stem, names)
    if target is None:
        raise ConfigError(f"{labels} holds polygons: say which of their columns holds the classes with --target NAME")
    return _of_polygons(embedding, str(labels), target, names, radius=radius, layer=layer, crs=crs, stratum=stratum)


# -- polygons


def _of_polygons(
    embedding: RasterFile, path: str, target: str, names: ClassNames | None, *, stratum: str | None, **options: object
) -> LabelledCells:
    geometry, labels, ids, strata, notes = _read(path, target, embedding, stratum, options)
    named, lost = _named(labels, names)
    if lost:
        notes.append(f"{sum(lost.values())} polygons left out: --classes does not name {_listed(lost)}")
    kept = np.array([name is not None for name in named])
    if not kept.any():
        raise InputError(path, "no polygon has a class that --classes names", f"it has {_listed(dict.fromkeys(labels, 1))}")
    geometry, chosen = geometry[kept], [name for name in named if name is not None]
    if len(set(chosen)) > MOST_CLASSES:
        raise InputError(
            path, f"column {target!r} holds {len(set(chosen))} classes", f"name at most {MOST_CLASSES} with --classes"
        )
    codes = {name: int(label) for label, name in zip(labels, named) if name is not None and label.isdecimal()}
    legend = legend_of(chosen, codes if all(label.isdecimal() for label in labels) else {}, names.colours if names else {})
    unit_place = np.array([legend.names.index(name) for name in chosen], np.int64)
    _say_disputed(geometry, unit_place, legend, metric_unit(map_crs(embedding.crs)), notes)
    lattice = Lattice.of(embedding)
    cell, unit, area = _areas(lattice, geometry)
    if not len(cell):
        raise InputError(path, f"no polygon lies on {embedding.path}", "give labels of the same place, or check their CRS")
    found = _settle(cell, unit, unit_place[unit], np.minimum(area / lattice.cell**2, 1.0), len(legend), notes)
    row, col = np.divmod(found[0], lattice.cols)
    every = LabelledCells(
        path, target, legend, row, col, *found[1:], geometry=geometry,
        unit_names=tuple(name for name, used in zip(ids, kept) if used), unit_place=unit_place,
        strata=None if strata is None else tuple(name for name, used in zip(strata, kept) if used), notes=tuple(notes),
    )  # fmt: skip
    return _not_empty(every)


def _read(
    path: str, target: str, embedding: RasterFile, stratum: str | None, options: dict[str, object]
) -> tuple[Polygons, list[str], list[str], list[str] | None, list[str]]:
    """Geometry in the map's CRS, labels as text, names, strata and notes of the polygons."""
    columns = [name.strip() for name in target.split(",") if name.strip()]
    seen: dict[str, None] = {}
    shapes: list[Polygons] = []
    labels: list[str] = []
    strata: list[str] = []
    notes: list[str] = []
    for column in columns:
        table = read_plots(path, column, nonnegative=False, text=True, stratum=stratum, **options).to_crs(embedding.crs)  # type: ignore[arg-type]
        new = np.array([name not in seen for name in table.ids])
        table = table.take(new)
        seen |= dict.fromkeys(table.ids)
        texts = _texts(table, column)
        shapes.append(table.geometry)
        labels += texts if len(columns) == 1 else [f"{column}={text}" for text in texts]
        strata += table.strata or ()
        said = table.notes if len(columns) == 1 else [note for note in table.notes if "is missing" not in note]
        notes += [note.replace("plot", "polygon") for note in said if note.replace("plot", "polygon") not in notes]
    return np.concatenate(shapes), labels, list(seen), strata or None, notes


def _texts(table: PlotTable, column: str) -> list[str]:
    if table.classes is not None:
        return [table.classes[int(value)] for value in table.values]
    if (table.values != np.round(table.values)).any():
        odd = table.values[table.values != np.round(table.values)][0]
        raise InputError(table.path, f"column {column!r} holds {odd:g}, no class", "choose a column of text or whole numbers")
    return [str(int(value)) for value in table.values]


def _named(labels: Sequence[str], names: ClassNames | None) -> tuple[list[str | None], dict[str, int]]:
    """Class of each label, None for those that a complete table does not name, and these with their count."""
    if names is None:
        return list(labels), {}
    found: list[str | None] = [names.names.get(label, None if names.complete else label) for label in labels]
    lost: dict[str, int] = {}
    for label, name in zip(labels, found, strict=True):
        if name is None:
            lost[label] = lost.get(label, 0) + 1
    return found, lost


def _say_disputed(geometry: Polygons, place: Int64, legend: Legend, scale: float, notes: list[str]) -> None:
    one, other = shapely.STRtree(geometry).query(geometry, predicate="intersects")
    differing = (one < other) & (place[one] != place[other])
    one, other = one[differing], other[differing]
    area = shapely.area(shapely.intersection(geometry[one], geometry[other])) * scale**2 if len(one) else np.zeros(0)
    # neighbours that share a border overlap by slivers
    real = area > 1.0
    if real.any():
        worst = int(np.flatnonzero(real)[area[real].argmax()])
        pair = f"{legend.names[place[one[worst]]]} and {legend.names[place[other[worst]]]}"
        notes.append(
            f"{int(real.sum())} pairs of polygons of different classes overlap, by {area[real].sum():.4g} m2 (the largest: "
            f"{pair}, {area[worst]:.4g} m2): what they dispute counts for neither"
        )


def _areas(lattice: Lattice, geometry: Polygons) -> tuple[Int64, Int64, Float64]:
    """Cell, polygon and area of every piece of a polygon on a cell."""
    cells, units, areas = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for number, polygon in enumerate(geometry):
        whole = lattice.covering(shapely.bounds(polygon))
        shapely.prepare(polygon)
        for window in _windows(whole):
            found = lattice.areas(polygon, window)
            row, col = np.nonzero(found)
            cells.append((row + window.row) * lattice.cols + col + window.col)
            units.append(np.full(len(row), number))
            areas.append(found[row, col])
    return np.concatenate(cells), np.concatenate(units), np.concatenate(areas)


def _windows(whole: Window, side: int = SIDE) -> list[Window]:
    return [
        Window(row, col, min(side, whole.row_stop - row), min(side, whole.col_stop - col))
        for row in range(whole.row, whole.row_stop, side)
        for col in range(whole.col, whole.col_stop, side)
    ]


def _settle(
    cell: Int64, unit: Int64, place: Int64, share: Float64, classes: int, notes: list[str]
) -> tuple[Int64, Int64, Float64, Int64]:
    """Cells with a class: number, place, undisputed share and the unit with most of it, from pieces of units on cells."""
    order = np.lexsort([-share, place, cell])
    cell, unit, place, share = cell[order], unit[order], place[order], share[order]
    first = np.flatnonzero(np.diff(cell * classes + place, prepend=-1))
    by_class = np.minimum(np.add.reduceat(share, first), 1.0)
    cells, start = np.unique(cell[first], return_index=True)
    total = np.add.reduceat(by_class, start)
    best = np.maximum.reduceat(by_class, start)
    number = np.repeat(np.arange(len(cells)), np.diff(np.append(start, len(first))))
    # the first of equal classes; a tie at half a cell or more is disputed or no majority, and is left out either way
    at = np.full(len(cells), len(first))
    np.minimum.at(at, number, np.where(by_class == best[number], np.arange(len(first)), len(first)))
    clear = best - np.maximum(total - 1.0, 0.0)
    kept = clear >= LEAST_SHARE - _ROUNDING
    tied = np.bincount(number, by_class == best[number]) > 1
    disputed = (best >= LEAST_SHARE - _ROUNDING) & ~kept
    kept &= ~tied
    _say_left_out(int((~kept & ~disputed).sum()), notes)
    if disputed.any():
        notes.append(f"{int(disputed.sum())} cells left out: polygons of different classes lie on the same ground there")
    chosen = first[at[kept]]
    return cells[kept], place[chosen], clear[kept], unit[chosen]


def _say_left_out(mixed: int, notes: list[str]) -> None:
    if mixed:
        notes.append(f"{mixed} cells left out: no class has half of them")


# -- rasters


def _of_raster(embedding: RasterFile, file: RasterFile, target: str, names: ClassNames | None) -> LabelledCells:
    lattice, notes = Lattice.of(embedding), list[str]()
    if file.count != 1:
        raise InputError(file.path, f"has {file.count} bands", "give a raster of one band of classes")
    own = raster_categories(file.path)
    known = names or own
    fine = _samples_a_side(embedding, file)
    parts: list[list[Int64]] = [[], [], []]
    shares, mixed, unnamed = [], 0, dict[int, None]()
    for window in _windows(Window(0, 0, lattice.rows, lattice.cols)):
        codes, valid = _pixels(embedding, file, lattice, window, fine)
        merged, strange = _merged(codes, valid, known)
        unnamed |= dict.fromkeys(strange)
        code, share = _majority(merged, valid, window, fine)
        kept = share >= LEAST_SHARE - _ROUNDING
        mixed += int(((_squares(valid, window, fine).mean(axis=2) >= LEAST_SHARE) & ~kept).sum())
        row, col = np.nonzero(kept)
        for values, more in zip(parts, (row + window.row, col + window.col, code[kept]), strict=True):
            values.append(more)
        shares.append(share[kept])
    _say_left_out(mixed, notes)
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
    return _not_empty(found)


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


def _not_empty(found: LabelledCells) -> LabelledCells:
    if not len(found):
        raise InputError(
            found.path, f"puts no cell into a class ({'; '.join(found.notes) or 'none touched'})", "give larger ones"
        )
    return found.take(np.ones(len(found), np.bool_))


def _listed(counts: dict[str, int], most: int = 8) -> str:
    names = sorted(counts)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
