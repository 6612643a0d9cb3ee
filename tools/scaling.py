"""How `prepare` behaves as an archive grows, and when it is killed.

    tools/scaling.py grow --sizes 10 100 1000     time and memory per tile of archives of so many tiles
    tools/scaling.py kill --times 20              kill the run, a worker or the scheduler at random moments, resume, compare bytes

The archive is synthetic: tiles of rough ground and trees, written when they are missing.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import laspy
import numpy as np
import psutil
from pyproj import CRS

SIDE = 100.0
"""Metres."""
_X0, _Y0 = 700_000.0, 6_600_000.0
_ACROSS = 40
KINDS = ("run", "worker", "scheduler")


def write_tile(path: Path, number: int, density: float) -> None:
    """A LAZ tile, the `number`-th of an archive in rows of `_ACROSS`: always the same bytes' worth of points.

    Parameters
    ----------
    density : points per m2
    """
    random_numbers = np.random.default_rng(number)
    count = int(density * SIDE**2)
    west, south = _X0 + number % _ACROSS * SIDE, _Y0 + number // _ACROSS * SIDE
    x, y = west + random_numbers.random(count) * SIDE, south + random_numbers.random(count) * SIDE
    ground = 300 + 10 * np.sin(x / 90) + 8 * np.cos(y / 70)
    height = np.maximum(0, 25 * np.sin(x / 5) * np.cos(y / 6)) * random_numbers.random(count)
    is_ground = random_numbers.random(count) < 0.3
    header = laspy.LasHeader(version="1.4", point_format=6)
    header.scales, header.offsets = np.full(3, 0.01), np.array([_X0, _Y0, 0.0])
    header.add_crs(CRS.from_epsg(2154))
    points = laspy.LasData(header)
    points.x, points.y, points.z = x, y, ground + np.where(is_ground, 0, height)
    points.classification = np.where(is_ground, 2, 5).astype(np.uint8)
    points.intensity = random_numbers.integers(0, 3000, count).astype(np.uint16)
    points.return_number = points.number_of_returns = np.ones(count, np.uint8)
    points.gps_time = np.sort(random_numbers.random(count)) * 1e5
    draft = path.with_suffix(".draft.laz")
    points.write(draft)
    draft.rename(path)


def archive(folder: Path, tiles: int, density: float) -> list[str]:
    """Paths of the first so many tiles of the archive in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"tile_{number:05d}_{density:g}.laz" for number in range(tiles)]
    for number, path in enumerate(paths):
        if not path.exists():
            write_tile(path, number, density)
    return [str(path) for path in paths]


def command(tiles: Sequence[str], out: Path, *options: str) -> list[str]:
    """`fusion3d prepare` of tiles, given by a scene file: thousands of names are too long for a command line."""
    scene = out.with_suffix(".yaml")
    scene.write_text("column: 10\nblock: 16\nals:\n  files:\n" + "".join(f"    - {path}\n" for path in tiles))
    return [sys.executable, "-m", "fusion3d.cli", "prepare", str(scene), "--out", str(out), "--quiet", *options]


class Watch:
    """Peak memory and CPU time of a process and of those that it started."""

    def __init__(self, process: int) -> None:
        self._root = psutil.Process(process)
        self.own = self.worker = 0
        self._cpu: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            try:
                self.own = max(self.own, self._seen(self._root))
                for child in self._root.children(recursive=True):
                    self.worker = max(self.worker, self._seen(child))
            except psutil.Error:
                continue

    def _seen(self, process: psutil.Process) -> int:
        times = process.cpu_times()
        self._cpu[process.pid] = times.user + times.system
        return int(process.memory_info().rss)

    @property
    def cpu(self) -> float:
        return sum(self._cpu.values())

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def grow(sizes: Sequence[int], density: float, workers: int, folder: Path) -> Iterator[str]:
    """A Markdown table, row by row."""
    yield "| tiles | points | wall s | CPU s | CPU s per further tile | client and scheduler, peak MB | a worker, peak MB |"
    yield "|--:|--:|--:|--:|--:|--:|--:|"
    before: tuple[int, float] | None = None
    for size in sizes:
        tiles = archive(folder / "tiles", size, density)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            began = time.monotonic()
            process = subprocess.Popen(
                command(tiles, Path(place) / "s.zarr", "--workers", str(workers)), stdout=subprocess.DEVNULL
            )
            watch = Watch(process.pid)
            if process.wait():
                raise SystemExit(f"scaling: prepare of {size} tiles ended with {process.returncode}")
            wall = time.monotonic() - began
            watch.close()
        further = "-" if before is None else f"{(watch.cpu - before[1]) / (size - before[0]):.3f}"
        points = size * int(density * SIDE**2)
        memory = f"{watch.own >> 20} | {watch.worker >> 20}"
        yield f"| {size} | {points / 1e6:.1f} M | {wall:.1f} | {watch.cpu:.1f} | {further} | {memory} |"
        before = size, watch.cpu


