"""Files made here and sent elsewhere: whole, the first one last, or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fusion3d.errors import InputError
from fusion3d.io.delivery import delivery, final_name


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder that files are made in."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_local_files_are_made_where_they_belong(tmp_path, temporary):
    paths = [tmp_path / "forêt d'été" / "carte 1.tif", "relative.tif", "file:///tmp/a b.tif"]
    with delivery(paths) as found:
        assert found == (paths[0], Path("relative.tif"), Path("/tmp/a b.tif"))
    assert not list(temporary.iterdir())
    with delivery([]) as found:
        assert found == ()


def test_files_and_what_stands_beside_them_are_sent_the_first_last(s3, tmp_path, temporary, monkeypatch):
    sent: list[str] = []
    system = fsspec.filesystem("s3")
    real = system.put_file

    def put_file(local, remote):
        sent.append(remote)
        real(local, remote)

    monkeypatch.setattr(system, "put_file", put_file)
    first, other, here = f"{s3}/forêt d'été/carte 1.tif", f"{s3}/tables/t.csv", tmp_path / "here.txt"
    with delivery([first, here, other]) as (local, near, table):
        assert near == here
        local.write_text("map")
        local.with_name("carte 1.tif.aux.xml").write_text("names")
        local.with_name(".draft").write_text("half")
        table.write_text("a,b")
    assert {path: system.cat_file(f"s3://{path}") for path in system.find(s3)} == {
        path.removeprefix("s3://"): text for path, text in ((first, b"map"), (f"{first}.aux.xml", b"names"), (other, b"a,b"))
    }
    assert sent == [other, f"{first}.aux.xml", first]
    assert not files_in(temporary)


def test_nothing_is_sent_when_making_fails_and_a_folder_to_go_on_from_stays(s3):
    target = f"{s3}/a.tif"

    def stopped() -> None:
        with delivery([target]) as (local,):
            (local.parent / "a.tif.partial").mkdir()
            (local.parent / "a.tif.partial" / "0_0.npz").write_text("block")
            local.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert fsspec.filesystem("s3").find(s3) == []
    with delivery([target]) as (again,):
        assert (again.parent / "a.tif.partial" / "0_0.npz").read_text() == "block"
        # what has not been finished is not taken for a file of this run
        assert not again.exists()


def test_two_runs_do_not_make_one_file(s3):
    with (
        delivery([f"{s3}/a.tif"]),
        pytest.raises(InputError, match="another run is making this file"),
        delivery([f"{s3}/a.tif"]),
    ):
        pass


@pytest.mark.parametrize("url", ["s3://no-such-bucket-of-anyone/a.tif", "nonsense://a/b.tif"])
def test_place_that_cannot_be_written_is_one_line_before_the_work(s3, temporary, url):
    with pytest.raises(InputError, match="cannot be written") as failed, delivery([url]):
        raise AssertionError("the work has begun")
    assert str(failed.value).startswith(url)
    assert "\n" not in str(failed.value)
    assert not files_in(temporary)


def test_finished_file_that_cannot_be_sent_is_named(s3, monkeypatch):
    def put_file(local, remote):
        raise OSError("the line is down")

    monkeypatch.setattr(fsspec.filesystem("s3"), "put_file", put_file)
    with pytest.raises(InputError, match="the line is down") as failed, delivery([f"{s3}/a.tif"]) as (local,):
        local.write_text("map")
    assert str(local) in str(failed.value)
    assert local.read_text() == "map"


def test_where_files_appear_as_they_are_written_they_get_their_name_afterwards(monkeypatch):
    """A file system that is no object store."""
    monkeypatch.setattr(MemoryFileSystem, "protocol", "memory-of-files")
    names: list[str] = []
    real = MemoryFileSystem.put_file

    def put_file(self, local, remote, **options):
        names.append(remote)
        return real(self, local, remote, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
    with delivery(["memory://maps/a.tif"]) as (local,):
        local.write_text("map")
    assert names[0] != "memory://maps/a.tif"
    assert MemoryFileSystem().find("/maps") == ["/maps/a.tif"]
    assert MemoryFileSystem().cat_file("/maps/a.tif") == b"map"


def test_folder_that_others_can_write_is_not_used(s3, temporary):
    with delivery([f"{s3}/a.tif"]) as (local,):
        local.write_text("map")
    own = next(temporary.iterdir())
    own.chmod(0o777)
    with pytest.raises(InputError, match="others can write it"), delivery([f"{s3}/a.tif"]):
        pass


def test_a_url_stays_one():
    assert final_name("s3://a/b.tif") == "s3://a/b.tif"
    assert final_name("a//b.tif") == Path("a/b.tif")
