"""LAS, LAZ and COPC read as laspy reads them, in chunks of any size, and every real file opens."""

from __future__ import annotations

import pickle
import struct
from decimal import Decimal

import laspy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion3d.errors import InputError
from fusion3d.io.las import DEFAULT_DIMENSIONS, coordinates, open_points, read_chunks

HIGHEST = {"1.0": 1, "1.1": 1, "1.2": 3, "1.3": 5, "1.4": 10}
CASES = [(version, f, z) for version, top in HIGHEST.items() for f in range(top + 1) for z in (False, True)]


def made(path, version, point_format, *, count=200, extra=()):
    """A file of random bits in every dimension, written by laspy; LAS 1.0 differs from 1.1 in nothing that laspy writes."""
    header = laspy.LasHeader(version="1.1" if version == "1.0" else version, point_format=point_format)
    header.scales, header.offsets = np.array([0.01, 0.001, 0.25]), np.array([627755.5, 6860000.0, -3.0])
    header.add_extra_dims(list(extra))
    las = laspy.LasData(header)
    las.points = laspy.ScaleAwarePointRecord.zeros(count, header=header)
    rng = np.random.default_rng(point_format)
    las.points.array.view("u1")[:] = rng.integers(0, 256, count * header.point_format.size, dtype="u1")
    las.X, las.Y, las.Z = rng.integers(-50_000, 50_000, (3, count))
    las.write(path, laz_backend=laspy.LazBackend.Lazrs if path.suffix == ".laz" else None)
    if version == "1.0":
        raw = bytearray(path.read_bytes())
        raw[25] = 0
        path.write_bytes(raw)
    return las


def degrees(las):
    """ASPRS LAS 1.4 R15: whole degrees in formats 0-5, 0.006 degrees in formats 6-10."""
    if las.point_format.id < 6:
        return np.asarray(las.scan_angle_rank, np.float32)
    return (np.asarray(las.scan_angle) * 0.006).astype(np.float32)


@pytest.mark.parametrize(("version", "point_format", "compressed"), CASES)
def test_every_version_and_format_reads_as_laspy_reads_it(tmp_path, version, point_format, compressed):
    path = tmp_path / f"case.{'laz' if compressed else 'las'}"
    las = made(path, version, point_format)
    file = open_points(path)
    assert (f"{file.version[0]}.{file.version[1]}", file.point_format) == (version, point_format)
    (points,) = read_chunks(file, file.dimensions)
    assert (points.X == las.X).all()
    assert (points.Y == las.Y).all()
    assert (points.Z == las.Z).all()
    np.testing.assert_allclose(points.x, las.x, rtol=0, atol=1e-9)
    for name in file.dimensions:
        expected = degrees(las) if name == "scan_angle" else np.asarray(las[name])
        np.testing.assert_array_equal(points.attributes[name], expected, name)
    known = set(las.point_format.dimension_names) - {"X", "Y", "Z", "scan_angle_rank"} | {"scan_angle"}
    waves = {name for name in known if name.startswith("wavepacket")} | {"return_point_wave_location", "x_t", "y_t", "z_t"}
    # lazrs does not bring back the wave packets of formats 9 and 10 that it wrote: they are not offered
    assert set(file.dimensions) == (known - waves if compressed and point_format > 8 else known)


@pytest.mark.parametrize("point_format", [6, 7, 8])
def test_selective_decoding_gives_what_full_decoding_gives(tmp_path, point_format):
    extra = [laspy.ExtraBytesParams("tree", "i4"), laspy.ExtraBytesParams("normal", "3f4")]
    made(tmp_path / "case.laz", "1.4", point_format, extra=extra)
    file = open_points(tmp_path / "case.laz")
    (full,) = read_chunks(file, file.dimensions)
    for name in file.dimensions:
        (alone,) = read_chunks(file, [name])
        assert (alone.Z == full.Z).all()
        assert list(alone.attributes) == [name]
        np.testing.assert_array_equal(alone.attributes[name], full.attributes[name])


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning:laspy")
@pytest.mark.parametrize("suffix", ["las", "laz"])
@pytest.mark.parametrize("point_format", [3, 7])
def test_extra_dimensions_keep_type_shape_and_scale(tmp_path, suffix, point_format):
    extra = [
        laspy.ExtraBytesParams("tree", "u8"),
        laspy.ExtraBytesParams("height", "i2", scales=np.array([0.01]), offsets=np.array([100.0])),
        laspy.ExtraBytesParams("normal", "3f4"),
    ]
    las = made(tmp_path / f"case.{suffix}", "1.4", point_format, extra=extra)
    file = open_points(tmp_path / f"case.{suffix}")
    assert file.extra_dimensions == ("tree", "height", "normal")
    (points,) = read_chunks(file, file.extra_dimensions)
    assert points.attributes["tree"].dtype == np.uint64
    assert (points.attributes["tree"] == las.tree).all()
    np.testing.assert_allclose(points.attributes["height"], np.asarray(las.points.array["height"]) * 0.01 + 100, atol=1e-12)
    np.testing.assert_array_equal(points.attributes["normal"], np.asarray(las.normal))


