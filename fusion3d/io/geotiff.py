"""Maps as Cloud Optimized GeoTIFF: written window by window, complete or not there at all."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from pyproj import CRS
from rasterio.errors import RasterioError
from rasterio.windows import Window

from fusion3d.errors import ConfigError, InputError, one_line
from fusion3d.io.alignment import rasterio_crs
from fusion3d.io.pixels import Array
from fusion3d.io.tiff_blocks import missing_block

_SUFFIXES = (".tif", ".tiff")
_TILE = 256
_COG_BLOCK_BYTES = 8 << 20
_FREE_SPACE = "free disk space there or write elsewhere; nothing was left under this name"


def is_tif(path: str | Path) -> bool:
    """Whether a path or URL is named as a GeoTIFF."""
    return str(path).lower().endswith(_SUFFIXES)


def check_tif_name(out: str | Path) -> None:
    """Refuse a map that is not named as a GeoTIFF.

    Raises
    ------
    ConfigError
        It is not.
    """
    if not is_tif(out):
        raise ConfigError(f"--out {out}: give a name that ends in .tif")


class CogWriter:
    """A COG that is filled window by window and appears under its name when it is complete.

    The windows go to an uncompressed tiled GeoTIFF beside the final name; `close` makes the COG of it (deflate, predictor,
    overviews), checks it and renames it. Pixels that are never written are nodata. As a context manager it leaves nothing behind
    when the body raises; a map that was there before stays.

    Parameters
    ----------
    path : final name
    x0, y0 : north-west corner, CRS units
    pixel : side of a pixel, CRS units
    width, height, count : pixels and bands
    dtype : of the file
    crs : of the map; heights are dropped
    nodata : must be a value of `dtype`; None for none
    band_names, units : per band; one unit alone is that of every band
    tags : file metadata
    resampling : of the overviews; else average for floating values and nearest for integers
    palette : red, green, blue and opacity (0 to 255) by the value of the only band, of uint8

    Raises
    ------
    ConfigError
        The arguments contradict each other.
    InputError
        The disk is full or the folder cannot be written.
    """

    def __init__(self, path: str | Path, *, x0: float, y0: float, pixel: float, width: int, height: int, count: int,
                 dtype: str | np.dtype = "float32", crs: CRS, nodata: float | None = math.nan,
                 band_names: Sequence[str] | None = None, units: Sequence[str] | str | None = None,
                 tags: Mapping[str, str] | None = None, resampling: str | None = None,
                 palette: Mapping[int, tuple[int, int, int, int]] | None = None) -> None:  # fmt: skip
        self.path = Path(path)
        self.dtype = np.dtype(dtype)
        self.width, self.height, self.count = width, height, count
        self.resampling = resampling or ("average" if self.dtype.kind == "f" else "nearest")
        if min(width, height, count) < 1 or not (math.isfinite(pixel) and pixel > 0):
            raise ConfigError(f"a map of {count} bands of {height} x {width} pixels of {pixel} cannot be written to {self.path}")
        if palette and (count != 1 or self.dtype != np.uint8):
            raise ConfigError(f"a palette is for one band of uint8, not for {count} of {self.dtype}")
        names = _per_band(band_names, count, "band names")
        unit = _per_band([units] * count if isinstance(units, str) else units, count, "units")
        _check_nodata(nodata, self.dtype)
        if not self.path.parent.is_dir():
            raise InputError(self.path, "cannot be written: its folder does not exist", "create the folder first")
        mark = uuid.uuid4().hex[:8]
        self._draft = self.path.with_name(f".{self.path.stem}.{mark}.draft.tif")
        self._finished = self.path.with_name(f".{self.path.stem}.{mark}.cog.tif")
        profile = {"driver": "GTiff", "dtype": self.dtype.name, "width": width, "height": height, "count": count,
                   "crs": rasterio_crs(crs), "transform": Affine(pixel, 0.0, x0, 0.0, -pixel, y0), "nodata": nodata,
                   "tiled": True, "blockxsize": _TILE, "blockysize": _TILE, "interleave": "band", "bigtiff": "IF_SAFER",
                   "sparse_ok": True}  # fmt: skip
        self._dataset: Any = None
        try:
            self._dataset = rasterio.open(self._draft, "w", **profile)
            self._dataset.update_tags(**dict(tags or {}))
            if names:
                self._dataset.descriptions = names
            if unit:
                self._dataset.units = unit
            if palette:
                self._dataset.write_colormap(1, dict(palette))
        except (RasterioError, OSError) as error:
            self.discard()
            raise self._failed(error) from None

    def write(self, values: Array, row: int, col: int) -> None:
        """Write [C, h, w] values with their north-west pixel at (row, col).

        Raises
        ------
        ConfigError
            They do not fit into the map.
        InputError
            The disk is full.
        """
        if self._dataset is None:
            raise ConfigError(f"{self.path} is already closed")
        fits = values.ndim == 3 and values.shape[0] == self.count and row >= 0 and col >= 0
        if not fits or row + values.shape[1] > self.height or col + values.shape[2] > self.width:
            raise ConfigError(f"values {values.shape} at row {row}, column {col} do not fit into {self.path}: "
                              f"{self.count} bands of {self.height} x {self.width}")  # fmt: skip
        if 0 in values.shape:
            return
        try:
            self._dataset.write(values.astype(self.dtype, copy=False), window=Window(col, row, values.shape[2], values.shape[1]))
        except (RasterioError, OSError) as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """Make the COG and give it its name; does nothing when already closed.

        Raises
        ------
        InputError
            The disk is full; nothing is left under the name.
        """
        if self._dataset is None:
            return
        try:
            with _silence():
                self._dataset.close()
            self._dataset = None
            self._verify(self._draft)
            rasterio.shutil.copy(self._draft, self._finished, driver="COG", **self._cog_options())
            self._verify(self._finished)
            _flush(self._finished)
            os.replace(self._finished, self.path)
        except (RasterioError, OSError) as error:
            raise self._failed(error) from None
        finally:
            self.discard()

    def discard(self) -> None:
        """Drop what has been written; nothing appears under the name."""
        if self._dataset is not None:
            dataset, self._dataset = self._dataset, None
            # The disk may be full; the draft is removed all the same.
            with contextlib.suppress(RasterioError, OSError), _silence():
                dataset.close()
        for path in (self._draft, self._finished):
            for leftover in path.parent.glob(f"{path.name}*"):
                leftover.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _cog_options(self) -> dict[str, str]:
        block = 512
        # A block holds all bands: without this a map of many bands would have blocks of hundreds of megabytes.
        while block > 128 and block * block * self.count * self.dtype.itemsize > _COG_BLOCK_BYTES:
            block //= 2
        return {"COMPRESS": "DEFLATE", "PREDICTOR": "YES", "BLOCKSIZE": str(block), "BIGTIFF": "IF_SAFER",
                "OVERVIEWS": "IGNORE_EXISTING", "RESAMPLING": self.resampling.upper(), "NUM_THREADS": "1"}  # fmt: skip

    def _verify(self, path: Path) -> None:
        # GDAL only logs what fails while it flushes on closing.
        with rasterio.open(path) as dataset:
            hole = missing_block(dataset)
        if hole:
            raise OSError(f"the file is incomplete: {hole}")

    def _failed(self, error: BaseException) -> InputError:
        reason = one_line(error.__cause__ or error)
        return InputError(self.path, f"cannot be written ({reason})", _FREE_SPACE)


def write_cog(path: str | Path, values: Array, *, x0: float, y0: float, pixel: float, crs: CRS, nodata: float | None = math.nan,
              band_names: Sequence[str] | None = None, units: Sequence[str] | str | None = None,
              tags: Mapping[str, str] | None = None, resampling: str | None = None) -> Path:  # fmt: skip
    """Write [C, H, W] values, north up, as a COG; arguments and errors as for `CogWriter`."""
    if values.ndim != 3:
        raise ConfigError(f"a map is [bands, rows, columns], not {values.shape}")
    count, height, width = values.shape
    with CogWriter(path, x0=x0, y0=y0, pixel=pixel, width=width, height=height, count=count, dtype=values.dtype, crs=crs,
                   nodata=nodata, band_names=band_names, units=units, tags=tags, resampling=resampling) as writer:  # fmt: skip
        writer.write(values, 0, 0)
    return Path(path)


def _per_band(given: Sequence[str] | None, count: int, what: str) -> tuple[str, ...] | None:
    if given is not None and len(given) != count:
        raise ConfigError(f"{len(given)} {what} for {count} bands")
    return None if given is None else tuple(given)


def _check_nodata(nodata: float | None, dtype: np.dtype) -> None:
    if dtype.kind not in "fiu":
        raise ConfigError(f"a GeoTIFF cannot hold {dtype}; convert to uint8 or float32 first")
    if nodata is None or dtype.kind == "f":
        return
    limits = np.iinfo(dtype)
    if math.isnan(nodata) or nodata != int(nodata) or not limits.min <= nodata <= limits.max:
        raise ConfigError(f"nodata {nodata} is not a value of {dtype}")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep off the terminal what libtiff prints there past GDAL's log: on a full disk, hundreds of lines for one error."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
