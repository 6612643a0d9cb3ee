"""A CRS is what the file says: as WKT, as GeoTIFF keys, as both when they agree, as a mere name."""

from __future__ import annotations

import struct

import pytest
from pyproj import CRS
from pyproj.crs import CompoundCRS

from fusion3d.errors import CRSError
from fusion3d.grid import metric_unit, vertical_unit
from fusion3d.io.crs import crs_agree, crs_of_records, resolve_crs, understand_crs

LAMBERT_93 = CRS.from_epsg(2154)
BOUNDS = (770500.0, 6277550.0, 770550.0, 6277600.0)


def directory(*keys: tuple[int, int]) -> tuple[bytes, bytes, bytes]:
    """GeoTIFF records whose keys hold their values themselves (OGC 19-008r4, 7.1)."""
    return (
        struct.pack("<4H", 1, 1, 0, len(keys)) + b"".join(struct.pack("<4H", key, 0, 1, value) for key, value in keys),
        b"",
        b"",
    )


def wkt(crs: CRS, version: str = "WKT1_GDAL") -> bytes:
    return crs.to_wkt(version).encode() + b"\0"


def test_own_crs_comes_before_the_assumed_one():
    assert resolve_crs(LAMBERT_93, "EPSG:32631", "a.laz") == LAMBERT_93


def test_assumed_crs_stands_in_for_a_missing_or_local_one():
    assert resolve_crs(None, "EPSG:2154", "a.laz") == LAMBERT_93
    assert resolve_crs('LOCAL_CS["unnamed",UNIT["metre",1]]', LAMBERT_93, "a.tif") == LAMBERT_93


def test_no_crs_at_all_is_refused_with_the_option_to_give():
    for nothing in (None, 'LOCAL_CS["unnamed",UNIT["metre",1]]'):
        with pytest.raises(CRSError, match=r"a\.laz: has no CRS; pass --crs"):
            resolve_crs(nothing, None, "a.laz")


def test_assumed_crs_that_is_none_is_refused():
    with pytest.raises(CRSError, match="not a CRS"):
        resolve_crs(None, "Lambert", "a.laz")


def test_crs_that_is_only_named_is_understood():
    text = LAMBERT_93.to_wkt("WKT1_GDAL").replace('PROJCS["RGF93 v1 / Lambert-93"', 'PROJCS["EPSG:2154"')
    text = text.replace(',AUTHORITY["EPSG","2154"]', "").replace(',AUTHORITY["EPSG","4171"]', "")
    assert understand_crs(text, "a.tif").to_epsg() == 2154
    assert understand_crs('LOCAL_CS["EPSG:2154",UNIT["metre",1]]', "a.tif").to_epsg() == 2154


def test_crs_that_is_only_named_in_a_real_file_is_understood(data_dir):
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(data_dir / "ign_lidarhd_fr" / "test_data_rgb.tif") as image:
        text = image.crs.to_wkt()
    assert text.startswith('PROJCS["EPSG:2154"')
    assert "RGF93" not in text
    assert resolve_crs(text, None, "ortho.tif").to_epsg() == 2154


def test_horizontal_part_that_is_only_named_keeps_its_heights():
    compound = (
        'COMPD_CS["x",LOCAL_CS["EPSG:2154",UNIT["metre",1]],VERT_CS["NGF-IGN69 height",VERT_DATUM["IGN69",2005],UNIT["metre",1]]]'
    )
    try:
        CRS.from_wkt(compound)
    except Exception:
        pytest.skip("this PROJ has no compound of a local CRS")
    found = understand_crs(compound, "a.laz")
    assert found.sub_crs_list[0].to_epsg() == 2154
    assert found.sub_crs_list[1].is_vertical


def test_name_that_its_definition_contradicts_is_refused():
    text = (
        CRS.from_epsg(32631)
        .to_wkt("WKT1_GDAL")
        .replace("WGS 84 / UTM zone 31N", "EPSG:2154")
        .replace(',AUTHORITY["EPSG","32631"]', "")
    )
    with pytest.raises(CRSError, match=r"named 'EPSG:2154'.*defines another"):
        understand_crs(text, "a.tif")


@pytest.mark.parametrize("text", ["", "nonsense", "PROJCS[", 'PROJCS["EPSG:2154"]', "EPSG:999999"])
def test_text_that_is_no_crs_is_refused_in_one_line(text):
    with pytest.raises(CRSError, match=r"a\.tif: its CRS cannot be understood") as caught:
        understand_crs(text, "a.tif")
    assert "\n" not in str(caught.value)


def test_name_of_a_code_that_does_not_exist_is_refused():
    with pytest.raises(CRSError, match="does not exist"):
        understand_crs('LOCAL_CS["EPSG:999999",UNIT["metre",1]]', "a.tif")