def test_extra_dimension_named_like_a_standard_one_gets_a_number(tmp_path):
    made(tmp_path / "case.las", "1.4", 6, extra=[laspy.ExtraBytesParams("classificatiom", "u1")])
    raw = (tmp_path / "case.las").read_bytes().replace(b"classificatiom", b"classification")
    (tmp_path / "case.las").write_bytes(raw)
    assert open_points(tmp_path / "case.las").extra_dimensions == ("classification_2",)


def test_bytes_that_nobody_describes_are_skipped(tmp_path):
    las = made(tmp_path / "case.las", "1.2", 1, extra=[laspy.ExtraBytesParams("a", "u2")])
    raw = bytearray((tmp_path / "case.las").read_bytes())
    raw[227 + 2] = ord("X")  # the record is no longer LASF_Spec's
    (tmp_path / "case.las").write_bytes(raw)
    file = open_points(tmp_path / "case.las")
    (points,) = read_chunks(file)
    assert file.extra_dimensions == ()
    assert (points.Z == las.Z).all()


@pytest.mark.parametrize("chunk", [1, 7, 199, 200, 201, 10**6])
@pytest.mark.parametrize("suffix", ["las", "laz"])
def test_chunks_are_full_and_add_up_to_the_file(tmp_path, suffix, chunk):
    las = made(tmp_path / f"case.{suffix}", "1.4", 6)
    chunks = list(read_chunks(open_points(tmp_path / f"case.{suffix}"), ["gps_time"], chunk=chunk))
    assert [len(points) for points in chunks[:-1]] == [min(chunk, 200)] * (len(chunks) - 1)
    assert (np.concatenate([points.X for points in chunks]) == las.X).all()


def test_chunk_smaller_than_the_laz_chunks_keeps_their_order(data_dir):
    path = data_dir / "als_forest" / "MixedConifer.laz"
    parts = list(read_chunks(open_points(path), [], chunk=11_000))
    assert [len(points) for points in parts] == [11_000, 11_000, 11_000, 4_657]
    assert (np.concatenate([points.X for points in parts]) == laspy.read(path).X).all()


def test_nothing_named_reads_the_default_dimensions(tmp_path):
    made(tmp_path / "case.las", "1.2", 0)
    (points,) = read_chunks(open_points(tmp_path / "case.las"))
    assert tuple(points.attributes) == DEFAULT_DIMENSIONS
    assert points.attributes["withheld"].dtype == np.bool_
    assert points.attributes["scan_angle"].dtype == np.float32


def test_legacy_class_is_five_bits_and_its_flags_are_apart(tmp_path):
    las = made(tmp_path / "case.las", "1.2", 0)
    raw = bytearray((tmp_path / "case.las").read_bytes())
    raw[227 + 15] = 0b1010_0010  # withheld, synthetic, class 2
    (tmp_path / "case.las").write_bytes(raw)
    (points,) = read_chunks(open_points(tmp_path / "case.las"), ["classification", "withheld", "key_point", "synthetic"])
    assert [values[0] for values in points.attributes.values()] == [2, True, False, True]
    assert len(points) == len(las)


def test_missing_dimension_is_refused_with_what_there_is(tmp_path):
    made(tmp_path / "case.las", "1.2", 0)
    with pytest.raises(InputError, match=r"no dimension nir, red; it has X, Y, Z, intensity.*point_source_id"):
        next(read_chunks(open_points(tmp_path / "case.las"), ["intensity", "nir", "red"]))


def test_points_outside_of_the_header_bounds_are_refused_but_for_one_step(tmp_path):
    las = made(tmp_path / "case.las", "1.2", 0)
    raw = bytearray((tmp_path / "case.las").read_bytes())
    (xmax,) = struct.unpack_from("<d", raw, 179)
    struct.pack_into("<d", raw, 179, xmax - 0.01)
    (tmp_path / "case.las").write_bytes(raw)
    assert len(next(read_chunks(open_points(tmp_path / "case.las")))) == len(las)
    struct.pack_into("<d", raw, 179, xmax - 0.02)
    (tmp_path / "case.las").write_bytes(raw)
    where = int(np.argmax(las.X))
    with pytest.raises(InputError, match=f"point {where} has x = .*outside"):
        list(read_chunks(open_points(tmp_path / "case.las")))


