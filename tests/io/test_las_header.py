"""Headers that lie: every claim of a LAS header is held against the file before anything trusts it."""

from __future__ import annotations

import datetime
import re
import struct

import laspy
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion3d.errors import Fusion3DError, InputError
from fusion3d.io.las import open_points, read_chunks
from fusion3d.io.las_header import read_header

COUNT = 60


def las_bytes(folder, *, version="1.2", point_format=1, compressed=False, extra=False, count=COUNT) -> bytes:
    """A small LAS that laspy, not the code under test, has written."""
    header = laspy.LasHeader(version=version, point_format=point_format)
    header.scales, header.offsets = np.full(3, 0.01), np.array([1000.0, 2000.0, 0.0])
    header.creation_date = datetime.date(2021, 9, 20)
    if extra:
        header.add_extra_dim(laspy.ExtraBytesParams("tree", "u4"))
    las = laspy.LasData(header)
    las.points = laspy.ScaleAwarePointRecord.zeros(count, header=header)
    las.X, las.Y, las.Z = np.arange(count), np.arange(count) * 3 % 50, np.arange(count) * 7 % 40
    las.return_number[:], las.number_of_returns[:] = 1, 1
    path = folder / ("made.laz" if compressed else "made.las")
    las.write(path, laz_backend=laspy.LazBackend.Lazrs if compressed else None)
    return path.read_bytes()


def patched(raw: bytes, layout: str, position: int, *values) -> bytes:
    return raw[:position] + struct.pack(layout, *values) + raw[position + struct.calcsize(layout) :]


@pytest.fixture
def save(tmp_path):
    def write(raw: bytes, name: str = "case.las"):
        path = tmp_path / name
        path.write_bytes(raw)
        return path

    return write


def test_header_says_what_laspy_wrote(tmp_path, save):
    header = read_header(save(las_bytes(tmp_path, extra=True)))
    assert (header.version, header.count, header.layout.point_format) == ((1, 2), COUNT, 1)
    assert header.scales == (0.01, 0.01, 0.01)
    assert header.bounds == (1000.0, 2000.0, 0.0, 1000.59, 2000.49, 0.39)
    assert header.date == datetime.date(2021, 9, 20)
    assert header.layout.extra_names == ("tree",)


