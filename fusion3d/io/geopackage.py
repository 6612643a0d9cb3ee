"""GeoPackages that are complete or not there at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fusion3d.io.whole_file import whole_file

if TYPE_CHECKING:
    import geopandas


def write_geopackage(frame: geopandas.GeoDataFrame, path: str | Path, layer: str) -> Path:
    """Write a table of geometries as the only layer of a GeoPackage.

    Raises
    ------
    InputError
        The folder cannot be written, or the disk is full.
    """
    from pyogrio.errors import DataLayerError, DataSourceError  # type: ignore[import-untyped]

    path = Path(path)
    with whole_file(path, DataSourceError, DataLayerError, RuntimeError) as draft:
        frame.to_file(draft, driver="GPKG", layer=layer, engine="pyogrio")
        check_geopackage(draft, layer, len(frame))
    return path


def check_geopackage(path: Path, layer: str, rows: int) -> None:
    """Raise OSError unless a layer has its rows and its spatial index, which GDAL leaves out silently on a full disk."""
    import pyogrio

    found = pyogrio.read_info(path, layer=layer, force_feature_count=True)
    lacks_index = found["geometry_type"] is not None and not found["capabilities"]["fast_spatial_filter"]
    if found["features"] != rows or lacks_index:
        raise OSError(f"{found['features']} of {rows} rows arrived, or their index did not")
