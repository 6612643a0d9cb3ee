"""From a map and plots to a model with honest scores."""

from __future__ import annotations

import csv
import re
from dataclasses import replace

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from scipy.ndimage import gaussian_filter

from fusion3d.errors import ConfigError, InputError
from fusion3d.tasks.conformal import Conformal
from fusion3d.tasks.fit import fit
from fusion3d.tasks.held_out import HeldOut
from fusion3d.tasks.model_file import read_model
from fusion3d.tasks.regressors import FAMILIES
from fusion3d.tasks.scorecard import Scorecard
from tests.tasks.places import X0, Y0, planted, write_map, write_points


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("place"))


def test_planted_linear_signal_is_recovered_to_the_noise_ceiling(place, tmp_path):
    """Signal of standard deviation 104 and noise of 20 Mg/ha: R2 cannot pass 0.96, nor RMSE fall below 20."""
    found = fit(place.embedding, place.labels, "agb", tmp_path / "out", unit="Mg/ha")
    card = found.scorecard
    ceiling = 1 - 20**2 / (place.signal.std() ** 2 + 20**2)
    assert ceiling - 0.02 < card.model.r2.value < ceiling + 0.02
    assert 18 < card.model.rmse.value < 23
    assert abs(card.model.bias.value) < 4
    # the plots are their cells, whose values differ by what is outside of the disc of 4 m in 10 m cells: nothing
    slopes = found.model.regressor.coefficients / found.model.regressor.scale
    np.testing.assert_allclose(slopes, place.coefficients, atol=8)


def test_noise_is_not_predicted(tmp_path):
    """Values without any relation to smooth embeddings, more bands than plots in training: R2 not above 0."""
    rng = np.random.default_rng(5)
    values = np.stack([gaussian_filter(rng.normal(size=(60, 60)), 4, mode="wrap") for _ in range(90)])
    embedding = write_map(tmp_path / "emb.tif", values / values.std())
    x, y = X0 + rng.uniform(20, 580, 80), Y0 - rng.uniform(20, 580, 80)
    labels = write_points(tmp_path / "p.gpkg", x, y, agb=rng.uniform(0, 300, 80))
    found = fit(embedding, labels, "agb", tmp_path / "out", radius=10, unit="Mg/ha")
    assert found.scorecard.model.r2.value < 0.05
    assert found.scorecard.null.r2.value < 0.0
    if found.scorecard.model.r2.value <= 0:
        assert "do not trust a map of it" in str(found)


def test_spatially_smooth_values_score_lower_on_blocks_than_at_random(tmp_path):
    """Bands and values are smooth fields without relation: at random, neighbours give the answer away, and only then."""
    rng = np.random.default_rng(8)
    fields = np.stack([gaussian_filter(rng.normal(size=(100, 100)), 10, mode="wrap") for _ in range(41)])
    fields /= fields.std(axis=(1, 2), keepdims=True)
    embedding = write_map(tmp_path / "emb.tif", fields[:40])
    cell = rng.choice(10_000, 300, replace=False)
    row, col = cell // 100, cell % 100
    labels = write_points(tmp_path / "p.gpkg", X0 + col * 10 + 5, Y0 - row * 10 - 5, agb=200 + 50 * fields[40, row, col])
    options = {"radius": 4, "unit": "Mg/ha"}
    random = fit(embedding, labels, "agb", tmp_path / "random", scheme="random", **options)
    blocks = fit(embedding, labels, "agb", tmp_path / "blocks", block=250, **options)
    assert random.scorecard.model.r2.value > 0.3
    assert blocks.scorecard.model.r2.value < random.scorecard.model.r2.value - 0.25
    assert any(note.startswith("warning: folds are random") for note in random.scorecard.notes)


