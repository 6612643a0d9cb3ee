"""Cells of a map with a class each: the one that polygons, or the pixels of a finer raster, put on most of the cell."""

from __future__ import annotations

from pathlib import Path

from fusion3d.errors import ConfigError
from fusion3d.io.raster import RasterFile, open_raster
from fusion3d.tasks.classes.cell_samples import LabelledCells
from fusion3d.tasks.classes.legend import ClassNames
from fusion3d.tasks.classes.polygon_cells import polygon_cells
from fusion3d.tasks.classes.raster_cells import raster_cells

RASTERS = (".tif", ".tiff", ".vrt", ".img", ".jp2")


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
        return raster_cells(embedding, open_raster(labels, crs=crs), target or Path(labels).stem, names)
    if target is None:
        raise ConfigError(f"{labels} holds polygons: say which of their columns holds the classes with --target NAME")
    return polygon_cells(embedding, str(labels), target, names, radius=radius, layer=layer, crs=crs, stratum=stratum)
