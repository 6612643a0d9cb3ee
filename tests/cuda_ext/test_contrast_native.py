"""The compiled contrast gives what its reference gives, for any size, spread of similarities and exclusion."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import normalize

from fusion3d.ops import contrast
from fusion3d.ops.contrast import _contrast, _contrast_backward, contrast_backward_reference, contrast_reference
from fusion3d.ops.native import NATIVE

pytestmark = pytest.mark.usefixtures("compiled")
cuda = pytest.mark.skipif(
    not (torch.cuda.is_available() and NATIVE.cuda_targets),
    reason="torch finds no NVIDIA GPU, or the library holds no CUDA kernels",
)

DEVICES = ["cpu", pytest.param("cuda", marks=cuda)]
# Sums of up to 1,000 products and exponentials in another order; gradients relative to the largest.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
SPREADS = (
    14.0,
    100.0,
    3000.0,
)  # one exponential for both ways; a temperature of 0.01; further than float32's exponential reaches


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def views(rows, channels, dtype=torch.float32, spread=14.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, rows, channels, generator=generator, dtype=torch.float64)
    return (normalize(a, dim=1) * spread).to(dtype), normalize(a + b, dim=1).to(dtype)


def places(rows, dtype=torch.float32, scenes=3, side=100.0):
    generator = torch.Generator().manual_seed(3)
    position = torch.rand(rows, 2, generator=generator, dtype=torch.float64) * side
    return position.to(dtype), torch.randint(0, scenes, (rows,), generator=generator)


def upstream(rows, dtype, seed=5):
    return torch.randn(2, rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype) / max(1, rows)


def moved(device, *tensors):
    return [t.to(device) if isinstance(t, torch.Tensor) else t for t in tensors]


def assert_same_as_reference(device, query, key, position=None, scene=None, radius=0.0, tolerance=None):
    tolerance = TOLERANCE[query.dtype] if tolerance is None else tolerance
    arguments = query, key, position, scene, radius, 100
    expected = contrast_reference(*arguments)
    found = _contrast(*moved(device, *arguments))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=tolerance, atol=tolerance, equal_nan=True)
    grads = upstream(len(query), query.dtype)
    gradients = _contrast_backward(*moved(device, *grads, *expected, *arguments))
    for mine, theirs in zip(gradients, contrast_backward_reference(*grads, *expected, *arguments), strict=True):
        assert mine.dtype == theirs.dtype
        largest = float(theirs[theirs.isfinite()].abs().max()) if theirs.isfinite().any() else 1.0
        torch.testing.assert_close(mine.cpu(), theirs, rtol=tolerance, atol=tolerance * max(largest, 1e-30), equal_nan=True)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("channels", [1, 3, 32, 300])  # one, few, as many as packets hold, more than are added up at a time
@pytest.mark.parametrize("rows", [1, 2, 193, 900])  # few, around the side of a tile, and more than one band
def test_equals_the_reference(device, rows, channels, dtype, spread):
    # float32 similarities near 3000 are themselves known to 1e-4 only
    tolerance = max(TOLERANCE[dtype], spread * {torch.float32: 2e-6, torch.float64: 1e-14}[dtype])
    assert_same_as_reference(device, *views(rows, channels, dtype, spread), tolerance=tolerance)


@pytest.mark.parametrize("spread", SPREADS[:2])
@pytest.mark.parametrize("place_dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("scenes", [None, 1, 3])
@pytest.mark.parametrize("rows", [7, 500])
def test_exclusion_equals_the_reference(device, rows, scenes, dtype, place_dtype, spread):
    position, scene = places(rows, place_dtype, scenes or 1)
    tolerance = max(TOLERANCE[dtype], spread * 2e-6) if dtype == torch.float32 else 1e-12
    assert_same_as_reference(
        device, *views(rows, 16, dtype, spread), position, None if scenes is None else scene, 20.0, tolerance
    )


def test_far_tiles_are_excluded_as_near_ones_are(device):
    generator = torch.Generator().manual_seed(8)
    scene = torch.randint(-2, 3, (1200,), generator=generator).sort().values * (1 << 40)  # whole tiles of one scene, and of two
    position = torch.rand(1200, 2, generator=generator, dtype=torch.float64) * 40 + torch.arange(1200)[:, None] // 100 * 50
    position[5], position[700], position[701, 0] = torch.nan, torch.inf, -torch.inf
    for shared in (None, scene):
        assert_same_as_reference(device, *views(1200, 8), position, shared, 30.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_at_exactly_the_radius_stay_negatives(device, dtype):
    grid = torch.cartesian_prod(torch.arange(20), torch.arange(20)).to(dtype)
    assert_same_as_reference(device, *views(400, 8), grid * 0.1, None, 0.5)  # 3-4-5 triangles, rounded this way or that
    query, key = views(2, 4)
    forth, _ = _contrast(*moved(device, query, key, torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype), None, 5.0, 8))
    torch.testing.assert_close(forth.cpu(), (query @ key.T).logsumexp(1))


@pytest.mark.parametrize("spread", SPREADS)
def test_rows_with_no_partner_are_alone_in_their_sum(device, spread):
    query, key = views(300, 8, spread=spread)
    for position in (torch.zeros(300, 2), torch.zeros(300, 2, dtype=torch.float64)):
        forth, back = _contrast(*moved(device, query, key, position, None, 1.0, 64))
        own = (query * key).sum(1)
        for sums in (forth, back):
            torch.testing.assert_close(sums.cpu(), own, rtol=1e-5, atol=1e-5)
        assert_same_as_reference(device, query, key, position, None, 1.0, tolerance=max(2e-5, spread * 2e-6))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 1e-30])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("excluded", [False, True])
def test_special_values_go_where_the_reference_sends_them(device, excluded, dtype, value):
    query, key = views(230, 3, dtype)
    query[4, 1], key[200, 0] = value, -value
    position, scene = places(230) if excluded else (None, None)
    assert_same_as_reference(device, query, key, position, scene, 20.0 if excluded else 0.0)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_a_row_of_nothing_but_infinity(device, value):
    query, key = views(10, 1)
    key.fill_(1.0)
    query[3] = value
    assert_same_as_reference(device, query, key)


def test_tied_similarities(device):
    assert_same_as_reference(device, torch.full((400, 4), 3.0), torch.full((400, 4), 2.0))


@pytest.mark.parametrize(("rows", "channels"), [(0, 4), (0, 0), (5, 0)])
def test_nothing_to_contrast(device, rows, channels):
    assert_same_as_reference(device, torch.zeros(rows, channels), torch.zeros(rows, channels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32_and_rounded_once(device, dtype):
    query, key = views(300, 20, dtype)
    arguments = places(300)[0], None, 20.0, 100
    wide = contrast_reference(query.float(), key.float(), *arguments)
    found = _contrast(*moved(device, query, key, *arguments))
    step = torch.finfo(dtype).eps
    for mine, theirs in zip(found, wide, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs.to(dtype), rtol=step, atol=0)
    levels, grads = [x.to(dtype) for x in wide], [x * 300 for x in upstream(300, dtype)]
    expected = contrast_backward_reference(*[x.float() for x in (*grads, *levels, query, key)], *arguments)
    gradients = _contrast_backward(*moved(device, *grads, *levels, query, key, *arguments))
    for mine, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs.to(dtype), rtol=step, atol=1e-5 * float(theirs.abs().max()))


def test_memory_in_any_layout(device):
    query, key = moved(device, *views(210, 6))
    position = places(210)[0].to(device)
    expected = _contrast(query, key, position, None, 20.0, 64)
    wide = torch.randn(210, 14, device=device)
    wide[:, 3:9] = query
    others = wide[:, 3:9], key.T.contiguous().T, position.T.contiguous().T
    assert all(torch.equal(a, b) for a, b in zip(_contrast(*others, None, 20.0, 64), expected))
    grads = upstream(210, torch.float32).to(device)
    same = [_contrast_backward(*grads, *expected, *x, None, 20.0, 64) for x in ((query, key, position), others)]
    assert all(torch.equal(a, b) for a, b in zip(*same))
    strided = _contrast_backward(*(g.repeat_interleave(2)[::2] for g in grads), *expected, query, key, position, None, 20.0, 64)
    assert all(torch.equal(a, b) for a, b in zip(strided, same[0]))


@pytest.mark.parametrize("tile", [1, 7, 4096])
def test_the_tile_of_the_reference_changes_nothing(device, tile):
    query, key = moved(device, *views(250, 9))
    assert all(
        torch.equal(a, b)
        for a, b in zip(_contrast(query, key, None, None, 0.0, tile), _contrast(query, key, None, None, 0.0, 64))
    )


@pytest.mark.parametrize("spread", SPREADS[:2])
def test_value_and_gradients_equal_cross_entropy_on_the_whole_matrix(device, spread):
    a, b = (x.to(device).requires_grad_() for x in views(900, 64, spread=1.0))
    logits = a.double() @ b.double().T * spread
    target = torch.arange(900, device=device)
    expected = (torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)) / 2
    wanted = torch.autograd.grad(expected, (a, b))
    loss = contrast(a, b, 1 / spread)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(torch.autograd.grad(loss, (a, b)), wanted, strict=True):
        # (p - 1) * key * spread / rows: what a float32 similarity near 100 leaves of p - 1 is known to 1e-5 of 1
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6 * spread / 900)


@pytest.mark.parametrize("scale", [1.0, 700.0])
def test_gradcheck(device, scale):
    query, key = (x.to(device).requires_grad_() for x in views(9, 3, torch.float64, scale))
    position = places(9, torch.float64)[0].to(device)
    assert torch.autograd.gradcheck(lambda q, k: _contrast(q, k, position, None, 40.0, 4), (query, key), atol=1e-4 * scale)


def test_opcheck(device):
    query, key, position, scene = moved(device, *views(40, 5), *places(40))
    torch.library.opcheck(_contrast, (query.clone().requires_grad_(), key.clone().requires_grad_(), position, scene, 20.0, 16))
    forth, back = _contrast(query, key, position, scene, 20.0, 16)
    torch.library.opcheck(_contrast_backward, (forth, back, forth, back, query, key, position, scene, 20.0, 16))


@pytest.mark.parametrize("spread", SPREADS[:2])
def test_one_and_two_threads_agree_to_the_bit(two_threads, spread):
    query, key = views(2100, 20, spread=spread)
    position, scene = places(2100)
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        sums = _contrast(query, key, position, scene, 20.0, 64)
        results.append((*sums, *_contrast_backward(*upstream(2100, torch.float32), *sums, query, key, position, scene, 20.0, 64)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_the_same_numbers_come_back_from_the_device_twice(device):
    query, key = moved(device, *views(2100, 20))
    assert all(torch.equal(a, b) for a, b in zip(*(_contrast(query, key, None, None, 0.0, 64) for _ in range(2))))


NARROW = """
import torch
from tests.cuda_ext.test_contrast_native import SPREADS, TOLERANCE, assert_same_as_reference, places, views
for rows, channels in ((1, 1), (193, 37), (800, 8)):
    for dtype in TOLERANCE:
        for spread in SPREADS[:2]:
            for radius in (0.0, 20.0):
                places_here = places(rows) if radius else (None, None)
                tolerance = max(TOLERANCE[dtype], spread * 2e-6 if dtype == torch.float32 else 0)
                assert_same_as_reference("cpu", *views(rows, channels, dtype, spread), *places_here, radius, tolerance)