def test_files_hold_what_the_result_says(place, tmp_path):
    found = fit(place.embedding, place.labels, "agb", tmp_path / "deep" / "out", unit="Mg/ha", stratum="half", transform="sqrt")
    folder = tmp_path / "deep" / "out"
    assert {item.name for item in folder.iterdir()} == {"model.json", "model.safetensors", "scores.json", "predictions.csv"}
    assert Scorecard.read(folder).to_json() == found.scorecard.to_json()
    assert read_model(folder).trained_on["checkpoint"] == "run"
    table = HeldOut.read(folder)
    assert len(table.plot) == 300
    # scores are those of the table
    sse, sst = ((table.predicted - table.measured) ** 2).sum(), ((table.measured - table.measured.mean()) ** 2).sum()
    assert found.scorecard.model.r2.value == pytest.approx(1 - sse / sst)
    cell = np.array(table.plot, dtype=int)
    np.testing.assert_allclose(table.x, X0 + (cell % 120 + 0.5) * 10, atol=1e-6)
    np.testing.assert_allclose(table.y, Y0 - (cell // 120 + 0.5) * 10, atol=1e-6)
    for number in range(5):
        held_out = table.fold == number
        # the mean of the other folds, but for plots near a held-out one
        assert np.ptp(table.null[held_out]) == 0
        assert table.null[held_out][0] == pytest.approx(table.measured[~held_out].mean(), rel=0.02)
    assert set(found.scorecard.strata) == {"west", "east"}
    assert found.scorecard.strata["west"].n == sum(label == "west" for label in table.stratum)


def test_held_out_prediction_is_of_a_model_without_the_block(place, tmp_path):
    """A wrong value of 10^6 in one plot changes the predictions of other folds, never those of its own fold."""
    frame = geopandas.read_file(place.labels)
    frame.loc[7, "agb"] = 1e6
    frame.to_file(tmp_path / "wrong.gpkg")
    one = fit(place.embedding, place.labels, "agb", tmp_path / "one").held_out
    other = fit(place.embedding, tmp_path / "wrong.gpkg", "agb", tmp_path / "other").held_out
    own = one.fold == one.fold[7]
    np.testing.assert_array_equal(one.predicted[own], other.predicted[own])
    assert (one.predicted[~own] != other.predicted[~own]).all()


def test_baseline_in_the_same_folds_stands_beside(place, tmp_path):
    """Band 0 alone explains a twelfth of the signal."""
    with rasterio.open(place.embedding) as dataset:
        chm = dataset.read(1)
    chm[:20] = np.nan
    write_map(tmp_path / "chm.tif", chm[None])
    found = fit(place.embedding, place.labels, "agb", tmp_path / "out", baseline=tmp_path / "chm.tif", unit="Mg/ha")
    card = found.scorecard
    missing = int((place.row < 20).sum())
    assert card.baseline.n == 300 - missing
    assert 0.0 < card.baseline.r2.value < 0.2 < card.model.r2.value
    assert f"no data under {missing} plots" in str(found)
    assert "baseline chm.tif" in str(found)
    assert np.isnan(found.held_out.baseline).sum() == missing
    # the model is not touched by it
    alone = fit(place.embedding, place.labels, "agb", tmp_path / "alone", unit="Mg/ha")
    np.testing.assert_array_equal(alone.held_out.predicted, found.held_out.predicted)


def test_plots_in_another_crs_and_as_csv_give_the_same(place, tmp_path):
    frame = geopandas.read_file(place.labels)
    degrees = frame.to_crs(4326)
    with (tmp_path / "plots.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["plot_id", "lon", "lat", "agb", "radius"])
        for row in degrees.itertuples():
            writer.writerow([row.plot_id, repr(row.geometry.x), repr(row.geometry.y), repr(row.agb), 4.0])
    one = fit(place.embedding, place.labels, "agb", tmp_path / "one").held_out
    other = fit(place.embedding, tmp_path / "plots.csv", "agb", tmp_path / "other").held_out
    assert one.plot == other.plot
    np.testing.assert_allclose(one.predicted, other.predicted, atol=1e-3)


def test_plots_outside_and_on_nodata_are_left_out_and_said(place, tmp_path):
    values = place_values(place)
    values[:, :, :30] = np.nan
    embedding = write_map(tmp_path / "holes.tif", values)
    frame = geopandas.read_file(place.labels)
    far = frame.iloc[:2].set_geometry([shapely.Point(X0 - 1e4, Y0), shapely.Point(X0, Y0 + 1e5)], crs=2154)
    far["plot_id"] = [-1, -2]
    labels = tmp_path / "plots.gpkg"
    geopandas.GeoDataFrame(geopandas.pd.concat([frame, far])).to_file(labels)
    found = fit(embedding, labels, "agb", tmp_path / "out")
    holes = int((place.col < 30).sum())
    assert found.scorecard.plots == 300 - holes
    assert "2 plots left out: outside the map" in found.scorecard.notes
    assert f"{holes} plots left out: without data under half of the area" in found.scorecard.notes
    assert "no --unit given: the map will not say what its agb is in" in found.scorecard.notes


def place_values(place) -> np.ndarray:
    with rasterio.open(place.embedding) as dataset:
        return dataset.read()


def test_root_transform_is_unbiased_on_a_root_scale_signal(place, tmp_path):
    """Values are the squares of a linear signal with noise; without a correction the squares would be 9 too low."""
    rng = np.random.default_rng(2)
    frame = geopandas.read_file(place.labels)
    frame["agb"] = (14 + (place.signal - 200) / 60 + rng.normal(scale=3, size=300)) ** 2
    frame.to_file(tmp_path / "squares.gpkg")
    found = fit(place.embedding, tmp_path / "squares.gpkg", "agb", tmp_path / "out", transform="sqrt", unit="Mg/ha")
    uncorrected = replace(found.model, residuals=np.zeros(1))
    features = place_values(place)[:, place.row, place.col].T.astype(float)
    assert abs(found.scorecard.model.bias.value) < 5
    assert (found.model.predict(features) - uncorrected.predict(features)).mean() == pytest.approx(9, abs=2)


def test_result_in_words(place, tmp_path):
    text = str(fit(place.embedding, place.labels, "agb", tmp_path / "out", unit="Mg/ha", block=200))
    assert text.splitlines()[0].startswith("agb (Mg/ha): ridge on 12 bands, 300 plots, 5 folds of 30 blocks of 200 m")
    assert text.splitlines()[-1] == f"model and scores: {tmp_path / 'out'}"


def test_six_plots_are_enough_and_five_are_not(place, tmp_path):
    frame = geopandas.read_file(place.labels)
    frame.iloc[:6].to_file(tmp_path / "six.gpkg")
    frame.iloc[:5].to_file(tmp_path / "five.gpkg")
    assert "6 plots are few" in str(fit(place.embedding, tmp_path / "six.gpkg", "agb", tmp_path / "out", folds=3))
    with pytest.raises(InputError, match=r"5 of its plots lie on data .* at least 6 are needed"):
        fit(place.embedding, tmp_path / "five.gpkg", "agb", tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"task": "crops"}, "--task 'crops'"),
        ({"transform": "cube"}, "--transform 'cube'"),
        ({"scheme": "stripes"}, "blocks or random or strata"),
        ({"scheme": "strata"}, "needs --stratum"),
        ({"model": "svm"}, "--model 'svm': give one of ridge, banded, forest, boosting, mlp, power"),
        ({"model": "power"}, "--model power needs positive features: 12 of 12 bands"),
        ({"model": "power", "transform": "sqrt"}, "--model power has its own way"),
        ({"level": 1.0}, "--level 1 must lie between 0 and 1"),
        ({"block": 5000.0}, "one block of 5000 m"),
        ({"folds": 1}, "--folds 1"),
        ({"buffer": -1.0}, "--buffer"),
        ({"buffer": 1e5}, "leaves 0 plots to train with"),
        ({"target": "volume"}, "no column 'volume'"),
        ({"stratum": "soil"}, "no column 'soil'"),
        ({"baseline": "missing.tif"}, "does not exist"),
    ],
)
def test_options_that_cannot_be_leave_nothing_behind(place, tmp_path, options, text):
    target = options.pop("target", "agb")
    with pytest.raises((ConfigError, InputError), match=text) as caught:
        fit(place.embedding, place.labels, target, tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_out_that_is_a_file_is_refused(place, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        fit(place.embedding, place.labels, "agb", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_failure_while_writing_keeps_the_files_of_an_earlier_fit(place, tmp_path, monkeypatch):
    fit(place.embedding, place.labels, "agb", tmp_path / "out", unit="Mg/ha")
    before = {item.name: item.read_bytes() for item in (tmp_path / "out").iterdir()}

    def full(model, path):
        raise InputError(path, "cannot be written (No space left on device)")

    monkeypatch.setattr("fusion3d.tasks.scored_fit.write_model", full)
    with pytest.raises(InputError, match="No space left"):
        fit(place.embedding, place.labels, "agb", tmp_path / "out", unit="Mg/ha", seed=1)
    assert {item.name: item.read_bytes() for item in (tmp_path / "out").iterdir()} == before


def test_penalty_is_chosen_by_blocks_too(place, tmp_path, monkeypatch):
    """With a random inner split, neighbours would argue for too small a penalty."""
    seen, plain = [], FAMILIES["ridge"].fit

    def spy(features, target, **options):
        seen.append(options["groups"])
        return plain(features, target, **options)

    monkeypatch.setattr(FAMILIES["ridge"], "fit", spy)
    table = fit(place.embedding, place.labels, "agb", tmp_path / "out", block=200, buffer=0.0).held_out
    assert len(seen) == 6
    for number in range(5):
        np.testing.assert_array_equal(seen[number], table.block[table.fold != number])


def test_intervals_of_a_fold_come_from_the_other_folds(place, tmp_path):
    """A plot that is off by 10^6 widens the intervals of other folds, never that of its own fold."""
    frame = geopandas.read_file(place.labels)
    one = fit(place.embedding, place.labels, "agb", tmp_path / "one", buffer=0.0).held_out
    number = one.fold[7]
    frame.loc[7, "agb"] = 1e6
    frame.to_file(tmp_path / "wrong.gpkg")
    other = fit(place.embedding, tmp_path / "wrong.gpkg", "agb", tmp_path / "other", buffer=0.0).held_out
    own = np.flatnonzero(one.fold == number)
    # predictions of the other folds did see the wrong plot, so calibrate by hand on what they predicted
    calibrated = Conformal.of(other.measured[other.fold != number], other.predicted[other.fold != number])
    lower, upper = calibrated.bounds(other.predicted[own], 0.9, nonnegative=True)
    np.testing.assert_array_equal(other.lower[own], lower)
    np.testing.assert_array_equal(other.upper[own], upper)


def test_intervals_cover_as_often_as_asked_for(place, tmp_path):
    """300 plots with normal noise of 20 Mg/ha, which a 90 % interval must reach 1.645 times on either side."""
    found = fit(place.embedding, place.labels, "agb", tmp_path / "out", unit="Mg/ha", stratum="half").scorecard
    assert found.coverage.n == 300
    assert 0.86 < found.coverage.share.value < 0.94
    assert found.coverage.width == pytest.approx(2 * 1.645 * 20, rel=0.15)
    assert sum(part.n for part in found.strata_coverage.values()) == 300
    assert [item.coverage.n for item in found.quartiles] == [75, 75, 75, 75]
    assert all(item.coverage.share.value > 0.8 for item in found.quartiles)
    assert found.quartiles[0].high <= found.quartiles[1].low
    low = fit(place.embedding, place.labels, "agb", tmp_path / "low", level=0.5).scorecard
    assert 0.42 < low.coverage.share.value < 0.58
    assert "within 50 % interval" in low.table()


def test_too_few_plots_for_the_level_leave_intervals_open_and_say_how_many_are_needed(place, tmp_path):
    frame = geopandas.read_file(place.labels).iloc[:40]
    frame.to_file(tmp_path / "few.gpkg")
    found = fit(place.embedding, tmp_path / "few.gpkg", "agb", tmp_path / "out", level=0.99)
    assert "40 plots are too few for 99 % intervals, which have no ends then: at least 99 are needed" in found.scorecard.notes
    assert found.scorecard.coverage.n == 0
    assert np.isnan(found.held_out.upper).all()
    assert np.isnan(HeldOut.read(tmp_path / "out").upper).all()
    # enough in all, not enough without a fold
    nearly = fit(place.embedding, tmp_path / "few.gpkg", "agb", tmp_path / "nearly", level=0.97).scorecard
    assert any("coverage cannot be measured in every fold" in note for note in nearly.notes)


def test_each_stratum_is_predicted_by_a_model_of_the_others(place, tmp_path):
    table = fit(place.embedding, place.labels, "agb", tmp_path / "out", scheme="strata", stratum="half", buffer=0.0).held_out
    west = np.array(table.stratum) == "west"
    assert set(table.fold[west]).isdisjoint(table.fold[~west])
    assert table.null[west] == pytest.approx(table.measured[~west].mean())
    frame = geopandas.read_file(place.labels).assign(half="one")
    frame.to_file(tmp_path / "one.gpkg")
    with pytest.raises(ConfigError, match="all plots are of one stratum"):
        fit(place.embedding, tmp_path / "one.gpkg", "agb", tmp_path / "none", scheme="strata", stratum="half")


def test_intervals_that_do_not_cover_are_warned_of(place, tmp_path):
    """The east has ten times the biomass, of which a model of the west knows nothing."""
    frame = geopandas.read_file(place.labels)
    frame.loc[frame.half == "east", "agb"] *= 10
    frame.to_file(tmp_path / "steep.gpkg")
    found = fit(place.embedding, tmp_path / "steep.gpkg", "agb", tmp_path / "out", scheme="strata", stratum="half").scorecard
    assert found.coverage.share.high < 0.9
    assert any(note.startswith("warning: 90 % intervals cover ") for note in found.notes)


def test_forest_beats_the_mean_and_is_written_as_it_predicts(place, tmp_path, monkeypatch):
    """Of a linear signal of 12 bands trees see a part; fewer trees than usual, for speed."""
    monkeypatch.setattr("fusion3d.tasks.regressors.forest.TREES", 50)
    frame = geopandas.read_file(place.labels).iloc[:120]
    frame.to_file(tmp_path / "some.gpkg")
    found = fit(place.embedding, tmp_path / "some.gpkg", "agb", tmp_path / "out", unit="Mg/ha", model="forest")
    assert found.scorecard.model.r2.value > 0.25
    assert str(found).startswith("agb (Mg/ha): forest on 12 bands, 120 plots")
    assert "Breiman" in found.scorecard.method
    features = place_values(place)[:, :40, :40].astype(np.float64)
    again = read_model(tmp_path / "out")
    np.testing.assert_array_equal(again.predict_bands(features), found.model.predict_bands(features))
    np.testing.assert_array_equal(again.domain.outside(features), found.model.domain.outside(features))


def test_note_says_that_cells_smaller_than_plots_vary_more(place, tmp_path):
    frame = geopandas.read_file(place.labels)
    frame["radius"] = 12.0
    frame.to_file(tmp_path / "wide.gpkg")
    notes = fit(place.embedding, tmp_path / "wide.gpkg", "agb", tmp_path / "out").scorecard.notes
    # pi times 12 squared is 452.4; a disc is drawn as a polygon
    assert any(re.search(r"median 45[0-2](\.\d)? m2\); single cells of 100 m2 vary more", note) for note in notes)
    assert not any("vary more" in note for note in fit(place.embedding, place.labels, "agb", tmp_path / "b").scorecard.notes)
