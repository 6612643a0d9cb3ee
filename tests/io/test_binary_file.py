"""Files over HTTP and fsspec: only the bytes that are needed, and one clear line when a server does not play along."""

from __future__ import annotations

import io
import socket
import time
from contextlib import nullcontext

import fsspec
import numpy as np
import pytest

from fusion3d.errors import InputError
from fusion3d.io import binary_file
from fusion3d.io.binary_file import digest, is_url, open_binary, size_of
from fusion3d.io.las import open_points, query_window, read_chunks
from tests.io.copc_files import write_copc
from tests.io.range_server import serving

WINDOW = (600_100.0, 6_800_100.0, 600_150.0, 6_800_150.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    random = np.random.default_rng(0)
    x, y = random.uniform(600_000, 601_000, 300_000), random.uniform(6_800_000, 6_801_000, 300_000)
    write_copc(folder / "big.copc.laz", x, y, random.uniform(0, 30, 300_000))
    return folder


@pytest.fixture
def server(folder):
    with serving(folder) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(binary_file, "_PAUSES", (0.0, 0.0))


@pytest.fixture
def in_memory():
    memory = fsspec.filesystem("memory")
    yield memory
    memory.store.clear()


@pytest.mark.parametrize(("path", "remote"), [
    ("https://a.org/b.laz", True), ("s3://bucket/b.laz", True), ("memory://b", True), ("simplecache::s3://bucket/b.laz", True),
    ("/data/b.laz", False), ("b.laz", False), ("odd:name.laz", False), ("a b/ç.laz", False),
])  # fmt: skip
def test_urls_are_told_from_paths(path, remote):
    assert is_url(path) == remote


def test_a_local_path_is_opened_plainly(folder):
    with open_binary(folder / "big.copc.laz") as source:
        assert isinstance(source, io.BufferedReader)
        assert size_of(source) == (folder / "big.copc.laz").stat().st_size


def test_a_window_of_a_copc_over_http_costs_a_small_share_of_the_file(folder, server):
    url, local = f"{server.url}/big.copc.laz", open_points(folder / "big.copc.laz")
    file = open_points(url)
    assert (file.count, file.bounds, file.crs) == (local.count, local.bounds, local.crs)
    points = query_window(file, WINDOW, ["gps_time"])
    expected = query_window(local, WINDOW, ["gps_time"])
    assert sorted(points.attributes["gps_time"]) == sorted(expected.attributes["gps_time"])
    assert len(points) > 500
    size = (folder / "big.copc.laz").stat().st_size
    assert server.sent < 0.25 * size
    assert len(server.requests) < 20


def test_chunks_for_a_window_hold_its_points_and_few_others(folder, server):
    file = open_points(f"{server.url}/big.copc.laz", check=False)
    server.sent = 0
    read = np.concatenate([chunk.attributes["gps_time"] for chunk in read_chunks(file, ["gps_time"], bounds=WINDOW)])
    wanted = query_window(open_points(folder / "big.copc.laz"), WINDOW, ["gps_time"]).attributes["gps_time"]
    assert set(wanted) <= set(read)
    assert len(read) < 0.1 * file.count
    assert server.sent < 0.25 * (folder / "big.copc.laz").stat().st_size


def test_a_whole_file_over_http_is_sent_once_in_few_requests(folder, server):
    file = open_points(f"{server.url}/big.copc.laz", check=False)
    server.sent = 0
    server.requests.clear()
    times = np.concatenate([chunk.attributes["gps_time"] for chunk in read_chunks(file, ["gps_time"])])
    assert (np.sort(times) == np.arange(300_000)).all()
    assert server.sent <= 1.05 * (folder / "big.copc.laz").stat().st_size
    assert len(server.requests) < 10


def test_files_of_any_fsspec_system_read_like_local_ones(folder, in_memory):
    raw = (folder / "big.copc.laz").read_bytes()
    in_memory.pipe("/archive/big.copc.laz", raw)
    file = open_points("memory://archive/big.copc.laz")
    assert file.copc
    assert len(query_window(file, WINDOW)) == len(query_window(open_points(folder / "big.copc.laz"), WINDOW))
    assert digest("memory://archive/big.copc.laz") == digest(folder / "big.copc.laz")


def test_blocks_give_the_bytes_of_the_file_wherever_they_are_read(in_memory, monkeypatch):
    monkeypatch.setattr(binary_file, "_BLOCK", 16)
    monkeypatch.setattr(binary_file, "_KEPT_BLOCKS", 3)
    raw = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8).tobytes()
    in_memory.pipe("/bytes", raw)
    random = np.random.default_rng(1)
    for ahead in (0, 40):
        with open_binary("memory://bytes", ahead=ahead) as source:
            for start, length in random.integers(0, (1010, 120), (300, 2)):
                source.seek(start)
                assert source.read(int(length)) == raw[start : start + length]
            assert source.seek(-7, 2) == 993
            assert source.read() == raw[-7:]
            assert source.read(1) == b""


def test_a_missing_file_is_named_with_its_address(server):
    with pytest.raises(InputError, match=rf"{server.url}/no\.laz: there is no such file \(the server answers 404\); check"):
        open_points(f"{server.url}/no.laz")


def test_a_server_without_ranges_is_refused_with_a_remedy(server):
    server.ranges = False
    with pytest.raises(InputError, match=r"big\.copc\.laz: its server does not send parts of files.*download the file"):
        open_points(f"{server.url}/big.copc.laz")


def test_a_silent_server_ends_in_an_error_and_not_in_a_hang(server, monkeypatch):
    monkeypatch.setattr(binary_file, "_TIMEOUT", 0.3)
    server.silent = 60.0
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"did not answer within 0\.3 s; check the address and the network"):
        open_points(f"{server.url}/big.copc.laz")
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("begun", [False, True])
def test_a_busy_server_is_asked_again(server, begun):
    """When a file is opened (by two requests, HEAD and GET, each time), and when it is read."""
    with open_binary(f"{server.url}/big.copc.laz") if begun else nullcontext() as source:
        server.failures = 2
        if source is not None:
            assert source.read(4) == b"LASF"
        assert open_points(f"{server.url}/big.copc.laz", check=False).count == 300_000
    assert server.failures == 0


def test_a_server_that_stays_busy_is_given_up_on(server):
    server.failures = 100
    with pytest.raises(InputError, match=r"the server answers 503.*try again later"):
        open_points(f"{server.url}/big.copc.laz")
    assert 90 < server.failures < 100


def test_no_server_at_all_is_one_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(InputError, match=rf"http://127\.0\.0\.1:{port}/a\.laz: cannot be read \(.*network"):
        open_points(f"http://127.0.0.1:{port}/a.laz")


@pytest.mark.parametrize(("url", "said"), [
    ("nonsense://a/b.laz", "Protocol not known"), ("memory://none.laz", "no such file"), ("dropbox://a.laz", "not installed"),
])  # fmt: skip
def test_what_fsspec_cannot_open_is_an_input_error(url, said):
    with pytest.raises(InputError, match=f"{url}.*{said}"):
        open_points(url)


def test_folders_and_missing_paths_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        open_binary(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        open_binary(tmp_path / "none.laz")