def test_file_that_changed_after_opening_is_refused(tmp_path):
    made(tmp_path / "case.las", "1.2", 0)
    file = open_points(tmp_path / "case.las")
    made(tmp_path / "case.las", "1.2", 0, count=20)
    with pytest.raises(InputError, match="changed since"):
        list(read_chunks(file))


def test_point_file_travels_between_processes(data_dir):
    file = open_points(data_dir / "las_formats" / "simple.copc.laz")
    assert pickle.loads(pickle.dumps(file)) == file


@given(raw=st.integers(-(2**31), 2**31 - 1), digits=st.integers(0, 7))
def test_coordinates_of_decimal_scales_are_the_nearest_doubles(raw, digits):
    value = coordinates(np.array([raw], np.int32), float(f"1e-{digits}"), 0.0)[0]
    assert value == float(Decimal(raw).scaleb(-digits))


def test_coordinate_on_a_decimal_edge_is_on_it():
    assert 627755002 * 0.01 > 6277550.02
    assert coordinates(np.array([627755002], np.int32), 0.01, 0.0)[0] == 6277550.02
    assert coordinates(np.array([627755000], np.int32), 0.01, 0.0)[0] == 6277550.0
    assert coordinates(np.array([3], np.int32), 0.3048, 1.0)[0] == 3 * 0.3048 + 1.0
    assert coordinates(np.array([5], np.int32), 2.0, 1.0)[0] == 11.0


FILES = {
    # name: points, horizontal EPSG or None, metres in a unit of the map
    "las_formats/autzen_trim.laz": (110_000, "NAD_1983_HARN_Lambert_Conformal_Conic", 0.3048),
    "las_formats/simple.laz": (1_065, None, None),
    "las_formats/simple.copc.laz": (1_065, "NAD83 / Oregon LCC (m) + NAVD88 height (ftUS)", 1.0),
    "als_forest/Amazon.las": (19_730, None, None),
    "als_forest/Megaplot.laz": (81_590, "NAD83 / UTM zone 17N", 1.0),
    "als_forest/MixedConifer.laz": (37_657, "NAD83 / UTM zone 12N", 1.0),
    "als_forest/Topography.laz": (73_403, "NAD83(CSRS) / MTM zone 7", 1.0),
    "als_forest/bcts_1.laz": (531_662, "unknown", 1.0),
    "chablais3_fr/las_chablais3.laz": (92_097, "RGF93 v1 / Lambert-93", 1.0),
    "neon/SJER_052.laz": (92_482, None, None),
    "uas_trees_wa_usa/laz/Plot_10_Tree_61.laz": (None, "NAD83 / UTM zone 10N", 1.0),
    "ign_lidarhd_fr/laz/test_data_77050_627755_LA93_IGN69.laz": (73_355, "RGF93 v1 / Lambert-93", 1.0),
    "ign_lidarhd_fr/laz/test_data_77060_627760_LA93_IGN69.laz": (59_606, "RGF93 v1 / Lambert-93", 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_real_file_opens_and_reads_as_laspy_reads_it(data_dir, name):
    count, crs, unit = FILES[name]
    file = open_points(data_dir / name)
    las = laspy.read(data_dir / name)
    assert file.count == (count or len(las))
    assert (file.crs and file.crs.name) == crs
    if file.crs:
        assert file.crs.axis_info[0].unit_conversion_factor == pytest.approx(unit, rel=1e-12)
    parts = list(read_chunks(file, chunk=100_000))
    np.testing.assert_array_equal(np.concatenate([points.Y for points in parts]), las.Y)
    for attribute in ("classification", "intensity", "return_number"):
        np.testing.assert_array_equal(np.concatenate([p.attributes[attribute] for p in parts]), np.asarray(las[attribute]))
    np.testing.assert_array_equal(np.concatenate([p.attributes["scan_angle"] for p in parts]), degrees(las))


def test_every_real_file_opens(data_dir):
    paths = sorted(data_dir.glob("**/*.la[sz]"))
    assert len(paths) > 40
    for path in paths:
        assert open_points(path).count > 0


def test_nodata_of_an_extra_dimension_is_nan(data_dir):
    """MixedConifer's treeID declares the largest double as no data; it stands in 22 % of the points."""
    path = data_dir / "als_forest" / "MixedConifer.laz"
    (points,) = read_chunks(open_points(path), ["treeID"])
    stored = np.asarray(laspy.read(path).treeID)
    absent = stored == np.finfo(np.float64).max
    assert 0.2 < absent.mean() < 0.25
    np.testing.assert_array_equal(points.attributes["treeID"], np.where(absent, np.nan, stored))
