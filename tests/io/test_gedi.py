"""GEDI reader: real files of every product, and small ones written here for layouts that the real ones do not show."""

from __future__ import annotations

import datetime
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from pyproj import CRS

from fusion3d.errors import InputError
from fusion3d.io.gedi import FootprintFilter, FootprintTable, join_products, open_gedi, read_footprints
from tests.io.gedi_files import FIRST_SHOT, UTM23S, beam_l1b, beam_l2a, profile, write

L1B = "GEDI01_B_2019108080338_O01964_T05337_02_003_01_sub.h5"
L2A = "GEDI02_A_2019108080338_O01964_T05337_02_001_01_sub.h5"
L2B = "GEDI02_B_2019108080338_O01964_T05337_02_001_01_sub.h5"
L4A = "GEDI04_A_2020036151358_O06515_02_T00198_02_002_01_V002.h5"


@pytest.fixture(scope="module")
def cerrado(data_dir: Path) -> dict[str, FootprintTable]:
    """L1B, L2A and L2B of one place."""
    return {name[4:8]: read_footprints(data_dir / "gedi" / name, UTM23S) for name in (L1B, L2A, L2B)}


@pytest.fixture(scope="module")
def biomass(data_dir: Path) -> FootprintTable:
    return read_footprints(data_dir / "gedi" / L4A, CRS.from_epsg(32639))


def utm_south(longitude: np.ndarray, latitude: np.ndarray, central: float) -> tuple[np.ndarray, np.ndarray]:
    """Transverse Mercator by Krueger's series to the third order (Karney 2011, eqs. 7-12, 35), WGS 84; good to 1 mm here."""
    a, f = 6378137.0, 1 / 298.257223563
    n, e = f / (2 - f), math.sqrt(f * (2 - f))
    alpha = (n / 2 - 2 * n**2 / 3 + 5 * n**3 / 16, 13 * n**2 / 48 - 3 * n**3 / 5, 61 * n**3 / 240)
    radius = a / (1 + n) * (1 + n**2 / 4 + n**4 / 64)
    phi, lam = np.radians(latitude), np.radians(longitude - central)
    t = np.sinh(np.arctanh(np.sin(phi)) - e * np.arctanh(e * np.sin(phi)))
    xi, eta = np.arctan2(t, np.cos(lam)), np.arctanh(np.sin(lam) / np.sqrt(1 + t**2))
    east, north = eta.copy(), xi.copy()
    for j, c in enumerate(alpha, start=1):
        east += c * np.cos(2 * j * xi) * np.sinh(2 * j * eta)
        north += c * np.sin(2 * j * xi) * np.cosh(2 * j * eta)
    return 500_000 + 0.9996 * radius * east, 10_000_000 + 0.9996 * radius * north


