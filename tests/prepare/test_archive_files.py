"""Which files of a folder, pattern or bucket belong to an archive."""

from __future__ import annotations

import datetime
import os

import fsspec
import pytest

from fusion3d.errors import InputError
from fusion3d.prepare.archive_files import list_archive
from tests.io.range_server import serving


def names(patterns):
    return [os.path.basename(each.location) for each in list_archive([str(pattern) for pattern in patterns])[0]]


@pytest.fixture
def archive(tmp_path):
    for name in ("a.laz", "B.LAZ", "deep/er/c.las", "deep/d.copc.laz", "notes.txt", "._a.laz", ".trash/e.laz", "été 1/f.laz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * len(name))
    return tmp_path


def test_folders_are_searched_to_the_bottom_in_any_case(archive):
    assert sorted(names([archive])) == ["B.LAZ", "a.laz", "c.las", "d.copc.laz", "f.laz"]


def test_a_file_named_twice_is_listed_once(archive):
    assert names([archive / "a.laz", archive, archive / "*.laz"]).count("a.laz") == 1


def test_links_that_lead_back_up_end(archive):
    os.symlink(archive, archive / "deep" / "up")
    assert sorted(names([archive])) == ["B.LAZ", "a.laz", "c.las", "d.copc.laz", "f.laz"]


def test_a_name_that_is_not_utf8_is_set_aside(archive):
    """As archives have them that were copied from disks of another age."""
    with open(os.path.join(os.fsencode(archive), b"caf\xe9.laz"), "wb") as file:
        file.write(b"x")
    files, ((path, reason),) = list_archive([str(archive)])
    assert len(files) == 5
    assert path == f"{archive}/caf\ufffd.laz"
    assert "rename" in reason


def test_patterns_choose(archive):
    assert names([archive / "**" / "*.las"]) == ["c.las"]
    assert names([archive / "deep", archive / "a.laz"]) == ["a.laz", "d.copc.laz", "c.las"]


def test_size_and_time_are_those_of_the_file(archive):
    os.utime(archive / "a.laz", (1_600_000_000, 1_600_000_000))
    ((listed,), aside) = list_archive([str(archive / "a.laz")])
    assert (listed.location, listed.size, aside) == (str(archive / "a.laz"), 5, [])
    assert listed.modified == datetime.datetime(2020, 9, 13, 12, 26, 40, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("name", "said"), [("none", "no such file"), ("none*.laz", "no such file"), ("empty", "no .las or .laz")]
)
def test_nothing_found_is_an_error(tmp_path, name, said):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=said):
        list_archive([str(tmp_path / name)])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_without_permission_is_set_aside(archive):
    (archive / "deep").chmod(0)
    files, aside = list_archive([str(archive)])
    (archive / "deep").chmod(0o755)
    assert len(files) == 3
    assert "cannot be read" in aside[0][1]


def test_buckets_are_listed_like_folders():
    memory = fsspec.filesystem("memory")
    try:
        for name in ("/bucket/a.laz", "/bucket/deep/B.LAS", "/bucket/notes.txt", "/bucket/._a.laz"):
            memory.pipe(name, b"1234")
        files, _ = list_archive(["memory://bucket"])
        assert [(each.location, each.size) for each in files] == [
            ("memory:///bucket/a.laz", 4),
            ("memory:///bucket/deep/B.LAS", 4),
        ]
        assert all(each.modified is not None for each in files)
        assert names(["memory://bucket/*.laz"]) == ["a.laz"]
        assert names(["memory://bucket/deep/B.LAS"]) == ["B.LAS"]
    finally:
        memory.store.clear()


def test_a_file_of_a_web_server_has_size_and_time(archive):
    os.utime(archive / "a.laz", (1_600_000_000, 1_600_000_000))
    with serving(archive) as server:
        ((listed,), _) = list_archive([f"{server.url}/a.laz"])
        assert (listed.location, listed.size) == (f"{server.url}/a.laz", 5)
        assert listed.modified == datetime.datetime(2020, 9, 13, 12, 26, 40, tzinfo=datetime.UTC)
        with pytest.raises(InputError, match=r"none\.laz: there is no such file"):
            list_archive([f"{server.url}/none.laz"])
