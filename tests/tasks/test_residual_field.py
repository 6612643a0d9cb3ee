"""Errors of a map from held-out plots: do model-dependent intervals cover means of areas without plots?"""

from __future__ import annotations

import numpy as np
import pytest

from fusion3d.errors import InputError
from fusion3d.evaluation.blocks import blocks_of
from fusion3d.tasks.estimators import model_dependent
from fusion3d.tasks.residual_field import ResidualField
from tests.tasks.fields import lattice, realisations


def test_intervals_cover_the_mean_of_an_area_without_plots():
    """90 plots in the west, an area of 11 x 14 cells in the east; the map is 10 % too high and 8 too low on top, and its errors
    are a field with a range of 150 m. 40 realisations: fewer than 31 that cover would be one in 200 at 90 %."""
    rows, cols, cell = 24, 56, 20.0
    places = lattice(rows, cols, cell)
    rng = np.random.default_rng(0)
    surface = np.clip(150 + 60 * realisations(places, 1, sill=1.0, reach=300.0, seed=9)[0], 0, None)
    fields = realisations(places, 40, sill=30.0**2, nugget=10.0**2, reach=150.0, seed=1)
    plots = rng.choice(np.flatnonzero(places[:, 0] < 800), 90, replace=False)
    inside = ((places[:, 0] > 900) & (np.abs(places[:, 1] + 240) < 140)).reshape(rows, cols)
    block = blocks_of(places[plots], 150.0)
    hits, errors, stated, naive = 0, [], [], []
    for field in fields:
        truth = 0.9 * surface + 8 + field
        found = ResidualField.of(places[plots], truth[plots], surface[plots], block, 150.0)
        mean = surface.reshape(rows, cols)[inside].mean()
        weights = np.where(inside, found.spread(surface).reshape(rows, cols), 0.0) * cell**2
        residual = found.variance_of_mean(weights, cell, 1, inside.sum() * cell**2)
        estimate = model_dependent(mean + found.line.correction(mean), found.line.variance(mean), residual, found.degrees)
        low, high = estimate.interval(0.9)
        target = truth.reshape(rows, cols)[inside].mean()
        hits += low <= target <= high
        errors.append(estimate.mean - target)
        stated.append(estimate.standard_error)
        naive.append(found.errors.std() / np.sqrt(inside.sum()))
    assert hits >= 31
    assert 0.8 < np.mean(stated) / np.std(errors) < 2.0
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(40)
    # sigma over the root of the number of cells would say a fraction of that
    assert np.mean(naive) < 0.4 * np.std(errors)


def test_few_plots_count_as_alike_within_a_block_and_that_is_said():
    rng = np.random.default_rng(1)
    places = rng.uniform(0, 1000, (12, 2))
    found = ResidualField.of(places, rng.normal(100, 10, 12), np.full(12, 100.0), np.arange(12), 250.0)
    assert (found.correlation.kind, found.correlation.range, found.correlation.nugget) == ("spherical", 250.0, 0.0)
    assert "too few for a variogram" in found.notes[0]


def test_plots_held_out_at_random_are_still_resampled_by_blocks():
    rng = np.random.default_rng(2)
    places = rng.uniform(0, 1000, (60, 2))
    found = ResidualField.of(places, rng.normal(100, 10, 60), rng.normal(100, 20, 60), np.arange(60), None)
    assert found.line.blocks < 40
    assert "held out at random" in found.notes[0]


def test_too_little_is_refused():
    with pytest.raises(InputError, match="5 plots"):
        ResidualField.of(np.zeros((5, 2)), np.zeros(5), np.zeros(5), np.arange(5), 10.0)
    with pytest.raises(InputError, match="one block"):
        ResidualField.of(np.zeros((8, 2)), np.zeros(8), np.zeros(8), np.zeros(8, np.int64), 10.0)