@contextmanager
def cluster(workers: int) -> Iterator[tuple[str, subprocess.Popen[bytes], list[subprocess.Popen[bytes]]]]:
    """A Dask scheduler and workers as processes of their own; address, scheduler, workers."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    start = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    scheduler = subprocess.Popen(start, **quiet)  # type: ignore[call-overload]
    start = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
    crew = [subprocess.Popen(start, **quiet) for _ in range(workers)]  # type: ignore[call-overload]
    try:
        yield address, scheduler, crew
    finally:
        for process in (*crew, scheduler):
            stop(process.pid)
            process.wait()


def stop(process: int) -> None:
    """SIGKILL to a process and all that it started."""
    try:
        family = [*psutil.Process(process).children(recursive=True), psutil.Process(process)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


def hit(kind: str, tiles: Sequence[str], out: Path, pieces: int, total: int) -> str:
    """Prepare until so many pieces are done, kill something, and see that the store gets done; what happened, in words."""
    with cluster(2) as (address, scheduler, crew):
        options = ("--scheduler", address)
        process = subprocess.Popen(command(tiles, out, *options), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and lines_of(out) < pieces:
            time.sleep(0.005)
        done = lines_of(out)
        if kind == "worker":
            stop(crew[0].pid)
        else:
            stop(process.pid if kind == "run" else scheduler.pid)
        _, said = process.communicate(timeout=300)
    if process.returncode == 0:
        return f"{done} of {total} pieces were done, went on to the end"
    if kind == "worker":
        raise SystemExit(f"scaling: a killed worker stopped the run: {said}")
    if kind == "scheduler" and (said.count("\n") != 1 or "Traceback" in said):
        raise SystemExit(f"scaling: not one clear line: {said}")
    finished = subprocess.run(command(tiles, out, "--workers", "2"), capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"scaling: cannot resume: {finished.stderr}")
    return f"{done} of {total} pieces were done, resumed"


def lines_of(out: Path) -> int:
    """Pieces of work in the manifest of an unfinished store."""
    manifest = out.with_name(out.name + ".partial") / "manifest.jsonl"
    try:
        return manifest.read_bytes().count(b"\n") - 1
    except FileNotFoundError:
        return 0


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files with the same bytes."""
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) for folder in (one, other)]
    return names[0] == names[1] and filecmp.cmpfiles(one, other, names[0], shallow=False)[1:] == ([], [])


def kill(times: int, tiles: int, density: float, seed: int, folder: Path) -> Iterator[str]:
    """A line per kill; SystemExit when a store is not what it would have been."""
    draw = random.Random(seed)
    names = archive(folder / "tiles", tiles, density)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        whole = Path(place) / "whole.zarr"
        subprocess.run(command(names, whole), check=True, stdout=subprocess.DEVNULL)
        blocks = sum(1 for path in (whole / "als").iterdir() if path.is_dir())
        for number in range(times):
            kind, pieces = KINDS[number % len(KINDS)], draw.randrange(tiles + blocks)
            out = Path(place) / "s.zarr"
            told = hit(kind, names, out, pieces, tiles + blocks)
            if not same(out, whole):
                raise SystemExit(f"scaling: killed {kind} after {pieces} pieces: the store differs")
            yield f"{number + 1:2d}  {kind:<9}  {told}; the same bytes"
            subprocess.run(["rm", "-r", str(out)], check=True)
    yield f"{times} kills, {times} stores bit-identical to the one that was not disturbed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("grow", "kill"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000], help="tiles")
    parser.add_argument("--density", type=float, default=4.0, help="points per m2")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--times", type=int, default=20, help="kills")
    parser.add_argument("--tiles", type=int, default=60, help="of the archive that is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="for the archive [default: a temporary one]")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        if options.what == "grow":
            lines = grow(options.sizes, options.density, options.workers, folder)
        else:
            lines = kill(options.times, options.tiles, options.density, options.seed, folder)
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
