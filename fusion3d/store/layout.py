"""What a column store looks like on disk: names, codecs and the root attributes.

::

    scene.zarr/
      zarr.json              root attributes: `StoreAttributes`
      als/<row>_<col>/       one block: x y z offsets height + attributes, sorted by column
      <raster sensor>/       values [T, C, H, W] and valid, pixels from `RasterLayout.row`/`.col` on
      gedi/                  one row a footprint, profiles as ragged rows (height, energy, row_splits)

Coordinates of points are integers: x = origin + (anchor + x_stored) * scale, with the integer anchor in the block's attributes.
So the scaled integers of the files survive; 32 bits hold them unless scales are very fine or blocks very large, then it is 64.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from fusion3d.errors import StoreError
from fusion3d.grid import Grid, Window
from fusion3d.io.bands import Band

FORMAT = 1
ROOT_KEY = "fusion3d"
POINT_CHUNK = 1 << 18
RASTER_CHUNK_BYTES = 16 << 20
COMPRESSORS = (ZstdCodec(level=3), Crc32cCodec())
"""Of arrays of pixels: what is stored of a chunk ends in its checksum, which is checked whenever it is read."""
POINT_COMPRESSORS = (BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"), Crc32cCodec())
"""Of points and footprints. Bytes of one significance together: smaller than level 3 without that, in half of its time."""
DIGEST_KEY = "fusion3d_sha256"

STANDARD_ATTRIBUTES = {
    "classification": "u1",
    "intensity": "u2",
    "return_number": "u1",
    "number_of_returns": "u1",
    "scan_angle": "f4",
    "withheld": "u1",
}
"""Point attributes that every store holds, with their types; 0 where a file has none."""


def block_name(block_row: int, block_col: int) -> str:
    """Name of a block's group, for instance ``12_7``."""
    return f"{block_row}_{block_col}"


def parse_block_name(name: str) -> tuple[int, int]:
    row, col = name.split("_")
    return int(row), int(col)


def digest(attributes: Mapping[str, Any]) -> str:
    """SHA-256 of root attributes, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class PointLattice:
    """Scale and origin of the stored integers: x and y in CRS units, z in metres."""

    origin: tuple[float, float, float]
    scale: tuple[float, float, float]

    def anchor(self, grid: Grid, window: Window) -> tuple[int, int]:
        """Lattice integers (x, y) of the north-west corner of a block, rounded down: what its stored x and y start from."""
        x, y = grid.corner(window.row, window.col)
        return math.floor((x - self.origin[0]) / self.scale[0]), math.floor((y - self.origin[1]) / self.scale[1])


@dataclass(frozen=True)
class AlsLayout:
    """Metadata of the aerial LiDAR: lattice, attributes stored beside x, y, z, how heights were made, points stored and read."""

    lattice: PointLattice
    attributes: tuple[str, ...]
    ground: Mapping[str, Any]
    blocks: tuple[str, ...] = ()
    points: int = 0
    classes: Mapping[str, int] = field(default_factory=dict)
    intensity_p95: float = 1.0
    dates: tuple[str, ...] = ()
    points_read: int = 0


@dataclass(frozen=True)
class RasterLayout:
    """Metadata of one raster sensor.

    Parameters
    ----------
    row, col : grid row and column of the north-west corner of pixel (0, 0); at most 0, and below 0 only when
        pixels are coarser than columns
    pixels_per_column, columns_per_pixel : one of them is 1 or more, the other 0; both 1 when pixel and column coincide
    pixel : metres
    """

    bands: tuple[Band, ...]
    dates: tuple[str | None, ...]
    kind: str
    dtype: str
    pixel: float
    pixels_per_column: int
    columns_per_pixel: int
    row: int
    col: int
    height: int
    width: int
    resampling: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    valid_fraction: float = 0.0


@dataclass(frozen=True)
class GediLayout:
    """Metadata of the footprints: products joined, attributes stored, number of footprints."""

    products: tuple[str, ...]
    attributes: tuple[str, ...]
    footprints: int


@dataclass(frozen=True)
class StoreAttributes:
    """Root attributes of a store."""

    grid: Grid
    als: AlsLayout | None = None
    rasters: Mapping[str, RasterLayout] = field(default_factory=dict)
    gedi: GediLayout | None = None
    sources: tuple[Mapping[str, Any], ...] = ()
    set_aside: tuple[Mapping[str, str], ...] = ()
    configuration: Mapping[str, Any] = field(default_factory=dict)
    configuration_hash: str = ""

    @property
    def simulated(self) -> bool:
        """The sources are no real ground."""
        return bool(self.configuration.get("simulated", False))

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, path: str, raw: Mapping[str, Any]) -> StoreAttributes:
        """Attributes from JSON; `StoreError` when the format is another or something is missing."""
        version = raw.get("format")
        if version != FORMAT:
            raise StoreError(path, f"store format {version!r}, this version reads {FORMAT}", "prepare the scene again")
        try:
            als = raw["als"] and AlsLayout(
                **{
                    **raw["als"],
                    "lattice": PointLattice(**_tuples(raw["als"]["lattice"])),
                    **_tuples({k: raw["als"][k] for k in ("attributes", "blocks", "dates")}),
                }
            )
            rasters = {
                name: RasterLayout(**{**_tuples(item), "bands": tuple(Band(**band) for band in item["bands"])})
                for name, item in raw["rasters"].items()
            }
            return cls(
                Grid(**raw["grid"]),
                als,
                rasters,
                raw["gedi"] and GediLayout(**_tuples(raw["gedi"])),
                tuple(raw["sources"]),
                tuple(raw["set_aside"]),
                raw["configuration"],
                raw["configuration_hash"],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise StoreError(path, f"damaged store attributes ({error})", "prepare the scene again") from None


def _tuples(items: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in items.items()}


def raster_chunk(layout: RasterLayout, itemsize: int) -> int:
    """Side of a chunk in pixels: whole columns where pixels are finer, at most `RASTER_CHUNK_BYTES`."""
    step = max(1, layout.pixels_per_column)
    side = int((RASTER_CHUNK_BYTES / (len(layout.bands) * itemsize)) ** 0.5)
    return max(step, side // step * step)
