"""Damaged, truncated and lying LAZ files are refused; selective decoding gives what full decoding gives."""

from __future__ import annotations

import re
import struct

import laspy
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion3d.errors import Fusion3DError, InputError
from fusion3d.io.las import open_points, read_chunks
from fusion3d.io.laz import decoding

COUNT = 700


def laz_bytes(folder, *, version, point_format, count=COUNT, repeat=False) -> bytes:
    header = laspy.LasHeader(version=version, point_format=point_format)
    header.scales, header.offsets = np.full(3, 0.01), np.zeros(3)
    las = laspy.LasData(header)
    las.points = laspy.ScaleAwarePointRecord.zeros(count, header=header)
    rng = np.random.default_rng(3)
    if not repeat:
        las.X, las.Y, las.Z = rng.integers(0, 9000, (3, count))
        las.intensity = rng.integers(0, 5000, count)
    path = folder / "made.laz"
    las.write(path, laz_backend=laspy.LazBackend.Lazrs)
    return path.read_bytes()


def table_of(raw: bytes) -> tuple[int, int]:
    """First byte of the points and of the chunk table."""
    start = struct.unpack_from("<I", raw, 96)[0]
    return start, struct.unpack_from("<q", raw, start)[0]


def with_count(raw: bytes, count: int) -> bytes:
    changed = bytearray(raw)
    if raw[25] == 4:
        changed[247:255] = struct.pack("<Q", count)
    changed[107:131] = struct.pack("<6I", count if raw[25] < 4 else 0, 0, 0, 0, 0, 0)
    changed[255:375] = changed[255:375] if raw[25] < 4 else bytes(120)
    return bytes(changed)


@pytest.fixture(params=[("1.2", 3), ("1.4", 6), ("1.4", 8)], ids=["format 3", "format 6", "format 8"])
def raw(request, tmp_path):
    return laz_bytes(tmp_path, version=request.param[0], point_format=request.param[1])


@pytest.fixture
def save(tmp_path):
    def write(content: bytes):
        path = tmp_path / "case.laz"
        path.write_bytes(content)
        return path

    return write


def read_all(path) -> int:
    file = open_points(path)
    return sum(len(points) for points in read_chunks(file))


def test_whole_file_reads(raw, save):
    assert read_all(save(raw)) == COUNT


@pytest.mark.parametrize("missing", [1, 8, 20, 1000, 3000])
def test_truncated_file_is_refused_on_opening(raw, save, missing):
    with pytest.raises(InputError, match=r"truncated|damaged"):
        open_points(save(raw[:-missing]))


@pytest.mark.parametrize("count", [COUNT - 300, COUNT - 1, COUNT + 1, COUNT + 40_000, 60_000, 0])
def test_header_count_beside_the_real_one_is_refused(raw, save, count):
    with pytest.raises(InputError, match=f"{count} points"):
        read_all(save(with_count(raw, count)))


def test_two_to_the_forty_points_are_refused_without_memory(raw, save):
    with pytest.raises(InputError, match="points"):
        open_points(save(with_count(raw, 2**40 if raw[25] == 4 else 2**32 - 1)))


def test_decompression_bomb_is_refused_and_a_small_repetitive_file_is_not(tmp_path, save):
    bomb = laz_bytes(tmp_path, version="1.4", point_format=6, count=1_000_000, repeat=True)
    assert len(bomb) < 150_000
    with pytest.raises(InputError, match="bomb"):
        open_points(save(bomb))
    small = laz_bytes(tmp_path, version="1.4", point_format=6, count=50_000, repeat=True)
    assert read_all(save(small)) == 50_000


@pytest.mark.parametrize("where", [0, 5, 2**62])
def test_chunk_table_outside_of_the_file_is_refused(raw, save, where):
    start, _ = table_of(raw)
    with pytest.raises(InputError, match=r"chunk table|did not finish"):
        open_points(save(raw[:start] + struct.pack("<q", where) + raw[start + 8 :]))


def test_file_whose_writer_did_not_finish_is_refused(raw, save):
    start, table = table_of(raw)
    with pytest.raises(InputError, match=r"did not finish|chunk table"):
        open_points(save(raw[:start] + struct.pack("<q", -1) + raw[start + 8 : table]))


def test_chunk_table_offset_at_the_end_of_the_file_is_understood(raw, save):
    start, table = table_of(raw)
    streamed = raw[:start] + struct.pack("<q", -1) + raw[start + 8 :] + struct.pack("<q", table)
    assert read_all(save(streamed)) == COUNT


def test_absurd_number_of_chunks_is_refused(raw, save):
    _, table = table_of(raw)
    with pytest.raises(InputError, match="4294967295 chunks"):
        open_points(save(raw[: table + 4] + struct.pack("<I", 0xFFFFFFFF) + raw[table + 8 :]))


def test_laszip_record_of_other_points_is_refused(raw, save):
    place = raw.index(b"laszip encoded") - 2 + 54
    kind, size, version = struct.unpack_from("<3H", raw, place + 34)
    for item in ((kind, size + 1, version), (kind + 1, size, version)):
        with pytest.raises(InputError, match="LASzip record describes"):
            open_points(save(raw[: place + 34] + struct.pack("<3H", *item) + raw[place + 40 :]))
    with pytest.raises(InputError, match="compressor 9"):
        open_points(save(raw[:place] + struct.pack("<H", 9) + raw[place + 2 :]))


def test_flipped_bytes_give_an_error_or_points_inside_of_the_bounds(raw, save):
    """LAZ has no checksum: coordinates that damage has moved are caught by the header's bounds."""
    start, table = table_of(raw)
    refused = 0
    for position in range(start + 20, table, (table - start) // 60):
        flipped = bytearray(raw)
        flipped[position] ^= 0x55
        try:
            for points in read_chunks(open_points(save(bytes(flipped)))):
                assert points.x.min() >= -0.011
                assert points.x.max() <= 90.011
        except InputError:
            refused += 1
    assert refused > 5


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4), cut=st.integers(0, 10**6))
def test_any_damage_gives_points_or_an_error_in_words(raw, save, flips, cut):
    damaged = bytearray(raw)
    for position, change in flips:
        damaged[position % len(damaged)] ^= change
    if cut % 5 == 0:
        damaged = damaged[: cut % len(damaged)]
    try:
        path = save(bytes(damaged))
        file = open_points(path)
        assert sum(len(points) for points in read_chunks(file, file.dimensions)) == file.count
    except Fusion3DError as error:
        if not re.fullmatch(r".*case\.laz.*", str(error)):
            raise


def test_opening_without_the_check_reads_only_the_header_and_reading_still_finds_the_damage(raw, save):
    _, table = table_of(raw)
    file = open_points(save(raw[: table - 500]), check=False)
    assert file.count == COUNT
    with pytest.raises(InputError, match="chunk table"):
        list(read_chunks(file))


def test_rust_panic_becomes_an_input_error_and_an_interrupt_does_not():
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(InputError, match="near point 7"), decoding("a.laz", "damaged near point 7"):
        raise panic("index out of bounds\nnote: run with backtrace")
    with pytest.raises(KeyboardInterrupt), decoding("a.laz", "damaged"):
        raise KeyboardInterrupt
