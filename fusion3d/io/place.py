"""Folders on this machine or in an object store, by path or fsspec URL."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

from fusion3d.errors import InputError
from fusion3d.io.binary_file import filesystem, is_url, remote_error

_WRITTEN = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "created")
"""Names under which file systems tell when a file was written."""


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn what a remote file system raises into an `InputError` about the URL."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each file system has errors of its own
        raise remote_error(url, error) from None


def written_at(facts: Mapping[str, Any]) -> datetime.datetime | None:
    """When a file was last written (UTC), by what its file system tells of it; None where it does not say."""
    value = next((facts[key] for key in _WRITTEN if facts.get(key) is not None), None)
    if isinstance(value, str):
        with suppress(ValueError):  # what a web server says (RFC 9110), unless it is no date
            return parsedate_to_datetime(value).astimezone(datetime.UTC)
    if isinstance(value, (int, float)):
        return datetime.datetime.fromtimestamp(value, datetime.UTC)
    if not isinstance(value, datetime.datetime):
        return None
    return value.astimezone(datetime.UTC) if value.tzinfo else value.replace(tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Place:
    """A folder, or a file in one.

    Parameters
    ----------
    url : local path, or fsspec URL such as s3://bucket/folder
    """

    url: str

    @classmethod
    def of(cls, path: str | Path) -> Place:
        return cls(str(path).removeprefix("file://").rstrip("/") or "/")

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Place:
        return Place(f"{self.url}/{name}")

    def beside(self, suffix: str) -> Place:
        """The place of the same name with something added."""
        return Place(self.url + suffix)

    @property
    def local(self) -> Path | None:
        """The path on this machine; None in an object store."""
        return None if is_url(self.url) else Path(self.url)

    @cached_property
    def _found(self) -> tuple[Any, str]:
        fs, path = filesystem(self.url)
        # other processes write here too
        fs.use_listings_cache = False
        fs.invalidate_cache()
        return fs, path

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        return self._found[0]

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    def exists(self) -> bool:
        fs, path = self._found
        fs.invalidate_cache()
        return bool(fs.exists(path))

    def names(self) -> list[str]:
        """Names of what a folder holds, sorted; none where there is no folder."""
        fs, path = self._found
        fs.invalidate_cache()
        try:
            found = fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        # object stores list an empty folder as an entry of its own
        return sorted({str(item).rstrip("/").rsplit("/", 1)[-1] for item in found if str(item).strip("/") != path.strip("/")})

    def folders(self) -> set[str]:
        """Names of the folders directly in this one."""
        fs, path = self._found
        fs.invalidate_cache()
        found = fs.ls(path, detail=True) if fs.isdir(path) else []
        return {str(item["name"]).rstrip("/").rsplit("/", 1)[-1] for item in found if item["type"] == "directory"}

    def files(self) -> set[str]:
        """Every file below this folder, relative to it; none where there is no folder."""
        fs, path = self._found
        fs.invalidate_cache()
        return {str(item)[len(path) + 1 :] for item in fs.find(path) if str(item) != path}

    def make(self) -> None:
        """Make the folder, where folders are things of their own."""
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Remove the folder and what it holds; nothing where it is not there."""
        if self.local is not None:
            shutil.rmtree(self.local, ignore_errors=True)
        elif self.exists():
            fs, path = self._found
            fs.rm(path, recursive=True)

    def read(self) -> bytes:
        """Bytes of the file; FileNotFoundError where there is none."""
        fs, path = self._found
        return bytes(fs.cat_file(path))

    def write(self, data: bytes) -> None:
        """Write the file; on an object store it is whole or not there."""
        fs, path = self._found
        fs.pipe_file(path, data)
