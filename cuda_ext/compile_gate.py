#!/usr/bin/env python3
"""Compile the operators without a GPU and refuse what would be slow, would not load or would fail on large data.

For sm_80 and sm_90, with PTX: no spills and at most 64 registers a thread in any kernel. Of the linked libraries, with and
without CUDA: no C++ symbol of torch, and no symbol that only a CUDA build of torch has unless it is weak. Of every source: no
warning; among them are those for 64-bit sizes that become 32-bit ones unasked.

    python cuda_ext/compile_gate.py

Without nvcc only the CPU's part is looked at, without a C++ compiler nothing, and the last line says so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
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
        f"{readable(kernel).name} for {kernel.target}: {kernel.registers} registers, {kernel.spilled} bytes spilled"
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


def main() -> int:
    """Print the kernels with most registers and every fault; 1 if there is a fault."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        print("compile gate: skipped: there is no C++ compiler; install g++ or set CXX")
        return 0
    os.environ.pop("FUSION3D_CUDA_TARGETS", None)
    os.environ["FUSION3D_CUDA"] = "1"
    try:
        reason, variants = "", {"library with CUDA": build.find_toolchain()}
    except build.CannotBuild as problem:
        reason, variants = str(problem), {}
    os.environ["FUSION3D_CUDA"] = "0"
    faults: list[str] = []
    try:
        variants["library without CUDA"] = build.find_toolchain()
        for name, tools in variants.items():
            objects = build.compile_all(tools)
            reports = {compiled: build.report_of(compiled).read_text() for compiled in objects}
            faults += chain.from_iterable(map(build.warnings_in, reports.values()))
            faults += symbol_faults(name, _undefined_symbols(objects, tools))
            if tools.nvcc:
                faults += _inspect_kernels(list(chain.from_iterable(map(kernels_of, reports.values()))), tools)
    except build.CannotBuild as problem:
        faults.append(str(problem))
    for fault in dict.fromkeys(faults):  # both libraries hold the CPU's objects
        print(f"compile gate: {fault}", file=sys.stderr)
    if reason:
        print(f"compile gate: kernels skipped: {reason}")
    return 1 if faults else 0


def _undefined_symbols(objects: list[Path], tools: build.Toolchain) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        library = Path(scratch) / "library.so"
        build.link(objects, library, tools)
        nm = ["nm", "-D", "--undefined-only", str(library)]
        return subprocess.run(nm, capture_output=True, text=True, check=True).stdout


def readable(kernel: Kernel) -> Kernel:
    """The kernel with its name and template arguments as they stand in the source, where binutils can tell."""
    demangler = shutil.which("c++filt")
    if demangler is None:
        return kernel
    name = subprocess.run([demangler, "-p", kernel.name], capture_output=True, text=True, check=True).stdout.strip()
    return kernel._replace(name=re.sub(r"fusion3d::|cuda::|\(anonymous namespace\)::", "", name))


def _inspect_kernels(kernels: list[Kernel], tools: build.Toolchain) -> list[str]:
    faults = kernel_faults(kernels)
    for target in (f"sm_{number}" for number in tools.cuda_targets):
        of_target = [kernel for kernel in kernels if kernel.target == target]
        if not of_target:
            faults.append(f"ptxas reported no kernel for {target}")
            continue
        most = readable(max(of_target, key=lambda kernel: kernel.registers))
        spilled = sum(kernel.spilled for kernel in of_target)
        print(f"{target}: {len(of_target)} kernels, {spilled} bytes spilled, at most {most.registers} registers ({most.name})")
    return faults


if __name__ == "__main__":
    sys.exit(main())
