"""Dated rasters: dates in names, tiles of one date, cloud masks, and Zarr and NetCDF cubes."""

from __future__ import annotations

import datetime
import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray
from affine import Affine
from pyproj import CRS

from fusion3d.errors import ConfigError, CRSError, InputError
from fusion3d.io.dates import date_from_name
from fusion3d.io.raster import RasterSource, Target
from fusion3d.io.series import open_series

LAMBERT = CRS.from_epsg(2154)
NORTH = 6_860_000.0
DAY = datetime.date


def write(path: Path, values: object, *, x0: float = 700_000.0, y0: float = NORTH, pixel: float = 1.0,
          crs: str | None = "EPSG:2154", nodata: float | None = None, dtype: str = "uint16") -> Path:  # fmt: skip
    array = np.asarray(values, dtype)
    array = array[None] if array.ndim == 2 else array
    with rasterio.open(path, "w", driver="GTiff", count=array.shape[0], height=array.shape[1], width=array.shape[2], dtype=dtype,
                       crs=crs, transform=Affine(pixel, 0, x0, 0, -pixel, y0), nodata=nodata) as out:  # fmt: skip
        out.write(array)
    return path


def target(
    height: int, width: int, *, pixel: float = 1.0, x0: float = 700_000.0, y0: float = NORTH, kind: str = "reflectance"
) -> Target:
    return Target(LAMBERT, x0, y0, pixel, height, width, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("ndvi_20200131.tif", DAY(2020, 1, 31)),
        ("20200131T104421_x.tif", DAY(2020, 1, 31)),
        ("2020-01-31.tif", DAY(2020, 1, 31)),
        ("a_2020_01_31_b.tif", DAY(2020, 1, 31)),
        ("S2A_MSIL2A_20200102T102421_N0213_R065_T32UNC_20200103T115419", DAY(2020, 1, 2)),
        ("T32UNC_20200102T102421_B04_10m.jp2", DAY(2020, 1, 2)),
        ("S1B_IW_GRDH_1SDV_20200106T235952_20200107T000017_019692_025399_6B7A", DAY(2020, 1, 6)),
        ("LC08_L2SP_196030_20200102_20200113_02_T1.tif", DAY(2020, 1, 2)),
        ("HLS.S30.T31TFJ.2020032T105441.v2.0.tif", DAY(2020, 2, 1)),
        ("MOD13Q1.A2020366.h18v04.tif", DAY(2020, 12, 31)),
        ("a_2020060.tif", DAY(2020, 2, 29)),
        ("a_2019366.tif", None),
        ("a_20201301.tif", None),
        ("a_20200101_20200131.tif", None),
        ("a_20200101_20200101.tif", DAY(2020, 1, 1)),
        ("test_data_77055_627760_LA93.tif", None),
        ("20200131999_x.tif", None),
        ("x12020060.tif", None),
        ("summer.tif", None),
        ("", None),
    ],
)
def test_dates_in_names(name: str, date: datetime.date | None) -> None:
    assert date_from_name(name) == date


