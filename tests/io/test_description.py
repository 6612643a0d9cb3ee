"""Descriptions name what a person looks for first; figures are those of the files' manifest or of files written here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import laspy
import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from fusion3d.errors import InputError
from fusion3d.io import description
from fusion3d.io.description import describe


def write_raster(path: Path, bands: int = 1, crs: str | None = "EPSG:32632", **options: object) -> Path:
    profile = {"driver": "GTiff", "width": 4, "height": 3, "count": bands, "dtype": "uint16", "crs": crs}
    with rasterio.open(path, "w", **profile, transform=from_origin(500000, 5000000, 10, 10), **options) as file:
        file.write(np.ones((bands, 3, 4), np.uint16))
    return path


def write_las(path: Path, classes: list[int]) -> Path:
    las = laspy.LasData(laspy.LasHeader(point_format=6, version="1.4"))
    las.header.scales = (0.01, 0.01, 0.01)
    las.x, las.y, las.z = (np.linspace(0, 10, len(classes)) for _ in range(3))
    las.classification = np.array(classes, np.uint8)
    las.write(path)
    return path


class TestPointClouds:
    def test_lidar_tile(self, data_dir):
        text = describe(data_dir / "ign_lidarhd_fr/laz/test_data_77055_627755_LA93_IGN69.laz")
        assert "LAZ, LAS 1.4, point format 8" in text
        assert "points   72,770, 29.1 per m2" in text
        assert "RGF93 v1 / Lambert-93" in text
        assert re.search(r"^class +1 unclassified +2,264$", text, re.MULTILINE)
        assert re.search(r"^ +6 building +24,362$", text, re.MULTILINE)
        assert re.search(r"^ +64 user-defined +113$", text, re.MULTILINE)

    def test_copc_and_heights_in_feet(self, data_dir):
        text = describe(data_dir / "las_formats/simple.copc.laz")
        assert "COPC, LAS 1.4, point format 7" in text
        assert "z 406.59 to 586.38" in text

    def test_extra_bytes_are_named_and_a_missing_crs_is_told(self, data_dir):
        text = describe(data_dir / "neon/SJER_052.laz")
        assert "SJER_052.laz: LAS, LAS 1.3" in text
        assert "extra    label" in text
        assert "none stated: pass --crs" in text
        assert "per square unit" in text

    def test_compound_crs_without_a_name_is_told_by_its_parts(self, data_dir):
        assert "crs      NAD83 / BC Albers" in describe(data_dir / "als_forest/bcts_1.laz")

    def test_date_is_that_of_writing(self, data_dir):
        assert "written  2015-09-10" in describe(data_dir / "las_formats/autzen_trim.laz")

    def test_no_points(self, tmp_path):
        text = describe(write_las(tmp_path / "empty.las", []))
        assert re.search(r"^points +0$", text, re.MULTILINE)
        assert "class" not in text
        assert "nan" not in text.lower()

    def test_counting_stops_at_the_limit_and_says_so(self, tmp_path, monkeypatch):
        monkeypatch.setattr(description, "MAX_POINTS_COUNTED", 1)
        monkeypatch.setattr(
            description, "read_chunks", lambda file, names, read=description.read_chunks: read(file, names, chunk=2)
        )
        text = describe(write_las(tmp_path / "three.las", [2, 2, 5]))
        assert "(counted in the first 2 points)" in text
        assert "high vegetation" not in text


class TestRasters:
    def test_ortho_without_authority_code_is_known(self, data_dir):
        text = describe(data_dir / "ign_lidarhd_fr/test_data_rgb.tif")
        assert "raster, 3 bands of uint8" in text
        assert "252 x 252 pixels of 0.2 m" in text
        assert "EPSG:2154" in text
        assert "x 770549.80 to 770600.20, y 6277549.80 to 6277600.20" in text

    def test_many_bands_are_summed_up_and_a_missing_crs_is_told(self, data_dir):
        text = describe(data_dir / "neon/SJER_052_hyperspectral.tif")
        assert "raster, 426 bands" in text
        assert "none stated: pass --crs" in text
        assert len(text.splitlines()) < 12

    def test_date_scale_nodata_and_bands(self, tmp_path):
        path = write_raster(tmp_path / "S2_20210704.tif", bands=2, nodata=0)
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = (0.0001, 0.0001), (-0.1, -0.1)
            file.descriptions = ("B4", "B8")
        text = describe(path)
        assert "date     2021-07-04" in text
        assert "nodata   0" in text
        assert "value x 0.0001 -0.1" in text
        assert re.search(r"^bands +B4", text, re.MULTILINE)
        assert re.search(r"^ +B8", text, re.MULTILINE)

    def test_geographic_raster_is_in_degrees(self, tmp_path):
        path = tmp_path / "degrees.tif"
        place = from_origin(10, 50, 0.001, 0.001)
        with rasterio.open(
            path, "w", driver="GTiff", width=2, height=2, count=1, dtype="uint8", crs="EPSG:4326", transform=place
        ):
            pass
        text = describe(path)
        assert "0.001 degree" in text
        assert "longitude 10.000000 to 10.002000, latitude 49.998000 to 50.000000" in text


class TestGedi:
    def test_release_1_waveforms(self, data_dir):
        text = describe(data_dir / "gedi/GEDI01_B_2019108080338_O01964_T05337_02_003_01_sub.h5")
        assert "GEDI L1B, release 1" in text
        assert "shots    300 in 7 beams" in text
        assert re.search(r"BEAM0101 full power +73$", text, re.MULTILINE)
        assert "missing  BEAM0000" in text
        assert "time     2019-04-18 08:" in text
        assert "no quality flag" in text

    def test_release_2_biomass(self, data_dir):
        text = describe(data_dir / "gedi/GEDI04_A_2020036151358_O06515_02_T00198_02_002_01_V002.h5")
        assert "GEDI L4A, release 2" in text
        assert "321 of 461 shots good, 0 degraded" in text
        assert "missing" not in text


class TestRefusals:
    @pytest.mark.parametrize("name", ["page.laz", "page.h5", "page.tif"])
    def test_web_page_under_any_name(self, tmp_path, name):
        path = tmp_path / name
        path.write_bytes(b"<!DOCTYPE html><html><body>Please log in</body></html>" * 10)
        with pytest.raises(InputError) as caught:
            describe(path)
        assert "\n" not in str(caught.value)
        assert "web page" in str(caught.value).lower()

    def test_absent_file_and_folder(self, tmp_path):
        with pytest.raises(InputError, match="no such file"):
            describe(tmp_path / "absent.laz")
        with pytest.raises(InputError, match="folder"):
            describe(tmp_path)

    def test_other_hdf5(self, data_dir):
        with pytest.raises(InputError, match="not a GEDI product"):
            describe(data_dir / "treesat_ts_de/Abies_alba_1_1005_WEFL_NLF.h5")


def test_importing_it_does_not_import_torch():
    code = "import sys, fusion3d.io.description; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_vector_files_tell_layers_crs_and_columns(tmp_path):
    import geopandas

    points = geopandas.GeoDataFrame({"agb": [1.0, 2.0]}, geometry=geopandas.points_from_xy([1, 2], [3, 5]), crs="EPSG:2154")
    points.to_file(tmp_path / "plots.gpkg", layer="plots")
    text = describe(tmp_path / "plots.gpkg")
    assert "plots: 2 features, Point" in text
    assert "EPSG:2154" in text
    assert "x 1.00 to 2.00, y 3.00 to 5.00" in text
    assert "agb" in text
    (tmp_path / "no.geojson").write_text("<html>")
    with pytest.raises(InputError, match="not a readable vector file"):
        describe(tmp_path / "no.geojson")
