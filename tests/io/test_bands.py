"""Wavelengths and polarisations from names, metadata and sidecars."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine

from fusion3d.errors import ConfigError, InputError
from fusion3d.io.bands import Band, band_from_name, bands_from_metadata, known_bands, read_sidecar, resolve_bands
from fusion3d.io.raster import open_raster


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (13, "B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B10 B11 B12"),
        (12, "B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B11 B12"),
        (10, "B2 B3 B4 B5 B6 B7 B8 B8A B11 B12"),
        (4, "B2 B3 B4 B8"),
    ],
)
def test_sentinel2_orders_by_number_of_bands(count: int, names: str) -> None:
    bands = known_bands("s2", count)
    assert [band.name for band in bands] == names.split()
    assert all(band.wavelength and band.fwhm and 400 < band.wavelength < 2300 for band in bands)


def test_irc_starts_with_near_infrared() -> None:
    wavelengths = [band.wavelength for band in known_bands("irc", 3)]
    assert wavelengths[0] > wavelengths[1] > wavelengths[2]
    assert [band.name for band in known_bands("irc", 3)] == ["nir", "red", "green"]


def test_sentinel1_bands_have_polarisation_and_no_wavelength() -> None:
    assert known_bands("s1", 2) == (Band("VV", None, None, "VV"), Band("VH", None, None, "VH"))


@pytest.mark.parametrize(("sensor", "count"), [("s2", 5), ("s9", 3), ("rgb", 0)])
def test_unknown_sensor_or_count_is_refused(sensor: str, count: int) -> None:
    with pytest.raises(ConfigError, match="sidecar"):
        known_bands(sensor, count)


def test_names_tell_sentinel2_polarisation_and_colour() -> None:
    assert band_from_name("B08").wavelength == pytest.approx(832.8)
    assert band_from_name("Gamma0_VH_db") == Band("Gamma0_VH_db", polarisation="VH")
    assert band_from_name("NIR").wavelength == 830
    assert band_from_name("heave") == Band("heave")


def test_numbered_bands_are_sentinel2_only_when_no_other_sensor_has_them() -> None:
    landsat = bands_from_metadata(["B2", "B3", "B4", "B5"], [{}] * 4)
    assert [band.wavelength for band in landsat] == [None] * 4
    sentinel = bands_from_metadata(["B02", "B03", "B04", "B8A"], [{}] * 4)
    assert [band.wavelength for band in sentinel] == [492.7, 559.8, 664.6, 864.7]


def test_envi_header_in_micrometres_and_nanometres() -> None:
    micro = {"wavelength": "{0.55, 0.66}", "fwhm": "{0.02, 0.03}", "wavelength_units": "Micrometers"}
    nano = {"wavelength": "{550, 660}", "fwhm": "{20, 30}", "wavelength_units": "Nanometers"}
    silent = {"wavelength": "{0.55, 0.66}", "fwhm": "{0.02, 0.03}"}
    for header in (micro, nano, silent):
        bands = bands_from_metadata([None, None], [{}, {}], header)
        assert [band.wavelength for band in bands] == pytest.approx([550, 660])
        assert [band.fwhm for band in bands] == pytest.approx([20, 30])


def test_envi_list_of_another_length_is_not_used() -> None:
    assert bands_from_metadata([None, None], [{}, {}], {"wavelength": "{550}"}) == (Band("b1"), Band("b2"))


def test_gdal_imagery_tags() -> None:
    bands = bands_from_metadata(["x"], [{"CENTRAL_WAVELENGTH_UM": "0.865", "FWHM_UM": "0.021"}])
    assert (bands[0].wavelength, bands[0].fwhm) == pytest.approx((865, 21))


def test_colour_interpretation_names_bands_only_when_nothing_else_does() -> None:
    silent = bands_from_metadata([None] * 3, [{}] * 3, None, ("red", "green", "blue"))
    assert [band.name for band in silent] == ["red", "green", "blue"]
    named = bands_from_metadata(["a", "b"], [{}] * 2, None, ("red", "green"))
    assert [band.name for band in named] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sensor: rgb", [660, 560, 480]),
        ("bands:\n- {name: a, wavelength: 500, fwhm: 10}\n- {name: VV, polarisation: VV}\n- red", [500, None, 660]),
        ("- {wavelength: 500}\n- {wavelength: 600}\n- {wavelength: 700}", [500, 600, 700]),
        ("wavelengths: [400.5, 500, 600]\nfwhm: 5", [400.5, 500, 600]),
        ("wavelengths: {first: 381.5, step: 5}", [381.5, 386.5, 391.5]),
    ],
)
def test_sidecar_forms(tmp_path, text: str, expected: list[float | None]) -> None:
    path = tmp_path / "image.bands.yaml"
    path.write_text(text)
    assert [band.wavelength for band in read_sidecar(path, 3)] == expected


@pytest.mark.parametrize(
    "text",
    ["", "a: [", "3", "colour: red", "bands: [{name: a}]", "bands: [1, 2, 3]", "wavelengths: [a, b, c]", "wavelengths: [0, 1, 2]",
     "wavelengths: [1, 2, 3]\nfwhm: [1]", "bands: [{nam: a}, b, c]", "bands: [{polarisation: XX}, b, c]", "sensor: s2",
     "wavelengths: {first: 3}", "bands: 3"],
)  # fmt: skip
def test_bad_sidecar_is_one_line_that_names_it(tmp_path, text: str) -> None:
    path = tmp_path / "image.bands.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_sidecar(path, 3)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_sidecar(tmp_path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_sidecar(tmp_path / "none.yaml", 3)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="is not YAML"):
        read_sidecar(tmp_path / "b.yaml", 3)


def test_user_bands_must_match_count() -> None:
    assert resolve_bands(("B08", Band("x", 5.0)), 2) == (Band("B08", 832.8, 105.0), Band("x", 5.0))
    with pytest.raises(ConfigError, match="1 bands are given but the raster has 2"):
        resolve_bands(("a",), 2)
    assert resolve_bands(None, 2) is None


def test_envi_file_and_sidecar_beside_an_image(tmp_path) -> None:
    path = tmp_path / "scene.dat"
    with rasterio.open(path, "w", driver="ENVI", width=2, height=2, count=2, dtype="int16", crs="EPSG:32632",
                       transform=Affine(1, 0, 500000, 0, -1, 5000000)) as out:  # fmt: skip
        out.write(np.ones((2, 2, 2), "int16"))
    header = tmp_path / "scene.hdr"
    header.write_text(header.read_text() + "wavelength units = Nanometers\nwavelength = {450.5, 851.25}\nfwhm = {5.0, 6.0}\n")
    assert [(band.wavelength, band.fwhm) for band in open_raster(path).bands] == [(450.5, 5.0), (851.25, 6.0)]
    (tmp_path / "scene.bands.yaml").write_text("wavelengths: [1000, 2000]")
    assert [band.wavelength for band in open_raster(path).bands] == [1000, 2000]