@pytest.mark.parametrize("version", ["WKT1_GDAL", "WKT2_2015", "WKT2_2019"])
def test_wkt_record_gives_its_crs(version):
    assert crs_of_records(wkt(LAMBERT_93, version), None, BOUNDS, "a.laz").to_epsg() == 2154


def test_nothing_and_empty_records_give_none():
    assert crs_of_records(None, None, BOUNDS, "a.laz") is None
    assert crs_of_records(b"\0", None, None, "a.laz") is None
    assert crs_of_records(b"  \0", (b"", b"", b""), None, "a.laz") is None
    assert crs_of_records(None, directory(), None, "a.laz") is None


@pytest.mark.parametrize("keys", [
    [(1024, 1), (3072, 2154)],
    [(3072, 2154)],
    [(3072, 2154), (1024, 1), (3076, 9001)],
    [(1024, 1), (3072, 2154), (4099, 9001)],
    [(1024, 1), (3072, 2154), (0, 0), (0, 0)],
])  # fmt: skip
def test_geotiff_keys_give_their_crs_whatever_else_they_lack(keys):
    assert crs_of_records(None, directory(*keys), None, "a.laz").to_epsg() == 2154


def test_geographic_keys_give_a_geographic_crs():
    assert crs_of_records(None, directory((1024, 2), (2048, 4326)), None, "a.laz").to_epsg() == 4326


def test_keys_cut_short_are_read_as_far_as_they_go():
    whole = directory((1024, 1), (3072, 2154), (3076, 9001))[0]
    assert crs_of_records(None, (whole[:-8], b"", b""), None, "a.laz").to_epsg() == 2154


def test_keys_of_no_crs_are_refused():
    with pytest.raises(CRSError, match=r"a\.laz: its GeoTIFF keys name EPSG:1025"):
        crs_of_records(None, directory((1024, 1), (3072, 1025)), None, "a.laz")


def test_height_unit_that_only_the_keys_name_is_kept():
    """UTM in metres with heights in US survey feet (EPSG unit 9003)."""
    crs = crs_of_records(None, directory((1024, 1), (3072, 26917), (4099, 9003)), None, "a.laz")
    assert metric_unit(crs) == 1.0
    assert vertical_unit(crs) == pytest.approx(1200 / 3937, rel=1e-9)
    both = crs_of_records(wkt(CRS.from_epsg(26917)), directory((1024, 1), (3072, 26917), (4099, 9003)), None, "a.laz")
    assert vertical_unit(both) == pytest.approx(1200 / 3937, rel=1e-9)


def test_vertical_crs_of_the_keys_is_kept():
    crs = crs_of_records(None, directory((1024, 1), (3072, 2154), (4096, 5720)), None, "a.laz")
    assert [part.to_epsg() for part in crs.sub_crs_list] == [2154, 5720]


def test_wkt_and_keys_that_agree_give_the_wkt():
    compound = CompoundCRS("with heights", [LAMBERT_93, CRS.from_epsg(5720)])
    found = crs_of_records(wkt(compound), directory((1024, 1), (3072, 2154)), BOUNDS, "a.laz")
    assert [part.to_epsg() for part in found.sub_crs_list] == [2154, 5720]


@pytest.mark.parametrize(("code", "other"), [
    (2154, 32631),  # another projection
    (32631, 32632),  # the next zone
    (2994, 2991),  # international feet and metres of Oregon Lambert
    (6488, 6487),  # US survey feet and metres of Maryland
    (26917, 26717),  # NAD83 and NAD27
    (28355, 7855),  # GDA94 and GDA2020: 1.8 m
    (32631, 4326),
])  # fmt: skip
def test_wkt_and_keys_that_contradict_each_other_are_refused(code, other):
    kind = (1024, 2), (2048, other)
    keys = directory(*kind) if CRS.from_epsg(other).is_geographic else directory((1024, 1), (3072, other))
    with pytest.raises(CRSError, match=r"a\.laz: its WKT says CRS .* GeoTIFF keys say .* contradict"):
        crs_of_records(wkt(CRS.from_epsg(code)), keys, None, "a.laz")


def test_heights_of_different_units_contradict_each_other():
    compound = CompoundCRS("feet", [CRS.from_epsg(26917), CRS.from_epsg(6360)])
    with pytest.raises(CRSError, match="contradict"):
        crs_of_records(wkt(compound), directory((1024, 1), (3072, 26917), (4096, 5703)), None, "a.laz")


@pytest.mark.parametrize(("one", "other"), [("EPSG:2154", "EPSG:2154+5720"), ("EPSG:32610", "EPSG:26910")])
def test_crs_that_place_coordinates_alike_agree(one, other):
    assert crs_agree(CRS(one), CRS(other))
    assert crs_agree(CRS(other), CRS(one))


def test_unreadable_keys_are_refused_with_the_path_every_time():
    for name in ("a.laz", "b.laz"):
        with pytest.raises(CRSError, match=name):
            crs_of_records(b"PROJCS[\0", None, None, name)
