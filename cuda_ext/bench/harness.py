"""Correctness before timing: every contender's result is compared with the first one's, then all are timed in turns."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

Run = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """One operator on one kind of data. The first contender is ours; `tolerance` is relative and absolute.

    A contender whose results are known to mean something else has its name in `unchecked`, with the reason.
    """

    name: str
    contenders: dict[str, Run]
    tolerance: float
    unchecked: dict[str, str]


@dataclass(frozen=True)
class Timing:
    """Best of the rounds: wall and CPU seconds; bytes at most in use beside the inputs."""

    contender: str
    wall: float
    cpu: float
    peak: int


def check(case: Case) -> None:
    """Raise AssertionError, naming the contender, unless all agree."""
    ours, *others = case.contenders
    expected = case.contenders[ours]()
    for other in others:
        if other in case.unchecked:
            continue
        for mine, theirs in zip(expected, case.contenders[other](), strict=True):
            torch.testing.assert_close(
                theirs,
                mine,
                rtol=case.tolerance,
                atol=case.tolerance,
                msg=lambda text, name=other: f"{case.name}, {name}: {text}",
            )


def measure(case: Case, rounds: int, device: torch.device) -> list[Timing]:
    """Time every contender `rounds` times, taking turns, so that a busy machine is busy for all of them."""
    best: dict[str, Timing] = {}
    for _ in range(rounds):
        for name, run in case.contenders.items():
            timing = _once(name, run, device)
            before = best.get(name, timing)
            best[name] = Timing(name, min(before.wall, timing.wall), min(before.cpu, timing.cpu), max(before.peak, timing.peak))
    return list(best.values())


def _once(name: str, run: Run, device: torch.device) -> Timing:
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        start, cpu = torch.cuda.Event(enable_timing=True), _cpu_seconds()
        stop = torch.cuda.Event(enable_timing=True)
        start.record()
        result = run()
        stop.record()
        stop.synchronize()
        peak = torch.cuda.max_memory_allocated() - held
        del result
        return Timing(name, start.elapsed_time(stop) / 1e3, _cpu_seconds() - cpu, peak)
    held = _reset_peak()
    wall, cpu = time.perf_counter(), _cpu_seconds()
    result = run()
    timing = Timing(name, time.perf_counter() - wall, _cpu_seconds() - cpu, max(0, _status("VmHWM") - held))
    del result
    return timing


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _reset_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is in use now
    return _status("VmRSS")


def table(case: Case, timings: list[Timing]) -> str:
    """Markdown: times in ms, and how many times as long as ours each contender takes."""
    ours = timings[0]
    lines = [f"### {case.name}", "", "| | wall ms | CPU ms | peak MB | wall / ours | CPU / ours |", "|---|--:|--:|--:|--:|--:|"]
    for timing in timings:
        ratios = f"{timing.wall / ours.wall:.2f} | {timing.cpu / ours.cpu:.2f}"
        lines.append(
            f"| {timing.contender} | {timing.wall * 1e3:.1f} | {timing.cpu * 1e3:.1f} | {timing.peak / 1e6:.0f} | {ratios} |"
        )
    lines += [f"\n{name}: not compared, {reason}." for name, reason in case.unchecked.items() if name in case.contenders]
    return "\n".join(lines) + "\n"


PEERS = ("numpy", "numba", "open3d-cpu", "open3d", "spconv-cu126", "spconv-cu120", "torch-scatter")


def machine(device: torch.device) -> str:
    """What the figures were measured on, and the versions of torch and of the peers that are installed."""
    versions = [f"{peer} {found}" for peer in PEERS if (found := _version(peer))]
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        models = (
            line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
        )
        where = f"{next(models, platform.machine())}, {torch.get_num_threads()} threads"
    return ", ".join([where, f"Python {platform.python_version()}", f"torch {torch.__version__}", *versions])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
