"""Cells of a map with a class each: samples of a classification.

A cell is a sample where one class has at least half of it; its weight is that share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fusion3d.errors import InputError
from fusion3d.tasks.classes.legend import Legend

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Polygons = npt.NDArray[np.object_]

LEAST_SHARE = 0.5 - 1e-9
"""Of a cell that a class must have; a half but for rounding."""
SIDE = 128
"""Cells on the side of a window that is read at once."""


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


def not_empty(found: LabelledCells) -> LabelledCells:
    """The cells, with only the units and classes that any has; InputError where there is none."""
    if not len(found):
        raise InputError(
            found.path, f"puts no cell into a class ({'; '.join(found.notes) or 'none touched'})", "give larger ones"
        )
    return found.take(np.ones(len(found), np.bool_))


def say_mixed(mixed: int, notes: list[str]) -> None:
    """Note how many cells no class has half of."""
    if mixed:
        notes.append(f"{mixed} cells left out: no class has half of them")
