"""Copies of point files: everything as it was but for what was asked for."""

from __future__ import annotations

import laspy
import numpy as np
import pytest

from fusion3d.errors import InputError
from fusion3d.io.las import open_points
from fusion3d.io.las_copy import NewDimension, check_copy, copy_points
from fusion3d.io.las_header import read_header

NEW = (NewDimension("confidence", "probability of the class", 0.01), NewDimension("before", "class before"))


def values(start: int, stop: int) -> dict[str, np.ndarray]:
    place = np.arange(start, stop)
    return {"classification": (place % 7).astype(np.uint8), "confidence": (place % 101).astype(np.uint8)}


def copied(path, target):
    copy_points(open_points(path), target, NEW, values, "a test", keep={"classification": "before"})
    return laspy.read(path), laspy.read(target)


def source(path, version: str, point_format: int, count: int = 3000, compress: bool = True):
    """All dimensions full of random bits, an extra dimension with scale and nodata, VLRs, and an EVLR where there may be one."""
    rng = np.random.default_rng(point_format)
    header = laspy.LasHeader(version=version, point_format=point_format)
    header.scales, header.offsets = np.array([0.01, 0.01, 0.001]), np.array([650000.0, 6860000.0, 0.0])
    header.add_extra_dims([laspy.ExtraBytesParams("dbh", "i2", "diameter", offsets=[1.0], scales=[0.5], no_data=[-1])])
    header.add_extra_dims([laspy.ExtraBytesParams("normal", "3f4", "of the surface")])
    header.vlrs.append(laspy.VLR("someone", 77, "their own", b"\x01\x02\x00\xff"))
    header.file_source_id, header.system_identifier = 321, "a scanner"
    las = laspy.LasData(header)
    las.points = laspy.ScaleAwarePointRecord.zeros(count, header=header)
    for name, (dtype, _) in las.points.array.dtype.fields.items():
        raw = rng.integers(0, 256, count * dtype.itemsize, dtype=np.uint8).view(np.uint8)
        las.points.array[name] = np.frombuffer(raw.tobytes(), dtype.base).reshape(las.points.array[name].shape)
    las.points.array["X"], las.points.array["Y"] = rng.integers(0, 5000, (2, count))
    las.points.array["Z"] = rng.integers(0, 90_000, count)
    las.points.array["normal"] = rng.normal(size=(count, 3))
    if "gps_time" in las.points.array.dtype.names:
        las.gps_time = np.arange(count) / 7
    las.return_number, las.number_of_returns = np.full(count, 1), np.full(count, 2)
    if version == "1.4":
        las.evlrs = laspy.vlrs.vlrlist.VLRList([laspy.VLR("someone", 78, "long", b"evlr" * 1000)])
    las.write(path, do_compress=compress)


@pytest.mark.parametrize(
    ("version", "point_format", "name"),
    [
        ("1.2", 1, "a.laz"),
        ("1.2", 3, "a.las"),
        ("1.4", 6, "a.laz"),
        ("1.4", 7, "a.laz"),
        ("1.4", 8, "a.las"),
        ("1.1", 0, "a.laz"),
    ],
)
def test_all_but_the_classes_is_kept_to_the_last_bit(tmp_path, version, point_format, name):
    source(tmp_path / name, version, point_format, compress=name.endswith("z"))
    before, after = copied(tmp_path / name, tmp_path / "copy.laz")
    place = np.arange(3000)
    np.testing.assert_array_equal(np.asarray(after.classification), place % 7)
    np.testing.assert_allclose(np.asarray(after.confidence), (place % 101) / 100, atol=1e-12)
    np.testing.assert_array_equal(np.asarray(after.before), np.asarray(before.classification))
    for dimension in before.point_format.dimension_names:
        if dimension != "classification":
            np.testing.assert_array_equal(np.asarray(after[dimension]), np.asarray(before[dimension]), err_msg=dimension)
    one, other = before.header, after.header
    for attribute in ("version", "file_source_id", "system_identifier", "creation_date", "uuid", "point_count"):
        assert getattr(one, attribute) == getattr(other, attribute), attribute
    for attribute in ("scales", "offsets", "mins", "maxs"):
        np.testing.assert_array_equal(getattr(one, attribute), getattr(other, attribute))
    assert one.global_encoding.value == other.global_encoding.value
    assert [vlr.record_data for vlr in other.vlrs if vlr.user_id == "someone"] == [b"\x01\x02\x00\xff"]
    described = {each.name: each for each in after.point_format.extra_dimensions}
    assert described["dbh"].description == "diameter"
    assert described["confidence"].description == "probability of the class"
    # their nodata and limits, which laspy does not keep
    record = read_header(tmp_path / name).find("LASF_Spec", 4)
    assert read_header(tmp_path / "copy.laz").find("LASF_Spec", 4)[: len(record)] == record
    if version == "1.4":
        assert [vlr.record_data for vlr in after.evlrs] == [b"evlr" * 1000]
    # what this project itself checks when it opens a file
    assert open_points(tmp_path / "copy.laz").count == 3000


def test_crs_of_real_files_is_kept_and_a_copc_becomes_plain_laz(data_dir, tmp_path):
    for name in ("las_formats/simple.copc.laz", "ign_lidarhd_fr/laz/test_data_77050_627760_LA93_IGN69.laz", "neon/SJER_052.laz"):
        before, _ = copied(data_dir / name, tmp_path / f"{name.replace('/', '_')}")
        old, new = open_points(data_dir / name), open_points(tmp_path / f"{name.replace('/', '_')}")
        assert new.count == len(before)
        assert not new.copc
        assert new.crs == old.crs
        assert new.bounds == pytest.approx(old.bounds)


def test_files_that_cannot_be_copied_whole_are_refused(tmp_path):
    source(tmp_path / "old.laz", "1.2", 1)
    old = open_points(tmp_path / "old.laz")
    check_copy(old, NEW, 31)
    with pytest.raises(InputError, match=r"point format 1 stores classes up to 31, not 64; convert"):
        check_copy(old, NEW, 64)
    with pytest.raises(InputError, match="has a dimension 'dbh' already"):
        check_copy(old, (NewDimension("dbh", ""),), 6)
    source(tmp_path / "waves.las", "1.3", 4, compress=False)
    with pytest.raises(InputError, match="waveforms"):
        check_copy(open_points(tmp_path / "waves.las"), NEW, 6)


def test_nothing_is_left_when_values_fail(tmp_path):
    source(tmp_path / "a.laz", "1.4", 6)

    def broken(start: int, stop: int) -> dict[str, np.ndarray]:
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        copy_points(open_points(tmp_path / "a.laz"), tmp_path / "copy.laz", NEW, broken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.laz"]


def test_a_file_without_points_is_copied_too(tmp_path):
    source(tmp_path / "empty.laz", "1.4", 6, count=0)
    before, after = copied(tmp_path / "empty.laz", tmp_path / "copy.laz")
    assert len(before) == len(after) == 0
    assert open_points(tmp_path / "copy.laz").count == 0
