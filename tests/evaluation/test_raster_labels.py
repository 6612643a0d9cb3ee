"""Rasters with values on some pixels as plots."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.label_tables import LabelOptions, read_labels
from fusion3d.evaluation.label_units import plain_unit
from fusion3d.evaluation.raster_labels import read_raster_labels

PLACE = Affine(25, 0, 900_000, 0, -25, 6_571_000)


def raster(path, bands: np.ndarray, nodata: float | None = -9999.0, units: tuple[str, ...] = (), names: tuple[str, ...] = (),
           place: Affine = PLACE):  # fmt: skip
    with rasterio.open(path, "w", driver="GTiff", height=bands.shape[1], width=bands.shape[2], count=len(bands), crs="EPSG:2154",
                       dtype=bands.dtype, transform=place, nodata=nodata) as file:  # fmt: skip
        file.write(bands)
        file.units = units or ("",) * len(bands)
        file.descriptions = names or (None,) * len(bands)
    return path


def test_real_labels_are_the_246_pixels_of_the_gedi_track(data_dir):
    path = data_dir / "hls_gedi_agb" / "gedi_agbd_label.tif"
    table = read_raster_labels(path, "agbd", nodata=-1)
    with rasterio.open(path) as file:
        values = file.read(1)
    row, col = np.nonzero(values > 0)
    assert len(table) == 246
    assert table.ids == tuple(f"r{one}c{other}" for one, other in zip(row, col, strict=True))
    np.testing.assert_array_equal(table.values, values[row, col].astype(float))
    assert not any("left out" in note for note in table.notes)
    said = read_raster_labels(path, "agbd")
    assert len(said) == 246
    assert f"{(values == -1).sum()} pixels left out: agbd is negative" in said.notes


def test_a_plot_is_the_square_of_its_pixel(tmp_path):
    values = np.full((1, 3, 4), -9999.0, np.float32)
    values[0, 2, 1], values[0, 0, 3] = 120.0, 0.0
    table = read_raster_labels(raster(tmp_path / "a.tif", values, units=("t/ha",)), "agb")
    assert [shape.bounds for shape in table.geometry] == [
        (900_075.0, 6_570_975.0, 900_100.0, 6_571_000.0),
        (900_025.0, 6_570_925.0, 900_050.0, 6_570_950.0),
    ]
    assert table.values.tolist() == [0.0, 120.0]
    assert table.unit == "Mg/ha"


def test_large_rasters_are_read_in_strips(tmp_path, monkeypatch):
    monkeypatch.setattr("fusion3d.evaluation.raster_labels._STRIP", 9)
    values = np.where(np.eye(7, 4) > 0, 5.0, -9999.0)[None]
    values[0, 6, 2] = 8.0
    table = read_raster_labels(raster(tmp_path / "a.tif", values), "agb")
    assert table.ids == ("r0c0", "r1c1", "r2c2", "r3c3", "r6c2")


def test_the_band_is_chosen_by_number_or_by_the_targets_name(tmp_path):
    bands = np.stack([np.full((2, 2), 1.0), np.full((2, 2), 2.0)])
    path = raster(tmp_path / "a.tif", bands, names=("agb", "height"), units=("Mg/ha", "m"))
    assert set(read_raster_labels(path, "height").values) == {2.0}
    assert read_raster_labels(path, "height").unit == "m"
    assert set(read_raster_labels(path, "height", band=1).values) == {1.0}
    for band, target, said in (
        (None, "volume", "choose one with --band N"),
        (3, "agb", "has bands 1 to 2"),
        (0, "agb", "1 to 2"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_raster_labels(path, target, band=band)


def test_what_is_no_raster_of_sparse_labels_is_refused(tmp_path, monkeypatch):
    full = raster(tmp_path / "full.tif", np.ones((1, 20, 20)), units=("Mg/ha",))
    with pytest.raises(InputError, match="--unit says m3/ha"):
        read_raster_labels(full, "agb", unit="m3/ha")
    monkeypatch.setattr("fusion3d.evaluation.raster_labels._MOST", 399)
    with pytest.raises(InputError, match="these are no sparse labels"):
        read_raster_labels(full, "agb")
    with pytest.raises(InputError, match=r"holds no label .every pixel is nodata"):
        read_raster_labels(full, "agb", nodata=1)
    turned = raster(tmp_path / "turned.tif", np.ones((1, 4, 4)), place=Affine(25, 3, 900_000, 3, -25, 6_571_000))
    with pytest.raises(InputError, match="not square with north up"):
        read_raster_labels(turned, "agb")
    with pytest.raises(ConfigError, match="--sensitivity is for labels that are GEDI footprints"):
        read_labels(full, "agb", LabelOptions(sensitivity=0.9), None, (0, 0, 1, 1))
    with pytest.raises(ConfigError, match="2 files of a raster"):
        read_labels([full, turned], "agb", LabelOptions(), None, (0, 0, 1, 1))


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("Mg / ha", "Mg/ha"),
        ("t ha-1", "Mg/ha"),
        ("Mg·ha⁻¹", "Mg/ha"),
        ("m² / ha", "m2/ha"),
        ("kg/m2", "kg/m2"),
        ("mg/ha", "mg/ha"),
    ],
)
def test_ways_to_write_a_unit(written, plain):
    assert plain_unit(written) == plain
