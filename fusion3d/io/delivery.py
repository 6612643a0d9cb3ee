"""Files that are made in a local folder and then sent to where they belong, on any file system that fsspec knows.

A file with a URL (``s3://bucket/maps/agb.tif``) is made under its own name in a folder of this machine's temporary folder, which
follows from the user and the URL: so a run that was killed goes on from what it left there. When all is made, the files go up
one by one, each whole or not at all. Local files are made where they belong.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fusion3d.errors import InputError, one_line
from fusion3d.io.lock import take_lock
from fusion3d.io.place import Place

_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "memory"})
"""Where a file appears when all of it is there; elsewhere it gets its name afterwards."""
_LOCK = "lock"


def final_name(path: str | Path) -> Path | str:
    """What a file is called in the end: a URL stays one."""
    return Place.of(path).local or str(path)


@contextmanager
def delivery(paths: Sequence[str | Path]) -> Iterator[tuple[Path, ...]]:
    """Local paths to make files under, of which those with URLs go up when the body ends without an error.

    Whatever else the body leaves beside such a file, for instance its side files, goes up with it; folders and hidden files do
    not. The file that is first in `paths` goes up last: where it is, all are.

    Parameters
    ----------
    paths : of files; local ones come back as they are

    Raises
    ------
    InputError
        A file cannot be written there, which is tried before the body runs; or another run is making it. Where sending fails,
        the error says where the finished files are.
    """
    finals = [final_name(path) for path in paths]
    remote = [name for name in finals if isinstance(name, str)]
    if not remote:
        yield tuple(Path(name) for name in finals)
        return
    systems = {folder: _reached(folder, path) for path in remote for folder in [_folder(path)]}
    local = _local_folder(remote[0])
    with _locked(local, remote[0]):
        places = {folder: local / str(number) for number, folder in enumerate(systems)}
        for place in places.values():
            place.mkdir(exist_ok=True)
            for leftover in _files(place):
                leftover.unlink()
        made = {path: places[_folder(path)] / path.rpartition("/")[2] for path in remote}
        try:
            yield tuple(made[name] if isinstance(name, str) else name for name in finals)
            # the first file of the first folder comes last
            for folder, place in reversed(places.items()):
                for file in sorted(_files(place), key=lambda file: file == made[remote[0]]):
                    _send(systems[folder], file, f"{folder}/{file.name}")
            for place in places.values():
                shutil.rmtree(place)
        finally:
            for place in places.values():
                # what a run can go on from, or files that could not be sent, stay
                with suppress(OSError):
                    place.rmdir()
            if [path.name for path in local.iterdir()] == [_LOCK]:
                shutil.rmtree(local, ignore_errors=True)


def _folder(url: str) -> str:
    return url.rpartition("/")[0]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]


def _reached(folder: str, path: str) -> Any:
    """The file system of a remote folder, once a file has been written there and removed again."""
    import fsspec

    probe = f"{folder}/.{uuid.uuid4().hex[:12]}.probe"
    try:
        system, _ = fsspec.core.url_to_fs(folder)
        system.pipe_file(probe, b"")
        system.rm_file(probe)
    except Exception as error:  # a library of its own for each protocol, and each has its own errors
        raise InputError(
            path, f"cannot be written ({one_line(error)})", "check the address, its folder and your rights"
        ) from None
    return system


def _send(system: Any, file: Path, path: str) -> None:
    protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    draft = path if protocols & _OBJECT_STORES else f"{_folder(path)}/.{uuid.uuid4().hex[:8]}.{file.name}"
    try:
        system.put_file(str(file), draft)
        if draft != path:
            system.mv(draft, path)
    except Exception as error:
        raise InputError(
            path, f"cannot be sent ({one_line(error)})", f"the finished file is {file}: copy it from there"
        ) from None


def _local_folder(url: str) -> Path:
    """A folder of the user's that nobody else can write."""
    own = Path(tempfile.gettempdir()) / f"fusion3d-{os.getuid()}"
    local = own / hashlib.sha256(url.encode()).hexdigest()[:16]
    try:
        own.mkdir(mode=0o700, exist_ok=True)
        status = own.lstat()
        if status.st_uid != os.getuid() or own.is_symlink() or status.st_mode & 0o022:
            raise InputError(
                own, "belongs to another user, or others can write it", "remove it, or set TMPDIR to a folder of yours"
            )
        local.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(own, f"cannot be written ({error.strerror})", "set TMPDIR to a folder with free space") from None
    return local


@contextmanager
def _locked(folder: Path, path: str) -> Iterator[None]:
    lock = take_lock(folder / _LOCK)
    if lock is None:
        raise InputError(path, "another run is making this file", "wait for it, or give another --out")
    with lock:
        yield
