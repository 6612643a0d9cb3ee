"""The small good files that fuzzing begins with: python tools/fuzz/seeds.py writes those that tools/fuzz/corpus lacks."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import h5py
import laspy
import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

_POINTS = [("1.2", 3, False), ("1.2", 1, True), ("1.4", 6, True), ("1.4", 7, False), ("1.4", 8, True)]


def main() -> None:
    from tools.fuzz.targets import CORPUS

    for version, point_format, compressed in _POINTS:
        name = f"seed_{version}_{point_format}.{'laz' if compressed else 'las'}"
        content = _las(version, point_format, compressed)
        _save(CORPUS / "points" / name, content)
        _save(CORPUS / "las_header" / name, content)
    for product in ("GEDI_L2A", "GEDI_L1B"):
        _save(CORPUS / "gedi" / f"seed_{product}.h5", _gedi(product))
    for product in range(4):
        _save(CORPUS / "gedi_contents" / f"seed_{product}", bytes([product, 0, 3]) + bytes([10]) * 90)


def _save(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_bytes(content)


def _las(version: str, point_format: int, compressed: bool) -> bytes:
    header = laspy.LasHeader(version=version, point_format=point_format)
    header.scales, header.offsets = np.full(3, 0.01), np.array([652000.0, 6860000.0, 0.0])
    header.add_extra_dim(laspy.ExtraBytesParams("height", "int16", scales=np.array([0.01]), offsets=np.array([0.0])))
    las = laspy.LasData(header)
    las.points = laspy.ScaleAwarePointRecord.zeros(40, header=header)
    random = np.random.default_rng(point_format)
    las.X, las.Y, las.Z = random.integers(0, 5000, (3, 40))
    las.intensity, las.classification = random.integers(0, 3000, 40), random.choice([2, 5], 40)
    out = io.BytesIO()
    las.write(out, do_compress=compressed, laz_backend=laspy.LazBackend.Lazrs if compressed else None)
    return out.getvalue()


def _gedi(product: str) -> bytes:
    shots = 3
    lists = {"shot_number": 19640000200161263 + np.arange(shots, dtype=np.uint64), "delta_time": np.arange(shots, dtype="f8"),
             "sensitivity": np.full(shots, 0.97, "f4"), "degrade_flag": np.zeros(shots, "u1")}  # fmt: skip
    if product == "GEDI_L2A":
        lists |= {"lon_lowestmode": np.full(shots, -44.0), "lat_lowestmode": np.full(shots, -13.0),
                  "elev_lowestmode": np.full(shots, 500.0, "f4"), "quality_flag": np.ones(shots, "u1"),
                  "solar_elevation": np.full(shots, -10.0, "f4"), "rh": np.ones((shots, 101), "f4")}  # fmt: skip
    else:
        lists |= {"rx_sample_count": np.full(shots, 8, "u2"), "rx_sample_start_index": 1 + 8 * np.arange(shots, dtype="u8"),
                  "rxwaveform": np.full(8 * shots, 120, "f4"), "noise_mean_corrected": np.full(shots, 100.0)}  # fmt: skip
        per_shot = {"elevation_bin0": 520.0, "elevation_lastbin": 500.0, "longitude_bin0": -44.0, "longitude_lastbin": -44.004,
                    "latitude_bin0": -13.0, "latitude_lastbin": -13.0, "digital_elevation_model": 505.0, "solar_elevation": 30.0,
                    "degrade": 0.0}  # fmt: skip
        lists |= {f"geolocation/{name}": np.full(shots, value) for name, value in per_shot.items()}
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file.attrs["short_name"] = product
        group = file.create_group("BEAM0101")
        for name, values in lists.items():
            group[name] = values
    return out.getvalue()


if __name__ == "__main__":
    main()
