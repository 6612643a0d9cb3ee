from __future__ import annotations

import pytest

from fusion3d.errors import InputError
from fusion3d.io.whole_file import whole_file, write_whole


def test_file_appears_when_the_body_ends(tmp_path):
    path = tmp_path / "a.txt"
    with whole_file(path) as draft:
        draft.write_text("new")
        assert draft.suffix == ".txt"
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_was_there_stays_when_the_body_fails(tmp_path, error):
    path = write_whole(tmp_path / "a.txt", "old")

    def fail() -> None:
        with whole_file(path) as draft:
            draft.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_and_absent_folder_are_one_line(tmp_path):
    with (
        pytest.raises(InputError, match=r"a.txt: cannot be written \(No space left on device\)"),
        whole_file(tmp_path / "a.txt"),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(InputError, match="No such file or directory"):
        write_whole(tmp_path / "absent" / "a.txt", "text")


def test_errors_of_a_writing_library_are_named_by_the_caller(tmp_path):
    with pytest.raises(InputError, match="the library says no"), whole_file(tmp_path / "a.txt", RuntimeError):
        raise RuntimeError("the library\nsays no")