class TestRealFiles:
    @pytest.mark.parametrize(
        ("name", "product", "release", "shots", "beams", "good"),
        [(L1B, "L1B", 1, 300, 7, None), (L2A, "L2A", 1, 301, 7, 301), (L2B, "L2B", 1, 301, 7, 301), (L4A, "L4A", 2, 461, 8, 321)],
    )
    def test_counts_are_those_of_the_manifest(self, data_dir, name, product, release, shots, beams, good):
        held = open_gedi(data_dir / "gedi" / name)
        assert (held.product, held.release, held.shot_count, len(held.beams), held.good) == (product, release, shots, beams, good)
        assert (held.unlocated, held.degraded) == (0, 0)
        assert set(held.beams) | set(held.missing) == {f"BEAM{code:04b}" for code in (0, 1, 2, 3, 5, 6, 8, 11)}

    def test_bounds_are_those_of_the_manifest(self, data_dir):
        assert open_gedi(data_dir / "gedi" / L2A).bounds == pytest.approx((-44.14, -13.75, -44.11, -13.72), abs=5e-4)

    def test_time_is_the_acquisition_in_the_file_name(self, cerrado, biomass):
        for table, start in ((cerrado["02_A"], "2019108080338"), (cerrado["01_B"], "2019108080338"), (biomass, "2020036151358")):
            begin = datetime.datetime.strptime(start, "%Y%j%H%M%S").replace(tzinfo=datetime.UTC).timestamp() / 86400
            assert (table.time >= begin).all()
            assert (table.time <= begin + 93 / 1440).all()

    def test_shot_numbers_are_exact_and_would_not_survive_float64(self, data_dir, cerrado):
        with h5py.File(data_dir / "gedi" / L2A) as file:
            raw = np.concatenate([file[beam]["shot_number"][:] for beam in sorted(file) if beam.startswith("BEAM")])
        table = cerrado["02_A"]
        assert table.shot_number.dtype == np.uint64
        assert set(table.shot_number.tolist()) == set(raw.tolist())
        assert (table.shot_number.astype(np.float64).astype(np.uint64) != table.shot_number).any()

    def test_300_shots_are_shared_by_waveforms_and_heights(self, cerrado):
        assert len(np.intersect1d(cerrado["01_B"].shot_number, cerrado["02_A"].shot_number)) == 300
        joined = join_products(list(cerrado.values()))
        assert len(joined) == 301
        assert sorted(np.unique(np.diff(joined.row_splits)))[0] == 101
        assert (np.diff(joined.row_splits) == 101).sum() == 1

    def test_beams_have_their_code_and_power(self, cerrado):
        table = cerrado["02_A"]
        assert {code: int((table.beam == code).sum()) for code in np.unique(table.beam)} == {
            1: 16, 2: 37, 3: 60, 5: 73, 6: 61, 8: 38, 11: 16,
        }  # fmt: skip
        np.testing.assert_array_equal(table.power_beam, table.beam >= 5)

    def test_all_bins_of_all_waveforms_are_kept(self, data_dir, cerrado):
        with h5py.File(data_dir / "gedi" / L1B) as file:
            length = sum(file[beam]["rxwaveform"].shape[0] for beam in file if beam.startswith("BEAM"))
        assert cerrado["01_B"].row_splits[-1] == length == 237_617

    def test_bins_are_15_cm_apart_and_energy_sums_to_one(self, cerrado):
        table = cerrado["01_B"]
        assert (table.energy >= 0).all()
        for shot in range(len(table)):
            heights, energy = profile(table, shot)
            assert np.diff(heights).mean() == pytest.approx(-0.149896, abs=5e-4)
            assert energy.sum() == pytest.approx(1, abs=1e-5)

    def test_energy_of_the_waveforms_accumulates_as_the_relative_heights_say(self, cerrado):
        """L2A's own analysis of the same pulses is the reference; between its ends, our profile must give its percentiles."""
        joined = join_products([cerrado["01_B"], cerrado["02_A"]])
        curves = cerrado["02_A"].select(np.argsort(cerrado["02_A"].shot_number)).heights.reshape(-1, 101)
        compared = 0
        for shot in np.flatnonzero(np.diff(joined.row_splits) > 101):
            heights, energy = (values[::-1] for values in profile(joined, shot))
            within = (heights >= curves[shot, 0]) & (heights <= curves[shot, 100])
            cumulative = np.cumsum(energy[within]) / energy[within].sum()
            for percent, tolerance in ((25, 0.3), (50, 0.3), (75, 0.4), (95, 0.6), (98, 0.6)):
                height = np.interp(percent / 100, cumulative, heights[within])
                assert height == pytest.approx(curves[shot, percent], abs=tolerance)
            compared += 1
        assert compared == 300

    def test_ground_of_open_savanna_is_the_strongest_return(self, cerrado):
        joined = join_products([cerrado["01_B"], cerrado["02_A"]])
        waveforms = np.flatnonzero(np.diff(joined.row_splits) > 101)
        peaks = [heights[energy.argmax()] for heights, energy in (profile(joined, shot) for shot in waveforms)]
        assert np.abs(peaks).max() < 1.5

    def test_location_of_a_waveform_is_that_of_the_lowest_mode(self, cerrado):
        waveforms, heights = (cerrado[name].select(np.argsort(cerrado[name].shot_number)) for name in ("01_B", "02_A"))
        heights = heights.select(np.isin(heights.shot_number, waveforms.shot_number))
        assert np.hypot(waveforms.x - heights.x, waveforms.y - heights.y).max() < 0.2

    def test_relative_heights_rise_and_l2b_agrees_on_their_top(self, data_dir, cerrado):
        table = cerrado["02_A"]
        curves = table.heights.reshape(-1, 101)
        assert (np.diff(curves, axis=1) >= 0).all()
        np.testing.assert_allclose(table.attributes["rh98"], curves[:, 98])
        with h5py.File(data_dir / "gedi" / L2B) as file:
            centimetres = {
                int(n): int(h) for b in file if b.startswith("BEAM") for n, h in zip(file[b]["shot_number"], file[b]["rh100"])
            }
        expected = [centimetres[int(number)] / 100 for number in table.shot_number]
        np.testing.assert_allclose(table.attributes["rh100"], expected, atol=0.011)

    def test_footprints_are_transformed_to_utm(self, cerrado):
        table = cerrado["02_A"]
        x, y = utm_south(table.longitude, table.latitude, central=-45)
        np.testing.assert_allclose(table.x, x, atol=1e-3)
        np.testing.assert_allclose(table.y, y, atol=1e-3)

    @pytest.mark.parametrize("name", ["01_B", "02_A", "02_B"])
    def test_bounds_choose_the_shots_within(self, data_dir, cerrado, name):
        everything = cerrado[name]
        box = (594_000.0, 8_479_500.0, 595_500.0, 8_481_500.0)
        inside = (box[0] <= everything.x) & (everything.x <= box[2]) & (box[1] <= everything.y) & (everything.y <= box[3])
        assert 10 < inside.sum() < 200
        file = next(file for file in (L1B, L2A, L2B) if name in file)
        part, expected = read_footprints(data_dir / "gedi" / file, UTM23S, box), everything.select(inside)
        for field in ("shot_number", "row_splits", "heights", "energy"):
            np.testing.assert_array_equal(getattr(part, field), getattr(expected, field))

    def test_bounds_elsewhere_give_no_shots(self, data_dir):
        assert len(read_footprints(data_dir / "gedi" / L1B, UTM23S, (0.0, 0.0, 1.0, 1.0))) == 0

    def test_biomass_at_sea_is_nan_and_rejected(self, biomass):
        sea = biomass.longitude < 0
        assert sea.sum() == 21
        assert np.isnan(biomass.attributes["agbd"][sea]).all()
        assert not FootprintFilter().keep(biomass)[sea].any()
        assert FootprintFilter().keep(biomass).sum() == 321
        assert (np.nan_to_num(biomass.attributes["agbd"]) >= 0).all()
        assert biomass.row_splits[-1] == 0

    def test_l2b_metrics_are_in_range(self, cerrado):
        table = cerrado["02_B"]
        assert ((table.attributes["cover"] >= 0) & (table.attributes["cover"] <= 1)).all()
        assert (table.attributes["pai"] >= table.attributes["cover"]).all()

    def test_a_file_cut_off_is_refused(self, data_dir, tmp_path):
        cut = tmp_path / "cut.h5"
        cut.write_bytes((data_dir / "gedi" / L2B).read_bytes()[:2_000_000])
        with pytest.raises(InputError, match="cut off"):
            open_gedi(cut)

    def test_hdf5_of_another_kind_is_refused(self, data_dir):
        with pytest.raises(InputError, match=r"not a GEDI product.*it holds .*sen-1-asc"):
            open_gedi(data_dir / "treesat_ts_de" / "Abies_alba_1_1005_WEFL_NLF.h5")


