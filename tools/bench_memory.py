"""Peak memory of a training step: for 2 and for 6 sensors, and for batches of 1, 4 and 16 times the columns.

Each case is a process of its own that trains a few steps, each on a batch that holds a drawn pair of sensors, and reads the
high-water mark of its resident memory (Linux), apart for reading a batch and for the step. The pair named first is the heaviest:
every case trains it. A batch is as large as its columns: what a step takes beside it is what the pieces bound.

    python tools/bench_memory.py --store scene.zarr
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from itertools import combinations
from pathlib import Path

MEBI = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="column store to read chips from; random measurements without one")
    parser.add_argument("--sensors", default="ortho,als,s2,hsi,gedi,s1", help="the two heaviest first")
    parser.add_argument("--size", type=int, default=8, help="columns a side of a chip")
    parser.add_argument("--chips", type=int, default=4, help="chips of the smallest batch")
    parser.add_argument("--points", type=int, default=200, help="points a column, at most")
    parser.add_argument("--dates", type=int, default=6, help="dates of a series, at most")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--chips-at-once", type=int, default=1, help="0 encodes whole batches")
    parser.add_argument("--steps", type=int, default=4, help="steps of each case; later ones train the other pairs")
    parser.add_argument("--case", nargs=2, metavar=("SENSORS", "TIMES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measured(options, int(options.case[0]), int(options.case[1]))))
        return
    print("| sensors | columns of a batch | batch, MiB | before the steps | peak of reading | of a step | beside the batch |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    first = None
    for sensors, times in ((2, 1), (6, 1), (6, 4), (6, 16)):
        found = in_own_process(sensors, times)
        first = first or found
        sizes = [found[name] / MEBI for name in ("batch", "before", "reading", "step", "beside")]
        print(
            f"| {found['sensors']} | {found['columns']:,} | "
            + " | ".join(f"{size:.0f}" for size in sizes)
            + f" ({found['beside'] / first['beside'] - 1:+.0%}) |",
            flush=True,
        )


def in_own_process(sensors: int, times: int) -> dict[str, int]:
    command = [sys.executable, *sys.argv, "--case", str(sensors), str(times)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if finished.returncode:
        raise SystemExit(f"bench_memory: the case of {sensors} sensors and {times} times the columns failed")
    return json.loads(finished.stdout.splitlines()[-1])


def measured(options: argparse.Namespace, sensors: int, times: int) -> dict[str, int]:
    import torch

    from fusion3d.data.pairs import DrawnPair
    from fusion3d.pretraining.memory import peak, used
    from fusion3d.pretraining.module import CrossModalPretraining

    source = Source(options)
    names = source.sensors[:sensors]
    if len(names) < sensors:
        raise SystemExit(f"bench_memory: {sensors} sensors are asked for, there are {', '.join(source.sensors)}")
    module = CrossModalPretraining(
        preset=options.preset, scene={"sensors": names}, chips_at_once=options.chips_at_once or None, max_columns=4096
    )
    module.configure_model()
    optimizer = torch.optim.AdamW(module.parameters())
    pairs = [names[:2], *[pair for pair in combinations(names, 2) if list(pair) != names[:2]]]
    device, chips = torch.device("cpu"), options.chips * times
    found = {"sensors": sensors, "columns": chips * options.size**2, "batch": 0, "before": used(device)}
    found |= {"reading": 0, "step": 0, "beside": 0}
    batch, drawn = None, DrawnPair(("", ""), 1.0, (0.5, 0.5))

    def read() -> None:
        nonlocal batch
        batch = source.batch(chips, drawn.pair)

    def learn() -> None:
        loss, _ = module.loss(batch, [drawn], (0, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for step in range(options.steps):
        drawn = replace(drawn, pair=tuple(sorted(pairs[step % len(pairs)])))
        batch = None
        reading, learning = (used(device) + peak(device, run) for run in (read, learn))
        for name, size in (("batch", held(batch)), ("reading", reading), ("step", learning), ("beside", learning - held(batch))):
            found[name] = max(found[name], size)
    return found


class Source:
    """Chips of a store, or random ones."""

    def __init__(self, options: argparse.Namespace) -> None:
        import numpy as np

        self.options, self.generator = options, np.random.default_rng(0)
        self.sensors = options.sensors.split(",")
        self.store = None
        if options.store:
            from fusion3d.store import Store

            self.store = Store.open(options.store)
            there = {name: next((s for s in self.store.sensors if s.split("_")[0] == name), None) for name in self.sensors}
            self.sensors = [name for name in there.values() if name is not None]

    def batch(self, chips: int, sensors):
        from fusion3d.data.chips import collate, read_chips

        # the chips of the smallest batch again and again: a larger one shall not hold a heavier chip
        size, different = self.options.size, self.options.chips
        if self.store is None:
            drawn = [random_chip(self.generator, size, self.options, sensors) for _ in range(different)]
            return collate(drawn * (chips // different))
        grid = self.store.grid
        origins = [
            tuple(int(self.generator.integers(0, side - size + 1)) for side in (grid.rows, grid.cols)) for _ in range(different)
        ] * (chips // different)
        return read_chips(
            self.store,
            origins,
            size,
            sensors,
            max_dates=self.options.dates,
            max_points_per_column=self.options.points,
            generator=self.generator,
        )


def random_chip(generator, size: int, options: argparse.Namespace, sensors):
    import torch

    from fusion3d.data.observation import ChipBatch, FootprintObservation, PointObservation

    draw = lambda *shape: torch.from_numpy(generator.random(shape, dtype="float32"))  # noqa: E731
    columns, points, waveform = size * size, size * size * options.points, 100
    als = PointObservation(draw(points, 2) * 10, draw(points) * 30, draw(points, 4), torch.arange(columns + 1) * options.points)
    gedi = FootprintObservation(
        draw(size, 2) * 10 * size,
        torch.zeros(size, dtype=torch.int64),
        draw(size * waveform) * 30,
        draw(size * waveform),
        torch.arange(size + 1) * waveform,
        draw(size, 3),
        torch.full((size,), 19_000.0),
    )
    rasters = {
        # bands, dates, pixels on a column's side
        name: random_raster(draw, size, *layout)
        for name, layout in {
            "ortho": (4, 1, 50), "hsi": (200, 1, 2), "s2": (10, options.dates, 1), "s1": (2, options.dates, 1)
        }.items()
        if name in sensors
    }  # fmt: skip
    origin = torch.from_numpy(generator.integers(0, 10_000, (1, 2)))
    return ChipBatch(origin, size, 10.0, 1.0, als if "als" in sensors else None, gedi if "gedi" in sensors else None, rasters)


def random_raster(draw, size: int, channels: int, dates: int, fine: int):
    import torch

    from fusion3d.data.observation import Band, RasterObservation

    shape = (1, dates, channels, size * fine, size * fine)
    bands = tuple(Band(str(band), 400.0 + 2000 * band / channels, 10.0) for band in range(channels))
    return RasterObservation(
        draw(*shape) * 2 - 1,
        torch.ones(shape, dtype=torch.bool),
        19_000.0 + 30 * torch.arange(dates)[None].float(),
        torch.ones(1, dates, dtype=torch.bool),
        bands,
        10.0 / fine,
        fine,
        int(fine == 1),
        torch.zeros(1, 2, dtype=torch.int64),
    )


def held(item: object) -> int:
    """Bytes of the tensors of a batch."""
    import torch

    if isinstance(item, torch.Tensor):
        return item.numel() * item.element_size()
    if isinstance(item, dict):
        return sum(map(held, item.values()))
    if not hasattr(item, "__dataclass_fields__"):
        return 0
    return sum(held(getattr(item, field.name)) for field in fields(item))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
