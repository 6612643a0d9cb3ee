"""The maps of one sensor: COGs that say what their bands are, all there when the scene is complete or none."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp

from fusion3d.io.bands import Band
from fusion3d.io.geotiff import CogWriter
from fusion3d.simulate.model import Box, Site, Tile


@dataclass(frozen=True)
class MapPlan:
    """One file of a sensor.

    Parameters
    ----------
    name : path below the scene's folder
    pixel : metres
    bands : its channels
    dtype, nodata : of the file
    scale, offset : physical value = stored value * scale + offset
    unit : of the physical value, "" for none
    colors : interpretation of the bands, None for GDAL's guess
    describe : whether bands carry their wavelengths as tags; False where their names say it
    """

    name: str
    pixel: float
    bands: tuple[Band, ...]
    dtype: str
    nodata: float | None
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""
    colors: tuple[ColorInterp, ...] | None = None
    describe: bool = False


class SensorCog(CogWriter):
    """A COG of a site with scale, offset and wavelengths of its bands in the file."""

    def __init__(self, site: Site, folder: Path, plan: MapPlan) -> None:
        box = site.box
        height, width = box.shape(plan.pixel)
        super().__init__(folder / plan.name, x0=box.xmin, y0=box.ymax, pixel=plan.pixel, width=width, height=height,
                         count=len(plan.bands), dtype=plan.dtype, crs=site.crs, nodata=plan.nodata,
                         band_names=[band.name for band in plan.bands], units=plan.unit or None,
                         tags={"AREA_OR_POINT": "Area", "SIMULATED": "YES"},
                         resampling="nearest" if len(plan.bands) == 1 and plan.dtype == "uint8" else "average")  # fmt: skip
        self._dataset.scales = [plan.scale] * len(plan.bands)
        self._dataset.offsets = [plan.offset] * len(plan.bands)
        if plan.colors is not None:
            self._dataset.colorinterp = plan.colors
        if plan.describe:
            for index, band in enumerate(plan.bands, 1):
                width_tag = {} if band.fwhm is None else {"fwhm": f"{band.fwhm:g}"}
                self._dataset.update_tags(index, wavelength=f"{band.wavelength:g}", wavelength_units="nm", **width_tag)


class MapProduct(ABC):
    """A `Product` of COGs: what its subclasses say in `plans` is opened on entering and finished together."""

    margin: float

    def __init__(self, site: Site, folder: str | Path) -> None:
        self.site = site
        self.folder = Path(folder)
        self._maps: dict[str, SensorCog] = {}
        self._pixels: dict[str, float] = {}
        self._made: list[Path] = []

    @abstractmethod
    def plans(self) -> list[MapPlan]:
        """The files of the product."""

    @abstractmethod
    def add(self, tile: Tile) -> None:
        """Write a tile into the files."""

    def put(self, name: str, core: Box, values: npt.NDArray[np.generic]) -> None:
        """Write [C, R, C] pixels of a window into a file of `plans`."""
        box, pixel = self.site.box, self._pixels[name]
        self._maps[name].write(values, round((box.ymax - core.ymax) / pixel), round((core.xmin - box.xmin) / pixel))

    def __enter__(self) -> Self:
        try:
            for plan in self.plans():
                self._make_folder((self.folder / plan.name).parent)
                self._maps[plan.name] = SensorCog(self.site, self.folder, plan)
                self._pixels[plan.name] = plan.pixel
        except BaseException:
            self._drop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._drop()
            return
        finished: list[Path] = []
        try:
            for cog in self._maps.values():
                cog.close()
                finished.append(cog.path)
        except BaseException:
            for path in finished:
                path.unlink(missing_ok=True)
            self._drop()
            raise
        self._maps.clear()

    def _make_folder(self, folder: Path) -> None:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        self._made += reversed(missing)

    def _drop(self) -> None:
        for cog in self._maps.values():
            cog.discard()
        self._maps.clear()
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        self._made.clear()
