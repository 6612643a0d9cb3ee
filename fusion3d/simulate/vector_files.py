"""GeoPackage and GeoJSON files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio
import pyogrio.raw
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS, Transformer

from fusion3d.errors import InputError, one_line
from fusion3d.io.geopackage import check_geopackage
from fusion3d.io.whole_file import whole_file

Float64 = npt.NDArray[np.float64]

_FREE_SPACE = "free disk space or give another folder; nothing was left under this name"
_DECIMALS = 8
"""Of degrees in GeoJSON: about a millimetre."""


class PointsFile:
    """A GeoPackage with one layer of points that is appended to and appears under its name when it is complete.

    Parameters
    ----------
    path : final name; the layer is called by its stem
    crs : of the points
    day : the date that the file says it was changed, so that the same points give the same file
    """

    def __init__(self, path: Path, crs: CRS, day: date) -> None:
        self.path = path
        self._crs = crs.to_wkt("WKT2_2019") if crs.to_epsg() is None else f"EPSG:{crs.to_epsg()}"
        self._day = f"{day.isoformat()}T00:00:00.000Z"
        self._draft = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.gpkg")
        self._rows = 0

    def append(self, x: Float64, y: Float64, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write points [N] with their columns [N]; the first call, of no points perhaps, decides the columns.

        Raises
        ------
        InputError
            The disk is full or the folder cannot be written.
        """
        begun = self._draft.exists()
        if begun and not len(x):
            return
        try:
            pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": self._day})
            pyogrio.raw.write(
                self._draft, geometry=shapely.to_wkb(shapely.points(x, y)), field_data=list(columns.values()),
                fields=list(columns), layer=self.path.stem, driver="GPKG", geometry_type="Point", crs=self._crs, append=begun,
            )  # fmt: skip
            self._rows += len(x)
        except (OSError, DataSourceError, DataLayerError, RuntimeError) as error:
            raise self._failed(error) from None
        finally:
            pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})

    def close(self) -> Path:
        """Give the file its name."""
        try:
            check_geopackage(self._draft, self.path.stem, self._rows)
            os.replace(self._draft, self.path)
        except (OSError, DataSourceError, DataLayerError) as error:
            raise self._failed(error) from None
        finally:
            self.discard()
        return self.path

    def discard(self) -> None:
        """Drop what has been written."""
        for leftover in self._draft.parent.glob(f"{self._draft.name}*"):
            leftover.unlink(missing_ok=True)

    def _failed(self, error: BaseException) -> InputError:
        return InputError(self.path, f"cannot be written ({one_line(error)})", _FREE_SPACE)


def write_geojson(path: Path, features: Iterable[tuple[shapely.Geometry, Mapping[str, Any]]], crs: CRS) -> Path:
    """Write a FeatureCollection as RFC 7946 wants it: longitude and latitude on WGS 84, outer rings counter-clockwise.

    Parameters
    ----------
    features : geometries in `crs` and their properties

    Raises
    ------
    InputError
        The disk is full or the folder cannot be written.
    """
    transformer = Transformer.from_crs(crs, 4326, always_xy=True)

    def degrees(points: Float64) -> Float64:
        return np.round(np.column_stack(transformer.transform(points[:, 0], points[:, 1])), _DECIMALS)

    with whole_file(path) as draft, draft.open("w") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for number, (geometry, properties) in enumerate(features):
            placed = shapely.orient_polygons(shapely.transform(geometry, degrees))
            feature = {"type": "Feature", "properties": dict(properties), "geometry": json.loads(shapely.to_geojson(placed))}
            file.write((",\n" if number else "\n") + json.dumps(feature))
        file.write("\n]}\n")
    return path
