"""Energy under a footprint against closed forms: pulse, slope, Beer and Lambert, noise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusion3d.simulate.waveform import (
    BIN,
    FOOTPRINT_RADIUS,
    FOOTPRINT_SIGMA,
    PULSE_SIGMA,
    Instrument,
    Returns,
    column_returns,
    empty_waveform,
    footprint_weight,
    pulse,
    receive,
    waveform,
)


def cells(step: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets and weights of square cells under a footprint; weights sum to 1."""
    axis = np.arange(-20, 20, step) + step / 2
    dx, dy = (grid.ravel() for grid in np.meshgrid(axis, axis))
    weight = footprint_weight(dx, dy)
    return dx, dy, weight / weight.sum()


def bare(ground: np.ndarray, weight: np.ndarray, reflectance: float = 1.0) -> Returns:
    return column_returns(weight, ground, np.zeros((0, len(weight))), 1.0, 0.57, reflectance)


def moments(wave) -> tuple[float, float, float]:
    """Sum, mean elevation and variance."""
    total = wave.energy.sum()
    mean = (wave.energy * wave.elevation).sum() / total
    return total, mean, (wave.energy * (wave.elevation - mean) ** 2).sum() / total


def test_pulse_is_half_as_high_7_8_ns_from_its_middle():
    shape = pulse()
    middle = len(shape) // 2
    half = np.interp(7.8, np.arange(middle + 1) * BIN / 0.149896229, shape[middle:] / shape[middle])
    assert half == pytest.approx(0.5, abs=0.002)
    assert shape.sum() == pytest.approx(1.0)
    assert pytest.approx(0.993, abs=1e-3) == PULSE_SIGMA


def test_footprint_weight_sums_to_one_and_ends_at_three_sigma():
    axis = np.arange(-20, 20, 0.1) + 0.05
    weight = footprint_weight(*np.meshgrid(axis, axis))
    assert weight.sum() * 0.01 == pytest.approx(1.0, abs=1e-3)
    assert footprint_weight(np.array([0.0]), np.array([FOOTPRINT_RADIUS + 0.01])) == 0
    ratio = footprint_weight(np.array([FOOTPRINT_SIGMA]), np.zeros(1)) / footprint_weight(np.zeros(1), np.zeros(1))
    assert ratio == pytest.approx(math.exp(-0.5))


def test_flat_bare_ground_returns_the_pulse():
    *_, weight = cells()
    total, mean, variance = moments(waveform(bare(np.full(len(weight), 312.34), weight, 0.4)))
    assert total == pytest.approx(0.4)
    assert mean == pytest.approx(312.34)
    # sharing energy between two bins adds at most a quarter of a bin's square
    assert variance == pytest.approx(PULSE_SIGMA**2, abs=BIN**2 / 4 + 1e-4)


@pytest.mark.parametrize("degrees", [10, 25, 40])
def test_variance_of_a_bare_slope_is_that_of_pulse_and_footprint(degrees):
    dx, dy, weight = cells()
    slope = math.tan(math.radians(degrees))
    turned = 0.6 * dx + 0.8 * dy
    _, mean, variance = moments(waveform(bare(500 + slope * turned, weight)))
    # variance a axis of a Gaussian disc that is cut off at three sigma
    cut = 1 - 4.5 * math.exp(-4.5) / (1 - math.exp(-4.5))
    assert mean == pytest.approx(500, abs=0.01)
    assert variance == pytest.approx(PULSE_SIGMA**2 + cut * (FOOTPRINT_SIGMA * slope) ** 2, rel=0.01)


@pytest.mark.parametrize("leaf_area", [0.5, 2.0, 5.0])
def test_slab_of_leaves_lets_through_what_beer_and_lambert_say(leaf_area):
    *_, weight = cells()
    density = np.zeros((30, len(weight)))
    density[10:20] = leaf_area / 10
    returns = column_returns(weight, np.full(len(weight), 100.0), density, 1.0, 0.57, 0.4)
    ground = returns.energy[returns.elevation < 101].sum()
    leaves = returns.energy[returns.elevation > 101].sum()
    assert ground == pytest.approx(0.4 * math.exp(-0.5 * leaf_area))
    assert leaves == pytest.approx(0.57 * (1 - math.exp(-0.5 * leaf_area)))
    upper = returns.energy[returns.elevation > 115].sum()
    assert upper == pytest.approx(0.57 * (1 - math.exp(-0.25 * leaf_area)))
    assert returns.elevation.max() < 120


