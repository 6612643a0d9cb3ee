"""How fast `prepare`, `metrics` and chips are beside what a user would do instead, in the same run; prints a Markdown table.

Peers: laspy with lazrs decoding the same tiles; laspy and numpy for metrics; laspy and numpy cutting chips. Every row runs in a
process of its own: CPU seconds of all its threads, and its greatest resident memory. Imports are left out, and so is a small tile
that goes first, for what is compiled or loaded at first use; what that costs a process is said below. Results are checked (points
in and out, metrics, points in chips) before a ratio is printed.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CELL = 10.0
RANKS = (5, 25, 50, 75, 95)
CHIP, CHIPS, CUT = 16, 60, 3
SMALL, WARMED = "small.laz", ("prepared", "mapped", "stages")
STAGES = {
    "decode": [("las.py", "read_chunks")],
    "cut by block": [("tiles.py", "spill_tile")],
    "thin ground": [("tiles.py", "_write_ground"), ("blocks.py", "_ground")],
    "write fragments": [("fragments.py", "write")],
    "read fragments, sort by column": [("blocks.py", "_sorted_points")],
    "triangulate ground": [("triangulation.py", "__init__")],
    "heights": [("blocks.py", "_heights")],
    "compress and write the store": [("writer.py", "write_block")],
}


def make_tile(path: Path, points: int, seed: int = 0) -> None:
    """A tile of 1 km2, point format 6: five strips flown in lines, up to four returns a pulse, trees on rolling ground."""
    from fusion3d.io.las_writer import write_points

    random, side, strips = np.random.default_rng(seed), 1000.0, 5
    pulses = int(points / 1.43)
    across = int(side / strips / (side * side / pulses) ** 0.5)
    lines = -(-pulses // (strips * across))
    strip, rest = np.divmod(np.arange(strips * lines * across), lines * across)
    line, k = np.divmod(rest, across)
    k = np.where(line % 2, across - 1 - k, k)
    x = (strip + (k + random.uniform(0, 1, len(k))) / across) * side / strips
    y = (line + random.uniform(0, 1, len(k))) * side / lines
    y = np.where(strip % 2, side - y, y)
    spacing, trees = 8.0, int(side / 8.0) + 1
    stem_x, stem_y = random.uniform(0, spacing, (2, trees, trees))
    tall = random.uniform(5, 30, (trees, trees)) * (random.uniform(0, 1, (trees, trees)) < 0.7)
    at = (x / spacing).astype(int), (y / spacing).astype(int)
    apart = np.hypot(x - at[0] * spacing - stem_x[at], y - at[1] * spacing - stem_y[at])
    crown = tall[at] * np.clip(1 - (apart / 5) ** 2, 0, 1)
    returns = np.where(crown > 2, random.choice([1, 2, 3, 4], len(k), p=[0.35, 0.35, 0.2, 0.1]), 1)
    pulse = np.repeat(np.arange(len(k)), returns)[:points]
    number = np.arange(len(pulse)) - (np.cumsum(returns) - returns)[pulse] + 1
    of = returns[pulse]
    through = (number == of) & ((crown[pulse] <= 2) | (random.uniform(0, 1, len(pulse)) < 0.75))
    height = np.where(through, 0, crown[pulse] * (1 - (number - 1) / of * random.uniform(0.5, 1, len(pulse))))
    ground = 300 + 20 * np.sin(x / 150) + 15 * np.cos(y / 190) + 0.5 * np.sin(x / 7) * np.cos(y / 5)
    attributes = {
        "classification": np.digitize(height, [1e-9, 0.5, 2.0]).astype(np.uint8) + np.uint8(2),
        "return_number": number,
        "number_of_returns": of,
        "intensity": np.minimum(random.gamma(4, 300, len(pulse)) / of, 65535).astype(np.uint16),
        "scan_angle": (k[pulse] / across - 0.5) * 40,
        "gps_time": 2e5 + pulse * 2e-6,
        "point_source_id": strip[pulse] + 1,
    }
    z = ground[pulse] + height + random.normal(0, 0.02, len(pulse))
    write_points(path, 770000 + x[pulse], 6277000 + y[pulse], z, attributes, crs="EPSG:2154", scale=0.01)


def decode(tiles: list[str], work: Path) -> Any:
    import laspy

    total = 0
    for path in tiles:
        with laspy.open(path, laz_backend=laspy.LazBackend.Lazrs) as reader:
            total += sum(len(chunk) for chunk in reader.chunk_iterator(1_000_000))
    return total


def prepared(tiles: list[str], work: Path) -> Any:
    from fusion3d.prepare.run import prepare
    from fusion3d.prepare.scene import AlsSource, Scene

    summary = prepare(Scene(AlsSource(tuple(tiles))), work / "bench.zarr", quiet=True, overwrite=True)
    return summary.attributes.als.points if summary.attributes.als else 0


def decode_part(tiles: list[str], work: Path) -> Any:
    """Laspy, X, Y, Z and class only."""
    import laspy

    wanted = laspy.DecompressionSelection.XY_RETURNS_CHANNEL | laspy.DecompressionSelection.Z
    wanted |= laspy.DecompressionSelection.CLASSIFICATION
    total = 0
    for path in tiles:
        with laspy.open(path, laz_backend=laspy.LazBackend.Lazrs, decompression_selection=wanted) as reader:
            total += sum(len(chunk) for chunk in reader.chunk_iterator(1_000_000))
    return total


def mapped(tiles: list[str], work: Path) -> Any:
    import rasterio

    from fusion3d.mapping.tile_metrics import tile_metrics

    tile_metrics(tiles, work / "bench.tif", resolution=CELL)
    with rasterio.open(work / "bench.tif") as file:
        return np.nansum(file.read().astype(float), axis=(1, 2)).tolist()


def mapped_by_numpy(tiles: list[str], work: Path) -> Any:
    import laspy

    read = [laspy.read(path) for path in tiles]
    x, y, z, kind = (np.concatenate([np.asarray(las[name]) for las in read]) for name in ("x", "y", "z", "classification"))
    kept = ~np.isin(kind, (7, 18))
    x, y, z = x[kept], y[kept], z[kept]
    # edges belong to the cell of larger row and column, up to rounding
    row, col = np.floor(-y / CELL + 1e-6).astype(np.int64), np.floor(x / CELL + 1e-6).astype(np.int64)
    cell = (row - row.min()) * (col.max() - col.min() + 1) + col - col.min()
    order = np.lexsort((z, cell))
    cell, z = cell[order], z[order]
    first = np.flatnonzero(np.r_[True, cell[1:] != cell[:-1]])
    count = np.diff(np.r_[first, len(z)])
    bands = [z[first + count - 1], np.add.reduceat(z, first) / count, count]
    for rank in RANKS:
        place = rank / 100 * (count - 1)
        below = place.astype(np.int64)
        low, high = z[first + below], z[first + np.minimum(below + 1, count - 1)]
        bands.append(low + (high - low) * (place - below))
    return [float(np.sum(band)) for band in bands]


def chips(tiles: list[str], work: Path) -> Any:
    """Points in chips of a store."""
    from fusion3d.grid import Window
    from fusion3d.store import Store

    store = Store.open(work / "bench.zarr")
    return [len(store.points(Window(row, col, CHIP, CHIP))) for row, col in _chip_corners(store.grid.rows, store.grid.cols)]


def chips_by_laspy(tiles: list[str], work: Path) -> Any:
    """Points in the first few of the same chips, each cut from the tiles that its bounds meet."""
    import laspy

    from fusion3d.grid import Window
    from fusion3d.store import Store

    grid, found = Store.open(work / "bench.zarr").grid, []
    for row, col in _chip_corners(grid.rows, grid.cols)[:CUT]:
        xmin, ymin, xmax, ymax = grid.bounds(Window(row, col, CHIP, CHIP))
        count = 0
        for path in tiles:
            with laspy.open(path, laz_backend=laspy.LazBackend.Lazrs) as reader:
                low, high = reader.header.mins, reader.header.maxs
                if low[0] >= xmax or high[0] < xmin or low[1] > ymax or high[1] <= ymin:
                    continue
                for chunk in reader.chunk_iterator(1_000_000):
                    x, y = np.asarray(chunk.x), np.asarray(chunk.y)
                    # a thousandth of a millimetre for the rounding of scaled integers
                    inside = (x >= xmin - 1e-6) & (x < xmax - 1e-6) & (y > ymin + 1e-6) & (y <= ymax + 1e-6)
                    count += len(chunk[inside])
        found.append(count)
    return found


def _chip_corners(rows: int, cols: int) -> list[tuple[int, int]]:
    random = np.random.default_rng(0)
    return [(int(random.integers(0, max(1, rows - CHIP))), int(random.integers(0, max(1, cols - CHIP)))) for _ in range(CHIPS)]


def stages(tiles: list[str], work: Path) -> Any:
    """CPU seconds of `prepare` by stage."""
    profile = cProfile.Profile(time.process_time)
    began = time.process_time()
    (work / "profiled").mkdir(exist_ok=True)
    profile.runcall(prepared, tiles, work / "profiled")
    total = time.process_time() - began
    spent: dict[tuple[str, str], float] = {}
    for (path, _, name), row in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        key = Path(path).name, name
        spent[key] = spent.get(key, 0.0) + row[3]
    found = {stage: sum(spent.get(key, 0.0) for key in keys) for stage, keys in STAGES.items()}
    # what `spill_tile` calls is in its time; writing the thinned ground is a hundredth of writing the points
    found["cut by block"] -= found["decode"] + found["write fragments"] + spent.get(("tiles.py", "_write_ground"), 0.0)
    return {**found, "the rest": total - sum(found.values())}


TASKS: dict[str, Callable[[list[str], Path], Any]] = {
    task.__name__: task for task in (decode, decode_part, prepared, mapped, mapped_by_numpy, chips, chips_by_laspy, stages)
}


def _run(task: str, tiles: list[str], work: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, *tiles, "--task", task, "--work", str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"bench_prepare: {task} failed: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _child(task: str, tiles: list[str], work: Path) -> None:
    for module in ("laspy", "rasterio", "fusion3d.prepare.run", "fusion3d.mapping.tile_metrics"):
        importlib.import_module(module)
    began, start = time.process_time(), 0.0
    if task in WARMED:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            TASKS[task]([str(work / SMALL)], Path(folder))
        start = time.process_time() - began
    began = time.process_time()
    result = TASKS[task](tiles, work)
    seconds = time.process_time() - began
    # ru_maxrss would be that of the process that started this one, where it was larger
    held = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    peak = int(held.split()[0]) / 1024
    print(json.dumps({"result": result, "seconds": seconds, "start": start, "peak": peak}))


def _table(tiles: list[str], work: Path, points: int) -> None:
    make_tile(work / SMALL, 20_000)
    for task in WARMED:  # compiles what is not yet compiled on this machine
        _run(task, [str(work / SMALL)], work)
    found = {task: _run(task, tiles, work) for task in TASKS}
    if not found["decode"]["result"] == found["prepared"]["result"] == points:
        raise SystemExit(f"bench_prepare: {points:,} points in, {found['prepared']['result']:,} out")
    if not np.allclose(found["mapped"]["result"], found["mapped_by_numpy"]["result"], rtol=1e-6):
        raise SystemExit("bench_prepare: metrics differ from numpy's")
    if found["chips"]["result"][:CUT] != found["chips_by_laspy"]["result"]:
        raise SystemExit("bench_prepare: chips differ from those cut from the tiles")
    rows = [
        ("laspy, lazrs: decode everything", "decode", points, "decode"),
        ("laspy, lazrs: decode X, Y, Z, class", "decode_part", points, "decode"),
        ("fusion3d prepare", "prepared", points, "decode"),
        ("laspy and numpy: metrics of 10 m cells", "mapped_by_numpy", points, "mapped_by_numpy"),
        ("fusion3d metrics, tiles", "mapped", points, "mapped_by_numpy"),
    ]
    print(f"{points:,} points in {len(tiles)} tiles\n")
    print("| | CPU s | M points a CPU s | rate / peer's | peak MB |\n|---|--:|--:|--:|--:|")
    for label, task, count, peer in rows:
        seconds = found[task]["seconds"]
        ratio = found[peer]["seconds"] / seconds
        print(f"| {label} | {seconds:.1f} | {count / seconds / 1e6:.2f} | {ratio:.2f} | {found[task]['peak']:.0f} |")
    started = [found[task]["start"] for task in WARMED[:2]]
    print("\nA process's first tile costs {:.1f} CPU s more, its first map {:.1f}.".format(*started))
    cut, kept = found["chips_by_laspy"]["seconds"] / CUT, found["chips"]["seconds"] / CHIPS
    print(f"\n| chips of {CHIP} x {CHIP} columns | CPU ms a chip | rate / peer's |\n|---|--:|--:|")
    print(
        f"| laspy and numpy: cut from the tiles | {cut * 1e3:.0f} | 1 |\n| fusion3d store | {kept * 1e3:.1f} | {cut / kept:.0f} |"
    )
    spent = found["stages"]["result"]
    print("\n| stage of prepare | CPU s | share |\n|---|--:|--:|")
    for stage, seconds in spent.items():
        print(f"| {stage} | {seconds:.2f} | {seconds / sum(spent.values()):.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiles", nargs="*", help="LAZ tiles of one archive [default: one that is made]")
    parser.add_argument("--points", type=float, default=16e6, help="of the tile that is made")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help="folder for a store and a map [default: a temporary one]")
    options = parser.parse_args()
    if options.task:
        _child(options.task, options.tiles, options.work)
        return
    from fusion3d.errors import Fusion3DError
    from fusion3d.io.las import open_points
    from fusion3d.prepare.scene import expand

    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        try:
            tiles = expand(options.tiles, (".las", ".laz"))
            if not tiles:
                tiles = [str(Path(folder) / "made.laz")]
                make_tile(Path(tiles[0]), int(options.points))
            points = sum(open_points(path).count for path in tiles)
        except Fusion3DError as error:
            raise SystemExit(f"bench_prepare: {error}") from None
        _table(tiles, Path(folder), points)


if __name__ == "__main__":
    main()
