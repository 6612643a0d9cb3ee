"""Images on a target's pixels: exact copies, area means, nearest classes, masks, reprojection, and files that are no images."""

from __future__ import annotations

import datetime
import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import CRS, Transformer

from fusion3d.errors import ConfigError, CRSError, InputError
from fusion3d.io.bands import Band
from fusion3d.io.raster import RasterFile, RasterSource, Target, open_raster

LAMBERT = CRS.from_epsg(2154)
NORTH = 6_860_000.0


def write(path: Path, values: np.ndarray, *, pixel: float = 1.0, x0: float = 700_000.0, y0: float = NORTH,
          crs: object = "EPSG:2154", transform: Affine | None = None, **options: object) -> Path:  # fmt: skip
    extra = {key: options.pop(key) for key in ("scales", "offsets", "units", "descriptions", "colorinterp") if key in options}
    with rasterio.open(path, "w", driver="GTiff", count=values.shape[0], height=values.shape[1], width=values.shape[2],
                       dtype=values.dtype, crs=crs, transform=transform or Affine(pixel, 0, x0, 0, -pixel, y0),
                       **options) as out:  # fmt: skip
        out.write(values)
        for key, value in extra.items():
            setattr(out, key, value)
    return path


def target(height: int, width: int, *, pixel: float = 1.0, x0: float = 700_000.0, y0: float = NORTH, kind: str = "continuous",
           crs: CRS = LAMBERT) -> Target:  # fmt: skip
    return Target(crs, x0, y0, pixel, height, width, kind)  # type: ignore[arg-type]


class TestExactCopy:
    def test_same_pixels_keep_dtype_and_values(self, tmp_path: Path) -> None:
        values = np.arange(2 * 5 * 6, dtype=np.uint16).reshape(2, 5, 6)
        patch = open_raster(write(tmp_path / "a.tif", values)).read(0, target(3, 4, x0=700_001, y0=NORTH - 2, kind="reflectance"))
        assert patch.values.dtype == np.uint16
        assert np.array_equal(patch.values, values[:, 2:5, 1:5])
        assert patch.valid.all()

    def test_outside_is_not_valid(self, tmp_path: Path) -> None:
        values = np.full((1, 2, 2), 9, np.uint8)
        patch = open_raster(write(tmp_path / "a.tif", values)).read(0, target(4, 4, x0=699_999, y0=NORTH + 1))
        expected = np.zeros((4, 4), bool)
        expected[1:3, 1:3] = True
        assert np.array_equal(patch.valid[0], expected)
        assert np.array_equal(patch.values[0], expected * 9)

    @pytest.mark.parametrize("x0", [600_000.0, 800_000.0])
    def test_elsewhere_is_all_invalid(self, tmp_path: Path, x0: float) -> None:
        source = open_raster(write(tmp_path / "a.tif", np.ones((1, 2, 2), np.float32)))
        for pixel in (1.0, 3.0, 0.3):
            assert not source.read(0, target(4, 4, x0=x0, pixel=pixel)).valid.any()

    def test_phase_of_a_thousandth_of_a_pixel_is_the_same(self, tmp_path: Path) -> None:
        values = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
        source = open_raster(write(tmp_path / "a.tif", values, x0=700_000.0009))
        assert source.read(0, target(4, 4)).values.dtype == np.uint8
        source = open_raster(write(tmp_path / "b.tif", values, x0=700_000.01))
        assert source.read(0, target(4, 4)).values.dtype == np.float32

    def test_empty_target(self, tmp_path: Path) -> None:
        source = open_raster(write(tmp_path / "a.tif", np.ones((2, 3, 3), np.uint8)))
        for pixel in (1.0, 2.5):
            assert source.read(0, target(0, 5, pixel=pixel)).values.shape == (2, 0, 5)

    def test_float64_becomes_float32_and_nan_is_invalid(self, tmp_path: Path) -> None:
        values = np.array([[[1.5, np.nan], [np.inf, 2.5]]])
        patch = open_raster(write(tmp_path / "a.tif", values)).read(0, target(2, 2))
        assert patch.values.dtype == np.float32
        assert np.array_equal(patch.valid[0], [[True, False], [False, True]])
        assert np.isnan(patch.values[~patch.valid]).all()


