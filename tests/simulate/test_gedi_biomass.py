"""The biomass model against the real L4A file's own arithmetic and against data of known origin."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from fusion3d.simulate import gedi_biomass as biomass


def curves(rh50, rh98) -> np.ndarray:
    rh = np.zeros((len(rh50), 101))
    rh[:, 50], rh[:, 98] = rh50, rh98
    return rh


def test_back_transformation_is_that_of_the_real_files(data_dir):
    with h5py.File(data_dir / "gedi" / "GEDI04_A_2020036151358_O06515_02_T00198_02_002_01_V002.h5") as file:
        models = {row["predict_stratum"]: row for row in file["ANCILLARY/model_data"][:]}
        compared = 0
        for name in (name for name in file if name.startswith("BEAM")):
            beam = {key: file[name][key][:] for key in (
                "agbd", "agbd_se", "agbd_pi_lower", "agbd_pi_upper", "agbd_t", "agbd_t_se", "predict_stratum",
            )}  # fmt: skip
            for stratum in set(beam["predict_stratum"]) & set(models):
                rows = (beam["predict_stratum"] == stratum) & (beam["agbd"] > 0)
                model = models[stratum]
                said = biomass.back_transform(
                    beam["agbd_t"][rows].astype(float), beam["agbd_t_se"][rows].astype(float),
                    float(model["bias_correction_value"]), float(model["dof"]), np.zeros((rows.sum(), 2)),
                )  # fmt: skip
                np.testing.assert_allclose(said.density, beam["agbd"][rows], rtol=1e-3)
                np.testing.assert_allclose(said.error, beam["agbd_se"][rows], rtol=1e-3)
                # The files leave the lower end out where it would be negative before squaring; here it is 0.
                lower = np.maximum(beam["agbd_pi_lower"][rows], 0)
                np.testing.assert_allclose(said.lower, lower, rtol=1e-2, atol=0.05)
                np.testing.assert_allclose(said.upper, beam["agbd_pi_upper"][rows], rtol=1e-2)
                compared += int(rows.sum())
    assert compared > 300


def test_fit_finds_the_model_that_made_the_data():
    random = np.random.default_rng(0)
    rh98 = random.uniform(2, 35, 4000)
    rh50 = rh98 * random.uniform(0.1, 0.8, 4000)
    root = -90 + 3 * np.sqrt(rh50 + 100) + 6.5 * np.sqrt(rh98 + 100)
    model = biomass.fit(curves(rh50, rh98), np.maximum(root + random.normal(0, 0.5, 4000), 0) ** 2)
    assert model.coefficients == pytest.approx([-90, 3, 6.5], rel=0.05)
    assert model.residual_error == pytest.approx(0.5, rel=0.1)
    assert model.ratio == pytest.approx(1.0, abs=0.05)
    assert model.freedom == 3997


def test_predictions_are_unbiased_and_nine_in_ten_lie_in_the_interval():
    random = np.random.default_rng(1)
    rh98 = random.uniform(10, 35, 3000)
    observed = (-80 + 8.5 * np.sqrt(rh98 + 100) + random.normal(0, 1.0, 3000)) ** 2
    rh = curves(rh98 / 2, rh98)
    model = biomass.fit(rh, observed)
    said = biomass.predict(model, rh)
    assert said.density.mean() == pytest.approx(observed.mean(), rel=0.005)
    assert ((said.lower <= observed) & (observed <= said.upper)).mean() == pytest.approx(0.9, abs=0.03)
    assert (said.lower <= said.density).all()
    assert (said.density <= said.upper).all()
    assert 0 < model.r2 < 1


def test_too_few_footprints_give_no_model():
    nine = np.linspace(2, 30, 9)
    assert biomass.fit(curves(nine / 2, nine), nine) is None
    ten = np.linspace(2, 30, 10)
    assert biomass.fit(curves(ten / 2, ten), ten) is not None


@pytest.mark.parametrize("observed", [np.zeros(12), np.full(12, 100.0)])
def test_footprints_that_are_all_alike_give_finite_predictions(observed):
    rh = curves(np.full(12, 0.1), np.full(12, 2.8))
    said = biomass.predict(biomass.fit(rh, observed), rh)
    assert said.density == pytest.approx(observed, abs=1e-6)
    assert np.isfinite(said.upper).all()