def test_leaves_follow_the_ground_of_their_own_column():
    ground = np.array([100.0, 200.0])
    density = np.zeros((6, 2))
    density[5] = 0.8
    returns = column_returns(np.array([0.5, 0.5]), ground, density, 1.0, 0.5, 0.5)
    assert ((returns.elevation >= 105) & (returns.elevation <= 106)).any()
    assert ((returns.elevation >= 205) & (returns.elevation <= 206)).any()
    assert returns.energy.sum() == pytest.approx(0.5)


def test_roof_returns_everything_and_hides_leaves_and_ground():
    density = np.full((4, 1), 1.0)
    returns = column_returns(np.ones(1), np.array([50.0]), density, 1.0, 0.5, 0.3, np.array([8.0]))
    lit = returns.energy > 0
    assert returns.elevation[lit].tolist() == [58.0]
    assert returns.energy.sum() == pytest.approx(0.3)


def test_waveform_keeps_energy_and_mean_and_lies_on_whole_bins():
    random = np.random.default_rng(3)
    returns = Returns(random.uniform(-20, 60, 500), random.uniform(0, 1, 500))
    wave = waveform(returns)
    total, mean, _ = moments(wave)
    assert total == pytest.approx(returns.energy.sum())
    assert mean == pytest.approx((returns.energy @ returns.elevation) / returns.energy.sum())
    assert wave.top / BIN == pytest.approx(round(wave.top / BIN))
    assert wave.elevation[-1] < returns.elevation.min() - 20 < returns.elevation.max() + 20 < wave.top


def test_waveform_of_nothing_has_no_energy():
    assert waveform(Returns(np.zeros(0), np.zeros(0))).energy.sum() == 0
    assert waveform(Returns(np.ones(2), np.zeros(2))).energy.sum() == 0
    assert empty_waveform(333.0).energy.sum() == 0
    assert abs(empty_waveform(333.0).elevation.mean() - 333.0) < 1


def test_received_counts_are_whole_over_the_noise_of_the_beam():
    instrument = Instrument.of("BEAM0101", night=True)
    received = receive(empty_waveform(300.0), instrument, np.random.default_rng(0))
    assert (received.counts == np.rint(received.counts)).all()
    assert received.counts.dtype == np.float32
    assert 195 < received.noise_mean < 265
    assert received.counts.mean() == pytest.approx(received.noise_mean, abs=0.6)
    assert received.counts.std() == pytest.approx(received.noise_sd, rel=0.15)


def test_digitiser_ends_at_12_bits():
    wave = waveform(Returns(np.array([10.0]), np.array([50.0])))
    assert receive(wave, Instrument.of("BEAM0101", night=True), np.random.default_rng(0)).counts.max() == 4095


def test_without_generator_the_counts_are_exact():
    wave = waveform(Returns(np.array([10.0]), np.array([0.3])))
    instrument = Instrument(1000.0, 200.0, 3.0)
    assert receive(wave, instrument, None).counts.sum() - 200 * len(wave.energy) == pytest.approx(300, abs=0.1)


def test_power_beams_at_night_have_most_signal_for_their_noise():
    quality = {
        (beam, night): Instrument.of(beam, night).gain / Instrument.of(beam, night).noise_sd
        for beam in ("BEAM0000", "BEAM1011")
        for night in (True, False)
    }
    assert quality["BEAM1011", True] > quality["BEAM1011", False] > quality["BEAM0000", True] > quality["BEAM0000", False]
    assert Instrument.of("BEAM0000", True, 0.5).gain == Instrument.of("BEAM0000", True).gain / 2