class TestLayouts:
    def test_waveform_by_hand(self, tmp_path):
        """Bins at 520, 510, 500 m over terrain at 505 m; 100 is noise, 95 is below it."""
        path = write(tmp_path / "l1b.h5", {"BEAM0101": beam_l1b([[95, 101, 103], [100, 100, 110]])}, "GEDI_L1B")
        table = read_footprints(path, UTM23S)
        np.testing.assert_array_equal(table.row_splits, [0, 3, 6])
        np.testing.assert_allclose(table.heights, [15, 5, -5] * 2)
        np.testing.assert_allclose(table.energy, [0, 0.25, 0.75, 0, 0, 1])
        # The pulse crosses 505 m a quarter of the way up from its last bin.
        np.testing.assert_allclose(table.longitude, -44.003)
        assert set(table.quality_flag) == {-1}
        assert np.isnan(table.sensitivity).all()

    def test_waveforms_in_any_order_are_found_by_their_start_index(self, tmp_path):
        beam = beam_l1b([[110, 100], [100, 100, 120]])
        beam["rxwaveform"] = np.array([100, 100, 120, 110, 100], np.float32)
        beam["rx_sample_start_index"] = np.array([4, 1], np.uint64)
        table = read_footprints(write(tmp_path / "l1b.h5", {"BEAM0101": beam}, "GEDI_L1B"), UTM23S)
        np.testing.assert_allclose(table.energy, [1, 0, 0, 0, 1])

    def test_start_indices_of_the_uncut_file_are_understood(self, tmp_path):
        beam = beam_l1b([[110, 100], [100, 100, 120]])
        beam["rx_sample_start_index"] += 7_000_000
        table = read_footprints(write(tmp_path / "l1b.h5", {"BEAM0101": beam}, "GEDI_L1B"), UTM23S)
        np.testing.assert_allclose(table.energy, [1, 0, 0, 0, 1])

    def test_counts_that_do_not_fit_the_waveforms_are_refused(self, tmp_path):
        beam = beam_l1b([[110, 100], [100, 100, 120]])
        beam["rx_sample_count"] += 1
        with pytest.raises(InputError, match="start indices and counts do not fit"):
            read_footprints(write(tmp_path / "l1b.h5", {"BEAM0101": beam}, "GEDI_L1B"), UTM23S)

    @pytest.mark.parametrize("terrain", [-999999.0, 9000.0])
    def test_without_a_plausible_terrain_the_lowest_bin_is_ground(self, tmp_path, terrain):
        beam = beam_l1b([[101, 103]])
        beam["geolocation/digital_elevation_model"][:] = terrain
        table = read_footprints(write(tmp_path / "l1b.h5", {"BEAM0101": beam}, "GEDI_L1B"), UTM23S)
        np.testing.assert_allclose(table.heights, [20, 0])
        np.testing.assert_allclose(table.ground_elevation, 500)

    def test_shot_without_signal_or_elevation_has_no_profile(self, tmp_path):
        beam = beam_l1b([[99, 100], [110, 100], [110, 110]])
        beam["geolocation/elevation_bin0"][1] = -9999
        table = read_footprints(write(tmp_path / "l1b.h5", {"BEAM0101": beam}, "GEDI_L1B"), UTM23S)
        np.testing.assert_array_equal(table.row_splits, [0, 0, 0, 2])

    def test_release_2_with_a_missing_an_empty_and_a_zero_shot_beam(self, tmp_path):
        path = write(
            tmp_path / "l2a.h5", {"BEAM0101": beam_l2a(3), "BEAM0110": beam_l2a(0), "BEAM1000": {}, "BEAM0000": beam_l2a(2)}
        )
        held = open_gedi(path)
        assert held.release == 2
        assert held.shots == {"BEAM0000": 2, "BEAM0101": 3, "BEAM0110": 0}
        assert held.missing == ("BEAM0001", "BEAM0010", "BEAM0011", "BEAM1000", "BEAM1011")
        table = read_footprints(path, UTM23S)
        np.testing.assert_array_equal(table.beam, [0, 0, 5, 5, 5])
        np.testing.assert_allclose(table.attributes["rh50"], [5, 10, 5, 10, 15], rtol=1e-6)

    def test_file_without_any_shot_is_an_empty_table(self, tmp_path):
        path = write(tmp_path / "l2a.h5", {"BEAM0101": beam_l2a(0)})
        held = open_gedi(path)
        assert (held.shot_count, held.bounds, held.days) == (0, None, None)
        table = read_footprints(path, UTM23S)
        assert len(table) == 0
        assert len(join_products([table, table])) == 0
        assert FootprintFilter().keep(table).shape == (0,)

    def test_integer_relative_heights_are_centimetres(self, tmp_path):
        beam = beam_l2a(1)
        beam["rh"] = (beam["rh"] * 100).round().astype(np.int32)
        table = read_footprints(write(tmp_path / "l2a.h5", {"BEAM0101": beam}, version="01"), UTM23S)
        np.testing.assert_allclose(table.heights, np.linspace(0, 10, 101), atol=1e-5)
        assert table.energy.sum() == pytest.approx(1)

    def test_fill_values_become_nan_and_unlocated_shots_are_left_out(self, tmp_path):
        beam = beam_l2a(4)
        beam["lon_lowestmode"][0] = -9999
        beam["sensitivity"][1] = -9999
        beam["rh"][1, 7] = -9999
        beam["elev_lowestmode"][2] = 12345
        beam["quality_flag"][3] = 255
        path = write(tmp_path / "l2a.h5", {"BEAM0101": beam})
        with h5py.File(path, "a") as file:
            file["BEAM0101/elev_lowestmode"].attrs["_FillValue"] = np.float32(12345)
        assert open_gedi(path).unlocated == 1
        table = read_footprints(path, UTM23S)
        np.testing.assert_array_equal(table.shot_number, FIRST_SHOT + np.arange(1, 4, dtype=np.uint64))
        np.testing.assert_array_equal(np.isnan(table.sensitivity), [True, False, False])
        np.testing.assert_array_equal(np.isnan(table.ground_elevation), [False, True, False])
        np.testing.assert_array_equal(np.diff(table.row_splits), [0, 101, 101])
        np.testing.assert_array_equal(table.quality_flag, [1, 1, 0])

    def test_unknown_time_is_nan(self, tmp_path):
        beam = beam_l2a(2)
        del beam["delta_time"]
        path = write(tmp_path / "l2a.h5", {"BEAM0101": beam})
        assert np.isnan(read_footprints(path, UTM23S).time).all()
        assert open_gedi(path).days is None

    def test_new_year_2018_in_gps_seconds_is_its_day_in_utc(self, tmp_path):
        table = read_footprints(write(tmp_path / "l2a.h5", {"BEAM0101": beam_l2a(1)}), UTM23S)
        assert table.time[0] == (datetime.date(2018, 1, 1) - datetime.date(1970, 1, 1)).days

    def test_product_and_release_come_from_the_name_when_the_file_is_silent(self, tmp_path):
        path = write(tmp_path / "GEDI02_A_2020036151358_O06515_02_T00198_02_003_01_V002.h5", {"BEAM0101": beam_l2a(1)}, "", "")
        assert (open_gedi(path).product, open_gedi(path).release) == ("L2A", 2)


