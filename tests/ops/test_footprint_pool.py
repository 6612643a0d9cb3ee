import math

import numpy as np
import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.ops import footprint_kernel, footprint_pool
from fusion3d.ops.footprint_pool import _footprint_pool, _footprint_pool_backward

CHIPS, SIZE, COLUMN = 2, 8, 10.0
COLUMNS = CHIPS * SIZE * SIZE


def scene(dtype=torch.float64, footprints=9):
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(COLUMNS, 3, generator=generator, dtype=torch.float64).to(dtype)
    position = torch.rand(footprints, 2, generator=generator, dtype=torch.float64) * SIZE * COLUMN
    chip = torch.randint(0, CHIPS, (footprints,), generator=generator)
    present = torch.rand(COLUMNS, generator=generator) < 0.7
    return columns, position, chip, present


def loop(columns, position, chip, present, sigma, margin=6):
    """The definition, over a lattice that goes `margin` columns past the chip."""
    pooled, shares = [], []
    for (east, south), c in zip(position.tolist(), chip.tolist(), strict=True):
        total, seen, value = 0.0, 0.0, np.zeros(columns.shape[1])
        for row in range(-margin, SIZE + margin):
            for col in range(-margin, SIZE + margin):
                distance = math.hypot((col + 0.5) * COLUMN - east, (row + 0.5) * COLUMN - south)
                if distance > 3 * sigma:
                    continue
                k = math.exp(-(distance**2) / (2 * sigma**2))
                total += k
                m = (c * SIZE + row) * SIZE + col
                if 0 <= row < SIZE and 0 <= col < SIZE and present[m]:
                    seen += k
                    value += k * columns[m].numpy()
        pooled.append(value / seen if seen else value)
        shares.append(seen / total)
    return torch.tensor(np.array(pooled)), torch.tensor(shares, dtype=torch.float64)


def test_equals_the_formula_written_as_a_loop():
    columns, position, chip, present = scene()
    pooled, share = footprint_pool(columns, CHIPS, SIZE, COLUMN, position, chip, 6.25, 10.0, present)
    expected, expected_share = loop(columns, position, chip, present, math.hypot(6.25, 10.0))
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(share, expected_share)


def test_defaults_are_the_25_m_footprint_and_the_10_m_geolocation():
    columns, position, chip, _ = scene()
    explicit = footprint_pool(columns, CHIPS, SIZE, COLUMN, position, chip, 6.25, 10.0)
    for default, named in zip(footprint_pool(columns, CHIPS, SIZE, COLUMN, position, chip), explicit, strict=True):
        assert torch.equal(default, named)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_keeps_the_dtype_and_gives_the_share_in_float32(dtype):
    columns, position, chip, present = scene(dtype)
    pooled, share = footprint_pool(columns, CHIPS, SIZE, COLUMN, position, chip, present=present)
    assert (pooled.dtype, share.dtype) == (dtype, torch.float32)
    expected, _ = footprint_pool(columns.double(), CHIPS, SIZE, COLUMN, position, chip, present=present)
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(pooled.double(), expected, rtol=tolerance, atol=tolerance)


def test_constant_columns_stay_constant_whatever_is_present():
    _, position, chip, present = scene()
    pooled, share = footprint_pool(torch.full((COLUMNS, 1), 7.0), CHIPS, SIZE, COLUMN, position, chip, present=present)
    torch.testing.assert_close(pooled, torch.full_like(pooled, 7.0))
    assert ((share > 0) & (share < 1)).all()


def test_share_is_one_inside_a_full_chip_and_a_quarter_at_its_corner():
    corner_and_centre = torch.tensor([[0.0, 0.0], [40.0, 40.0]], dtype=torch.float64)
    _, share = footprint_pool(torch.ones(COLUMNS, 1), CHIPS, SIZE, COLUMN, corner_and_centre, torch.tensor([0, 1]), 6.25, 7.0)
    torch.testing.assert_close(share, torch.tensor([0.25, 1.0]))


