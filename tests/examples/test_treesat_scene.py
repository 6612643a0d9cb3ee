"""The worked example of a reader of one's own, through `prepare`."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

import h5py
import numpy as np

from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import read_scene
from fusion3d.store.reader import Store

EXAMPLES = Path(__file__).parents[2] / "examples"
NAME = "Abies_alba_1_1005_WEFL_NLF"


def test_a_treesat_patch_is_prepared_by_its_scene_file(data_dir, tmp_path):
    for suffix in (".h5", ".tif"):
        shutil.copy(data_dir / "treesat_ts_de" / f"{NAME}{suffix}", tmp_path)
    shutil.copy(EXAMPLES / "treesat_reader.py", tmp_path)
    (tmp_path / "scene.yaml").write_text((EXAMPLES / "treesat.yaml").read_text().replace("NAME", NAME))
    summary = prepare(read_scene(tmp_path / "scene.yaml"), tmp_path / "scene.zarr", quiet=True, workers=2)
    assert not summary.set_aside
    store = Store.open(summary.out)
    assert store.sensors == ("aerial", "s1_asc", "s1_des", "s2")
    assert [len(store.raster_info(name).dates) for name in ("s2", "s1_asc", "s1_des")] == [146, 60, 86]
    raster = store.raster("s2", store.grid.window)
    assert all(isinstance(date, datetime.date) for date in raster.dates)
    clearest = int(raster.valid.mean(axis=(1, 2, 3)).argmax())
    assert raster.valid[clearest].mean() > 0.5
    with h5py.File(tmp_path / f"{NAME}.h5") as file:
        published = np.asarray(file["sen-2-data"][clearest], np.float32) / 10_000
    # The patch is not on multiples of 10 m, so its pixels are resampled; the mean of each band stays near the file's.
    for band in range(10):
        stored = raster.values[clearest, band][raster.valid[clearest, band]]
        np.testing.assert_allclose(stored.mean(), published[band].mean(), rtol=0.1)
