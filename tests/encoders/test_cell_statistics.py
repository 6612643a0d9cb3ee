from __future__ import annotations

import numpy as np
import torch

from fusion3d.encoders.cell_statistics import STATISTICS, cell_statistics
from fusion3d.ops import csr_by_column

CELLS = 6


def scattered(seed: int = 0):
    """Points in no order; cell 2 has none, cell 4 a single one."""
    random = np.random.default_rng(seed)
    cell = random.choice([0, 1, 3, 5], 400)
    cell[7] = 4
    return random.gamma(1.0, 6.0, 400) - 1.0, random.uniform(0, 1.5, (400, 4)), cell


def statistics(height, attributes, cell):
    by_cell = csr_by_column(torch.from_numpy(cell), CELLS)
    height, attributes = (torch.from_numpy(values)[by_cell.permutation] for values in (height, attributes))
    return cell_statistics(height, attributes, by_cell.row_splits).numpy()


def expected(height, attributes):
    """Of one cell, by its definition."""
    tall, turned = np.arcsinh(height), 2 * attributes - 1
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    values = np.column_stack([tall, turned])
    found = [*np.quantile(tall, levels), *np.quantile(turned[:, 0], levels)]
    found += [*values.mean(axis=0), *(2 * values.std(axis=0))]
    for low, high in ((-np.inf, 0.25), (0.25, 2), (2, 10), (10, np.inf)):
        inside = (height >= low) & (height < high)
        found += [inside.mean(), *(turned[inside, :2].mean(axis=0) if inside.any() else (0, 0))]
    return np.array(found)


def test_statistics_are_those_of_the_points_of_each_cell():
    height, attributes, cell = scattered()
    found = statistics(height, attributes, cell)
    assert found.shape == (CELLS, STATISTICS)
    for number in (0, 1, 3, 4, 5):
        inside = cell == number
        np.testing.assert_allclose(found[number], expected(height[inside], attributes[inside]), atol=1e-5)


def test_a_cell_without_points_is_zero():
    assert (statistics(*scattered())[2] == 0).all()


def test_no_more_than_a_few_in_size_for_anything_that_can_be_measured():
    height = np.array([-5.0, 119.9] * 3000)
    attributes = np.tile([[0.0, 0.0, 0.2, 0.0], [4.0, 1.0, 3.0, 3.0]], (3000, 1))
    assert np.abs(statistics(height, attributes, np.zeros(6000, np.int64))).max() < 10
