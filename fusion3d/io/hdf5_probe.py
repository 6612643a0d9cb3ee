"""A look at an HDF5 file by a process of its own: a damaged one can keep the HDF5 library in a loop for ever, or crash it.

Run as a script, this file does the looking: ``python hdf5_probe.py FILE GROUP ...`` reads what reading the file will read of its
structure. Its status is 0 also where HDF5 raises an error, since reading raises the same one later, and in words.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

CPU_SECONDS = 20
"""For the structure of a file: a whole orbit takes less than 2."""
MEMORY_BYTES = 4 << 30
"""Beyond what the libraries take, whose addresses grow with the number of cores."""
_NO_MEMORY = 3
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)


def look(path: str, groups: list[str]) -> None:
    """Read the attributes of a file, of `groups` and of the data sets in them, and how much is stored of each."""
    import h5py

    with h5py.File(path, "r") as file:
        _attributes(file)
        for name in groups:
            with _bearing():
                group = file.get(name)
                if isinstance(group, h5py.Group):
                    _attributes(group)
                    for key in group:
                        _look_at_data_set(group, key)


def _look_at_data_set(group: Any, name: str) -> None:
    with _bearing():
        item = group[name]
        if hasattr(item, "dtype"):
            _attributes(item)
            item.id.get_storage_size()


def _attributes(item: Any) -> None:
    for name in item.attrs:
        with _bearing():
            item.attrs[name]


@contextmanager
def _bearing() -> Iterator[None]:
    """What cannot be read must not hide what comes next, which may be what never ends."""
    try:
        yield
    except Exception as error:
        if _out_of_memory(error):
            raise MemoryError from None


def _out_of_memory(error: Exception) -> bool:
    """HDF5 raises OSError and RuntimeError for it, and says so in its text."""
    return isinstance(error, MemoryError) or "memory alloc" in str(error) or "resource unavailable" in str(error)


@lru_cache(maxsize=1024)
def failure(path: str, size: int, mtime_ns: int, groups: tuple[str, ...]) -> str | None:
    """Why a file must not be opened in this process, None where it may be.

    Parameters
    ----------
    size, mtime_ns : of the file: a file that is as it was is not looked at again
    groups : paths of the groups whose data sets will be read
    """
    if not sys.executable:
        return None
    done = subprocess.run(
        [sys.executable, "-P", __file__, path, *groups], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if done.returncode == _NO_MEMORY:
        return f"so damaged that HDF5 asks for more than {MEMORY_BYTES >> 30} GB to read it"
    if -done.returncode == signal.SIGXCPU:
        return "so damaged that HDF5 would never come to the end of reading it"
    return "so damaged that HDF5 crashes on reading it" if -done.returncode in _CRASHES else None


def main() -> None:
    import h5py  # noqa: F401 - before the limit of memory

    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    for kind, limit in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, taken + MEMORY_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        look(sys.argv[1], sys.argv[2:])
    except Exception as error:
        sys.exit(_NO_MEMORY if _out_of_memory(error) else 0)


if __name__ == "__main__":
    main()
