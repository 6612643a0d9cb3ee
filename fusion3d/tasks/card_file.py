"""Scores of any kind of fit as one file, `scores.json`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

from fusion3d.io.json_file import file_of, parsing, read_json, write_json

SCORES_FILE = "scores.json"


class CardFile(ABC):
    """What writes itself as `scores.json` and reads itself again."""

    FORMAT: ClassVar[str]
    """Key "format" of the file."""
    CALLED: ClassVar[str]
    """What the file is, for messages: "a file of scores"."""
    REMEDY: ClassVar[str]
    """Where to get such a file."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain types, with the key "format"."""

    @classmethod
    @abstractmethod
    def from_json(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `to_json`, without "format"; ValueError, KeyError or TypeError when something is missing or wrong."""

    def write(self, path: str | Path) -> Path:
        """Write `scores.json`, whole or not at all."""
        return write_json(path, self.to_json())

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """A card from its file, or from the folder that holds it.

        Raises
        ------
        InputError
            It is missing or is no such file.
        """
        path = file_of(path, SCORES_FILE, "no scores there", cls.REMEDY)
        with parsing(path, f"is not {cls.CALLED}", cls.REMEDY):
            plain = read_json(path, cls.FORMAT)
            del plain["format"]
            return cls.from_json(plain)
