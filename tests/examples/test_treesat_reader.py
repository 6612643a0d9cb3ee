"""The example of a user's own reader, on the real patch it is written for."""

from __future__ import annotations

import datetime
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
from pyproj import CRS

from fusion3d.errors import InputError
from fusion3d.io.raster import RasterSource, Target

SCRIPT = Path(__file__).parents[2] / "examples" / "treesat_reader.py"
NAME = "Abies_alba_1_1005_WEFL_NLF"
UTM = CRS.from_epsg(25832)


@pytest.fixture(scope="module")
def reader() -> ModuleType:
    spec = importlib.util.spec_from_file_location("treesat_reader", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["treesat_reader"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def patch_path(data_dir: Path) -> Path:
    return data_dir / "treesat_ts_de" / f"{NAME}.h5"


def here(kind: str, pixel: float = 10.0, pixels: int = 6) -> Target:
    # The aerial image spans 565642.6-565703.4 and 5770919.6-5770980.4: the 60 m in its middle begin 0.4 m inside.
    return Target(UTM, 565_643.0, 5_770_980.0, pixel, pixels, pixels, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(("sensor", "dates", "bands"), [("s2", 146, 10), ("s1_asc", 60, 2), ("s1_des", 86, 2)])
def test_series_of_a_patch(reader: ModuleType, patch_path: Path, sensor: str, dates: int, bands: int) -> None:
    series = reader.TreeSatSeries(patch_path, sensor)
    assert isinstance(series, RasterSource)
    assert len(series.dates) == dates
    assert all(isinstance(date, datetime.date) and date.year == 2020 for date in series.dates)
    assert len(series.bands) == bands
    assert series.bounds == pytest.approx((565_643, 5_770_920, 565_703, 5_770_980))
    assert series.crs.to_epsg() == 25832


def test_values_are_those_of_the_file(reader: ModuleType, patch_path: Path) -> None:
    with h5py.File(patch_path) as file:
        expected, cloud = file["sen-2-data"][5] / 10_000, file["sen-2-masks"][5, 1]
        radar = file["sen-1-asc-data"][3]
    patch = reader.TreeSatSeries(patch_path, "s2").read(5, here("reflectance"))
    assert np.array_equal(patch.valid, np.broadcast_to(cloud < 50, patch.valid.shape))
    assert patch.values[patch.valid] == pytest.approx(expected[patch.valid])
    assert np.array_equal(reader.TreeSatSeries(patch_path, "s1_asc").read(3, here("backscatter")).values, radar)


def test_coarser_target_is_the_mean(reader: ModuleType, patch_path: Path) -> None:
    with h5py.File(patch_path) as file:
        expected = file["sen-1-des-data"][0].reshape(2, 3, 2, 3, 2).mean((2, 4))
    patch = reader.TreeSatSeries(patch_path, "s1_des").read(0, here("backscatter", 20.0, 3))
    assert patch.values == pytest.approx(expected)


def test_file_of_another_kind_is_refused(reader: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("no")
    with pytest.raises(InputError, match="not a TreeSatAI time series"):
        _ = reader.TreeSatSeries(tmp_path / "a.h5", "s2").dates
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match="not a TreeSatAI time series"):
        _ = reader.TreeSatSeries(tmp_path / "b.h5", "s2").dates


def test_series_without_its_aerial_image_has_no_place(reader: ModuleType, patch_path: Path, tmp_path: Path) -> None:
    shutil.copy(patch_path, tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        _ = reader.TreeSatSeries(tmp_path / patch_path.name, "s2").bounds


def test_command_of_the_example(patch_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(patch_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("s2: 146 dates, 2020-01-02 to 2020-12-30")
