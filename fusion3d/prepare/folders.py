"""What of a folder, or of files given without their sensor, `prepare` can use by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fusion3d.errors import ConfigError
from fusion3d.io.gedi_hdf5 import HDF5_ENDINGS
from fusion3d.io.las_layout import POINT_SUFFIXES
from fusion3d.io.series import SUFFIXES as RASTER_SUFFIXES

_SAY = "say of which sensor with --ortho, --s2, --s1, --hsi or --raster NAME=PATH"
_NAMED = 3


@dataclass
class Inputs:
    """Tiles, GEDI files, and what is to be told about other files."""

    tiles: list[str] = field(default_factory=list)
    footprints: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def sort_inputs(inputs: Iterable[str]) -> Inputs:
    """Sort paths, folders and patterns by what they hold.

    Raises
    ------
    ConfigError
        A raster is named: nothing tells of which sensor it is. (Those in a folder are left alone and told.)
    """
    found = Inputs()
    for item in inputs:
        suffix = Path(item).suffix.lower()
        if suffix in RASTER_SUFFIXES:
            raise ConfigError(f"{item} is a raster: {_SAY}")
        if suffix in HDF5_ENDINGS:
            found.footprints.append(item)
        elif not Path(item).is_dir():
            found.tiles.append(item)
        else:
            _look_into(Path(item), found)
    return found


def _look_into(folder: Path, found: Inputs) -> None:
    names = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    kinds = Counter(path.suffix.lower() for path in names)
    footprints = [str(path) for path in names if path.suffix.lower() in HDF5_ENDINGS]
    found.footprints += footprints
    if any(kinds[suffix] for suffix in POINT_SUFFIXES) or not footprints:
        found.tiles.append(str(folder))
    rasters = [path.name for path in names if path.suffix.lower() in RASTER_SUFFIXES]
    if rasters:
        named = ", ".join(rasters[:_NAMED]) + (", ..." if len(rasters) > _NAMED else "")
        found.notes.append(f"{folder}: {len(rasters)} rasters are left alone ({named}): {_SAY}")
    known = (*POINT_SUFFIXES, *HDF5_ENDINGS, *RASTER_SUFFIXES)
    others = {suffix or "no ending": count for suffix, count in sorted(kinds.items()) if suffix not in known}
    if others:
        told = ", ".join(f"{count} {suffix}" for suffix, count in others.items())
        found.notes.append(f"{folder}: {sum(others.values())} files that are no points, footprints or rasters ({told})")
