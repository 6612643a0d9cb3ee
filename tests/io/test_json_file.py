"""JSON files of fusion3d: what is missing, foreign or damaged gets one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusion3d.errors import InputError
from fusion3d.io.json_file import file_of, has_format, parsing, read_json, write_json


def test_a_file_is_found_by_its_path_and_by_its_folder(tmp_path: Path) -> None:
    path = write_json(tmp_path / "scores.json", {"format": "a", "n": 1})
    assert file_of(path, "scores.json", "none", "") == file_of(tmp_path, "scores.json", "none", "") == path
    with pytest.raises(InputError, match=r"other\.json: none there; make it"):
        file_of(tmp_path, "other.json", "none there", "make it")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "JSONDecodeError"),
        ("[1]", "no JSON object"),
        ("[" * 100_000, "RecursionError"),
        ('{"format": "b"}', "another format"),
        ("{}", "another format"),
        ("\udcff", "UnicodeDecodeError"),
    ],
)
def test_what_is_no_such_object_gets_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    problem, remedy = "is no figure", "make it again"
    with pytest.raises(InputError, match=rf"{problem} \(.*{reason}.*\); {remedy}") as caught, parsing(path, problem, remedy):
        read_json(path, "a")
    assert "\n" not in str(caught.value)
    assert not has_format(path, "x.json", "a")


def test_a_missing_key_is_damage_and_a_folder_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="KeyError: 'gone'"), parsing(tmp_path, "is damaged", ""):
        {}["gone"]
    with pytest.raises(InputError, match="Is a directory"), parsing(tmp_path, "is damaged", ""):
        read_json(tmp_path)


def test_the_format_of_a_folder_is_that_of_its_file(tmp_path: Path) -> None:
    write_json(tmp_path / "model.json", {"format": "a"})
    assert has_format(tmp_path, "model.json", "a")
    assert not has_format(tmp_path, "model.json", "b")
    assert not has_format(tmp_path, "other.json", "a")


def test_a_number_that_json_does_not_know_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "x.json", {"value": float("nan")})
    assert not list(tmp_path.iterdir())
