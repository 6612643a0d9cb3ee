#!/usr/bin/env python3
"""Compile the operators into fusion3d/ops/_fusion3d_ops.so: one builder for pip, the command line and GPU machines.

Torch is found by path and never imported, so that pip's build isolation needs nothing but setuptools. Sources are compiled
again only when their command or a file that they include has changed.

    python cuda_ext/build.py                          # in place; CUDA too where nvcc and a CUDA build of torch are there
    python cuda_ext/build.py --sanitize address --output /tmp/asan.so                # or thread; cuda_ext/sanitize.sh runs them
    FUSION3D_CUDA=1 python cuda_ext/build.py          # compile the CUDA part also against a CPU build of torch; 0: leave it out
    FUSION3D_TORCH=/path/to/torch python cuda_ext/build.py

Further variables: CXX, NVCC, FUSION3D_CUDA_TARGETS (default "80 90", the last also as PTX), FUSION3D_NATIVE=1 (-march=native: the
result runs on this kind of machine only).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "cuda_ext" / "csrc"
OBJECTS = ROOT / "build" / "cuda_ext"
LIBRARY = Path("fusion3d/ops/_fusion3d_ops.so")
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020a000000000000ULL", "-DTORCH_STABLE_ONLY"]  # torch 2.10
# -O3 unrolls the loops over a packet before they are vectorised: the maximum then takes 3.5 times as long (g++ 12).
OPTIMISE = ["-O2", "-fopenmp-simd", "-ffp-contract=off"]
# Of conversions, those that may lose a value: a size past 2^31 that becomes an int is refused by compile_gate.py.
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion"]
SANITIZE = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-fsanitize=thread"],
}
"""Flags of each sanitized build, which also holds csrc/sanitize/<name>.cpp."""


class CannotBuild(Exception):
    """What is missing, in words."""


@dataclass(frozen=True)
class Toolchain:
    """The programs and folders of one build."""

    cxx: str
    torch: Path
    torch_version: str
    nvcc: str = ""
    cuda_targets: tuple[str, ...] = ()
    cudart: Path = Path()  # the folder of libcudart_static.a
    flags: list[str] = field(default_factory=list)
    sanitize: str = ""  # a key of SANITIZE, if any


def find_torch() -> Path:
    """The installed torch package of the interpreter that runs this, seen as if no build isolation hid it."""
    chosen = os.environ.get("FUSION3D_TORCH")
    if chosen:
        folder = Path(chosen)
    else:
        # pip hides the environment's packages by PYTHONPATH alone: a child that ignores it (-E) sees them, .pth files included.
        # find_spec looks for a top-level package without importing it.
        search = "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
        found = subprocess.run([sys.executable, "-E", "-P", "-c", search], capture_output=True, text=True, cwd=Path(sys.prefix))
        if not found.stdout.strip():
            raise CannotBuild(
                f"torch is not installed for {sys.executable}; install it first or set FUSION3D_TORCH to its folder"
            )
        folder = Path(found.stdout.strip())
    if not (folder / "include/torch/csrc/stable/library.h").is_file():
        raise CannotBuild(f"{folder} holds no torch headers of 2.10 or newer")
    return folder


def find_toolchain(sanitize: str = "") -> Toolchain:
    """Programs, folders and flags of this machine, or CannotBuild."""
    cxx = shutil.which(os.environ.get("CXX", "g++"))
    if cxx is None:
        raise CannotBuild(f"no C++ compiler: {os.environ.get('CXX', 'g++')} is not found; install g++ or set CXX")
    torch = find_torch()
    version = re.search(r"__version__\s*=\s*['\"]([^'\"]+)", (torch / "version.py").read_text())
    flags = ["-std=c++17", "-fPIC", "-fvisibility=hidden", *WARNINGS, *OPTIMISE]
    flags += _sanitizing(sanitize)
    if os.environ.get("FUSION3D_NATIVE") == "1":
        flags += ["-march=native"]
    nvcc, targets = _find_cuda(torch)
    cudart = _find_cudart(nvcc) if nvcc else Path()
    return Toolchain(cxx, torch, version.group(1) if version else "unknown", nvcc, targets, cudart, flags, sanitize)


def _sanitizing(sanitize: str) -> list[str]:
    return ["-O1", "-g1", "-fno-omit-frame-pointer", *SANITIZE[sanitize]] if sanitize else []  # g1: lines, no variables


def _find_cuda(torch: Path) -> tuple[str, tuple[str, ...]]:
    wanted = os.environ.get("FUSION3D_CUDA", "")
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc = shutil.which(os.environ.get("NVCC", "nvcc")) or shutil.which("nvcc", path=f"{home}/bin")
    if wanted == "0" or (wanted != "1" and not (nvcc and (torch / "lib/libtorch_cuda.so").is_file())):
        return "", ()
    if nvcc is None:
        raise CannotBuild("FUSION3D_CUDA=1 but nvcc is not found; install the CUDA toolkit or set CUDA_HOME")
    return nvcc, tuple(os.environ.get("FUSION3D_CUDA_TARGETS", "80 90").split())


def _find_cudart(nvcc: str) -> Path:
    # nvcc may be a script that calls another one: only nvcc itself knows where it lives
    dry = subprocess.run([nvcc, "-dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull], capture_output=True, text=True)
    top = re.search(r"^#\$ TOP=(.+)$", dry.stderr, re.MULTILINE)
    home = Path(top.group(1)).resolve() if top else Path(nvcc).resolve().parents[1]
    for folder in (home / "lib64", home / "lib", *sorted(home.glob("targets/*/lib"))):
        if (folder / "libcudart_static.a").is_file():
            return folder
    raise CannotBuild(f"nvcc is there, but no libcudart_static.a below {home}; install the CUDA runtime's development files")


def cuda_code(targets: tuple[str, ...]) -> list[str]:
    """Flags of nvcc for machine code of every target, and PTX of the last, for GPUs that are newer."""
    flags = [f"-gencode=arch=compute_{target},code=sm_{target}" for target in targets]
    return [*flags, f"-gencode=arch=compute_{targets[-1]},code=compute_{targets[-1]}"]


def compile_command(source: Path, tools: Toolchain) -> list[str]:
    """The command that compiles one source, less its output: nvcc sees neither torch's headers nor g++ those of a GPU."""
    if source.suffix == ".cu":
        host = ",".join(["-fPIC", "-fvisibility=hidden", "-Wall"])
        return [tools.nvcc, "-std=c++17", "-O3", "-lineinfo", "-Xptxas", "-v", "-ccbin", tools.cxx, "-Xcompiler", host,
                f"-I{SOURCES}", *cuda_code(tools.cuda_targets), "-c", str(source)]  # fmt: skip
    command = [tools.cxx, *tools.flags, *STABLE_ABI, f"-I{SOURCES}", "-isystem", str(tools.torch / "include")]
    if source.name == "build_info.cpp":
        names = " ".join(f"sm_{target}" for target in tools.cuda_targets)
        command += [f'-DFUSION3D_TORCH="{tools.torch_version}"', f'-DFUSION3D_CUDA_TARGETS="{names}"']
    return [*command, "-c", str(source)]


