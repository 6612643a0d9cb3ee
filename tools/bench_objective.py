"""What losses cost by themselves as sensors are added: CPU seconds and peak memory, forward and backward, as a Markdown table.

The embeddings are given: no encoder runs. Every sensor saw every column, so all losses get the same rows. Each loss is first
checked where its value is known (all embeddings the same), then all are timed in turns; a time is the median over the rounds.
JEPA includes its predictor; its student sees half of the columns.

    python tools/bench_objective.py --output objective.md                # 4,096 columns, up to 12 sensors: tens of minutes
    python tools/bench_objective.py --columns 1024 --sensors 2,3,6

Ratios of one run can be compared; times of different runs cannot. CPU seconds are those of all threads; with one thread
(the default) they are the least disturbed. Peak memory needs Linux and glibc.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from fusion3d.data.observation import ChipBatch, RasterObservation
from fusion3d.data.pairs import DrawnPair, draw_pairs, stream
from fusion3d.encoders.output import ColumnEmbedding
from fusion3d.encoders.registry import Encoder
from fusion3d.io.bands import Band
from fusion3d.pretraining import baselines as baselines  # registers them
from fusion3d.pretraining.alignment import Aligned, Alignment, build_alignment
from fusion3d.pretraining.memory import peak
from fusion3d.pretraining.objective import LocationContrast, column_valid
from fusion3d.pretraining.views import Views

MEBI = 2**20
M_MMAP_THRESHOLD = -3
"""Of mallopt, in glibc's malloc.h."""
SIDE = 8
TILE = SIDE * SIDE
COLUMN = 10.0
SAMPLED = "sampled pair"
NAMES = {
    # by the name in the table: the alignment, and its options
    SAMPLED: ("pairs", {}),
    "all pairs": ("pairs", {}),
    "MIL-NCE": ("mil_nce", {}),
    "star": ("star", {"centre": "s00"}),
    "consensus": ("consensus", {}),
    "JEPA + MIL-NCE": ("jepa", {}),
}


class Given(Encoder):
    """Stands for an encoder: says what it was given of every column that the batch shows."""

    kind = "given"
    presets = {}

    def __init__(self, vectors: Tensor) -> None:
        super().__init__(width=vectors.shape[1], shared_dim=vectors.shape[1])
        self.vectors = nn.Parameter(vectors)

    def receptive_field(self, column: float, *, voxel: float | None = None, cell: float | None = None) -> int:
        return 0

    def forward(self, batch: ChipBatch, sensor: str, cell: float | None = None) -> ColumnEmbedding:
        present = column_valid(batch.rasters[sensor], batch.size)
        return ColumnEmbedding(self.vectors, self.vectors, present, batch.column, batch.size, batch.size)


@dataclass
class Case:
    """A loss of the embeddings of some sensors.

    Attributes
    ----------
    name : of `NAMES`
    alignment, encoders, batch : what the loss is called with
    """

    name: str
    alignment: Alignment
    encoders: nn.ModuleDict
    batch: ChipBatch

    @classmethod
    def of(cls, name: str, vectors: Sequence[Tensor]) -> Case:
        """The loss of the vectors of each sensor, [columns, dimensions]."""
        encoders = nn.ModuleDict({sensor: Given(rows) for sensor, rows in zip(sensor_names(len(vectors)), vectors)})
        kind, options = NAMES[name]
        torch.manual_seed(0)
        alignment = build_alignment(kind, LocationContrast(max_columns=len(vectors[0])), options)
        alignment.begin(encoders)
        return cls(name, alignment, encoders, batch_of(len(vectors), len(vectors[0])))

    def loss(self, number: int) -> Aligned:
        """What the alignment says of step `number`."""
        views = Views(self.batch, lambda batch, sensor: self.encoders[sensor](batch, sensor))
        pairs = list(combinations(self.batch.sensors, 2))
        drawn = [DrawnPair(pair, 1.0, (1.0, 1.0)) for pair in pairs]
        if self.name == SAMPLED:
            drawn = draw_pairs(pairs, 1, stream(number))
        return self.alignment(views, drawn, (number,))

    def step(self, number: int = 0) -> None:
        """Forward and backward."""
        self.loss(number).loss.backward()
        for module in (self.alignment, self.encoders):
            module.zero_grad(set_to_none=True)


