"""A small store of every kind of sensor, and ways to damage a copy of it."""

from __future__ import annotations

import filecmp
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import zarr
from pyproj import Transformer

from fusion3d.prepare.repair import Repair, repair
from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import AlsSource, GediInput, RasterInput, Scene
from fusion3d.store.verification import Verification, verify
from tests.io.gedi_files import beam_l2a, write
from tests.prepare.scenes import X0, Y0, write_tiles


def write_sources(folder: Path) -> Scene:
    """Four tiles, one of which cannot be decoded; an image without valid pixels in its first 50 x 50 m; six footprints."""
    tiles = write_tiles(folder / "als")
    spoilt = Path(tiles[3])
    data = bytearray(spoilt.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    spoilt.write_bytes(data)
    count = 160
    values = np.random.default_rng(3).uniform(1.0, 2.0, (2, count, count)).astype(np.float32)
    values[:, :100, :100] = -9999.0
    with rasterio.open(
        folder / "ortho.tif", "w", driver="GTiff", height=count, width=count, count=2, dtype="float32", crs="EPSG:2154",
        nodata=-9999.0, transform=rasterio.transform.from_origin(X0, Y0 + 80, 0.5, 0.5),
    ) as file:  # fmt: skip
        file.write(values)
    beam = beam_l2a(6)
    beam["lon_lowestmode"], beam["lat_lowestmode"] = Transformer.from_crs(2154, 4326, always_xy=True).transform(
        np.linspace(X0 + 5, X0 + 70, 6), np.linspace(Y0 + 70, Y0 + 9, 6)
    )
    gedi = write(folder / "l2a.h5", {"BEAM0101": beam})
    return Scene(
        als=AlsSource(tuple(tiles), attributes=("user_data",), ground_buffer=4.0),
        rasters={"ortho": RasterInput((str(folder / "ortho.tif"),), kind="continuous")},
        gedi=GediInput((str(gedi),)),
        crs="EPSG:2154",
        column=2.0,
        block=32,
    )


def make(scene: Scene, out: Path) -> Path:
    return Path(prepare(scene, out, workers=1, quiet=True).out)


def silent(*_: object) -> None:
    pass


def examined(store: str | Path) -> Verification:
    return verify(store, silent, silent)


def mended(store: str | Path, found: Verification | None = None) -> Repair:
    return repair(store, found or examined(store), lambda: examined(store), silent)


def same_files(one: Path, other: Path) -> bool:
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    if names != {path.relative_to(other) for path in other.rglob("*") if path.is_file()}:
        return False
    return all(filecmp.cmp(one / name, other / name, shallow=False) for name in names)


def flip(path: Path, at: int = -9) -> None:
    """Change one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x21
    path.write_bytes(data)


def rewrite(store: Path, array: str, change: Callable[[Any], Any]) -> None:
    """Write other values with a right checksum."""
    opened: Any = zarr.open_group(str(store), mode="r+")[array]
    opened[...] = change(np.asarray(opened[...]))