def link_command(objects: list[Path], output: Path, tools: Toolchain) -> list[str]:
    """The command that links the library: no undefined symbol but torch's, nothing of a static archive exported."""
    sanitize = SANITIZE.get(tools.sanitize, [])
    command = [tools.cxx, "-shared", "-o", str(output), *map(str, objects), *sanitize]
    if tools.nvcc:
        command += [str(tools.cudart / "libcudart_static.a"), "-ldl", "-lrt", "-pthread"]
    command += [f"-L{tools.torch / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu"]
    # a sanitizer's own symbols come from the library that is preloaded when it runs
    strict = ["-Wl,-z,now", "-Wl,-Bsymbolic"] if sanitize else ["-Wl,-z,defs"]
    return [*command, *strict, "-Wl,--exclude-libs,ALL"]


def sources(tools: Toolchain) -> list[Path]:
    """Every source of the library: csrc/*.cpp, csrc/cpu and, with nvcc, csrc/cuda; one of csrc/sanitize with that sanitizer."""
    folders = [SOURCES, SOURCES / "cpu", *([SOURCES / "cuda"] if tools.nvcc else [])]
    found = sorted(path for folder in folders for path in folder.iterdir() if path.suffix in (".cpp", ".cu"))
    return [*found, *([SOURCES / "sanitize" / f"{tools.sanitize}.cpp"] if tools.sanitize else [])]


