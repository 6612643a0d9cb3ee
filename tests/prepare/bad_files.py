"""Files as archives contain them, each spoilt in one way, for `prepare` to set aside or to bear."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import laspy
import numpy as np
import rasterio
from affine import Affine

from tests.prepare.scenes import X0, Y0, slope

POINTS = 900
SIDE = 30.0


def las(folder: Path, name: str, *, count: int = POINTS, crs: str | None = "EPSG:2154", place: tuple[float, float] = (X0, Y0),
        scale: float = 0.01, extra: bool = False, change: Callable[[laspy.LasData], None] | None = None) -> Path:  # fmt: skip
    """A tile on the slope of `scenes`, half ground, half vegetation, that laspy has written; `change` sees it before."""
    from pyproj import CRS

    header = laspy.LasHeader(version="1.4", point_format=6)
    header.scales, header.offsets = np.array([scale, scale, 0.01]), np.array([*place, 0.0])
    if crs is not None:
        header.add_crs(CRS.from_user_input(crs))
    if extra:
        header.add_extra_dim(laspy.ExtraBytesParams("amplitude", "f4"))
    cloud = laspy.LasData(header)
    cloud.points = laspy.ScaleAwarePointRecord.zeros(count, header=header)
    random = np.random.default_rng(5)
    x, y = (start + random.uniform(0, SIDE * (1 if scale == 0.01 else 1e-5), count) for start in place)
    tall = random.random(count) < 0.5
    cloud.x, cloud.y, cloud.z = x, y, slope(x - place[0] + X0, y - place[1] + Y0) + 8.0 * tall
    cloud.classification = np.where(tall, 5, 2).astype(np.uint8)
    cloud.return_number[:], cloud.number_of_returns[:] = 1, 1
    if change is not None:
        change(cloud)
    path = folder / name
    compressed = path.suffix == ".laz"
    cloud.write(path, do_compress=compressed, laz_backend=laspy.LazBackend.Lazrs if compressed else None)
    return path


def patched(path: Path, layout: str, position: int, *values: float) -> Path:
    """The file with other values at a byte."""
    raw = bytearray(path.read_bytes())
    struct.pack_into(layout, raw, position, *values)
    path.write_bytes(raw)
    return path


def counted(path: Path, count: int) -> Path:
    """A LAS 1.4 file whose header says another number of points, and nothing by return number that would give it away."""
    patched(path, "<Q", 247, count)
    patched(path, "<15Q", 255, *[0] * 15)
    return patched(path, "<6I", 107, *[0] * 6)


def cut(path: Path, share: float) -> Path:
    """The file without its end."""
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    return path


def bomb(folder: Path) -> Path:
    """18 MB of points that are all alike, in a LAZ of some KB."""
    return las(folder, "bad.laz", count=600_000, change=_all_alike)


def _all_alike(cloud: laspy.LasData) -> None:
    cloud.points.array[:] = cloud.points.array[0]


def image(folder: Path, *, values: np.ndarray | None = None, transform: Affine | None = None, name: str = "bad.tif",
          colours: dict[int, tuple[int, ...]] | None = None, **profile: object) -> Path:  # fmt: skip
    """A GeoTIFF of 40 x 40 pixels of 2 m over the tiles of `scenes`."""
    values = np.full((1, 40, 40), 7, np.uint8) if values is None else values
    path = folder / name
    options = {"crs": "EPSG:2154", **profile}
    scales, offset = options.pop("scales", None), options.pop("offsets", None)
    with rasterio.open(
        path, "w", driver="GTiff", count=len(values), height=values.shape[1], width=values.shape[2], dtype=values.dtype,
        transform=Affine(2, 0, X0, 0, -2, Y0 + 80) if transform is None else transform, **options,
    ) as dataset:  # fmt: skip
        dataset.write(values)
        if colours:
            dataset.write_colormap(1, colours)
        if scales is not None:
            dataset.scales, dataset.offsets = scales, offset
    return path


def gedi(folder: Path, *, name: str = "GEDI02_A_bad.h5", product: str = "GEDI_L2A", leave_out: tuple[str, ...] = (),
         beams: tuple[str, ...] = ("BEAM0101",)) -> Path:  # fmt: skip
    """An L2A file with four shots on the tiles of `scenes`."""
    from pyproj import Transformer

    shots = 4
    to_degrees = Transformer.from_crs("EPSG:2154", "EPSG:4326", always_xy=True)
    longitude, latitude = to_degrees.transform(X0 + 5.0 + 6 * np.arange(shots), np.full(shots, Y0 + 15.0))
    lists = {
        "shot_number": 19640000200161263 + np.arange(shots, dtype=np.uint64), "lon_lowestmode": longitude,
        "lat_lowestmode": latitude, "elev_lowestmode": np.full(shots, 500.0, "f4"), "delta_time": np.arange(shots, dtype="f8"),
        "quality_flag": np.ones(shots, "u1"), "degrade_flag": np.zeros(shots, "u1"), "sensitivity": np.full(shots, 0.97, "f4"),
        "solar_elevation": np.full(shots, -10.0, "f4"), "rh": np.tile(np.linspace(0, 20, 101, dtype="f4"), (shots, 1)),
    }  # fmt: skip
    path = folder / name
    with h5py.File(path, "w") as file:
        file.attrs["short_name"] = product
        for beam in beams:
            group = file.create_group(beam)
            for key, values in lists.items():
                if key not in leave_out:
                    group[key] = values
    return path


def terabytes(folder: Path) -> Path:
    """An L2A file of some KB whose curves are declared to be 0.8 TB."""
    path = gedi(folder, leave_out=("rh",))
    with h5py.File(path, "a") as file:
        file["BEAM0101"].create_dataset("rh", (2 * 10**9, 101), "f4", chunks=(1000, 101), compression="gzip")
    return path


def icesat(folder: Path) -> Path:
    """A file in the manner of ICESat-2 ATL03: HDF5, photons by ground track, no beams of GEDI."""
    path = folder / "ATL03_20190420_bad.h5"
    with h5py.File(path, "w") as file:
        file.attrs["short_name"] = "ATL03"
        file["gt1l/heights/h_ph"] = np.arange(5.0)
    return path


def endless(folder: Path) -> Path:
    """An L2A file with a damaged string in its head: HDF5 walks a heap whose next object is 0 bytes further, for ever."""
    path = gedi(folder)
    raw = bytearray(path.read_bytes())
    heap = raw.index(b"GCOL")
    # 16 bytes of head, then the first object: index, references, 4 reserved, uint64 size
    struct.pack_into("<H", raw, heap + 16, 0)
    struct.pack_into("<Q", raw, heap + 24, 0)
    path.write_bytes(raw)
    return path
