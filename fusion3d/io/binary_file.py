"""Files opened for reading bytes, wherever they are: a local path plainly, any fsspec URL (https, s3, memory, ...) by ranges.

A remote file is fetched in blocks, those that lie side by side in one request, and the last ones are kept: a header, an octree
and a few chunks of a COPC cost a few requests, not the file.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from fusion3d.errors import InputError, one_line

SEQUENTIAL = 4 << 20
"""Bytes to fetch ahead where a file is read from one end to the other."""
_BLOCK = 64 << 10
_KEPT_BLOCKS = 256
_TIMEOUT = 30.0
"""Seconds without an answer after which a server counts as gone."""
_PAUSES = (1.0, 3.0)
"""Seconds before a request is sent again to a server that was busy or dropped it."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+(://|::)")
_DOWNLOAD = "download the file and give its path, or copy it to a server or bucket that serves parts of files"
_CHECK_URL = "check the address"

_Answer = TypeVar("_Answer")


def is_url(path: str | Path) -> bool:
    """Whether fsspec, not the file system, resolves the path."""
    return isinstance(path, str) and _URL.match(path) is not None


def open_binary(path: str | Path, *, ahead: int = 0) -> BinaryIO:
    """Open a file for reading bytes and seeking.

    Parameters
    ----------
    path : a local path, or a URL that fsspec knows
    ahead : bytes that a remote file fetches beyond what is asked for: 0 for reading here and there, `SEQUENTIAL` for all of it

    Raises
    ------
    InputError
        There is no such file, it cannot be read, or its server does not answer or send parts of it. Reading raises it too.
    """
    name = os.fspath(path)
    if is_url(name):
        return cast(BinaryIO, RemoteFile(name, ahead))
    try:
        return open(name, "rb")
    except FileNotFoundError:
        raise InputError(name, "there is no such file", "check the path") from None
    except IsADirectoryError:
        raise InputError(name, "is a folder", "give the LAS or LAZ files in it, for instance with *.laz") from None
    except OSError as error:
        raise InputError(name, f"cannot be read ({error.strerror or error})", "check its permissions and the disk") from None


def size_of(source: BinaryIO) -> int:
    """Bytes of an open file."""
    return source.size if isinstance(source, RemoteFile) else os.fstat(source.fileno()).st_size


def digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    found = hashlib.sha256()
    with open_binary(path, ahead=SEQUENTIAL) as source:
        while data := source.read(1 << 20):
            found.update(data)
    return found.hexdigest()


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it.

    Raises
    ------
    InputError
        The protocol is unknown, or needs a package that is not installed.
    """
    import fsspec  # type: ignore[import-untyped]

    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_TIMEOUT, sock_read=_TIMEOUT)
        # a compressed answer has other bytes in its ranges
        options = {"client_kwargs": {"timeout": timeout}, "headers": {"Accept-Encoding": "identity"}}
    try:
        return fsspec.core.url_to_fs(url, **options)  # type: ignore[no-any-return]
    except ImportError as error:
        package = re.search(r"[Ii]nstall (\w+)", str(error))
        remedy = f"install it (pip install {package[1]})" if package else "install what reads this protocol"
        raise InputError(url, f"needs a package that is not installed ({one_line(error)})", remedy) from None
    except Exception as error:
        raise remote_error(url, error) from None


class RemoteFile(io.RawIOBase):
    """The bytes of a URL, read only, fetched by ranges."""

    def __init__(self, url: str, ahead: int = 0) -> None:
        self.url = url
        self._ahead = ahead
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._at = 0
        system, path = filesystem(url)
        self._file = _patiently(url, lambda: system.open(path, "rb", cache_type="none"))
        size = getattr(self._file, "size", None)
        # servers that send no parts of files are opened as streams, which have no size
        if size is None and "http" in system.protocol:
            raise _no_ranges(url)
        self.size = int(size if size is not None else _patiently(url, lambda: system.size(path)))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        if at < 0:
            raise ValueError(f"negative position {at}")
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        stop = self.size if size is None or size < 0 else min(self.size, self._at + size)
        data = self._span(self._at, stop) if stop > self._at else b""
        self._at += len(data)
        return data

    def close(self) -> None:
        # there is none when opening failed
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()

    def _span(self, start: int, stop: int) -> bytes:
        first, last = start // _BLOCK, (stop - 1) // _BLOCK
        here = {at: self._blocks[at] for at in range(first, last + 1) if at in self._blocks}
        for begin, end in _runs(at for at in range(first, last + 1) if at not in here):
            low = begin * _BLOCK
            # whole blocks: a part of one must not pass for all of it
            further = self._ahead // _BLOCK if end > last else 0
            data = self._fetch(low, min(self.size, (end + further) * _BLOCK))
            here |= {begin + at // _BLOCK: data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)}
        for at, block in here.items():
            self._blocks[at] = block
            self._blocks.move_to_end(at)
        while len(self._blocks) > _KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        return b"".join(here[at] for at in range(first, last + 1))[start - first * _BLOCK : stop - first * _BLOCK]

    def _fetch(self, start: int, stop: int) -> bytes:
        def read() -> bytes:
            self._file.seek(start)
            return bytes(self._file.read(stop - start))

        data = _patiently(self.url, read)
        if len(data) != stop - start:
            problem = f"gave {len(data)} of {stop - start} bytes from byte {start}"
            raise InputError(self.url, problem, "its server or a proxy cuts it: try again")
        return data


def _patiently(url: str, request: Callable[[], _Answer]) -> _Answer:
    """The answer to a request, sent again to a server that is busy or drops it; any failure as `InputError`."""
    for pause in _PAUSES:
        try:
            return request()
        except Exception as error:
            if not _passing(error):
                raise remote_error(url, error) from None
        time.sleep(pause)
    try:
        return request()
    except Exception as error:
        raise remote_error(url, error) from None


def remote_error(url: str, error: BaseException) -> InputError:
    """What went wrong with a URL, in one line."""
    for cause in _causes(error):
        status = getattr(cause, "status", None)
        if status in (404, 410):
            return InputError(url, f"there is no such file (the server answers {status})", _CHECK_URL)
        if status in (401, 403):
            return InputError(url, f"access is denied (the server answers {status})", "check the address and your rights to it")
        if isinstance(status, int):
            return InputError(url, f"cannot be read (the server answers {status})", "try again later, or download the file")
        if isinstance(cause, TimeoutError):
            problem = f"its server did not answer within {_TIMEOUT:g} s"
            return InputError(url, problem, "check the address and the network, or try again later")
        if isinstance(cause, ValueError) and "range requests" in str(cause):
            return _no_ranges(url)
    if isinstance(error, FileNotFoundError) and len(list(_causes(error))) == 1:
        return InputError(url, "there is no such file", _CHECK_URL)
    reason = one_line(list(_causes(error))[-1])
    return InputError(url, f"cannot be read ({reason})", "check the address, your access to it and the network")


def _no_ranges(url: str) -> InputError:
    return InputError(url, "its server does not send parts of files (no range requests)", _DOWNLOAD)


def _passing(error: BaseException) -> bool:
    """Whether the same request may work in a moment: the server is busy or dropped the connection; not one that is silent."""
    causes = list(_causes(error))
    status = next((status for cause in causes if isinstance(status := getattr(cause, "status", None), int)), None)
    if status is not None:
        return status == 429 or status >= 500
    silent = any(isinstance(cause, TimeoutError) for cause in causes)
    return not silent and any(type(cause).__module__.startswith("aiohttp") for cause in causes)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _runs(numbers: Iterator[int]) -> list[tuple[int, int]]:
    """First and one past last of each row of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs
