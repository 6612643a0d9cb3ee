"""spconv's layouts of the pairs, checked by hand; its results equal the native backend's where it is installed."""

from __future__ import annotations

import contextlib
import inspect
import sys
import types

import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import KernelMap, kernel_map, sparse_conv, strided_kernel_map, voxelize
from fusion3d.sparse import (
    InverseConv3d,
    SparseTensor,
    StridedConv3d,
    SubmanifoldConv3d,
    UNet,
    spconv_convolution,
    spconv_verdict,
    use_backend,
)
from fusion3d.sparse.spconv_convolution import convolve, pair_lists, pair_table

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))]


@pytest.fixture(scope="module")
def spconv():
    if spconv_verdict.install_problem():
        pytest.skip(spconv_verdict.install_problem())


def coordinates(chips=3, count=500, size=9, seed=0):
    """Voxels at the borders of chips too, on both sides of 0."""
    points = torch.randint(-size, size, (count, 4), generator=torch.Generator().manual_seed(seed))
    points[:, 0] %= chips
    return voxelize(points).coordinates


MAPS = {
    "submanifold": lambda voxels: kernel_map(voxels),
    "dilated": lambda voxels: kernel_map(voxels, dilation=2),
    "5 x 5 x 5": lambda voxels: kernel_map(voxels, 5),
    "1 x 1 x 1": lambda voxels: kernel_map(voxels, 1),
    "strided": lambda voxels: strided_kernel_map(voxels)[1],
    "overlapping": lambda voxels: strided_kernel_map(voxels, 3, 2)[1],
    "inverse": lambda voxels: strided_kernel_map(voxels, 3, 2)[1].transposed(),
}
every_map = pytest.mark.parametrize("kind", MAPS)


@every_map
def test_lists_hold_the_pairs_of_each_element(kind):
    pairs = MAPS[kind](coordinates())
    lists = pair_lists(pairs)
    assert lists.outputs == pairs.outputs
    for element, count in enumerate(lists.counts.tolist()):
        piece = slice(int(pairs.offsets[element]), int(pairs.offsets[element + 1]))
        assert lists.pairs[0, element, :count].tolist() == pairs.in_rows[piece].tolist()
        assert lists.pairs[1, element, :count].tolist() == pairs.out_rows[piece].tolist()
        assert (lists.pairs[:, element, count:] == -1).all()
    assert lists.centred == (kind in ("submanifold", "dilated", "5 x 5 x 5", "1 x 1 x 1"))


@pytest.mark.parametrize("kind", [kind for kind in MAPS if kind != "5 x 5 x 5"])
def test_convolving_by_the_table_gives_the_convolution(kind):
    pairs = MAPS[kind](coordinates())
    features, weight = torch.randn(pairs.inputs, 3).double(), torch.randn(pairs.elements, 3, 4).double()
    table, expected = pair_table(pairs), sparse_conv(features, weight, pairs)
    padded = torch.cat((features, torch.zeros(1, 3).double()))  # row -1: no partner
    torch.testing.assert_close(torch.einsum("kvi,kio->vo", padded[table.partner], weight), expected)


def test_mask_tells_the_elements_with_a_partner_and_orders_voxels():
    table = pair_table(kernel_map(coordinates()))
    bits = table.mask.squeeze(1).long() & 0xFFFFFFFF
    assert torch.equal(bits, sum((found.long() << k for k, found in enumerate(table.partner >= 0)), torch.tensor(0)))
    assert (bits[table.order.long()].diff() >= 0).all()
    assert table.order.sort().values.tolist() == list(range(len(bits)))
    assert {table.partner.dtype, table.mask.dtype, table.order.dtype} == {torch.int32}


def test_mask_of_32_elements_keeps_its_highest_bit():
    rows = torch.arange(1)
    pairs = KernelMap(rows, rows + 0, torch.tensor([0] * 32 + [1]), 1, 1)
    assert pair_table(pairs).mask.item() == -(1 << 31)


class _ImplicitGemm(types.ModuleType):
    """spconv.pytorch.ops on the CPU: what its CUDA kernels compute from a table, by its source (2.3.8), in plain torch."""

    @staticmethod
    def implicit_gemm(features, filters, pair_fwd, mask_fwd, argsort_fwd, voxels, masks, is_train, is_subm, fp32_accum=None):
        assert filters.is_contiguous()
        assert pair_fwd.shape == (filters.shape[1], voxels)
        assert (mask_fwd[0].shape, argsort_fwd[0].shape, masks[0].item()) == ((voxels, 1), (voxels,), 2**32 - 1)
        assert (is_subm, fp32_accum) == (False, True)
        result = torch.einsum("kvi,oki->vo", _gathered(features, pair_fwd), filters.flatten(1, 3))
        return result, "tiles" if is_train else None, 64

    @staticmethod
    def implicit_gemm_backward(
        features, filters, out_bp, pair_fwd, pair_bwd, mask_fwd, mask_bwd, argsort_fwd, argsort_bwd, mask_output_fwd, masks,
        mask_width, is_subm, fp32_accum=None,
    ):  # fmt: skip
        assert (mask_output_fwd, mask_width, is_subm, fp32_accum) == ("tiles", 64, False, True)
        assert len(mask_fwd[0]) == len(argsort_fwd[0]) == len(out_bp)
        assert len(mask_bwd[0]) == len(argsort_bwd[0]) == len(features)
        grad_features = torch.einsum("kvo,oki->vi", _gathered(out_bp, pair_bwd), filters.flatten(1, 3))
        grad_filters = torch.einsum("kvi,vo->oki", _gathered(features, pair_fwd), out_bp)
        return grad_features, grad_filters.reshape(filters.shape)


