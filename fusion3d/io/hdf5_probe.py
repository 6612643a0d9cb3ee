"""A look at an HDF5 file by a process of its own: a damaged one can keep the HDF5 library in a loop for ever, or crash it.

Run as a script, this file does the looking: ``python hdf5_probe.py FILE GROUP ...`` reads what reading the file will read of its
structure. Its status is 0 also where HDF5 raises an error, since reading raises the same one later, and in words.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import sys
from functools import lru_cache

CPU_SECONDS = 20
"""For the structure of a file: a whole orbit takes less than 2."""
MEMORY_BYTES = 4 << 30


def look(path: str, groups: list[str]) -> None:
    """Read the attributes of a file, of `groups` and of the data sets in them, and how much is stored of each."""
    import h5py

    with h5py.File(path, "r") as file:
        _attributes(file)
        for name in groups:
            group = file.get(name)
            if isinstance(group, h5py.Group):
                _attributes(group)
                for item in group.values():
                    if isinstance(item, h5py.Dataset):
                        _attributes(item)
                        item.id.get_storage_size()


def _attributes(item: object) -> None:
    # one that cannot be read must not hide the next, which may be the one that never ends
    for name in item.attrs:  # type: ignore[attr-defined]
        with contextlib.suppress(Exception):
            item.attrs[name]  # type: ignore[attr-defined]


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
        [sys.executable, "-I", __file__, path, *groups], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if done.returncode >= 0:
        return None
    if -done.returncode == signal.SIGXCPU:
        return "so damaged that HDF5 would never come to the end of reading it"
    return f"so damaged that HDF5 does not survive reading it (signal {-done.returncode})"


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(Exception):
        look(sys.argv[1], sys.argv[2:])


if __name__ == "__main__":
    main()
