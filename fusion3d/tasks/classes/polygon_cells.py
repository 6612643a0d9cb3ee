"""Cells that polygons put into classes.

Where polygons of different classes lie on each other, what they dispute is taken off the share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

from fusion3d.errors import InputError
from fusion3d.evaluation.lattice import Lattice
from fusion3d.evaluation.plots import PlotTable, read_plots
from fusion3d.grid import map_crs, metric_unit
from fusion3d.io.raster import RasterFile
from fusion3d.tasks.classes.cell_samples import (
    LEAST_SHARE,
    SIDE,
    Float64,
    Int64,
    LabelledCells,
    Polygons,
    not_empty,
    say_mixed,
)
from fusion3d.tasks.classes.legend import MOST_CLASSES, ClassNames, Legend, legend_of


def polygon_cells(
    embedding: RasterFile, path: str, target: str, names: ClassNames | None, *, stratum: str | None, **options: object
) -> LabelledCells:
    """Cells that polygons of a vector file, or discs around its points, put into classes; as for `labelled_cells`."""
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
    return not_empty(every)


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
        for window in whole.squares(SIDE):
            found = lattice.areas(polygon, window)
            row, col = np.nonzero(found)
            cells.append((row + window.row) * lattice.cols + col + window.col)
            units.append(np.full(len(row), number))
            areas.append(found[row, col])
    return np.concatenate(cells), np.concatenate(units), np.concatenate(areas)


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
    kept = clear >= LEAST_SHARE
    tied = np.bincount(number, by_class == best[number]) > 1
    disputed = (best >= LEAST_SHARE) & ~kept
    kept &= ~tied
    say_mixed(int((~kept & ~disputed).sum()), notes)
    if disputed.any():
        notes.append(f"{int(disputed.sum())} cells left out: polygons of different classes lie on the same ground there")
    chosen = first[at[kept]]
    return cells[kept], place[chosen], clear[kept], unit[chosen]


def _listed(counts: dict[str, int], most: int = 8) -> str:
    names = sorted(counts)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