class TestUglyFiles:
    @pytest.mark.parametrize(
        ("content", "problem"),
        [(b"", "empty"), (b"\n<!DOCTYPE html><html>login</html>", "web page"), (b"PK\x03\x04 zip", "not an HDF5 file")],
    )
    def test_other_content_is_refused_in_words(self, tmp_path, content, problem):
        path = tmp_path / "granule.h5"
        path.write_bytes(content)
        with pytest.raises(InputError, match=problem) as caught:
            open_gedi(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)

    def test_missing_file(self, tmp_path):
        with pytest.raises(InputError, match="no such file"):
            open_gedi(tmp_path / "absent.h5")

    @pytest.mark.parametrize("missing", ["rh", "quality_flag", "lat_lowestmode"])
    def test_missing_data_set_is_named(self, tmp_path, missing):
        beam = beam_l2a(2)
        del beam[missing]
        path = write(tmp_path / "l2a.h5", {"BEAM0101": beam})
        with pytest.raises(InputError, match=f"BEAM0101/{missing} is missing"):
            open_gedi(path)

    def test_no_beam_with_shot_numbers(self, tmp_path):
        with pytest.raises(InputError, match="shot_number"):
            open_gedi(write(tmp_path / "l2a.h5", {"BEAM0101": {}}))

    def test_gedi_product_without_footprints_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="L4C is not a product"):
            open_gedi(write(tmp_path / "l4c.h5", {"BEAM0101": beam_l2a(1)}, "GEDI_L4C"))

    def test_shot_numbers_stored_as_float_are_refused(self, tmp_path):
        beam = beam_l2a(2)
        beam["shot_number"] = beam["shot_number"].astype(np.float64)
        with pytest.raises(InputError, match="lost digits"):
            read_footprints(write(tmp_path / "l2a.h5", {"BEAM0101": beam}), UTM23S)

    def test_column_of_another_length_is_refused(self, tmp_path):
        beam = beam_l2a(3) | {"sensitivity": np.ones(2, np.float32)}
        with pytest.raises(InputError, match=r"sensitivity has shape \(2,\)"):
            read_footprints(write(tmp_path / "l2a.h5", {"BEAM0101": beam}), UTM23S)

    @pytest.mark.parametrize("name", ["shot_number", "rxwaveform", "elevation_bin0"])
    def test_terabyte_declared_in_a_kilobyte_is_refused_before_reading(self, tmp_path, name):
        beam = beam_l1b([[110, 100]])
        name = next(key for key in beam if key.endswith(name))
        del beam[name]
        path = write(tmp_path / "bomb.h5", {"BEAM0101": beam}, "GEDI_L1B")
        with h5py.File(path, "a") as file:
            file["BEAM0101"].create_dataset(name, (100_000_000_000,), np.uint64, chunks=(1000,), compression="gzip")
        with pytest.raises(InputError, match="declares 800,000,000,000 bytes"):
            read_footprints(path, UTM23S)

    def test_text_in_place_of_numbers_is_refused(self, tmp_path):
        beam = beam_l2a(1) | {"sensitivity": np.array([b"high"])}
        with pytest.raises(InputError, match="not an array of numbers"):
            read_footprints(write(tmp_path / "l2a.h5", {"BEAM0101": beam}), UTM23S)
