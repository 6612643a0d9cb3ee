"""Labels of any kind as a table of plots: field plots, GEDI L4A footprints, or a raster of sparse labels."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyproj import CRS

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.plots import PlotTable, read_plots
from fusion3d.evaluation.raster_labels import read_raster_labels
from fusion3d.io.gedi_hdf5 import HDF5_ENDINGS

Labels = str | Path | Sequence[str | Path]

PLOTS, FOOTPRINTS, STORE, RASTER = "field plots", "GEDI footprints", "a store's footprints", "a raster"
_RASTERS = (".tif", ".tiff", ".vrt", ".img", ".jp2", ".asc", ".nc")
_SENSITIVITY, _GEOLOCATION = 0.9, 10.0


@dataclass(frozen=True)
class LabelOptions:
    """How labels are read; None stands for the default of their kind.

    Attributes
    ----------
    unit, crs : of labels of any kind, as for `read_plots`
    radius, layer, stratum : of field plots, as for `read_plots`
    band, nodata : of rasters, as for `read_raster_labels`
    sensitivity, geolocation : of footprints, as for `read_l4a`
    """

    unit: str | None = None
    crs: str | None = None
    radius: float | None = None
    layer: str | None = None
    stratum: str | None = None
    band: int | None = None
    nodata: float | None = None
    sensitivity: float | None = None
    geolocation: float | None = None

    def check(self, kind: str) -> None:
        """Refuse options of other kinds of labels.

        Raises
        ------
        ConfigError
            One was given.
        """
        footprints = (FOOTPRINTS, STORE)
        known = {
            "--radius": (self.radius, (PLOTS,)),
            "--layer": (self.layer, (PLOTS,)),
            "--stratum": (self.stratum, (PLOTS,)),
            "--band": (self.band, (RASTER,)),
            "--label-nodata": (self.nodata, (RASTER,)),
            "--sensitivity": (self.sensitivity, footprints),
            "--geolocation": (self.geolocation, footprints),
        }
        for option, (value, kinds) in known.items():
            if value is not None and kind not in kinds:
                raise ConfigError(f"{option} is for labels that are {' or '.join(kinds)}, not for {kind}")


def label_files(labels: Labels) -> list[Path]:
    """Paths of labels; one with *, ? or [ that is no file itself stands for the files that match.

    Raises
    ------
    InputError
        Nothing matches a pattern.
    """
    found: list[Path] = []
    for text in [labels] if isinstance(labels, str | Path) else labels:
        path = Path(text)
        if path.exists() or not glob.has_magic(str(text)):
            found.append(path)
            continue
        matching = sorted(glob.glob(str(text)))
        if not matching:
            raise InputError(text, "no file matches", "check the pattern")
        found += map(Path, matching)
    if not found:
        raise ConfigError("no labels given")
    return found


def kind_of(path: Path) -> str:
    """What kind of labels a path is, by its ending or, of a folder, by what it holds."""
    ending = path.suffix.lower()
    if path.is_dir():
        if ending == ".zarr" or (path / "zarr.json").is_file():
            return STORE
        return FOOTPRINTS if any(each.suffix.lower() in HDF5_ENDINGS for each in path.iterdir()) else PLOTS
    if ending == ".zarr":
        return STORE
    return FOOTPRINTS if ending in HDF5_ENDINGS else RASTER if ending in _RASTERS else PLOTS


def read_labels(
    labels: Labels, target: str, options: LabelOptions, crs: CRS, bounds: tuple[float, float, float, float]
) -> PlotTable:
    """A table of plots in the CRS of a map.

    Parameters
    ----------
    labels : one file; of GEDI L4A also several, or a folder of them; or a store
    target : to predict
    crs, bounds : of the map: xmin, ymin, xmax, ymax

    Raises
    ------
    InputError
        The labels cannot be used.
    ConfigError
        An option does not fit them, or there are several files of a kind that are read one at a time.
    """
    files = label_files(labels)
    kinds = sorted({kind_of(path) for path in files})
    if len(files) > 1 and kinds != [FOOTPRINTS]:
        raise ConfigError(f"--labels: {len(files)} files of {' and '.join(kinds)}; only GEDI L4A files may be several")
    kind, first = kinds[0], files[0]
    options.check(kind)
    if kind in (FOOTPRINTS, STORE):
        from fusion3d.evaluation.footprint_labels import read_l4a, read_store_l4a

        known = {
            "unit": options.unit,
            "sensitivity": _SENSITIVITY if options.sensitivity is None else options.sensitivity,
            "geolocation": _GEOLOCATION if options.geolocation is None else options.geolocation,
        }
        if kind == STORE:
            return read_store_l4a(first, target, crs, bounds, **known)  # type: ignore[arg-type]
        return read_l4a(files, target, crs, bounds, **known)  # type: ignore[arg-type]
    if kind == RASTER:
        table = read_raster_labels(first, target, band=options.band, nodata=options.nodata, unit=options.unit, crs=options.crs)
    else:
        table = read_plots(
            first, target, radius=options.radius, layer=options.layer, unit=options.unit, crs=options.crs, stratum=options.stratum
        )
    return table.to_crs(crs)


def named(labels: Labels) -> str:
    """Labels as one line of a report."""
    files = label_files(labels)
    return str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more files"