class TestFiles:
    def test_folder_in_order_of_dates(self, tmp_path: Path) -> None:
        for day, value in ((20, 2), (3, 1), (28, 3)):
            write(tmp_path / f"S2_202001{day:02d}.tif", np.full((2, 4, 4), value))
        (tmp_path / "notes.txt").write_text("not an image")
        series = open_series(tmp_path, name="s2")
        assert isinstance(series, RasterSource)
        assert series.dates == (DAY(2020, 1, 3), DAY(2020, 1, 20), DAY(2020, 1, 28))
        assert [series.read(step, target(4, 4)).values.max() for step in range(3)] == [1, 2, 3]
        assert series.read(0, target(4, 4)).values.dtype == np.uint16
        assert len(series.provenance) == 3
        assert (series.name, len(series.bands), series.pixel) == ("s2", 2, 1.0)

    def test_glob_list_and_mapping_give_the_same(self, tmp_path: Path) -> None:
        paths = [write(tmp_path / f"a_2020010{day}.tif", np.full((2, 2), day)) for day in (1, 2)]
        specs = [str(tmp_path / "a_*.tif"), paths, {"2020-01-02": paths[1], DAY(2020, 1, 1): [paths[0]]}]
        for series in map(open_series, specs):
            assert series.dates == (DAY(2020, 1, 1), DAY(2020, 1, 2))
            assert series.read(1, target(2, 2)).values.max() == 2

    def test_undated_file_is_named_with_the_remedy(self, tmp_path: Path) -> None:
        write(tmp_path / "a_20200101.tif", np.ones((2, 2)))
        undated = write(tmp_path / "summer.tif", np.ones((2, 2)))
        with pytest.raises(InputError, match="mapping of dates") as caught:
            open_series(tmp_path)
        assert str(undated) in str(caught.value)
        assert open_series({"2020-07-01": undated}).dates == (DAY(2020, 7, 1),)

    def test_date_in_the_name_of_the_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / "S2A_MSIL2A_20200102T102421_N0213_R065_T32UNC_20200103T115419"
        folder.mkdir()
        assert open_series([write(folder / "image.tif", np.ones((2, 2)))]).dates == (DAY(2020, 1, 2),)

    def test_first_valid_tile_of_a_date_wins(self, tmp_path: Path) -> None:
        first = write(tmp_path / "a_20200101.tif", [[1, 0], [1, 1]], nodata=0)
        second = write(tmp_path / "b_20200101.tif", [[5, 6], [7, 8]], x0=700_001, nodata=0)
        patch = open_series([first, second]).read(0, target(2, 4))
        assert patch.values[0].tolist() == [[1, 5, 6, 0], [1, 1, 8, 0]]
        assert patch.valid[0, 0].tolist() == [True, True, True, False]
        assert patch.values.dtype == np.uint16

    def test_pixel_on_the_corner_of_four_tiles_is_their_mean(self, tmp_path: Path) -> None:
        tiles = [
            write(tmp_path / f"t{row}{col}.tif", np.full((10, 10), value), x0=700_000 + 10 * col, y0=NORTH - 10 * row)
            for row, col, value in ((0, 0, 1), (0, 1, 2), (1, 0, 11), (1, 1, 12))
        ]
        series = open_series({None: tiles})
        assert series.dates == (None,)
        assert series.bounds == (700_000, NORTH - 20, 700_020, NORTH)
        patch = series.read(0, target(1, 1, pixel=10, x0=700_005, y0=NORTH - 5))
        assert patch.valid.all()
        assert patch.values.item() == pytest.approx((1 + 2 + 11 + 12) / 4)

    def test_tiles_in_two_crs(self, tmp_path: Path) -> None:
        lambert = write(tmp_path / "a.tif", np.full((4, 4), 3))
        utm = write(tmp_path / "b.tif", np.full((4, 4), 4), crs="EPSG:32631", x0=500_000, y0=5_410_000)
        series = open_series({None: [lambert, utm]})
        xmin, ymin, xmax, ymax = series.bounds
        assert xmin < xmax
        assert ymin < ymax
        assert series.read(0, target(4, 4)).values.max() == 3

    def test_cloud_masks_by_stem_and_by_date(self, tmp_path: Path) -> None:
        for day, scl in ((1, [[4, 9]]), (2, [[3, 5]])):
            write(tmp_path / f"a_2020010{day}.tif", [[10, 20]])
            write(tmp_path / f"a_2020010{day}_SCL.tif", scl, dtype="uint8")
        for pattern in ("{stem}_SCL.tif", "*{date}*SCL*.tif", "a_{date}_SCL.tif"):
            series = open_series(tmp_path, mask=pattern)
            assert len(series.dates) == 2
            assert series.read(0, target(1, 2)).valid[0].tolist() == [[True, False]]
            assert series.read(1, target(1, 2)).valid[0].tolist() == [[False, True]]
            shade = open_series(tmp_path, mask=pattern, mask_clear_values=(3,))
            assert shade.read(1, target(1, 2)).valid[0].tolist() == [[True, False]]

    def test_missing_mask_is_an_error(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a_20200101.tif", np.ones((2, 2)))
        with pytest.raises(InputError, match="names no file") as caught:
            open_series(tmp_path, mask="{stem}_SCL.tif")
        assert str(path) in str(caught.value)

    def test_single_bands_of_one_date_are_not_taken_for_tiles(self, tmp_path: Path) -> None:
        for band in ("B02", "B03"):
            write(tmp_path / f"T32UNC_20200102T102421_{band}_10m.tif", np.ones((2, 2)))
        with pytest.raises(InputError, match="gdalbuildvrt"):
            open_series(tmp_path)

    def test_dates_with_different_bands_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "a_20200101.tif", np.ones((2, 2, 2)))
        other = write(tmp_path / "a_20200102.tif", np.ones((3, 2, 2)))
        with pytest.raises(InputError, match="3 bands") as caught:
            open_series(tmp_path)
        assert str(other) in str(caught.value)

    def test_bad_file_of_a_series_is_named(self, tmp_path: Path) -> None:
        write(tmp_path / "a_20200101.tif", np.ones((2, 2)))
        (tmp_path / "a_20200102.tif").write_text("<html>")
        with pytest.raises(InputError, match=r"a_20200102\.tif.*web page"):
            open_series(tmp_path)

    def test_crs_is_assumed_for_all(self, tmp_path: Path) -> None:
        write(tmp_path / "a_20200101.tif", np.ones((2, 2)), crs=None)
        with pytest.raises(CRSError):
            open_series(tmp_path)
        assert open_series(tmp_path, crs="EPSG:2154").read(0, target(2, 2)).valid.all()

    def test_nothing_to_read(self, tmp_path: Path) -> None:
        for spec in (tmp_path, str(tmp_path / "*.tif"), [], {}, {"2020-01-01": []}, [tmp_path / "x_20200101.tif"]):
            with pytest.raises(InputError) as caught:
                open_series(spec)
            assert "\n" not in str(caught.value)
        with pytest.raises(ConfigError, match="is not a date"):
            open_series({"January": tmp_path / "a.tif"})


