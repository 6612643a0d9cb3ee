"""GEDI L4A footprints as plots."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from pyproj import CRS, Transformer

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.footprint_labels import read_l4a, read_store_l4a
from fusion3d.evaluation.label_tables import LabelOptions, read_labels
from fusion3d.io.gedi import read_footprints
from fusion3d.store import Store
from fusion3d.store.layout import GediLayout, StoreAttributes
from fusion3d.store.writer import StoreWriter
from tests.data.scene import scene_grid
from tests.io.gedi_files import FIRST_SHOT, UTM23S, beam_l2a, write

EVERYWHERE = (-np.inf, -np.inf, np.inf, np.inf)
SHOTS = 10


def beam_l4a(**changed: np.ndarray) -> dict[str, np.ndarray]:
    beam = beam_l2a(SHOTS)
    del beam["rh"], beam["quality_flag"]
    beam |= {
        "agbd": np.arange(SHOTS, dtype=np.float32) * 10,
        "agbd_se": np.full(SHOTS, 3.0, np.float32),
        "l4_quality_flag": np.ones(SHOTS, np.uint8),
    }
    return beam | changed


def l4a(path, unit: str | None = "Mg / ha", **changed: np.ndarray):
    write(path, {"BEAM0101": beam_l4a(**changed)}, product="GEDI_L4A")
    if unit is not None:
        with h5py.File(path, "a") as file:
            file["BEAM0101/agbd"].attrs["units"] = unit
    return path


def at(values: dict[int, float], usual: float, dtype: type = np.float32) -> np.ndarray:
    found = np.full(SHOTS, usual, dtype)
    found[list(values)] = list(values.values())
    return found


def test_real_file_gives_the_usable_shots_and_no_fill_value(data_dir):
    """MANIFEST.md: 321 of 461 shots have l4_quality_flag 1 and degrade_flag 0; 21 over the sea have agbd -9999."""
    path = next((data_dir / "gedi").glob("GEDI04_A*.h5"))
    table = read_l4a([path], "agbd", CRS.from_epsg(4326), EVERYWHERE)
    expected = {}
    with h5py.File(path) as file:
        for beam in (group for name, group in file.items() if name.startswith("BEAM")):
            good = (beam["l4_quality_flag"][:] == 1) & (beam["degrade_flag"][:] == 0)
            expected |= dict(zip(map(str, beam["shot_number"][:][good]), beam["agbd"][:][good], strict=True))
    assert len(table) == 321
    assert dict(zip(table.ids, table.values.astype(np.float32), strict=True)) == expected
    assert table.unit == "Mg/ha"
    assert table.values.min() > 0
    assert (table.noise > 2.9).all()
    text = " ".join(table.notes)
    left_out = sum(int(note.split()[0]) for note in table.notes if "left out" in note)
    assert left_out == 461 - 321
    assert "agbd is missing (-9999)" in text


def test_each_reason_is_counted_once(tmp_path):
    path = l4a(
        tmp_path / "GEDI04_A.h5",
        agbd=at({0: -9999.0, 1: -9999.0}, 50),
        l4_quality_flag=at({0: 0, 2: 0}, 1, np.uint8),
        degrade_flag=at({3: 30}, 0, np.uint8),
        sensitivity=at({4: 0.92, 5: 0.80}, 0.97),
        lat_lowestmode=at({6: np.nan}, -13.0, np.float64),
        agbd_se=at({9: -9999.0}, 3),
    )
    table = read_l4a([path], "agbd", UTM23S, EVERYWHERE, sensitivity=0.95)
    assert table.ids == tuple(str(FIRST_SHOT + shot) for shot in (7, 8, 9))
    assert [note.split(" left out: ") for note in table.notes if "left out" in note] == [
        ["1 footprint", "without a location in GEDI04_A.h5"],
        ["2 footprints", "agbd is missing (-9999)"],
        ["1 footprint", "l4_quality_flag is not 1"],
        ["1 footprint", "degrade_flag is not 0"],
        ["2 footprints", "sensitivity below 0.95"],
    ]
    np.testing.assert_allclose(table.noise, 3.0)
    assert "agbd_se is missing for 1 footprint: taken as the median" in table.notes[-1]
    assert len(read_l4a([path], "agbd", UTM23S, EVERYWHERE)) == 4


def test_footprints_are_discs_of_25_m_with_the_blur_of_their_position(tmp_path):
    table = read_l4a([l4a(tmp_path / "a.h5")], "agbd", UTM23S, EVERYWHERE, geolocation=8.0)
    x, y = Transformer.from_crs(4326, UTM23S, always_xy=True).transform(-44.0, -13.0)
    np.testing.assert_allclose(table.geometry[0].centroid.coords[0], (x, y), atol=1e-6)
    assert table.geometry[0].area == pytest.approx(np.pi * 12.5**2)
    assert table.gaussian.sigma == pytest.approx(np.sqrt(6.25**2 + 8**2))


def test_shots_off_the_map_and_shots_in_two_files_are_left_out(tmp_path):
    first, again = l4a(tmp_path / "a.h5"), l4a(tmp_path / "b.h5")
    table = read_l4a([first, again], "agbd", CRS.from_epsg(4326), (-44.0005, -14.0, -43.9955, -12.0))
    assert [shot.centroid.x for shot in table.geometry] == pytest.approx([-44.0, -43.999, -43.998, -43.997, -43.996])
    assert "10 footprints left out: outside the map" in table.notes
    assert "5 footprints left out: in several files" in table.notes


def test_a_folder_gives_its_l4a_files_alone(tmp_path):
    l4a(tmp_path / "GEDI04_A_x.h5")
    write(tmp_path / "GEDI02_A_x.h5", {"BEAM0101": beam_l2a(3)})
    table = read_labels(tmp_path, "agbd", LabelOptions(), UTM23S, EVERYWHERE)
    assert len(table) == SHOTS
    assert table.notes[0] == "1 file of other GEDI products not used"
    pattern = read_labels(str(tmp_path / "GEDI04*.h5"), "agbd", LabelOptions(sensitivity=0.5), UTM23S, EVERYWHERE)
    assert pattern.ids == table.ids


def test_what_cannot_be_biomass_in_mg_ha_is_refused(tmp_path):
    with pytest.raises(InputError, match="L2A holds no estimates of biomass"):
        read_l4a([write(tmp_path / "GEDI02_A.h5", {"BEAM0101": beam_l2a(3)})], "agbd", UTM23S, EVERYWHERE)
    path = l4a(tmp_path / "a.h5")
    with pytest.raises(InputError, match="its values are in Mg / ha, --unit says kg/m2"):
        read_l4a([path], "agbd", UTM23S, EVERYWHERE, unit="kg/m2")
    assert read_l4a([path], "agbd", UTM23S, EVERYWHERE, unit="t ha-1").unit == "Mg/ha"
    with pytest.raises(InputError, match="kg/m2"):
        read_l4a([l4a(tmp_path / "kg.h5", unit="kg/m2")], "agbd", UTM23S, EVERYWHERE)
    with pytest.raises(ConfigError, match="GEDI L4A estimates agbd"):
        read_l4a([path], "agb", UTM23S, EVERYWHERE)
    with pytest.raises(ConfigError, match="--radius is for labels that are field plots, not for GEDI footprints"):
        read_labels(path, "agbd", LabelOptions(radius=15), UTM23S, EVERYWHERE)
    with pytest.raises(InputError, match=r"holds no footprint that can be used .10 footprints left out: l4_quality_flag"):
        read_l4a([l4a(tmp_path / "bad.h5", l4_quality_flag=np.zeros(SHOTS, np.uint8))], "agbd", UTM23S, EVERYWHERE)


def test_a_store_gives_the_footprints_of_its_files(tmp_path):
    """Written from the same file, with another product's quality flag, which does not count."""
    grid = scene_grid()
    west, _, _, north = grid.bounds(grid.window)
    place = Transformer.from_crs(2154, 4326, always_xy=True)
    lon, lat = place.transform(west + 30 * np.arange(1, SHOTS + 1), np.full(SHOTS, north - 50.0))
    path = l4a(tmp_path / "a.h5", lon_lowestmode=lon, lat_lowestmode=lat, l4_quality_flag=at({4: 0}, 1, np.uint8))
    table = read_footprints(path, grid.pyproj_crs)
    table.quality_flag[:] = 0
    writer = StoreWriter(tmp_path / "s.zarr")
    writer.write_footprints(table)
    writer.write_attributes(StoreAttributes(grid, gedi=GediLayout(("L4A",), tuple(sorted(table.attributes)), len(table))))
    assert Store.open(tmp_path / "s.zarr").sensors == ("gedi",)
    bounds = (west, north - 1000, west + 200, north)
    found = read_store_l4a(tmp_path / "s.zarr", "agbd", grid.pyproj_crs, bounds)
    expected = read_l4a([path], "agbd", grid.pyproj_crs, bounds)
    assert found.ids == expected.ids == tuple(str(FIRST_SHOT + shot) for shot in (0, 1, 2, 3, 5))
    np.testing.assert_array_equal(found.values, expected.values)
    assert "4 footprints left out: outside the map" in found.notes
