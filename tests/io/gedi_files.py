"""Small GEDI files of known content, in the layout of the real ones."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from pyproj import CRS

from fusion3d.io.gedi import FootprintTable

UTM23S = CRS.from_epsg(32723)
FIRST_SHOT = 19640000200161263


def beam_l2a(shots: int, first: int = FIRST_SHOT) -> dict[str, np.ndarray]:
    """Data sets of a release 2 L2A beam: shot i has the curve 0, 0.1 (i + 1), ... 10 (i + 1) m."""
    return {
        "shot_number": first + np.arange(shots, dtype=np.uint64),
        "lon_lowestmode": -44.0 + 1e-3 * np.arange(shots),
        "lat_lowestmode": np.full(shots, -13.0),
        "elev_lowestmode": np.full(shots, 500.0, np.float32),
        "delta_time": np.arange(shots, dtype=np.float64),
        "quality_flag": np.ones(shots, np.uint8),
        "degrade_flag": np.zeros(shots, np.uint8),
        "sensitivity": np.full(shots, 0.97, np.float32),
        "solar_elevation": np.full(shots, -10.0, np.float32),
        "rh": np.linspace(0, 10, 101, dtype=np.float32) * (1 + np.arange(shots, dtype=np.float32))[:, None],
    }


def beam_l1b(waveforms: list[list[float]], first: int = FIRST_SHOT) -> dict[str, np.ndarray]:
    """Data sets of an L1B beam: noise 100, waveforms from 520 m down to 500 m, terrain at 505 m."""
    shots = len(waveforms)
    counts = np.array([len(waveform) for waveform in waveforms], np.uint16)
    starts = 1 + np.concatenate([[0], np.cumsum(counts)])[:shots]
    per_shot = {
        "elevation_bin0": 520.0,
        "elevation_lastbin": 500.0,
        "longitude_bin0": -44.0,
        "longitude_lastbin": -44.004,
        "latitude_bin0": -13.0,
        "latitude_lastbin": -13.0,
        "digital_elevation_model": 505.0,
        "solar_elevation": 30.0,
        "degrade": 0.0,
    }
    return {
        "shot_number": first + np.arange(shots, dtype=np.uint64),
        "rx_sample_count": counts,
        "rx_sample_start_index": starts.astype(np.uint64),
        "rxwaveform": np.concatenate([np.zeros(0), *waveforms]).astype(np.float32),
        "noise_mean_corrected": np.full(shots, 100.0),
        "delta_time": np.zeros(shots),
        **{f"geolocation/{name}": np.full(shots, value) for name, value in per_shot.items()},
    }


def write(path: Path, beams: dict[str, dict[str, np.ndarray]], product: str = "GEDI_L2A", version: str = "02") -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["short_name"] = product
        file.create_group("METADATA/DatasetIdentification").attrs["VersionID"] = version
        for beam, contents in beams.items():
            group = file.create_group(beam)
            for name, values in contents.items():
                group[name] = values
    return path


def profile(table: FootprintTable, shot: int) -> tuple[np.ndarray, np.ndarray]:
    """Heights and energy of one shot."""
    rows = slice(table.row_splits[shot], table.row_splits[shot + 1])
    return table.heights[rows], table.energy[rows]