def sensor_names(count: int) -> list[str]:
    return [f"s{number:02d}" for number in range(count)]


def batch_of(sensors: int, columns: int) -> ChipBatch:
    """Chips in a row that do not overlap, of which every sensor saw every column."""
    chips = columns // TILE
    shape = (chips, 1, 1, SIDE, SIDE)
    at = torch.arange(chips)
    raster = RasterObservation(
        torch.zeros(shape),
        torch.ones(shape, dtype=torch.bool),
        torch.zeros(chips, 1),
        torch.ones(chips, 1, dtype=torch.bool),
        (Band("only", 600.0, 10.0),),
        COLUMN,
        1,
        1,
        torch.zeros(chips, 2, dtype=torch.int64),
    )
    origin = torch.stack([torch.zeros_like(at), at * SIDE], dim=1)
    return ChipBatch(origin, SIDE, COLUMN, 1.0, rasters=dict.fromkeys(sensor_names(sensors), raster))


def value_of_equal(name: str, sensors: int, columns: int) -> float:
    """The loss when all N columns of all M sensors have one embedding, so that every softmax is uniform."""
    if name in (SAMPLED, "all pairs"):
        return sensors * (sensors - 1) / 2 * math.log(columns)
    if name == "star":
        return (sensors - 1) * math.log(columns)
    if name == "consensus":
        return sensors * math.log(columns)
    tile = TILE
    if name.startswith("JEPA"):  # the student sees half of each tile
        columns, tile = columns // 2, TILE // 2
    return sensors * math.log((sensors * columns - tile) / (sensors - 1))


def check(name: str, sensors: int, columns: int, dimensions: int) -> None:
    """`SystemExit` unless the loss of equal embeddings is what it must be."""
    one = torch.ones(columns, dimensions)
    said = Case.of(name, [one] * sensors).loss(0)
    found = float(said.loss.detach()) - sensors * float(said.parts.get("prediction", 0.0))
    expected = value_of_equal(name, sensors, columns)
    if not math.isclose(found, expected, rel_tol=1e-4):
        raise SystemExit(f"bench_objective: {name} of {sensors} sensors is {found:.6g} for equal embeddings, not {expected:.6g}")


def cpu_seconds(run: Callable[[int], None], first: int, least: float) -> tuple[float, int]:
    """Mean CPU seconds of a call over as many as fill `least` seconds, and the number of calls; each gets the next number."""
    start, calls = time.process_time(), 0
    while True:
        run(first + calls)
        calls += 1
        passed = time.process_time() - start
        if passed >= least:
            return passed / calls, calls


@contextmanager
def freed_at_once() -> Iterator[None]:
    """glibc gives every freed tensor back to the system at once (mallopt(3)): resident memory is then what is in use."""
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_THRESHOLD, 64 * 1024)
    try:
        yield
    finally:
        library.mallopt(M_MMAP_THRESHOLD, 32 * MEBI)


@dataclass(frozen=True)
class Cost:
    """Median CPU seconds and peak bytes of a step."""

    seconds: float
    memory: int


def measured(cases: dict[tuple[int, str], Case], rounds: int, least: float, limit: float) -> dict[tuple[int, str], Cost]:
    """Costs of all cases, timed in turns; one that takes more than `limit` seconds is timed once."""
    device = torch.device("cpu")
    memory: dict[tuple[int, str], int] = {}
    for (sensors, name), case in cases.items():
        with freed_at_once():
            if not memory:
                case.step()  # what is set up at the first call is no part of a loss
            memory[sensors, name] = peak(device, case.step)
        print(f"{name}, {sensors} sensors: {memory[sensors, name] / MEBI:.0f} MiB", file=sys.stderr, flush=True)
    times: dict[tuple[int, str], list[float]] = {key: [] for key in cases}
    calls = dict.fromkeys(cases, 0)
    for number in range(rounds):
        for key, case in cases.items():
            if times[key] and times[key][0] > limit:
                continue
            seconds, more = cpu_seconds(case.step, calls[key], least)
            times[key].append(seconds)
            calls[key] += more
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return {key: Cost(statistics.median(found), memory[key]) for key, found in times.items()}