@pytest.mark.parametrize(("content", "words"), [
    (b"", "empty"),
    (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "web page"),
    (b"\n<html>please log in</html>", "web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    (b"PK\x03\x04" + bytes(400), "archive"),
    (b"II*\0" + bytes(400), "not a LAS"),
    (b"LASF", "less than a LAS header"),
    (b"LASF" + bytes(400), "version 0.0"),
])  # fmt: skip
def test_what_is_no_las_is_refused_in_words(save, content, words):
    with pytest.raises(InputError, match=words):
        read_header(save(content, "case.laz"))


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_header(tmp_path / "none.laz")
    with pytest.raises(InputError, match="folder"):
        read_header(tmp_path)


@pytest.mark.parametrize(("layout", "position", "values", "words"), [
    ("<B", 25, (9,), "version 1.9"),
    ("<H", 94, (100,), "claims 100 bytes"),
    ("<I", 96, (10,), "points should start"),
    ("<I", 96, (0xFFFFFFFF,), "points should start"),
    ("<I", 100, (0xFFFFFFFF,), "4294967295 variable length records"),
    ("<B", 104, (11,), "point format 11"),
    ("<B", 104, (3,), "records have 28 bytes"),
    ("<B", 104, (6,), "does not exist in LAS 1.2"),
    ("<B", 104, (0xC1,), "before its first release"),
    ("<B", 104, (0x81,), "no LASzip record"),
    ("<H", 105, (27,), "records have 27 bytes"),
    ("<H", 105, (29,), "truncated"),
    ("<I", 107, (COUNT + 1,), f"says {COUNT + 1} points, the file holds {COUNT}"),
    ("<I", 107, (0xFFFFFFFF,), "truncated"),
    ("<I", 107, (COUNT - 1,), "added up by return"),
    ("<d", 131, (0.0,), "scale of x is 0.0"),
    ("<d", 139, (float("nan"),), "scale of y is nan"),
    ("<d", 147, (float("inf"),), "scale of z is inf"),
    ("<d", 131, (-0.01,), "scale of x"),
    ("<d", 131, (1e305,), "infinite"),
    ("<d", 155, (float("nan"),), "offset of x"),
    ("<d", 155, (1e17,), "cannot hold the scale"),
    ("<d", 163, (1e9,), "cannot reach"),
    ("<d", 179, (float("nan"),), "no range"),
    ("<2d", 179, (1.0, 2.0), "no range"),
])  # fmt: skip
def test_header_that_contradicts_itself_or_the_file_is_refused(tmp_path, save, layout, position, values, words):
    raw = las_bytes(tmp_path)
    with pytest.raises(InputError, match=words) as caught:
        open_points(save(patched(raw, layout, position, *values)))
    assert "case.las" in str(caught.value)
    assert caught.value.remedy


def test_header_count_below_the_real_one_is_refused_even_when_returns_agree(tmp_path, save):
    raw = patched(las_bytes(tmp_path), "<6I", 107, COUNT - 10, COUNT - 10, 0, 0, 0, 0)
    with pytest.raises(InputError, match=f"says {COUNT - 10} points, the file holds room for {COUNT}"):
        open_points(save(raw))


@pytest.mark.parametrize(("layout", "position", "values", "words"), [
    ("<QI", 235, (10**9, 1), "should start at byte 1000000000"),
    ("<QI", 235, (375, 0xFFFFFFFF), "extended records"),
    ("<Q", 247, (2**40,), "1099511627776 points"),
    ("<Q", 247, (2**64 - 1,), "points"),
    ("<I", 107, (7,), "older versions"),
])  # fmt: skip
def test_header_of_las_1_4_that_lies_is_refused(tmp_path, save, layout, position, values, words):
    raw = las_bytes(tmp_path, version="1.4", point_format=6)
    for size_only in (raw, las_bytes(tmp_path, version="1.4", point_format=6, compressed=True)):
        with pytest.raises(InputError, match=words):
            open_points(save(patched(size_only, layout, position, *values)))


def test_record_that_runs_past_the_header_is_refused(tmp_path, save):
    raw = las_bytes(tmp_path, extra=True)
    with pytest.raises(InputError, match="variable length record 1 of 1 claims 60000 bytes"):
        open_points(save(patched(raw, "<H", 227 + 20, 60000)))


def test_extended_record_that_runs_past_the_file_is_refused(tmp_path, save):
    raw = las_bytes(tmp_path, version="1.4", point_format=6)
    evlr = struct.pack("<2x16sHQ32x", b"LASF_Projection", 2112, 2**60)
    with pytest.raises(InputError, match="claims 1152921504606846976 bytes, 0 are there"):
        open_points(save(patched(raw + evlr, "<QI", 235, len(raw), 1)))


def test_extra_dimensions_larger_than_the_record_are_refused(tmp_path, save):
    raw = las_bytes(tmp_path, extra=True)
    kind = 227 + 54 + 2
    assert raw[kind] == 5  # uint32
    with pytest.raises(InputError, match="need 8 bytes a point, the record leaves 4"):
        open_points(save(patched(raw, "<B", kind, 10)))
    with pytest.raises(InputError, match="unknown data type 99"):
        open_points(save(patched(raw, "<B", kind, 99)))


def test_truncated_las_is_refused_at_every_length(tmp_path, save):
    raw = las_bytes(tmp_path)
    for length in (0, 3, 100, 226, 227, 300, len(raw) - 28, len(raw) - 1):
        with pytest.raises(InputError):
            open_points(save(raw[:length]))


def test_file_without_points_is_valid(tmp_path, save):
    file = open_points(save(las_bytes(tmp_path, count=0)))
    assert file.count == 0
    assert np.isnan(file.bounds).all()
    assert list(read_chunks(file)) == []


def test_creation_date_that_is_no_date_is_none(tmp_path, save):
    raw = las_bytes(tmp_path)
    for day, year in ((0, 0), (0, 2018), (1, 1), (366, 2021), (400, 2021), (1, 65535)):
        assert read_header(save(patched(raw, "<HH", 90, day, year))).date is None
    assert read_header(save(patched(raw, "<HH", 90, 366, 2020))).date == datetime.date(2020, 12, 31)


MUTANTS = [("1.2", 3, False, True), ("1.4", 6, False, False), ("1.2", 1, True, True), ("1.4", 7, True, False)]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    return [las_bytes(folder, version=v, point_format=f, compressed=z, extra=e) for v, f, z, e in MUTANTS]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_header_gives_points_or_an_error_in_words(originals, save, data):
    raw = bytearray(data.draw(st.sampled_from(originals)))
    start = struct.unpack_from("<I", raw, 96)[0]
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, start + 20))
        raw[position : position + 1] = data.draw(st.binary(min_size=1, max_size=1))
    path = save(bytes(raw), "mutant.laz")
    try:
        file = open_points(path)
        read = sum(len(points) for points in read_chunks(file, file.dimensions))
    except Fusion3DError as error:
        if not re.fullmatch(r".*mutant\.laz.*", str(error)):
            raise
    else:
        assert read == file.count
