"""Choosing the backend, and what happens to layers that spconv cannot do. None of it needs spconv."""

from __future__ import annotations

import runpy
import sys

import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import KernelMap, kernel_map, sparse_conv, voxelize
from fusion3d.sparse import SparseTensor, SubmanifoldConv3d, current_backend, set_backend, spconv_verdict, use_backend

module = sys.modules["fusion3d.sparse.backend"]


@pytest.fixture(autouse=True)
def native(monkeypatch):
    monkeypatch.setattr(module, "_chosen", "native")


@pytest.fixture
def spconv_chosen(monkeypatch):
    """spconv is chosen, as if installed; whoever calls its kernels fails the test."""
    monkeypatch.setattr(module, "_chosen", "spconv")

    def refuse(device):
        raise AssertionError("spconv would have been called")

    monkeypatch.setattr(spconv_verdict, "require", refuse)


def voxels(count=200):
    points = torch.randint(0, 6, (count, 4), generator=torch.Generator().manual_seed(0))
    return voxelize(points).coordinates


def problem(dtype=torch.float32, count=200, kernel=3):
    pairs = kernel_map(voxels(count), kernel)
    return torch.randn(pairs.inputs, 4).to(dtype), torch.randn(kernel**3, 4, 6).to(dtype), pairs, torch.randn(6).to(dtype)


@pytest.mark.parametrize(("variable", "expected"), [(None, "native"), ("", "native"), ("spconv", "spconv")])
def test_environment_variable_chooses_and_native_is_the_default(monkeypatch, variable, expected):
    monkeypatch.delenv(module.ENVIRONMENT, raising=False)
    if variable is not None:
        monkeypatch.setenv(module.ENVIRONMENT, variable)
    fresh = runpy.run_path(module.__file__)  # the module as a new process sees it
    assert fresh["current_backend"]() == expected


def test_a_name_that_is_no_backend_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="no sparse backend 'cudnn'; choose from native, spconv"):
        set_backend("cudnn")
    monkeypatch.setattr(module, "_chosen", "typo")  # as the environment variable would have it
    for call in (current_backend, lambda: module.convolve(*problem())):
        with pytest.raises(ConfigError, match=r"'typo' \(FUSION3D_SPARSE_BACKEND\)"):
            call()
    monkeypatch.setattr(spconv_verdict, "describe", lambda: "not asked")
    assert "names no backend" in module.report()[0]


def test_backend_that_is_refused_is_not_chosen(monkeypatch):
    monkeypatch.setattr(spconv_verdict, "installed", lambda path=None: {})
    with pytest.raises(ConfigError, match="spconv is not installed; pip install"), use_backend("spconv"):
        pass
    assert current_backend() == "native"


def test_use_backend_restores_what_was_chosen_also_after_an_error(monkeypatch):
    monkeypatch.setattr(spconv_verdict, "install_problem", lambda path=None: "")
    with use_backend("spconv"):
        assert current_backend() == "spconv"
        with pytest.raises(ConfigError), use_backend("native"):
            set_backend("cudnn")
        assert current_backend() == "spconv"
    assert current_backend() == "native"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_that_spconv_lacks_is_refused_in_words(spconv_chosen, dtype):
    with pytest.raises(ConfigError, match=r"in float32 and float64 on cpu, not in .*float16; change the precision"):
        module.convolve(*problem(dtype))


def test_autocast_to_a_dtype_that_spconv_lacks_is_refused(spconv_chosen):
    x = SparseTensor(torch.randn(len(voxels()), 4), voxels())
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConfigError, match="not in bfloat16"):
        SubmanifoldConv3d(4, 6)(x)


def test_device_that_spconv_lacks_is_refused(spconv_chosen):
    features, weight, pairs, bias = problem()
    elsewhere = KernelMap(pairs.in_rows.to("meta"), pairs.out_rows.to("meta"), pairs.offsets, pairs.inputs, pairs.outputs)
    with pytest.raises(ConfigError, match="does not run on meta"):
        module.convolve(features.to("meta"), weight.to("meta"), elsewhere, bias.to("meta"))


def test_arguments_are_checked_before_spconv_sees_them(spconv_chosen):
    features, weight, pairs, bias = problem()
    with pytest.raises(ConfigError, match="weight must have shape"):
        module.convolve(features, weight[:8], pairs, bias)
    with pytest.raises(ConfigError, match="rows but the kernel map reads"):
        module.convolve(features[:-1], weight, pairs, bias)


@pytest.mark.parametrize(("count", "kernel"), [(0, 3), (200, 1)])
def test_layers_with_nothing_for_spconv_to_do_run_natively(spconv_chosen, count, kernel):
    arguments = problem(count=count, kernel=kernel)
    assert torch.equal(module.convolve(*arguments), sparse_conv(*arguments))


def test_size_past_the_limit_runs_natively_and_says_so(spconv_chosen, monkeypatch):
    arguments = problem()
    monkeypatch.setattr(module, "OVERFLOW", module.largest_bytes(arguments[2], 4, 6, 4))
    with pytest.warns(RuntimeWarning, match="runs on the native backend, with equal results"):
        result = module.convolve(*arguments)
    assert torch.equal(result, sparse_conv(*arguments))
    monkeypatch.setattr(module, "OVERFLOW", module.OVERFLOW + 1)
    with pytest.raises(AssertionError, match="would have been called"):
        module.convolve(*arguments)


@pytest.mark.parametrize(
    ("inputs", "outputs", "channels", "element_size", "elements", "overflows"),
    [
        (1 << 24, 1 << 24, (32, 32), 4, 8, True),  # 2^24 voxels of 32 float32 channels are 2^31 bytes
        ((1 << 24) - 1, (1 << 24) - 1, (32, 32), 4, 8, False),
        (1 << 24, 1 << 24, (32, 32), 2, 8, False),  # half of that in float16
        (1 << 20, 1 << 24, (16, 32), 4, 8, True),  # the output of an inverse convolution alone
        (1 << 24, 1 << 20, (32, 16), 4, 8, True),
        (1 << 25, 1 << 25, (1, 1), 4, 27, True),  # the table of 27 neighbours, 3.6 GB
    ],
)
def test_overflow_is_known_from_sizes_alone(inputs, outputs, channels, element_size, elements, overflows):
    none = torch.empty(0, dtype=torch.int64)
    pairs = KernelMap(none, none, torch.zeros(elements + 1, dtype=torch.int64), inputs, outputs)
    assert (module.largest_bytes(pairs, *channels, element_size) >= module.OVERFLOW) == overflows
    assert module.OVERFLOW == 2**31