def includes(source: Path, seen: dict[Path, bytes] | None = None) -> dict[Path, bytes]:
    """A source and every file of csrc that it includes, with their contents."""
    seen = {} if seen is None else seen
    if source not in seen:
        seen[source] = source.read_bytes()
        for name in re.findall(rb'^\s*#include "([^"]+)"', seen[source], re.MULTILINE):
            includes(SOURCES / name.decode(), seen)
    return seen


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise CannotBuild(f"{command[0]} does not run: {error}") from None
    if done.returncode:
        raise CannotBuild(f"this command failed:\n{' '.join(command)}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout + done.stderr


def report_of(compiled: Path) -> Path:
    """What the compiler said about an object: warnings, and for each kernel its registers. Kept for compile_gate.py."""
    return compiled.with_suffix(".txt")


def warnings_in(report: str) -> list[str]:
    """The lines of a compiler's report that are warnings."""
    return [line for line in report.splitlines() if re.search(r"\bwarning\b", line)]


def _compile(source: Path, tools: Toolchain) -> Path:
    command = compile_command(source, tools)
    # the folder and version of torch stand for its headers
    content = hashlib.sha256("\0".join([*command, tools.torch_version]).encode())
    for path, text in sorted(includes(source).items()):
        content.update(str(path).encode() + b"\0" + text)
    target = OBJECTS / f"{source.parent.name}-{source.name}-{content.hexdigest()[:16]}.o"
    if target.is_file() and report_of(target).is_file():
        return target
    unfinished = target.with_suffix(f".{os.getpid()}.tmp")
    report = _run([*command, "-o", str(unfinished)])
    for line in warnings_in(report):
        print(line, file=sys.stderr)
    report_of(target).write_text(report)
    unfinished.replace(target)
    return target


def compile_all(tools: Toolchain, jobs: int = 2) -> list[Path]:
    """The objects of every source, compiled where they are not up to date."""
    OBJECTS.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda source: _compile(source, tools), sources(tools)))


def link(objects: list[Path], output: Path, tools: Toolchain) -> None:
    """Link the library under a temporary name, then give it its own: whoever has loaded the old one keeps it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f"{output.name}.{os.getpid()}.tmp")
    try:
        _run(link_command(objects, unfinished, tools))
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)


def build(output: Path, *, sanitize: str = "", jobs: int = 2) -> Toolchain:
    """Bring `output` up to date; returns what it was built with, or raises CannotBuild."""
    tools = find_toolchain(sanitize)
    objects = compile_all(tools, jobs)
    stamp = hashlib.sha256(" ".join([str(tools.torch), *map(str, objects)]).encode()).hexdigest()
    record = OBJECTS / f"linked-{hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:16]}"
    if output.is_file() and record.is_file() and record.read_text() == stamp:
        return tools
    link(objects, output, tools)
    record.write_text(stamp)
    return tools


def build_replay(output: Path, sanitize: str = "") -> None:
    """The host replay of the CUDA schedules, for tests: the op bodies alone, without torch."""
    cxx = shutil.which(os.environ.get("CXX", "g++"))
    if cxx is None:
        raise CannotBuild("no C++ compiler: install g++ or set CXX")
    flags = ["-std=c++17", "-fPIC", "-fvisibility=hidden", *WARNINGS, *OPTIMISE, *_sanitizing(sanitize)]
    replays = sorted(map(str, (SOURCES / "replay").glob("*.cpp")))
    _run([cxx, "-shared", *flags, f"-I{SOURCES}", *replays, "-o", str(output)])


def describe(output: Path, tools: Toolchain) -> str:
    """One line on what was built."""
    cuda = (
        f"CUDA {' '.join(f'sm_{target}' for target in tools.cuda_targets)}"
        if tools.nvcc
        else "no CUDA (no nvcc or CPU-only torch)"
    )
    return f"{output}: CPU kernels, {cuda}; torch {tools.torch_version}"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / LIBRARY, help="library to write")
    parser.add_argument("--replay", action="store_true", help="only the host replay of the CUDA schedules, which tests load")
    parser.add_argument("--sanitize", choices=list(SANITIZE), default="", help="address also means undefined behaviour")
    parser.add_argument("--jobs", "-j", type=int, default=2, help="compilers at a time")
    options = parser.parse_args()
    try:
        if options.replay:
            build_replay(options.output, options.sanitize)
            return 0
        tools = build(options.output, sanitize=options.sanitize, jobs=options.jobs)
    except CannotBuild as problem:
        print(f"cannot build the operators: {problem}", file=sys.stderr)
        return 1
    print(describe(options.output, tools))
    return 0


if __name__ == "__main__":
    sys.exit(main())
