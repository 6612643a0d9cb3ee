"""Shapes of neighbourhoods with known answers."""

from __future__ import annotations

import numpy as np

from fusion3d.tasks.segmentation.neighbourhood import SHAPE, neighbourhood


def feature(place: np.ndarray, name: str) -> float:
    return float(np.median(neighbourhood(place, len(place), 10.0)[:, SHAPE.index(name)]))


def test_roofs_walls_wires_and_crowns_are_told_apart():
    rng = np.random.default_rng(0)
    u, v, w = rng.uniform(0, 3, (3, 400))
    flat = np.full(400, 5.0)
    roof, wall, wire, crown = (np.stack(part, axis=1) for part in ((u, v, flat), (u, flat, v), (u, flat, flat), (u, v, w)))
    assert feature(roof, "planarity") > 0.5
    assert feature(roof, "verticality") < 0.01
    assert feature(wall, "planarity") > 0.5
    assert feature(wall, "verticality") > 0.99
    assert feature(wire, "linearity") > 0.99
    assert feature(crown, "scattering") > 0.2 > 0.01 > feature(roof, "scattering")
    assert feature(roof, "height_range") < 1e-6 < 0.3 < feature(crown, "height_range")


def test_few_points_have_features_too():
    for count in (1, 2, 5):
        assert np.isfinite(neighbourhood(np.random.default_rng(0).uniform(0, 3, (count, 3)), count, 10.0)).all()


def test_nothing_beyond_the_reach_counts():
    rng = np.random.default_rng(1)
    near, far = rng.uniform(0, 1, (10, 3)), rng.uniform(5, 9, (50, 3))
    np.testing.assert_array_equal(neighbourhood(np.concatenate([near, far]), 10, 2.0), neighbourhood(near, 10, 2.0))