def test_chips_do_not_mix():
    columns = torch.cat((torch.zeros(SIZE * SIZE, 1), torch.ones(SIZE * SIZE, 1)))
    position = torch.tensor([[40.0, 79.0], [40.0, 1.0]])
    pooled, _ = footprint_pool(columns, CHIPS, SIZE, COLUMN, position, torch.tensor([0, 1]))
    torch.testing.assert_close(pooled, torch.tensor([[0.0], [1.0]]))


def test_columns_far_larger_than_the_footprint_give_the_column_that_holds_it():
    columns = torch.arange(4.0).unsqueeze(1)
    position = torch.tensor([[10.0, 10.0], [1999.0, 10.0], [5.0, 1500.0]])
    pooled, share = footprint_pool(columns, 1, 2, 1000.0, position, torch.zeros(3, dtype=torch.int64))
    assert pooled.flatten().tolist() == [0, 1, 2]
    assert share.tolist() == [1, 1, 1]


def test_no_present_column_gives_zero_and_no_share():
    columns, position, chip, present = scene()
    columns.requires_grad_()
    pooled, share = footprint_pool(columns, CHIPS, SIZE, COLUMN, position, chip, present=torch.zeros_like(present))
    assert not pooled.any()
    assert not share.any()
    pooled.sum().backward()
    assert not columns.grad.any()


def test_footprint_outside_every_chip_sees_nothing():
    pooled, share = footprint_pool(torch.ones(COLUMNS, 1), CHIPS, SIZE, COLUMN, torch.tensor([[-500.0, 9.0]]), torch.tensor([0]))
    assert (pooled.item(), share.item()) == (0, 0)


def test_nan_in_an_absent_column_does_not_spread():
    columns, position, chip, present = scene()
    columns[~present] = torch.nan
    pooled, _ = footprint_pool(columns, CHIPS, SIZE, COLUMN, position, chip, present=present)
    assert pooled.isfinite().all()


def test_gradient():
    columns, position, chip, present = scene(footprints=4)
    arguments = (CHIPS, SIZE, COLUMN, position, chip, 6.25, 5.0, present)
    assert torch.autograd.gradcheck(lambda x: footprint_pool(x, *arguments)[0], (columns.requires_grad_(),))


def test_no_footprints_and_no_columns():
    nowhere, nothing = torch.empty(0, 2), torch.empty(0, dtype=torch.int64)
    pooled, share = footprint_pool(torch.ones(COLUMNS, 3), CHIPS, SIZE, COLUMN, nowhere, nothing)
    assert (pooled.shape, share.shape) == ((0, 3), (0,))
    pooled, _ = footprint_pool(torch.ones(0, 3), 0, SIZE, COLUMN, nowhere, nothing)
    assert pooled.shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": torch.ones(5, 3)}, "rows"),
        ({"chip": torch.tensor([0, 2])}, "outside"),
        ({"position": torch.tensor([[0.0, torch.nan], [0.0, 0.0]])}, "finite"),
        ({"position": torch.ones(3, 2)}, "shape"),
        ({"footprint_sigma": 0.0, "geolocation_sigma": 0.0}, "Gaussian"),
        ({"footprint_sigma": -1.0}, "Gaussian"),
        ({"column_size": 0.0}, "grid"),
        ({"present": torch.ones(3, dtype=torch.bool)}, "present"),
    ],
)
def test_bad_arguments_are_refused_in_words(change, message):
    good = {"columns": torch.ones(COLUMNS, 3), "chips": CHIPS, "size": SIZE, "column_size": COLUMN, "position": torch.ones(2, 2)}
    with pytest.raises(ConfigError, match=message):
        footprint_pool(**{**good, "chip": torch.tensor([0, 1]), **change})


def test_schema_fake_kernel_and_autograd_are_consistent():
    columns, position, chip, present = scene(footprints=3)
    kernel = footprint_kernel(CHIPS, SIZE, COLUMN, position, chip, present=present)
    torch.library.opcheck(_footprint_pool, (columns.requires_grad_(), kernel.row_splits, kernel.column, kernel.weight))
    grad = torch.ones(3, 3, dtype=torch.float64)
    torch.library.opcheck(_footprint_pool_backward, (grad, kernel.row_splits, kernel.column, kernel.weight, COLUMNS))