def _gathered(rows, partner):
    return torch.cat((rows, rows.new_zeros(1, rows.shape[1])))[partner.long()]  # -1 is the row of zeros


@pytest.mark.parametrize("kind", [kind for kind in MAPS if kind != "5 x 5 x 5"])
def test_what_implicit_gemm_is_given_makes_the_convolution_and_its_gradients(monkeypatch, kind):
    package = types.ModuleType("spconv.pytorch")
    package.ops = _ImplicitGemm("ops")
    monkeypatch.setitem(sys.modules, "spconv", types.ModuleType("spconv"))
    monkeypatch.setitem(sys.modules, "spconv.pytorch", package)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    pairs = MAPS[kind](coordinates())
    inputs = torch.randn(pairs.inputs, 3).double().requires_grad_(), torch.randn(pairs.elements, 3, 4).double().requires_grad_()
    found = spconv_convolution.by_implicit_gemm(*inputs, pairs)
    expected = sparse_conv(*inputs, pairs)
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(expected, inputs, upstream)):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(spconv_convolution.by_implicit_gemm(*inputs, pairs), expected)


def test_the_stand_in_for_implicit_gemm_has_spconvs_arguments(spconv):
    from spconv.pytorch import ops

    for name in ("implicit_gemm", "implicit_gemm_backward"):
        ours, theirs = (list(inspect.signature(getattr(holder, name)).parameters) for holder in (_ImplicitGemm, ops))
        assert len(ours) - 1 == theirs.index("is_subm") + 1
        assert ours[-1] == "fp32_accum"
        assert "fp32_accum" in theirs


def test_layers_over_the_same_map_share_one_layout_and_it_goes_with_the_map(spconv):
    pairs = kernel_map(coordinates())
    held = len(spconv_convolution._LISTS)
    for _ in range(2):
        convolve(torch.randn(pairs.inputs, 3), torch.randn(27, 3, 4), pairs)
    assert len(spconv_convolution._LISTS) == held + 1
    del pairs
    assert len(spconv_convolution._LISTS) == held


@pytest.mark.parametrize("channels", [(1, 1), (7, 5), (16, 32)])
@pytest.mark.parametrize("device", DEVICES)
@every_map
def test_output_and_gradients_equal_the_native_backend(spconv, kind, device, channels):
    pairs = MAPS[kind](coordinates().to(device))
    inputs = [torch.randn(pairs.inputs, channels[0]), torch.randn(pairs.elements, *channels)]
    inputs = [tensor.to(device).requires_grad_() for tensor in inputs]
    found, expected = convolve(*inputs, pairs), sparse_conv(*inputs, pairs)
    upstream = torch.randn_like(expected)
    gradients = zip(torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(expected, inputs, upstream))
    for one, other in ((found, expected), *gradients):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.detach().abs().max()))


def test_double_precision_agrees_to_rounding(spconv):
    pairs = kernel_map(coordinates())
    inputs = torch.randn(pairs.inputs, 7).double().requires_grad_(), torch.randn(27, 7, 5).double().requires_grad_()
    torch.testing.assert_close(convolve(*inputs, pairs), sparse_conv(*inputs, pairs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stop_level", [0, 1])
def test_one_network_gives_the_same_on_both_backends(spconv, stop_level):
    torch.manual_seed(0)
    voxels, model = coordinates(count=800), UNet(3, (5, 8, 12), (1, 1, 1))
    features, found = torch.randn(len(voxels), 3), {}
    for name in ("native", "spconv"):
        model.zero_grad()
        with use_backend(name):
            result = model(SparseTensor(features, voxels), stop_level).features
        result.square().mean().backward()
        found[name] = [result, *(p.grad for p in model.parameters() if p.grad is not None)]
    assert len(found["native"]) == len(found["spconv"]) > 10
    for one, other in zip(found["native"], found["spconv"]):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("layer", [SubmanifoldConv3d(3, 5), SubmanifoldConv3d(3, 5, 3, 3), SubmanifoldConv3d(3, 5, 1)])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_no_voxel_and_few_voxels(spconv, layer, count):
    x = SparseTensor(torch.randn(count, 3), voxelize(torch.arange(count)[:, None].expand(-1, 4)).coordinates)
    with use_backend("spconv"):
        found = layer(x).features
    torch.testing.assert_close(found, layer(x).features)


def test_strided_and_inverse_layers_keep_voxels_and_order(spconv):
    x = SparseTensor(torch.randn(len(coordinates()), 3), coordinates())
    down, up = StridedConv3d(3, 5), InverseConv3d(5, 4)
    with use_backend("spconv"):
        coarse = down(x)
        fine = up(coarse, x)
    torch.testing.assert_close(coarse.features, down(x).features)
    assert torch.equal(coarse.coordinates, down(x).coordinates)
    torch.testing.assert_close(fine.features, up(down(x), x).features)


def test_rows_outside_of_the_features_are_refused_before_spconv_reads_them(spconv):
    pairs = kernel_map(coordinates())
    wrong = KernelMap(pairs.in_rows + pairs.inputs, pairs.out_rows, pairs.offsets, pairs.inputs, pairs.outputs)
    with pytest.raises(ConfigError, match="in_rows holds values"):
        convolve(torch.randn(pairs.inputs, 3), torch.randn(27, 3, 4), wrong)


def test_compiled_layer_breaks_the_graph_and_gives_the_same(spconv):
    x, layer = SparseTensor(torch.randn(len(coordinates()), 3), coordinates()), SubmanifoldConv3d(3, 5)
    with use_backend("spconv"):
        found = torch.compile(layer, backend="eager")(x).features
    torch.testing.assert_close(found, layer(x).features)


def test_self_check_passes(spconv):
    assert spconv_verdict.self_check(torch.device("cpu")) == ""
