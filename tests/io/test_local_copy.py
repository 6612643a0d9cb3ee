"""Remote files that a library reads from a local copy: the same content, fetched once, gone afterwards."""

from __future__ import annotations

import tempfile
from pathlib import Path

import fsspec
import numpy as np
import pytest

from fusion3d.errors import InputError
from fusion3d.io.description import describe
from fusion3d.io.gedi import open_gedi, read_footprints
from fusion3d.io.local_copy import local_copy
from tests.io.gedi_files import UTM23S, beam_l2a, write


@pytest.fixture
def room(tmp_path, monkeypatch) -> Path:
    """The temporary folder that copies lie in."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def put(local: Path, url: str) -> str:
    fsspec.filesystem("memory").pipe_file(url, local.read_bytes())
    return url


def test_footprints_behind_a_url_are_those_of_the_file(tmp_path, room):
    path = write(tmp_path / "GEDI02_A_2019108080338_O01964.h5", {"BEAM0101": beam_l2a(5)})
    url = put(path, f"memory://gedi files é/{path.name}")
    expected, found = read_footprints(path, UTM23S), read_footprints(url, UTM23S)
    np.testing.assert_array_equal(found.shot_number, expected.shot_number)
    np.testing.assert_array_equal(found.heights, expected.heights)
    assert open_gedi(url).path == url
    assert describe(url).splitlines()[1:] == describe(path).splitlines()[1:]
    assert describe(url).startswith(url)


def test_a_copy_is_fetched_once_and_goes_when_another_is_asked_for(tmp_path, room):
    first, second = (put(write(tmp_path / "a.h5", {"BEAM0101": beam_l2a(n)}), f"memory://copies/{n}.h5") for n in (2, 3))
    with local_copy(first) as copy:
        stamp = copy.stat().st_mtime_ns
    with local_copy(first) as again:
        assert (again, again.stat().st_mtime_ns) == (copy, stamp)
    with local_copy(second) as other:
        assert other.is_file()
        assert not copy.exists()
        assert len(list(room.iterdir())) == 1


def test_a_file_that_was_replaced_is_fetched_again(tmp_path, room):
    url = put(write(tmp_path / "a.h5", {"BEAM0101": beam_l2a(2)}), "memory://replaced/a.h5")
    assert open_gedi(url).shot_count == 2
    put(write(tmp_path / "b.h5", {"BEAM0101": beam_l2a(7)}), url)
    assert open_gedi(url).shot_count == 7


def test_a_local_file_is_not_copied(tmp_path, room):
    path = tmp_path / "a.h5"
    with local_copy(path) as found:
        assert found == path
    assert list(room.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file"),
        (b"", "the file is empty"),
        (b"<html>log in</html>", "a web page saved under this name"),
        (b"\x89HDF\r\n\x1a\n" + bytes(2000), "HDF5"),
    ],
)
def test_what_cannot_be_used_is_named_by_its_url(content, said, room):
    url = "memory://bad/bad.h5"
    system = fsspec.filesystem("memory")
    if content is not None:
        system.pipe_file(url, content)
    elif system.exists(url):
        system.rm(url)
    with pytest.raises(InputError, match=said) as error:
        open_gedi(url)
    assert str(error.value).startswith(url)
    assert "\n" not in str(error.value)
    assert str(room) not in str(error.value)


def test_no_room_for_a_copy_is_one_line_and_leaves_nothing_that_counts(room, monkeypatch):
    url = "memory://large/large.h5"
    fsspec.filesystem("memory").pipe_file(url, b"\x89HDF\r\n\x1a\n" + bytes(100))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(InputError, match=r"no room here for a copy of it \(No space left on device\); set TMPDIR"):
            open_gedi(url)
    with local_copy(url) as copy:
        assert copy.stat().st_size == 108
