"""The point files of an archive: folders with all that is below them, patterns, single files, local or behind any fsspec URL."""

from __future__ import annotations

import datetime
import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion3d.errors import InputError
from fusion3d.io.binary_file import filesystem, is_url
from fusion3d.io.las_layout import POINT_SUFFIXES
from fusion3d.io.place import reaching, written_at


@dataclass(frozen=True)
class ListedFile:
    """A file that was found: absolute path or URL, bytes, and when it was last written (UTC; None where nobody knows)."""

    location: str
    size: int
    modified: datetime.datetime | None


def list_archive(patterns: Iterable[str]) -> tuple[list[ListedFile], list[tuple[str, str]]]:
    """LAS and LAZ files (any case of the ending) behind folders, patterns and paths, sorted by location, each once.

    Folders are walked to the bottom, links included; names that begin with a dot are no files of an archive.

    Returns
    -------
    the files, and path and reason of folders that cannot be read and files that cannot be named

    Raises
    ------
    InputError
        Something that was named is not there, or holds no point file.
    """
    found: dict[str, ListedFile] = {}
    set_aside: list[tuple[str, str]] = []
    for pattern in patterns:
        lost = len(set_aside)
        matches = list(_remote(pattern) if is_url(pattern) else _local(pattern, set_aside))
        if not matches and len(set_aside) == lost:
            raise InputError(pattern, "holds no .las or .laz file", "check the path or the pattern")
        for each in matches:
            readable = os.fsencode(each.location).decode("utf-8", "replace")
            if readable == each.location:
                found[readable] = each
            else:
                reason = InputError(
                    readable, "its name is not UTF-8: no index can hold it", "rename it (for instance with convmv)"
                )
                set_aside.append((readable, str(reason)))
    return [found[location] for location in sorted(found)], set_aside


def _local(pattern: str, set_aside: list[tuple[str, str]]) -> Iterator[ListedFile]:
    exact = os.path.lexists(pattern)
    matches = [pattern] if exact else glob.glob(pattern, recursive=True)
    if not matches:
        raise InputError(pattern, "no such file or folder", "check the path or the pattern")
    for match in matches:
        if os.path.isdir(match):
            yield from _walk(match, set_aside)
        elif exact or match.lower().endswith(POINT_SUFFIXES):
            yield _described(match)


def _walk(folder: str, set_aside: list[tuple[str, str]]) -> Iterator[ListedFile]:
    def refused(error: OSError) -> None:
        path = str(error.filename)
        set_aside.append((path, str(InputError(path, f"cannot be read ({error.strerror})", "check its permissions"))))

    seen: set[tuple[int, int]] = set()
    for base, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        status = os.stat(base)
        # links may lead back up
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.lower().endswith(POINT_SUFFIXES) and not name.startswith("."):
                yield _described(os.path.join(base, name))


def _described(path: str) -> ListedFile:
    try:
        status = os.stat(path)
        written = datetime.datetime.fromtimestamp(status.st_mtime, datetime.UTC)
        return ListedFile(os.path.abspath(path), status.st_size, written)
    except OSError:
        # a link to nothing: reading it will say so
        return ListedFile(os.path.abspath(path), 0, None)


def _remote(url: str) -> Iterator[ListedFile]:
    system, path = filesystem(url)
    with reaching(url):
        if url.lower().endswith(POINT_SUFFIXES) and not glob.has_magic(path):
            entries: dict[str, Any] = {path: system.info(path)}
        elif glob.has_magic(path):
            entries = system.glob(path, detail=True)
        else:
            entries = system.find(path, detail=True)
    for name, entry in entries.items():
        if entry.get("type") == "file" and name.lower().endswith(POINT_SUFFIXES) and not Path(name).name.startswith("."):
            yield ListedFile(system.unstrip_protocol(name), int(entry["size"] or 0), written_at(entry))