def table(costs: dict[tuple[int, str], Cost]) -> str:
    """A row for each number of sensors and loss."""
    few = min(sensors for sensors, _ in costs)
    lines = [
        f"| sensors | loss | CPU s | to {SAMPLED} | to {few} sensors | peak, MiB | to {SAMPLED} | to {few} sensors |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (sensors, name), cost in costs.items():
        ours, first = costs[sensors, SAMPLED], costs[few, name]
        lines.append(
            f"| {sensors} | {name} "
            f"| {cost.seconds:.3f} | {cost.seconds / ours.seconds:.2f} | {cost.seconds / first.seconds:.2f} "
            f"| {cost.memory / MEBI:.1f} | {_ratio(cost.memory, ours.memory)} | {_ratio(cost.memory, first.memory)} |"
        )
    return "\n".join(lines)


def _ratio(size: int, other: int) -> str:
    return f"{size / other:.2f}" if other else "-"


def verdict(costs: dict[tuple[int, str], Cost]) -> str:
    """How constant the sampled pair is."""
    few = min(sensors for sensors, _ in costs)
    ours = {sensors: cost for (sensors, name), cost in costs.items() if name == SAMPLED}
    lines = []
    for what in ("seconds", "memory"):
        sizes = [getattr(cost, what) for cost in ours.values()]
        first = getattr(ours[few], what)
        if not first:
            continue
        apart = max(abs(size / first - 1) for size in sizes)
        answer = "constant within 10 %" if apart <= 0.1 else "NOT constant within 10 %"
        unit = "CPU time" if what == "seconds" else "peak memory"
        lines.append(f"The {SAMPLED}'s {unit} departs from that of {few} sensors by at most {apart:.1%}: {answer}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, default=4096, help=f"rows of each sensor, a multiple of {TILE}")
    parser.add_argument("--dimensions", type=int, default=128, help="of the embeddings, a multiple of 4")
    parser.add_argument("--sensors", default="2,3,4,5,6,12", help="numbers of sensors")
    parser.add_argument("--losses", default=",".join(NAMES), help="of these; the sampled pair is always measured")
    parser.add_argument("--rounds", type=int, default=5, help="times are medians over so many")
    parser.add_argument("--least", type=float, default=1.0, help="seconds that a time is the mean over")
    parser.add_argument("--limit", type=float, default=60.0, help="what takes more seconds is timed once")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--output", type=Path, help="file to write; default: standard output")
    options = parser.parse_args()
    counts = [int(part) for part in options.sensors.split(",")]
    chosen = [part.strip() for part in options.losses.split(",")]
    unknown = sorted(set(chosen) - set(NAMES))
    if unknown:
        raise SystemExit(f"bench_objective: no loss {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if min(counts) < 2 or options.columns < 2 * TILE or options.columns % TILE or options.dimensions % 4 or options.rounds < 1:
        raise SystemExit(
            f"bench_objective: take 2 sensors or more, a multiple of {TILE} columns from {2 * TILE} up, "
            "a multiple of 4 dimensions and a round or more"
        )
    torch.set_num_threads(options.threads)
    names = [name for name in NAMES if name in chosen or name == SAMPLED]
    for sensors in counts:
        for name in names:
            check(name, sensors, 2 * TILE, options.dimensions)
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(options.columns, options.dimensions, generator=generator) for _ in range(max(counts))]
    cases = {(sensors, name): Case.of(name, vectors[:sensors]) for sensors in counts for name in names}
    costs = measured(cases, options.rounds, options.least, options.limit)
    title = f"{options.columns:,} columns x {options.dimensions}, {options.threads} threads, median of {options.rounds}."
    text = f"{title}\n\n{table(costs)}\n\n{verdict(costs)}\n"
    if options.output:
        options.output.write_text(text)
        print(f"wrote {options.output}")
    else:
        print(text)


if __name__ == "__main__":
    main()
