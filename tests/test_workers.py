"""Pieces of work come back once each wherever they run, and a piece that kills its workers does not take the others along."""

from __future__ import annotations

import os
import socket
import threading
import time

import dask
import pytest

from fusion3d.errors import ConfigError
from fusion3d.workers import Lost, Workers


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def square_or_die(number: int) -> int:
    if number == 7:
        os._exit(1)
    return number * number


def fail(number: int) -> None:
    raise OSError(28, "No space left on device")


def pieces(function, count):
    return {f"piece {number}": (function, (number,)) for number in range(count)}


def values(results):
    return {name: value[0] for name, value in results.items()}


def test_little_work_is_done_in_this_process():
    with Workers(2) as workers:
        results = dict(workers.each(pieces(square, 5)))
        assert workers.dashboard is None
    assert values(results) == {f"piece {number}": number**2 for number in range(5)}
    assert {value[1] for value in results.values()} == {os.getpid()}


def test_threads_work_at_the_same_time_and_give_every_result():
    meeting = threading.Barrier(2, timeout=20)

    def meet(number):
        meeting.wait()
        return number

    with Workers(2, threads=True) as workers:
        assert dict(workers.each(pieces(meet, 6))) == {f"piece {number}": number for number in range(6)}


def test_a_failure_in_a_thread_is_raised_and_the_rest_is_left():
    with Workers(2, threads=True) as workers, pytest.raises(OSError, match="No space"):
        list(workers.each(pieces(fail, 100)))


def test_much_work_goes_to_processes_and_one_that_dies_takes_only_its_piece_along():
    with Workers(2) as workers:
        results = dict(workers.each(pieces(square_or_die, 80)))
        assert isinstance(results.pop("piece 7"), Lost)
        assert results == {f"piece {number}": number**2 for number in range(80) if number != 7}
        # the same processes do what comes next, and raise what it raises
        others = dict(workers.each(pieces(square, 3)))
        assert os.getpid() not in {value[1] for value in others.values()}
        with pytest.raises(OSError, match="No space"):
            list(workers.each(pieces(fail, 1)))
        here = dict(workers.each(pieces(square, 2), here=True))
        assert {value[1] for value in here.values()} == {os.getpid()}


def test_pieces_lost_with_the_worker_of_another_are_tried_again_alone():
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), Workers(2) as workers:
        results = dict(workers.each(pieces(square_or_die, 80)))
    assert isinstance(results.pop("piece 7"), Lost)
    assert results == {f"piece {number}": number**2 for number in range(80) if number != 7}


def test_no_worker_and_no_scheduler_are_told_in_one_line(monkeypatch):
    with pytest.raises(ConfigError, match="--workers must be at least 1, not 0"):
        Workers(0)
    monkeypatch.setattr("fusion3d.workers._TIMEOUT", 1.0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{closed.getsockname()[1]}"
        began = time.monotonic()
        with Workers(1, address) as workers, pytest.raises(ConfigError, match="no Dask scheduler answers at tcp://") as error:
            list(workers.each(pieces(square, 1)))
    assert "\n" not in str(error.value)
    assert time.monotonic() - began < 30