def cube(*, ascending: bool = False, crs: bool = True) -> xarray.Dataset:
    values = np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(2, 3, 4, 5)
    y = NORTH - 10 * (np.arange(4) + 0.5)
    array = xarray.DataArray(values, dims=("time", "band", "y", "x"), coords={
        "time": np.array(["2020-01-05", "2020-02-07"], "datetime64[ns]"), "band": ["B02", "B04", "B8A"], "y": y,
        "x": 700_000 + 10 * (np.arange(5) + 0.5)})  # fmt: skip
    dataset = array.to_dataset(name="s2")
    if ascending:
        dataset = dataset.isel(y=slice(None, None, -1))
    if crs:
        dataset = dataset.assign_coords(spatial_ref=0)
        dataset["spatial_ref"].attrs["crs_wkt"] = LAMBERT.to_wkt()
        dataset["s2"].attrs["grid_mapping"] = "spatial_ref"
    return dataset


def save(dataset: xarray.Dataset, path: Path) -> Path:
    if path.suffix == ".nc":
        dataset.to_netcdf(path, engine="h5netcdf")
    else:
        dataset.to_zarr(path, consolidated=False)
    return path


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
class TestCubes:
    @pytest.mark.parametrize("name", ["s2.nc", "s2.zarr"])
    @pytest.mark.parametrize("ascending", [False, True])
    def test_values_dates_bands_and_place(self, tmp_path: Path, name: str, ascending: bool) -> None:
        series = open_series(save(cube(ascending=ascending), tmp_path / name))
        assert isinstance(series, RasterSource)
        assert series.dates == (DAY(2020, 1, 5), DAY(2020, 2, 7))
        assert [band.name for band in series.bands] == ["B02", "B04", "B8A"]
        assert series.bands[2].wavelength == pytest.approx(864.7)
        assert series.bounds == (700_000, NORTH - 40, 700_050, NORTH)
        assert series.crs == LAMBERT
        patch = series.read(1, target(3, 2, pixel=10, x0=700_010, y0=NORTH - 10))
        assert patch.values.dtype == np.int16
        assert np.array_equal(patch.values, cube()["s2"].to_numpy()[1, :, 1:4, 1:3])
        coarse = series.read(0, target(2, 2, pixel=20))
        assert coarse.values[0] == pytest.approx(np.array([[3, 5], [13, 15]]))

    def test_it_survives_pickling(self, tmp_path: Path) -> None:
        series = open_series(save(cube(), tmp_path / "s2.zarr"))
        again = pickle.loads(pickle.dumps(series))
        assert np.array_equal(again.read(1, target(4, 5, pixel=10)).values, series.read(1, target(4, 5, pixel=10)).values)

    def test_crs_is_needed(self, tmp_path: Path) -> None:
        path = save(cube(crs=False), tmp_path / "s2.nc")
        with pytest.raises(CRSError, match="--crs"):
            open_series(path)
        assert open_series(path, crs="EPSG:2154").crs == LAMBERT

    def test_latitudes_and_longitudes_are_geographic(self, tmp_path: Path) -> None:
        dataset = xarray.Dataset({"a": (("lat", "lon"), np.ones((3, 3), np.float32))},
                                 {"lat": [49.002, 49.001, 49.0], "lon": [2.0, 2.001, 2.002]})  # fmt: skip
        series = open_series(save(dataset, tmp_path / "a.nc"))
        assert series.crs.to_epsg() == 4326
        assert series.dates == (None,)
        assert series.pixel == pytest.approx(0.001)

    def test_one_variable_per_band_and_a_mask_variable(self, tmp_path: Path) -> None:
        dataset = cube()["s2"].to_dataset(dim="band")
        dataset["SCL"] = (("time", "y", "x"), np.where(np.arange(40).reshape(2, 4, 5) % 2 == 0, 4, 9).astype(np.uint8))
        path = save(dataset, tmp_path / "s2.nc")
        with pytest.raises(InputError, match="choose with variable: B02, B04, B8A, SCL"):
            open_series(path)
        series = open_series(path, variable=["B04", "B02"], mask="SCL")
        assert [band.name for band in series.bands] == ["B04", "B02"]
        patch = series.read(0, target(4, 5, pixel=10))
        assert patch.values[:, 0, 0].tolist() == [20, 0]
        assert np.array_equal(patch.valid[0], np.arange(20).reshape(4, 5) % 2 == 0)

    def test_fill_value_nodata_and_scale(self, tmp_path: Path) -> None:
        dataset = cube()
        dataset["s2"].encoding["_FillValue"] = 7
        path = save(dataset, tmp_path / "s2.nc")
        patch = open_series(path, nodata=3, scale=0.5, offset=1).read(0, target(4, 5, pixel=10))
        expected = cube()["s2"].to_numpy()[0].astype(float)
        assert np.array_equal(patch.valid, (expected != 7) & (expected != 3))
        assert patch.values[patch.valid] == pytest.approx(expected[patch.valid] * 0.5 + 1)

    def test_what_is_no_cube(self, tmp_path: Path) -> None:
        (tmp_path / "page.nc").write_text("<html></html>")
        (tmp_path / "empty.zarr").mkdir()
        irregular = cube().assign_coords(x=[0.0, 1, 5, 6, 7])
        save(irregular, tmp_path / "irregular.nc")
        save(cube().isel(time=slice(0)), tmp_path / "nodates.zarr")
        save(xarray.Dataset({"a": (("i", "j"), np.ones((2, 2)))}), tmp_path / "nomap.nc")
        for name in ("page.nc", "empty.zarr", "missing.nc", "irregular.nc", "nodates.zarr", "nomap.nc"):
            with pytest.raises(InputError) as caught:
                open_series(tmp_path / name)
            assert name in str(caught.value)
            assert "\n" not in str(caught.value)

    def test_variable_is_for_cubes_only(self, tmp_path: Path) -> None:
        write(tmp_path / "a_20200101.tif", np.ones((2, 2)))
        with pytest.raises(ConfigError, match="Zarr and NetCDF"):
            open_series(tmp_path, variable="a")
        with pytest.raises(InputError, match="no variable 'x'"):
            open_series(save(cube(), tmp_path / "s2.nc"), variable="x")
