"""Keyed random numbers against the published hash, distributions and the law that windows agree."""

import numpy as np
from scipy import stats

from fusion3d.simulate.keyed import _mix_array, generator, hashed, noise, normal, stream, uniform, uniform_noise

COUNT = 100_000


def test_finaliser_gives_the_published_first_outputs_of_splitmix64():
    # Reference output of Vigna's splitmix64.c with state 0: the state is the golden constant, then twice that.
    golden = 0x9E3779B97F4A7C15
    with np.errstate(over="ignore"):
        mixed = _mix_array(np.array([golden, 2 * golden % 2**64], np.uint64))
    assert [hex(value) for value in mixed] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4"]


def test_uniform_is_uniform_in_0_1():
    values = uniform(stream(0, "a"), np.arange(COUNT))
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-3


def test_uniform_is_uniform_over_two_indices_and_negative_ones():
    i, j = np.meshgrid(np.arange(-150, 150), np.arange(-150, 150))
    values = uniform(stream(3, "b"), i, j)
    assert len(np.unique(values)) == values.size
    assert stats.kstest(values.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(values[:, 1:].ravel(), values[:, :-1].ravel())[0, 1]) < 0.015


def test_normal_is_standard_normal_and_finite():
    values = normal(stream(0, "a"), np.arange(COUNT))
    assert np.isfinite(values).all()
    assert stats.kstest(values, "norm").pvalue > 1e-3


def test_streams_seeds_and_order_of_indices_are_independent():
    index = np.arange(COUNT)
    first = uniform(stream(0, "a"), index, 1)
    for other in (uniform(stream(0, "b"), index, 1), uniform(stream(1, "a"), index, 1), uniform(stream(0, "a"), 1, index),
                  uniform(stream(0, "a"), index, 2)):  # fmt: skip
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.015


def test_value_of_an_index_does_not_depend_on_the_others_asked_for():
    key = stream(5, "window")
    whole = hashed(key, np.arange(-50, 50)[:, None], np.arange(80))
    assert np.array_equal(hashed(key, np.arange(-10, 7)[:, None], np.arange(33, 60)), whole[40:57, 33:60])
    assert hashed(key, 3, 4) == whole[53, 4]


def test_generator_repeats_for_the_same_key_only():
    assert generator(1, "a", 2).random() == generator(1, "a", 2).random()
    assert generator(1, "a", 2).random() != generator(1, "a", 3).random()


def test_noise_is_standard_normal_everywhere_on_the_lattice():
    # Places many wavelengths apart are independent draws; they fall on all parts of the lattice's cells.
    random = np.random.default_rng(0)
    x, y = random.uniform(0, 1e7, (2, 40_000))
    for octaves in (1, 3):
        values = noise(stream(0, "hill"), x, y, 100.0, octaves)
        assert stats.kstest(values, "norm").pvalue > 1e-3
    assert stats.kstest(uniform_noise(stream(0, "hill"), x, y, 100.0), "uniform").pvalue > 1e-3


def test_noise_is_smooth_within_and_forgets_beyond_its_wavelength():
    random = np.random.default_rng(1)
    x, y = random.uniform(0, 1e7, (2, 20_000))
    key = stream(0, "hill")
    here = noise(key, x, y, 100.0)
    assert np.corrcoef(here, noise(key, x + 1.0, y, 100.0))[0, 1] > 0.999
    assert abs(np.corrcoef(here, noise(key, x + 300.0, y, 100.0))[0, 1]) < 0.03
    assert np.abs(noise(key, x + 1e-4, y, 100.0) - here).max() < 1e-4


def test_noise_has_no_step_where_lattice_cells_meet():
    x = np.arange(0.0, 5000.0, 0.05) + 9e5
    values = noise(stream(2, "a"), x, np.full_like(x, 6.57e6), 25.0, 2)
    assert np.abs(np.diff(values)).max() < 0.05


def test_noise_is_the_same_in_any_window_and_order():
    key = stream(0, "hill")
    x, y = np.meshgrid(9e5 + np.arange(60.0), 6.57e6 + np.arange(50.0))
    whole = noise(key, x, y, 13.0, 3)
    assert np.array_equal(noise(key, x[10:20, 30:], y[10:20, 30:], 13.0, 3), whole[10:20, 30:])
    order = np.random.default_rng(0).permutation(x.size)
    assert np.array_equal(noise(key, x.ravel()[order], y.ravel()[order], 13.0, 3), whole.ravel()[order])
    assert noise(key, x[:0], y[:0], 13.0).shape == (0, 60)
