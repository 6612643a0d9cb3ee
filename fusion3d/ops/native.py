"""The compiled kernels: loaded when this module is imported, and why not when they are absent.

The library adds CPU and CUDA kernels to the schemas that the files of this room define; torch's dispatcher prefers them to the
references, which stay in place for everything else. ``python cuda_ext/build.py`` makes it, and so does ``pip install``.

Environment: ``FUSION3D_REFERENCE=1`` leaves the library alone; ``FUSION3D_LIBRARY`` names another one, for sanitizers.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fusion3d.errors import ConfigError

_IN_PLACE = Path(__file__).with_name("_fusion3d_ops.so")
_REFUSAL = "fusion3d: "  # csrc/binding.h puts it before what a kernel refuses
_BUILD = "python cuda_ext/build.py in a checkout, or pip install --no-cache-dir --force-reinstall --no-deps fusion3d"


@dataclass(frozen=True)
class Native:
    """A loaded library, or the `problem` that kept it from loading.

    ``torch_headers`` is the torch version that it was compiled with, ``cuda_targets`` the GPU architectures that it holds.
    """

    path: Path
    problem: str = ""
    remedy: str = ""
    torch_headers: str = ""
    cuda_targets: str = ""

    @property
    def loaded(self) -> bool:
        return not self.problem


def load(path: Path) -> Native:
    """Load a library of kernels into torch's dispatcher; never raises."""
    if os.environ.get("FUSION3D_REFERENCE") == "1":
        return Native(path, "FUSION3D_REFERENCE=1 asks for the references", "unset FUSION3D_REFERENCE")
    if not path.is_file():
        return Native(path, "the compiled library is not installed", f"install g++ and torch, then run {_BUILD}")
    try:
        torch.ops.load_library(path)
        library = ctypes.CDLL(str(path))
        return Native(
            path, torch_headers=_text(library.fusion3d_torch_headers), cuda_targets=_text(library.fusion3d_cuda_targets)
        )
    except (OSError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        return Native(path, f"the compiled library does not load under torch {torch.__version__} ({reason})", f"run {_BUILD}")


def _text(function: Any) -> str:
    function.restype = ctypes.c_char_p
    return function().decode()


NATIVE = load(Path(os.environ.get("FUSION3D_LIBRARY", _IN_PLACE)))


def run(operator: Callable[..., Any], *arguments: Any) -> Any:
    """Call an operator; what a compiled kernel refuses is raised as ConfigError, as the reference does.

    Raises
    ------
    ConfigError
        The arguments do not fit.
    """
    try:
        return operator(*arguments)
    except RuntimeError as error:
        text = str(error).partition("\n")[0]
        if not text.startswith(_REFUSAL):
            raise
        raise ConfigError(text.removeprefix(_REFUSAL)) from None


def report() -> list[str]:
    """Which backend the operators use on the CPU and on CUDA, why not the compiled one, and what to install: one line each."""
    if not NATIVE.loaded:
        why = f"plain torch, slower: {NATIVE.problem}; to change that, {NATIVE.remedy}"
        return [f"operators on the CPU: {why}", f"operators on CUDA: {_cuda_device() or why}"]
    cpu = f"operators on the CPU: compiled ({NATIVE.path.name}, built with torch {NATIVE.torch_headers})"
    return [cpu, f"operators on CUDA: {_cuda_device() or _cuda_kernels()}"]


def _cuda_device() -> str:
    if torch.version.cuda is None:
        return f"not available: torch {torch.__version__} is built without CUDA; install a CUDA build of torch (pytorch.org)"
    if not torch.cuda.is_available():
        return "not available: torch finds no usable NVIDIA GPU; check the driver with nvidia-smi"
    return ""


def _cuda_kernels() -> str:
    if not NATIVE.cuda_targets:
        return f"plain torch, slower: the library was built without CUDA; install the CUDA toolkit (nvcc), then run {_BUILD}"
    device = torch.cuda.get_device_name()
    return f"compiled for {NATIVE.cuda_targets}, running on {device}"