"""


@pytest.mark.parametrize("widest", [16, 32])
def test_every_instruction_set_gives_the_reference_s_result(widest):
    environment = os.environ | {"FUSION3D_VECTOR_BYTES": str(widest)}
    subprocess.run([sys.executable, "-c", NARROW], check=True, env=environment, timeout=300)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": torch.ones(4, 2)}, "key must have shape"),
        ({"key": torch.ones(3)}, "key must have 2 dimension"),
        ({"key": torch.ones(3, 2).double()}, "different types"),
        ({"query": torch.ones(3)}, "query must have 2 dimension"),
        ({"query": torch.ones(3, 2, dtype=torch.int64)}, "query must be float32"),
        ({"position": torch.ones(3, 3)}, "position must have shape"),
        ({"position": torch.ones(2, 2)}, "position must have shape"),
        ({"position": torch.ones(3, 2, dtype=torch.int32)}, "position must be float32"),
        ({"scene": torch.ones(2, dtype=torch.int64)}, "scene names 2 rows"),
        ({"scene": torch.ones(3)}, "scene must be one-dimensional int64"),
        ({"forth": torch.ones(2)}, "forth has 2 entries"),
        ({"back": torch.ones(3, 1)}, "back must have 1 dimension"),
        ({"grad_forth": torch.ones(0)}, "grad_forth has 0 entries"),
        ({"grad_back": torch.ones(3, dtype=torch.bool)}, "grad_back must be float32"),
    ],
)
def test_the_operator_itself_refuses_arguments_that_do_not_fit(device, change, message):
    names = ("grad_forth", "grad_back", "forth", "back")
    arguments = {name: torch.ones(3) for name in names} | {"query": torch.ones(3, 2), "key": torch.ones(3, 2)}
    arguments |= {"position": torch.ones(3, 2), "scene": torch.zeros(3, dtype=torch.int64)} | change
    values = moved(device, *arguments.values())
    with pytest.raises(RuntimeError, match=message):
        _contrast_backward(*values, 1.0, 8)
    if not set(change) & set(names):
        with pytest.raises(RuntimeError, match=message):
            _contrast(*values[4:], 1.0, 8)
