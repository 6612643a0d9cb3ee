"""Footprints written to the cells under them."""

from __future__ import annotations

import math

import numpy as np
import torch

from fusion3d.encoders import ColumnEmbedding, FootprintEmbedding, on_cells
from fusion3d.encoders.footprint_cells import footprints_to_cells
from tests.encoders.batches import COLUMN, chips


def test_a_footprint_in_the_middle_of_a_small_cell_reaches_those_within_its_radius():
    vectors = torch.tensor([[1.0, 0.0]])
    found, present = footprints_to_cells(vectors, torch.ones(1, dtype=torch.bool), torch.tensor([[21.0, 21.0]]), 2.0, 21)
    row, col = np.mgrid[:21, :21]
    np.testing.assert_array_equal(present.reshape(21, 21).numpy(), np.hypot(row - 10, col - 10) * 2 <= 12.5)
    np.testing.assert_allclose(found[present].numpy(), [[1.0, 0.0]] * int(present.sum()))


def test_overlapping_footprints_are_weighted_by_their_gaussians():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    position = torch.tensor([[5.0, 5.0], [13.0, 5.0]])
    found, present = footprints_to_cells(vectors, torch.ones(2, dtype=torch.bool), position, 10.0, 2)
    # The north-west cell's centre (5, 5) is 0 m from the first and 8 m from the second.
    expected = np.array([1.0, math.exp(-(8**2) / (2 * 6.25**2))])
    np.testing.assert_allclose(found[0].numpy(), expected / expected.sum(), rtol=1e-6)
    # The south-eastern one (15, 15) is 14.1 m from the first, 10.2 m from the second.
    np.testing.assert_allclose(found[3].numpy(), [0.0, 1.0], atol=1e-7)
    assert present.all()


def test_a_footprint_counts_for_its_own_cell_however_large():
    found, present = footprints_to_cells(
        torch.tensor([[0.0, 1.0]]), torch.ones(1, dtype=torch.bool), torch.tensor([[1.0, 1.0]]), 2000.0, 2
    )
    assert present.tolist() == [True, False, False, False]
    assert found[0].tolist() == [0.0, 1.0]


def test_footprints_that_are_not_present_or_not_there_leave_nothing():
    empty, present = footprints_to_cells(torch.zeros(0, 2), torch.zeros(0, dtype=torch.bool), torch.zeros(0, 2), 10.0, 3)
    assert empty.shape == (9, 2)
    assert not present.any()
    _, hidden = footprints_to_cells(torch.ones(1, 2), torch.zeros(1, dtype=torch.bool), torch.ones(1, 2), 10.0, 3)
    assert not hidden.any()


def test_a_square_holds_its_own_footprints_alone():
    values, present = torch.tensor([[1.0], [2.0]]), torch.ones(2, dtype=torch.bool)
    position, chip = torch.tensor([[5.0, 5.0], [25.0, 25.0]]), torch.tensor([1, 2])
    found, covered = footprints_to_cells(values, present, position, 10.0, 3, chip, 4)
    alone = [footprints_to_cells(values[[at]], present[[at]], position[[at]], 10.0, 3) for at in (0, 1)]
    for square, (expected, seen) in ((1, alone[0]), (2, alone[1])):
        assert torch.equal(found.view(4, 9, 1)[square], expected)
        assert torch.equal(covered.view(4, 9)[square], seen)
    assert not covered.view(4, 9)[[0, 3]].any()


def test_embeddings_of_footprints_reach_the_columns_they_lie_in_with_unit_length_and_a_gradient():
    batch = chips()
    shots = batch.gedi
    shared = torch.randn(shots.count, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    features = torch.arange(1.0, shots.count + 1).unsqueeze(1)
    there = torch.arange(shots.count) != 2
    found = on_cells(FootprintEmbedding(shared, features, there), batch)
    column = (shots.position / COLUMN).floor().long()
    home = (shots.chip * batch.size + column[:, 1]) * batch.size + column[:, 0]
    assert found.present[home[there]].all()
    assert (found.rows, found.cols, found.cell) == (batch.size, batch.size, COLUMN)
    np.testing.assert_allclose(found.shared[found.present].detach().norm(dim=1).numpy(), 1.0, rtol=1e-5)
    assert not found.shared[~found.present].any()
    by_chip = features[:, 0].view(batch.chips, -1)
    for chip, values in enumerate(found.features[:, 0].view(batch.chips, -1)):
        seen = values[values > 0]
        assert by_chip[chip].min() <= seen.min()
        assert seen.max() <= by_chip[chip].max()
    (found.shared * torch.linspace(-1, 1, 5)).sum().backward()
    assert bool((shared.grad[there].abs().sum(dim=1) > 0).all())
    assert not shared.grad[2].any()


def test_embeddings_of_columns_are_given_back_as_they_are():
    part = ColumnEmbedding(torch.zeros(32, 2), torch.zeros(32, 3), torch.ones(32, dtype=torch.bool), COLUMN, 4, 4)
    assert on_cells(part, chips()) is part
