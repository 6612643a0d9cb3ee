"""Maps of a scene that are filled tile by tile and appear together or not at all."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusion3d.errors import InputError
from fusion3d.io.geotiff import CogWriter
from fusion3d.simulate.model import Box, Site


@dataclass(frozen=True)
class MapLayer:
    """One single-band map.

    Attributes
    ----------
    name : of the file, without ending
    cell : metres
    dtype : of the pixels; float maps have NaN for nodata, others 0
    unit : "" for none
    meaning : what the values are, for the file's tags
    nodata : False for a map in which 0 is a value too
    """

    name: str
    cell: float
    dtype: str
    unit: str
    meaning: str
    nodata: bool = True


@dataclass
class RasterSet:
    """Maps of one folder; the folder is made on the first `open`.

    Parameters
    ----------
    site : the maps cover the scene
    folder : where they appear
    """

    site: Site
    folder: Path
    _writers: dict[str, tuple[MapLayer, CogWriter]] = field(default_factory=dict)

    def open(self, layer: MapLayer) -> None:
        """Begin a map.

        Raises
        ------
        InputError
            The folder cannot be written.
        """
        make_folder(self.folder)
        box = self.site.box
        rows, cols = box.shape(layer.cell)
        nodata = None if not layer.nodata else math.nan if np.dtype(layer.dtype).kind == "f" else 0
        tags = {"AREA_OR_POINT": "Area", "SIMULATED": "YES", "MEANING": layer.meaning}
        writer = CogWriter(
            self.folder / f"{layer.name}.tif", x0=box.xmin, y0=box.ymax, pixel=layer.cell, width=cols, height=rows, count=1,
            dtype=layer.dtype, crs=self.site.crs, nodata=nodata, band_names=[layer.name], units=layer.unit or None, tags=tags,
        )  # fmt: skip
        self._writers[layer.name] = layer, writer

    def put(self, name: str, core: Box, values: npt.NDArray[np.generic]) -> None:
        """Write the [R, C] values of a window into a map."""
        layer, writer = self._writers[name]
        row, col = round((self.site.box.ymax - core.ymax) / layer.cell), round((core.xmin - self.site.box.xmin) / layer.cell)
        writer.write(values[None], row, col)

    def close(self) -> list[Path]:
        """Give the maps their names; when one cannot be finished, none is left."""
        done: list[Path] = []
        try:
            for _, writer in self._writers.values():
                writer.close()
                done.append(writer.path)
        except BaseException:
            for path in done:
                path.unlink(missing_ok=True)
            self.discard()
            raise
        self._writers.clear()
        return done

    def discard(self) -> None:
        """Drop what has been written."""
        for _, writer in self._writers.values():
            writer.discard()
        self._writers.clear()


def make_folder(folder: Path) -> None:
    """Make a folder of a scene.

    Raises
    ------
    InputError
        It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(folder, f"cannot be made ({error.strerror or error})", "check the path and the rights to it") from None
