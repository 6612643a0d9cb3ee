"""How fast `prepare` is beside the decoding that no reader can avoid: laspy reading the same tiles, in the same run.

The result is checked (points in = points out) before the ratio is printed. CPU seconds, one process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import laspy

from fusion3d.errors import Fusion3DError
from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import AlsSource, Scene, expand

DATA = Path(os.environ.get("FUSION3D_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiles", nargs="*", default=[str(DATA / "ign_lidarhd_fr" / "laz")], help="LAZ tiles, folders or patterns")
    parser.add_argument("--column", type=float, default=2.0, help="metres")
    options = parser.parse_args()
    try:
        files = expand(options.tiles, (".las", ".laz"))
    except Fusion3DError as error:
        raise SystemExit(f"bench_prepare: {error}; name your own tiles, or set FUSION3D_TEST_DATA") from None
    start = time.process_time()
    points = 0
    for path in files:
        with laspy.open(path) as reader:
            points += sum(len(chunk) for chunk in reader.chunk_iterator(1_000_000))
    laspy_seconds = time.process_time() - start
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        summary = prepare(Scene(als=AlsSource(tuple(files)), column=options.column), Path(folder) / "bench.zarr", quiet=True)
        seconds = time.process_time() - start
    stored = summary.attributes.als.points if summary.attributes.als else 0
    if stored != points:
        raise SystemExit(f"bench_prepare: {points:,} points in, {stored:,} out")
    print(
        f"{points:,} points in {len(files)} tiles; CPU seconds: laspy decode {laspy_seconds:.2f}, fusion3d prepare {seconds:.2f}"
    )
    print(f"prepare / decode = {seconds / laspy_seconds:.2f} ({points / seconds / 1e6:.2f} M points a CPU second)")


if __name__ == "__main__":
    main()
