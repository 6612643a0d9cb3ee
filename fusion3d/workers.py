"""Where pieces of work run: this process, processes or threads beside it, or a Dask cluster of the user's.

A piece is a function and its arguments; what it gives comes back in any order. Only a few pieces a worker are under way at a
time, so that neither the scheduler nor this process holds more when there are more of them.
"""

from __future__ import annotations

import importlib.util
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from fusion3d import __version__
from fusion3d.errors import ConfigError, Fusion3DError, one_line

Piece = tuple[Callable[..., Any], tuple[Any, ...]]

DEFAULT = 2
"""Workers of the command line unless it says otherwise."""
_PATIENCE = 2.0
"""Seconds of work in this process before a local cluster is started: what is done by then needs none."""
_MANY = 64
"""Pieces for which a local cluster is started at once."""
_AHEAD = 4
"""Pieces under way per worker."""
_RETRIES = 2
_TIMEOUT = 30.0


@dataclass(frozen=True)
class Lost:
    """In place of a result: every worker that tried the piece died, also with nothing else under way."""

    reason: str


class Workers:
    """A context in which pieces of work run.

    Parameters
    ----------
    count : local workers; 1 is this process
    scheduler : address of a Dask scheduler, for instance tcp://10.0.0.1:8786, instead of local workers. Its workers need the same
        version of fusion3d, and see files under the same names
    threads : local workers are threads instead of the processes of a local Dask cluster

    Raises
    ------
    ConfigError
        `count` is below 1; on first use, when the scheduler cannot be used.
    """

    def __init__(self, count: int = 1, scheduler: str | None = None, *, threads: bool = False) -> None:
        if count < 1:
            raise ConfigError(f"--workers must be at least 1, not {count}")
        self.count, self.scheduler, self.threads = count, scheduler, threads
        self._cluster: Any = None
        self._client: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for item in (self._client, self._cluster):
            if item is not None:
                item.close()
        self._client = self._cluster = None

    @property
    def dashboard(self) -> str | None:
        """Address of Dask's page on what runs where; None while no cluster runs, or without bokeh."""
        if self._client is None or importlib.util.find_spec("bokeh") is None:
            return None
        return str(self._client.dashboard_link)

    def each(self, pieces: Mapping[str, Piece], *, common: tuple[Any, ...] = (), here: bool = False) -> Iterator[tuple[str, Any]]:
        """Run the pieces; name and result of each as it is done, `Lost` where its workers died.

        Parameters
        ----------
        common : arguments of every piece, before its own; on a cluster each worker is sent them once
        here : in this process, one after the other, whatever workers there are

        Raises
        ------
        Fusion3DError
            The scheduler went away. Whatever a piece raises is raised too, after two more attempts on a cluster.
        """
        todo = deque(pieces.items())
        if self.threads and self.scheduler is None and not here:
            yield from self._in_threads(todo, common)
            return
        began = time.monotonic()
        while todo:
            if not here and self._wants_cluster(began, len(todo)):
                yield from self._on_cluster(todo, common)
                return
            name, (function, arguments) = todo.popleft()
            yield name, function(*common, *arguments)

    def _wants_cluster(self, began: float, left: int) -> bool:
        if self.scheduler is not None or self._client is not None:
            return True
        return self.count > 1 and left > 1 and (left >= _MANY or time.monotonic() - began > _PATIENCE)

    def _in_threads(self, todo: deque[tuple[str, Piece]], common: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
        running: dict[Any, str] = {}
        with ThreadPoolExecutor(self.count) as threads:
            try:
                while todo or running:
                    while todo and len(running) < _AHEAD * self.count:
                        name, (function, arguments) = todo.popleft()
                        running[threads.submit(function, *common, *arguments)] = name
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise

    def _on_cluster(self, todo: deque[tuple[str, Piece]], common: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
        from distributed import CancelledError, KilledWorker, as_completed

        client = self._connect()
        # pieces, not scattered data: when the workers that hold them die, others get them again
        shared = [client.submit(_itself, value, pure=False) for value in common]

        def submit(name: str, piece: Piece, first: Sequence[Any]) -> Any:
            # a scheduler keeps what stands before the dash for good: the kind of the piece
            key = f"{name.split()[0]}-{uuid.uuid4().hex}"
            return client.submit(piece[0], *first, *piece[1], key=key, retries=_RETRIES, pure=False)

        running: dict[Any, tuple[str, Piece]] = {}
        suspects: list[tuple[str, Piece]] = []
        finished = as_completed()
        try:
            while todo or running:
                limit = _AHEAD * max(1, sum(client.nthreads().values()))
                while todo and len(running) < limit:
                    name, piece = todo.popleft()
                    future = submit(name, piece, shared)
                    running[future] = name, piece
                    finished.add(future)
                future = next(finished)
                name, piece = running.pop(future)
                try:
                    yield name, future.result()
                except KilledWorker:
                    suspects.append((name, piece))
            # a worker that dies makes suspects of all pieces it was given; alone, only the one that kills it is lost
            for name, piece in suspects:
                try:
                    yield name, submit(name, piece, common).result()
                except KilledWorker:
                    yield name, Lost("every worker that tried it died, most likely for want of memory")
        except (CancelledError, OSError) as error:
            # a piece's own OSError is the caller's; without its scheduler a client is no longer running
            if isinstance(error, OSError) and client.status == "running":
                raise
            raise Fusion3DError(
                f"the Dask scheduler at {client.scheduler.address if client.scheduler else self.scheduler} went away; "
                "run the same command again: it resumes"
            ) from None

    def _connect(self) -> Any:
        if self._client is not None:
            return self._client
        from distributed import Client, LocalCluster

        for name in ("distributed", "distributed.client", "asyncio"):
            # what matters is raised; these print the tracebacks of connections
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        if self.scheduler is None:
            self._cluster = LocalCluster(
                n_workers=self.count, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.CRITICAL
            )
            self._client = Client(self._cluster)
            return self._client
        try:
            self._client = Client(self.scheduler, timeout=_TIMEOUT)
        except (OSError, ValueError) as error:
            reason = one_line(error)
            raise ConfigError(
                f"no Dask scheduler answers at {self.scheduler} ({reason}); start one with `dask scheduler`, or "
                "leave --scheduler away"
            ) from None
        try:
            self._client.wait_for_workers(1, timeout=_TIMEOUT)
        except TimeoutError:
            raise ConfigError(
                f"the Dask scheduler at {self.scheduler} has no workers; start some with `dask worker {self.scheduler}`"
            ) from None
        versions = set(self._client.run(_version).values())
        if versions != {__version__}:
            raise ConfigError(
                f"workers of {self.scheduler} have fusion3d {', '.join(sorted(versions))}, here it is {__version__}: "
                "install the same everywhere"
            )
        return self._client


def _itself(value: Any) -> Any:
    return value


def _version() -> str:
    return __version__
