"""The compile gate sees what it must refuse. The reports are as ptxas, g++ and nm print them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "cuda_ext"))
import compile_gate

REPORT = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4fastPf' for 'sm_80'
ptxas info    : Function properties for _Z4fastPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 0 barriers, 376 bytes cmem[0]
ptxas info    : Compiling entry function '_Z4slowPf' for 'sm_90'
ptxas info    : Function properties for _Z4slowPf
    8 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 65 registers, used 1 barriers, 376 bytes cmem[0]
"""


def test_registers_and_spills_are_read_for_every_kernel():
    fast, slow = compile_gate.kernels_of(REPORT)
    assert fast == ("_Z4fastPf", "sm_80", 64, 0)
    assert slow == ("_Z4slowPf", "sm_90", 65, 12)
    assert compile_gate.kernel_faults([fast]) == []


@pytest.mark.parametrize(("registers", "spilled"), [(65, 0), (40, 8)])
def test_a_kernel_over_either_limit_is_refused(registers, spilled):
    (fault,) = compile_gate.kernel_faults([compile_gate.Kernel("_Z4slowPf", "sm_90", registers, spilled)])
    assert f"{registers} registers, {spilled} bytes spilled" in fault


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="no binutils")
def test_a_kernel_is_named_as_in_the_source():
    mangled = "_ZN8fusion3d4cuda48_GLOBAL__N__84ed683d_15_column_range_cu_43888be613range_by_warpINS_4HalfELi8EEEvPKT_"
    assert compile_gate.readable(compile_gate.Kernel(mangled, "sm_80", 64, 0)).name == "range_by_warp<Half, 8>"


@pytest.mark.parametrize(
    "symbol",
    [
        "                 U _ZN2at4_ops3add4callERKNS_6TensorE",  # at::
        "                 U _ZN3c105ErrorC1ESs",  # c10::
        "                 U aoti_torch_get_current_cuda_stream",  # only libtorch_cuda has it
        "                 U PyErr_SetString",
    ],
)
def test_a_symbol_that_another_torch_may_not_have_is_refused(symbol):
    assert len(compile_gate.symbol_faults("library", symbol)) == 1


@pytest.mark.parametrize(
    "symbol",
    [
        "                 w aoti_torch_get_current_cuda_stream",  # weak
        "                 U aoti_torch_call_dispatcher",
        "                 U torch_parallel_for",
        "                 U memcpy@GLIBC_2.14",
        "                 w __gmon_start__",
    ],
)
def test_weak_and_stable_symbols_pass(symbol):
    assert compile_gate.symbol_faults("library", symbol) == []


def test_a_size_that_becomes_an_int_unasked_is_a_fault():
    line = "kernel.cpp:7:13: warning: conversion from 'int64_t' {aka 'long int'} to 'int' may change value [-Wconversion]"
    assert compile_gate.build.warnings_in(f"kernel.cpp: In function 'f':\n{line}\n    7 |   int rows = count;\n") == [line]


def test_compilers_are_asked_about_conversions():
    assert "-Wconversion" in compile_gate.build.WARNINGS


def test_without_a_compiler_the_gate_says_that_it_was_skipped(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compile_gate.main() == 0
    assert "skipped: there is no C++ compiler; install g++" in capsys.readouterr().out