class TestClasses:
    def test_classes_are_never_mixed_and_keep_their_dtype(self, tmp_path: Path) -> None:
        values = np.array([[[1, 9, 1], [9, 1, 9], [1, 9, 7]]], np.int16)
        patch = open_raster(write(tmp_path / "a.tif", values)).read(0, target(1, 1, pixel=3, kind="classes"))
        assert patch.values.dtype == np.int16
        assert patch.values.item() == 1

    def test_nodata_class_is_not_valid(self, tmp_path: Path) -> None:
        source = open_raster(write(tmp_path / "a.tif", np.array([[[0, 2]]], np.uint8), nodata=0))
        patch = source.read(0, target(2, 4, pixel=0.5, kind="classes"))
        assert patch.valid[0].tolist() == [[False, False, True, True]] * 2


class TestNodataScaleUnits:
    def test_minus_9999_is_never_averaged_in(self, tmp_path: Path) -> None:
        values = np.array([[[10, -9999], [20, 30]]], np.float32)
        source = open_raster(write(tmp_path / "a.tif", values, nodata=-9999))
        assert source.read(0, target(1, 1, pixel=2)).values.item() == 20

    def test_user_values_come_on_top_of_the_tag(self, tmp_path: Path) -> None:
        values = np.array([[[10, -9999], [-1, -1]]], np.float32)
        path = write(tmp_path / "a.tif", values, nodata=-9999)
        for nodata, expected in ((None, 3), ([-1], 1), (-1, 1), ("none", 4), (["none", -1], 2), ("-1", 1)):
            assert open_raster(path, nodata=nodata).read(0, target(2, 2)).valid.sum() == expected

    def test_word_for_nodata_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="nodata must be numbers"):
            open_raster(write(tmp_path / "a.tif", np.ones((1, 2, 2), np.uint8)), nodata="water")

    def test_nodata_that_the_dtype_cannot_hold_masks_nothing(self, tmp_path: Path) -> None:
        source = open_raster(write(tmp_path / "a.tif", np.ones((1, 2, 2), np.uint8)), nodata=[-9999, 0.5])
        assert source.read(0, target(2, 2)).valid.all()

    def test_scale_and_offset_of_the_file_per_band(self, tmp_path: Path) -> None:
        values = np.array([[[100, 0]], [[100, 0]]], np.int16)
        path = write(tmp_path / "a.tif", values, nodata=0, scales=(0.1, 2.0), offsets=(-1.0, 0.0))
        patch = open_raster(path).read(0, target(1, 2))
        assert patch.values.dtype == np.float32
        assert patch.values[:, 0, 0].tolist() == [9.0, 200.0]
        assert patch.valid[:, 0, 1].tolist() == [False, False]
        assert open_raster(path, scale=1, offset=0).read(0, target(1, 2)).values.dtype == np.int16
        with pytest.raises(ConfigError, match="scale needs one finite number"):
            open_raster(path, scale=[1.0, 2.0, 3.0])

    def test_decibels_are_averaged_as_power(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tif", np.array([[[-10.0, -20.0]]], np.float32), units=("dB",))
        mean = open_raster(path).read(0, target(1, 1, pixel=2, kind="backscatter", y0=NORTH + 0.5)).values.item()
        assert mean == pytest.approx(10 * np.log10((0.1 + 0.01) / 2), abs=1e-4)
        plain = open_raster(path, units="1").read(0, target(1, 1, pixel=2, kind="backscatter", y0=NORTH + 0.5)).values.item()
        assert plain == pytest.approx(-15)

    def test_alpha_of_a_drone_ortho_is_its_mask(self, tmp_path: Path) -> None:
        values = np.full((4, 4, 4), 77, np.uint8)
        values[3] = 255
        values[3, :2] = 0
        source = open_raster(write(tmp_path / "a.tif", values, photometric="RGB", alpha="YES"))
        assert [band.name for band in source.bands] == ["red", "green", "blue"]
        assert np.array_equal(source.read(0, target(4, 4)).valid[2, :, 0], [False, False, True, True])

    def test_near_infrared_labelled_alpha_stays_a_band(self, data_dir: Path) -> None:
        source = open_raster(data_dir / "treesat_ts_de" / "Abies_alba_1_1005_WEFL_NLF.tif")
        assert source.count == 4
        xmin, _, _, ymax = source.bounds
        # The file's CRS has no code and no datum's name; in the plane it is UTM 32N, so the pixels are copied.
        patch = source.read(0, target(304, 304, pixel=0.2, x0=xmin, y0=ymax, crs=CRS.from_epsg(25832)))
        assert patch.valid.all()
        assert patch.values.dtype == np.uint8


class TestMask:
    def test_cloud_is_left_out_before_averaging(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tif", np.array([[[10, 90], [20, 30]]], np.uint16))
        scl = write(tmp_path / "scl.tif", np.array([[[4, 9], [5, 6]]], np.uint8))
        source = open_raster(path, mask=scl)
        assert source.read(0, target(1, 1, pixel=2)).values.item() == 20
        assert not source.read(0, target(2, 2)).valid[0, 0, 1]
        only_water = open_raster(path, mask=scl, mask_clear_values=[6])
        assert only_water.read(0, target(2, 2)).valid[0].tolist() == [[False, False], [False, True]]

    def test_coarser_mask_and_its_outside(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tif", np.ones((1, 4, 6), np.uint16))
        scl = write(tmp_path / "scl.tif", np.array([[[4, 9], [9, 4]]], np.uint8), pixel=2)
        valid = open_raster(path, mask=scl).read(0, target(4, 6)).valid[0]
        assert np.array_equal(valid, np.pad(np.kron(np.eye(2), np.ones((2, 2))) > 0, ((0, 0), (0, 2))))

    def test_mask_inside_the_file(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tif", np.ones((1, 2, 2), np.uint8))
        with rasterio.open(path, "r+") as out:
            out.write_mask(np.array([[True, False], [True, True]]))
        assert open_raster(path).read(0, target(2, 2)).valid[0].tolist() == [[True, False], [True, True]]


class TestReprojection:
    def test_ramp_in_utm_is_the_analytic_ramp_in_lambert(self, tmp_path: Path) -> None:
        utm = CRS.from_epsg(32631)
        x0, y0 = Transformer.from_crs(LAMBERT, utm, always_xy=True).transform(700_000, NORTH)
        x0, y0 = round(x0) - 300, round(y0) + 300
        rows, cols = np.mgrid[0:600, 0:600] + 0.5
        ramp = (0.01 * cols - 0.02 * rows).astype(np.float32)[None]
        source = open_raster(write(tmp_path / "a.tif", ramp, x0=x0, y0=y0, crs="EPSG:32631"))
        for pixel, kind, tolerance in ((7.0, "continuous", 2e-3), (0.5, "continuous", 5e-4), (1.0, "classes", 0.02)):
            patch = source.read(0, target(20, 20, pixel=pixel, kind=kind))
            down, right = (np.mgrid[0:20, 0:20] + 0.5) * pixel
            x, y = Transformer.from_crs(LAMBERT, utm, always_xy=True).transform(700_000 + right, NORTH - down)
            assert patch.valid.all()
            assert np.abs(patch.values[0] - (0.01 * (x - x0) - 0.02 * (y0 - y))).max() < tolerance

    def test_geographic_raster_on_a_metric_grid(self, tmp_path: Path) -> None:
        rows, cols = np.mgrid[0:200, 0:200] + 0.5
        ramp = np.stack([2 + cols * 1e-4, 49 - rows * 1e-4]).astype(np.float64)
        path = write(tmp_path / "a.tif", ramp, transform=Affine(1e-4, 0, 2, 0, -1e-4, 49), crs="EPSG:4326")
        source = open_raster(path)
        assert source.pixel == pytest.approx(1e-4)
        assert 8 < source.pixel_metres < 11
        utm = CRS.from_epsg(32631)
        x0, y0 = Transformer.from_crs(4326, utm, always_xy=True).transform(2.005, 48.995)
        patch = source.read(0, target(10, 10, pixel=20, x0=x0, y0=y0, crs=utm))
        down, right = (np.mgrid[0:10, 0:10] + 0.5) * 20
        lon, lat = Transformer.from_crs(utm, 4326, always_xy=True).transform(x0 + right, y0 - down)
        assert np.abs(patch.values - np.stack([lon, lat])).max() < 2e-5

    def test_rotated_and_oblong_pixels(self, tmp_path: Path) -> None:
        place = Affine.translation(700_000, NORTH) @ Affine.rotation(30) @ Affine.scale(1, -0.5)
        rows, cols = np.mgrid[0:120, 0:60] + 0.5
        x = place.a * cols + place.b * rows + place.c
        y = place.d * cols + place.e * rows + place.f
        ramp = np.stack([x - 700_000, y - NORTH]).astype(np.float32)
        source = open_raster(write(tmp_path / "a.tif", ramp, transform=place))
        middle_x, middle_y = x.mean(), y.mean()
        for pixel in (0.4, 3.0):
            patch = source.read(0, target(6, 6, pixel=pixel, x0=middle_x, y0=middle_y))
            down, right = (np.mgrid[0:6, 0:6] + 0.5) * pixel
            assert patch.valid.all()
            assert np.abs(patch.values - np.stack([middle_x - 700_000 + right, middle_y - NORTH - down])).max() < 0.15

    def test_target_where_the_source_crs_is_not_defined(self, tmp_path: Path) -> None:
        source = open_raster(write(tmp_path / "a.tif", np.ones((1, 4, 4), np.float32)))
        far = target(4, 4, x0=-170, y0=-89, pixel=0.5, crs=CRS.from_epsg(4326))
        assert not source.read(0, far).valid.any()

    def test_heights_of_a_compound_target_do_not_matter(self, tmp_path: Path) -> None:
        source = open_raster(write(tmp_path / "a.tif", np.ones((1, 4, 4), np.uint8)))
        assert source.read(0, target(4, 4, crs=CRS.from_user_input("EPSG:2154+5720"))).values.dtype == np.uint8


class TestMetadata:
    def test_it_is_a_raster_source_that_survives_pickling(self, tmp_path: Path) -> None:
        path = write(tmp_path / "s2_20200131.tif", np.ones((1, 2, 2), np.uint8), descriptions=("VV",))
        source = open_raster(path)
        assert isinstance(source, RasterSource)
        assert source.dates == (datetime.date(2020, 1, 31),)
        assert source.bands == (Band("VV", polarisation="VV"),)
        assert source.provenance == (path,)
        again: RasterFile = pickle.loads(pickle.dumps(source))
        assert np.array_equal(again.read(0, target(2, 2)).values, source.read(0, target(2, 2)).values)

    def test_date_is_the_users_when_given(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a_20200131.tif", np.ones((1, 2, 2), np.uint8))
        assert open_raster(path, date="2021-05-06").date == datetime.date(2021, 5, 6)
        with pytest.raises(ConfigError, match="is not a date"):
            open_raster(path, date="May")

    def test_reading_is_windowed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from fusion3d.io import raster

        path = write(tmp_path / "a.tif", np.ones((1, 512, 512), np.uint8), tiled=True, blockxsize=128, blockysize=128)
        sizes = []
        real = raster._Decoded.pixels
        monkeypatch.setattr(raster._Decoded, "pixels", lambda self, *window: sizes.append(window) or real(self, *window))
        open_raster(path).read(0, target(4, 4, pixel=2.5, x0=700_100, y0=NORTH - 100))
        assert all(part.stop - part.start < 30 for _, *window in sizes for part in window)

    def test_unknown_kind_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="reflectance, backscatter, continuous, classes"):
            target(1, 1, kind="radar")


class TestUglyFiles:
    def test_missing_folder_html_empty_and_text(self, tmp_path: Path) -> None:
        (tmp_path / "page.tif").write_text("<!DOCTYPE html><html><body>login</body></html>")
        (tmp_path / "empty.tif").write_bytes(b"")
        (tmp_path / "text.tif").write_text("hello")
        (tmp_path / "folder.tif").mkdir()
        for name, words in (("none", "does not exist"), ("page", "web page"), ("empty", "is empty"), ("text", "not an image"),
                            ("folder", "is a folder")):  # fmt: skip
            with pytest.raises(InputError, match=words) as caught:
                open_raster(tmp_path / f"{name}.tif")
            assert str(tmp_path / f"{name}.tif") in str(caught.value)
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("kept", [8, 200, 3000, 0.5, 0.99])
    def test_truncated_tiff_is_refused_on_opening(self, tmp_path: Path, kept: float) -> None:
        values = np.random.default_rng(0).integers(0, 255, (3, 100, 100), np.uint8)
        path = write(tmp_path / "a.tif", values)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
        with pytest.raises(InputError) as caught:
            open_raster(path)
        assert "\n" not in str(caught.value)
        assert "download or export it again" in str(caught.value)

    def test_corrupt_block_is_one_line(self, tmp_path: Path) -> None:
        values = np.random.default_rng(0).integers(0, 255, (1, 64, 64), np.uint8)
        path = write(tmp_path / "a.tif", values, compress="deflate")
        content = bytearray(path.read_bytes())
        content[-3000:-1000] = bytes(2000)
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be decoded"):
            open_raster(path).read(0, target(64, 64))

    @pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
    def test_image_without_a_place(self, tmp_path: Path) -> None:
        with rasterio.open(tmp_path / "photo.png", "w", driver="PNG", count=1, height=4, width=4, dtype="uint8") as out:
            out.write(np.ones((1, 4, 4), np.uint8))
        with pytest.raises(InputError, match="has no georeferencing"):
            open_raster(tmp_path / "photo.png", crs="EPSG:2154")

    @pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
    def test_image_placed_by_control_points_only(self, tmp_path: Path) -> None:
        path = tmp_path / "grd.tif"
        points = [rasterio.control.GroundControlPoint(row, col, 2 + col, 48 - row) for row in (0, 3) for col in (0, 3)]
        with rasterio.open(path, "w", driver="GTiff", count=1, height=4, width=4, dtype="uint8") as out:
            out.gcps = points, rasterio.crs.CRS.from_epsg(4326)
        with pytest.raises(InputError, match="gdalwarp"):
            open_raster(path)

    def test_complex_values_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="power or amplitude"):
            open_raster(write(tmp_path / "slc.tif", np.ones((1, 2, 2), np.complex64)))


class TestRealFiles:
    def test_ign_orthos_with_a_crs_that_is_only_named(self, data_dir: Path) -> None:
        source = open_raster(data_dir / "ign_lidarhd_fr" / "test_data_rgb.tif")
        assert source.crs.to_epsg() == 2154
        patch = source.read(0, target(250, 250, pixel=0.2, x0=770_550, y0=6_277_600, kind="reflectance"))
        with rasterio.open(source.path) as dataset:
            assert np.array_equal(patch.values * patch.valid, dataset.read()[:, 1:251, 1:251] * patch.valid)
            assert np.array_equal(patch.valid, dataset.read()[:, 1:251, 1:251] != 255)
        assert patch.values.dtype == np.uint8
        every = open_raster(source.path, nodata="none", bands="irc")
        assert every.read(0, target(250, 250, pixel=0.2, x0=770_550, y0=6_277_600)).valid.all()
        assert every.bands[0].name == "nir"

    @pytest.mark.parametrize(("name", "epsg"), [("JERC_049", 32616), ("OSBS_029", 32617), ("SJER_052", 32611)])
    def test_neon_orthos_as_block_means(self, data_dir: Path, name: str, epsg: int) -> None:
        source = open_raster(data_dir / "neon" / f"{name}.tif", nodata="none")
        xmin, _, _, ymax = source.bounds
        patch = source.read(0, target(20, 20, pixel=2, x0=xmin, y0=ymax, crs=CRS.from_epsg(epsg), kind="reflectance"))
        with rasterio.open(source.path) as dataset:
            expected = dataset.read().reshape(3, 20, 20, 20, 20).mean((2, 4))
        assert patch.valid.all()
        assert np.abs(patch.values - expected).max() < 1e-3

    def test_hyperspectral_without_crs_needs_one(self, data_dir: Path) -> None:
        path = data_dir / "neon" / "SJER_052_hyperspectral.tif"
        with pytest.raises(CRSError, match="--crs"):
            open_raster(path)
        source = open_raster(path, crs="EPSG:32611")
        assert (source.count, source.crs.to_epsg()) == (426, 32611)
        xmin, _, _, ymax = source.bounds
        patch = source.read(0, target(20, 20, pixel=2, x0=xmin, y0=ymax, crs=source.crs, kind="reflectance"))
        with rasterio.open(path) as dataset:
            expected = dataset.read().reshape(426, 20, 2, 20, 2).mean((2, 4))
        assert np.abs(patch.values - expected).max() < 1e-2

    def test_twelve_sentinel2_bands(self, data_dir: Path) -> None:
        source = open_raster(data_dir / "s2" / "s2_l2a_12band_patch_252161.tif", bands="s2")
        assert source.count == 12
        assert source.bands[11].wavelength == pytest.approx(2202.4)
        patch = source.read(0, target(4, 4, pixel=10, x0=394_615, y0=6_368_525, crs=source.crs, kind="reflectance"))
        assert patch.values.dtype == np.uint16

    def test_labels_with_two_nodata_values(self, data_dir: Path) -> None:
        path = data_dir / "hls_gedi_agb" / "gedi_agbd_label.tif"
        frame = target(224, 224, pixel=30, x0=440_280, y0=3_159_720, crs=CRS.from_epsg(32614))
        patch = open_raster(path, nodata=[-1]).read(0, frame)
        assert patch.values[patch.valid].min() >= 0
        assert (patch.values[patch.valid] > 0).sum() == 246
