"""Level 2A's processing against the real product and against closed forms."""

from __future__ import annotations

import math

import h5py
import numpy as np
import pytest

from fusion3d.simulate.gedi_heights import ALGORITHM_1, ALGORITHM_2, FILL, relative_heights
from fusion3d.simulate.waveform import BIN, PULSE_SIGMA, Instrument, Received, Returns, empty_waveform, receive, waveform

NIGHT = Instrument.of("BEAM0101", night=True)
SMOOTHED = math.hypot(PULSE_SIGMA, 6.5 * BIN)
"""Standard deviation of the pulse after level 2A's smoothing, metres."""


def heights(layers: dict[float, float], seed: int | None = 1, instrument: Instrument = NIGHT, algorithm=ALGORITHM_2):
    """Level 2A of thin layers, elevation -> energy."""
    returns = Returns(np.array(list(layers)), np.array(list(layers.values())))
    random = None if seed is None else np.random.default_rng(seed)
    return relative_heights(receive(waveform(returns), instrument, random), algorithm)


@pytest.mark.parametrize(("algorithm", "ground_error", "rh98_error"), [(ALGORITHM_1, 0.15, 0.3), (ALGORITHM_2, 0.2, 0.6)])
def test_agrees_with_the_real_product_on_its_real_waveforms(data_dir, algorithm, ground_error, rh98_error):
    folder = data_dir / "gedi"
    with (
        h5py.File(folder / "GEDI01_B_2019108080338_O01964_T05337_02_003_01_sub.h5") as waves,
        h5py.File(folder / "GEDI02_A_2019108080338_O01964_T05337_02_001_01_sub.h5") as product,
    ):
        errors = []
        for beam in (name for name in product if name.startswith("BEAM")):
            counts = waves[f"{beam}/rx_sample_count"][:].astype(int)
            starts = np.concatenate([[0], np.cumsum(counts)])
            samples, known = waves[f"{beam}/rxwaveform"][:], product[f"{beam}/shot_number"][:].tolist()
            tops = waves[f"{beam}/geolocation/elevation_bin0"][:]
            means, spreads = (waves[f"{beam}/noise_{name}_corrected"][:] for name in ("mean", "stddev"))
            names = ("elev_lowestmode", "rh", "sensitivity")
            ground, rh, sensitivity = (product[f"{beam}/geolocation/{name}_a{algorithm.number}"][:] for name in names)
            for i, number in enumerate(waves[f"{beam}/shot_number"][:].tolist()):
                if number not in known:
                    continue
                j = known.index(number)
                received = Received(tops[i], samples[starts[i] : starts[i + 1]], means[i], spreads[i])
                said = relative_heights(received, algorithm)
                low, high, middle = said.lowest_mode - ground[j], said.rh[98] - rh[j, 98] / 100, said.rh[50] - rh[j, 50] / 100
                errors.append([low, high, middle, said.sensitivity - sensitivity[j]])
    low, high, middle, seen = np.abs(np.array(errors)).T
    assert len(low) == 300
    assert np.percentile(low, 95) < ground_error
    assert np.percentile(high, 90) < rh98_error
    assert np.percentile(middle, 90) < 0.15
    if algorithm is ALGORITHM_1:
        assert np.median(seen) < 0.005


def test_bare_flat_ground_has_the_quantiles_of_the_smoothed_pulse():
    said = heights({300.07: 0.4})
    assert said.detected
    assert said.lowest_mode == pytest.approx(300.07, abs=0.06)
    for percent, deviate in ((5, -1.645), (25, -0.6745), (50, 0.0), (75, 0.6745), (95, 1.645), (98, 2.054)):
        # the tails beyond the thresholds are lost, a few per mille of the energy
        assert said.rh[percent] == pytest.approx(deviate * SMOOTHED, abs=0.2), percent
    assert len(said.modes) == 1
    assert said.rh[0] < 0 < said.rh[100]


def test_two_layers_give_two_modes_and_half_the_energy_each():
    said = heights({300.0: 0.2, 325.0: 0.2})
    assert said.modes == pytest.approx([325.0, 300.0], abs=0.1)
    assert said.rh[25] == pytest.approx(0.0, abs=0.2)
    assert said.rh[75] == pytest.approx(25.0, abs=0.2)
    assert 25 < said.rh[98] < 25 + 2.5
    assert (np.diff(said.rh) >= 0).all()
    assert said.highest > 325
    assert said.lowest < 300


def test_sensitivity_falls_with_energy_and_with_noise():
    bright, dim = heights({300.0: 0.5}), heights({300.0: 0.2})
    coverage = heights({300.0: 0.5}, instrument=Instrument.of("BEAM0000", night=True))
    day = heights({300.0: 0.5}, instrument=Instrument.of("BEAM0101", night=False))
    assert 1 > bright.sensitivity > max(dim.sensitivity, coverage.sensitivity, day.sensitivity)
    assert bright.sensitivity > 0.97
    assert coverage.sensitivity > 0.95


def test_ground_below_dense_crowns_is_lost_by_the_high_back_threshold_only():
    layers = {300.0: 0.0075, 324.0: 0.2, 326.0: 0.2}
    assert heights(layers, algorithm=ALGORITHM_1).lowest_mode > 320
    assert heights(layers, algorithm=ALGORITHM_2).lowest_mode == pytest.approx(300, abs=0.4)


@pytest.mark.parametrize("seed", range(40))
def test_noise_alone_is_no_signal(seed):
    said = relative_heights(receive(empty_waveform(300.0), NIGHT, np.random.default_rng(seed)))
    assert not said.detected
    assert said.sensitivity == 0
    assert said.lowest_mode == FILL
    assert (said.rh == FILL).all()
    assert len(said.modes) == 0


def test_ground_is_found_to_a_few_centimetres_through_noise():
    found = [heights({300.0: 0.3, 318.0: 0.15}, seed=seed).lowest_mode for seed in range(60)]
    assert np.mean(found) == pytest.approx(300.0, abs=0.03)
    assert np.std(found) < 0.1


def test_signal_at_the_end_of_the_record_does_not_fail():
    counts = np.full(400, 200.0, np.float32)
    counts[:20] += 100
    counts[-20:] += 100
    said = relative_heights(Received(400.0, counts, 200.0, 3.0))
    assert np.isfinite(said.rh).all()
