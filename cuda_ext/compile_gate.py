#!/usr/bin/env python3
"""Compile the CUDA kernels without a GPU and refuse what would be slow or would not load.

For sm_80 and sm_90, with PTX: no spills and at most 64 registers a thread in any kernel. Of the linked libraries, with and
without CUDA: no C++ symbol of torch, and no symbol that only a CUDA build of torch has unless it is weak.

    python cuda_ext/compile_gate.py
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import build

MOST_REGISTERS = 64
# What torch/csrc/stable and the AOTInductor shim may need from libtorch_cpu: C symbols of these prefixes and nothing else.
STABLE = re.compile(r"^(aoti_torch_|torch_)")
CUDA_ONLY = re.compile(r"cuda_stream|c10_cuda|cuda_blas|cuda_guard")
SYSTEM = re.compile(r"@|^_ITM_|^__cxa_finalize|^__gmon_start__|^__tls_get_addr")  # versioned: libc, libstdc++, libgcc


class Kernel(NamedTuple):
    """One kernel for one architecture, as ptxas reports it."""

    name: str
    target: str
    registers: int
    spilled: int  # bytes


def kernels_of(report: str) -> list[Kernel]:
    """Kernels in the output of ``nvcc -Xptxas -v``."""
    entry = re.compile(
        r"Compiling entry function '(?P<name>\S+)' for '(?P<target>\w+)'.*?(?P<stores>\d+) bytes spill stores,"
        r" (?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
        re.DOTALL,
    )
    return [
        Kernel(found["name"], found["target"], int(found["registers"]), int(found["stores"]) + int(found["loads"]))
        for found in entry.finditer(report)
    ]


def kernel_faults(kernels: list[Kernel]) -> list[str]:
    """What breaks the limits, in words."""
    return [
        f"{kernel.name} for {kernel.target}: {kernel.registers} registers, {kernel.spilled} bytes spilled"
        for kernel in kernels
        if kernel.spilled or kernel.registers > MOST_REGISTERS
    ]


def symbol_faults(library: str, listing: str) -> list[str]:
    """What ``nm -D --undefined-only`` lists that a torch of another version or without CUDA might not have."""
    faults = []
    for line in listing.splitlines():
        kind, name = line.split()[-2:]
        if SYSTEM.search(name) or kind == "w":
            continue
        if not STABLE.match(name):
            faults.append(f"{library} needs {name}, which is not part of LibTorch's stable ABI")
        elif CUDA_ONLY.search(name):
            faults.append(f"{library} needs {name}, which a CPU build of torch has not; declare it weak")
    return faults


def _compile(source: Path, tools: build.Toolchain, folder: Path) -> list[Kernel]:
    command = [*build.compile_command(source, tools), "-Xptxas", "-v", "-o", str(folder / f"{source.name}.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise build.CannotBuild(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return kernels_of(done.stderr)


def main() -> int:
    """Print the kernels with most registers and every fault; 1 if there is a fault."""
    os.environ["FUSION3D_CUDA"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        folder, listings = Path(scratch), {}
        try:
            tools = build.find_toolchain()
            device_sources = [source for source in build.sources(tools) if source.suffix == ".cu"]
            with ThreadPoolExecutor(2) as pool:
                kernels = list(chain.from_iterable(pool.map(lambda source: _compile(source, tools, folder), device_sources)))
            for name, cuda in (("library with CUDA", "1"), ("library without CUDA", "0")):
                os.environ["FUSION3D_CUDA"] = cuda
                build.build(folder / "library.so")
                nm = ["nm", "-D", "--undefined-only", str(folder / "library.so")]
                listings[name] = subprocess.run(nm, capture_output=True, text=True, check=True).stdout
        except build.CannotBuild as problem:
            print(f"compile gate: {problem}", file=sys.stderr)
            return 1
    faults = [*kernel_faults(kernels), *chain.from_iterable(symbol_faults(*item) for item in listings.items())]
    if not kernels:
        faults.append("ptxas reported no kernel at all")
    for target in sorted({kernel.target for kernel in kernels}):
        of_target = [kernel for kernel in kernels if kernel.target == target]
        most = max(of_target, key=lambda kernel: kernel.registers)
        spilled = sum(kernel.spilled for kernel in of_target)
        print(f"{target}: {len(of_target)} kernels, {spilled} bytes spilled, at most {most.registers} registers ({most.name})")
    for fault in faults:
        print(f"compile gate: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
