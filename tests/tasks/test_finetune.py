"""Fine-tuning: encoders learn from plots alone of the folds that they are trained on, and the run maps what it learnt."""

from __future__ import annotations

import json
import math

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from typer.testing import CliRunner

from fusion3d.cli import app
from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.checkpoint import load_pretraining
from fusion3d.mapping.embed import embed
from fusion3d.mapping.predict import predict
from fusion3d.store import Store
from fusion3d.tasks.finetune import CHECKPOINT, FROZEN, finetune
from fusion3d.tasks.held_out import HeldOut
from fusion3d.tasks.model_file import read_model
from tests.data.scene import NO_POINTS, canopy, write_scene
from tests.evaluation.checkpoints import write_checkpoint

ROWS, COLS = 24, 36


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store, a checkpoint of random weights, and plots of 2 x 2 columns whose biomass is 4 a metre of canopy."""
    folder = tmp_path_factory.mktemp("finetune")
    store = write_scene(folder / "scene.zarr", ("als", "s2"), rows=ROWS, cols=COLS)
    checkpoint = write_checkpoint(folder / "random.ckpt", store, ["als", "s2"])
    grid = Store.open(store).grid
    unseen = np.zeros((ROWS, COLS), bool)
    unseen[NO_POINTS] = True
    row, col = (part.ravel() for part in np.mgrid[1 : ROWS - 2 : 4, 1 : COLS - 2 : 3])
    kept = ~(unseen[row, col] | unseen[row + 1, col] | unseen[row, col + 1] | unseen[row + 1, col + 1])
    row, col = row[kept], col[kept]
    x, y = grid.x0 + col * grid.cell, grid.y0 - row * grid.cell
    boxes = shapely.box(x, y - 2 * grid.cell, x + 2 * grid.cell, y)
    height = canopy(ROWS, COLS)
    agb = [4 * float(height[r : r + 2, c : c + 2].mean()) for r, c in zip(row, col)]
    table = geopandas.GeoDataFrame({"agb": agb}, geometry=boxes, crs=grid.pyproj_crs)
    table.to_file(folder / "plots.gpkg", driver="GPKG")
    return store, checkpoint, folder / "plots.gpkg"


@pytest.fixture(scope="module")
def tuned(place, tmp_path_factory):
    store, checkpoint, plots = place
    out = tmp_path_factory.mktemp("tuned") / "run"
    return out, finetune(checkpoint, store, plots, "agb", out, sensors=["als"], steps=40, folds=2, unit="Mg/ha", device="cpu")


def test_held_out_plots_are_predicted_better_than_by_the_mean_and_others_are_scored_beside(tuned):
    out, found = tuned
    card = found.scorecard
    assert card.kind == "finetuned"
    assert card.model.rmse.value < 0.95 * card.null.rmse.value
    assert set(card.area_based or {}) == {FROZEN, "area-based, random forest", "area-based, power law"}
    assert json.loads((out / "scores.json").read_text())["chosen"] == {"steps": 40.0}
    table = HeldOut.read(out)
    assert np.isfinite(table.predicted).all()
    assert math.isclose(float(np.sqrt(np.mean((table.predicted - table.measured) ** 2))), card.model.rmse.value)


def test_a_held_out_plot_has_no_part_in_its_prediction(place, tmp_path):
    """Other values in one fold leave the predictions there as they were."""
    plots = place[2]
    store = write_scene(tmp_path / "scene.zarr", ("s2",), rows=ROWS, cols=COLS)
    checkpoint = write_checkpoint(tmp_path / "random.ckpt", store, ["s2"])
    options = {"steps": 2, "folds": 2, "device": "cpu"}
    first = finetune(checkpoint, store, plots, "agb", tmp_path / "a", **options).held_out
    table = geopandas.read_file(plots)
    table.loc[first.fold == 0, "agb"] = table["agb"][first.fold == 0] * 3 + 50
    table.to_file(tmp_path / "other.gpkg", driver="GPKG")
    other = finetune(checkpoint, store, tmp_path / "other.gpkg", "agb", tmp_path / "b", **options).held_out
    np.testing.assert_array_equal(first.fold, other.fold)
    np.testing.assert_array_equal(first.predicted[first.fold == 0], other.predicted[first.fold == 0])
    assert (first.predicted[first.fold == 1] != other.predicted[first.fold == 1]).any()


def test_the_run_is_mapped_by_embed_and_map_with_the_values_under_the_plots(tuned, place, tmp_path):
    out, found = tuned
    store = place[0]
    embed(out, store, tmp_path / "answers.tif", sensors=["als"], progress=False, device="cpu")
    with rasterio.open(tmp_path / "answers.tif") as dataset:
        assert dataset.descriptions == ("agb_answer",)
        answers = dataset.read(1)
    predict(out, tmp_path / "answers.tif", tmp_path / "agb.tif")
    with rasterio.open(tmp_path / "agb.tif") as dataset:
        mapped, names = dataset.read(1), dataset.descriptions
    assert names == ("agb_Mg_ha", "agb_se_Mg_ha", "agb_lower90_Mg_ha", "agb_upper90_Mg_ha")
    np.testing.assert_allclose(mapped, np.maximum(answers, 0), rtol=1e-6)
    grid = Store.open(store).grid
    fitted = found.held_out.fitted
    for at in (0, 17, 40):
        row, col = round((grid.y0 - found.held_out.y[at]) / grid.cell), round((found.held_out.x[at] - grid.x0) / grid.cell)
        under = np.nanmean(answers[row - 1 : row + 1, col - 1 : col + 1])
        assert fitted[at] == pytest.approx(max(under, 0), abs=1e-3)


def test_a_run_tuned_on_some_sensors_answers_from_these_unless_others_are_asked_for(tuned, place, tmp_path):
    """The store and the checkpoint have s2 too, which has no head."""
    found = embed(tuned[0], place[0], tmp_path / "answers.tif", progress=False, device="cpu")
    assert found.sensors == ("als",)
    with pytest.raises(ConfigError, match="sensor 's2' was not fine-tuned; the run answers from als"):
        embed(tuned[0], place[0], tmp_path / "no.tif", sensors=["als", "s2"], progress=False, device="cpu")
    both = embed(tuned[0], place[0], tmp_path / "shared.tif", features="shared", progress=False, device="cpu")
    assert both.sensors == ("als", "s2")


def test_weights_are_new_and_the_pretrained_ones_are_left_as_they_were(tuned, place):
    out, _ = tuned
    before, after = (load_pretraining(path, "cpu").state_dict() for path in (place[1], out))
    assert set(before) == set(after)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("encoders.als") for name in moved)
    assert all(name.startswith("encoders.als") for name in moved)
    assert read_model(out).features == ("agb_answer",)


def test_what_cannot_be_is_said_and_leaves_nothing_behind(place, tuned, tmp_path):
    store, checkpoint, plots = place
    out = tmp_path / "out"
    for options, error, text in (
        ({"steps": 0}, ConfigError, "--steps 0"),
        ({"sensors": ["ortho"]}, ConfigError, "no encoder for sensor 'ortho'"),
        ({"scheme": "strata"}, ConfigError, "--stratum"),
    ):
        with pytest.raises(error, match=text):
            finetune(checkpoint, store, plots, "agb", out, device="cpu", **options)
    table = geopandas.read_file(plots)
    table.set_geometry(table.translate(1e5, 0)).to_file(tmp_path / "far.gpkg", driver="GPKG")
    with pytest.raises(InputError, match="0 of its plots lie on data"):
        finetune(checkpoint, store, tmp_path / "far.gpkg", "agb", out, device="cpu")
    assert not out.exists()
    with pytest.raises(ConfigError, match="--features answer is for a run of"):
        embed(checkpoint, store, tmp_path / "no.tif", features="answer", progress=False, device="cpu")
    with pytest.raises(ConfigError, match="has no place with --features answer"):
        embed(tuned[0], store, tmp_path / "no.tif", fusion="mean", progress=False, device="cpu")


def test_a_store_without_finetune_is_refused_with_what_to_do(place, tmp_path):
    words = ["fit", str(place[0]), "--labels", str(place[2]), "--target", "agb", "--out", str(tmp_path / "out")]
    failed = CliRunner().invoke(app, words).exception
    assert isinstance(failed, InputError)
    assert "is a column store, not a map of embeddings" in str(failed)
    assert "--finetune" in str(failed)
    assert not list(tmp_path.iterdir())


def test_a_tuned_run_keeps_what_its_encoders_are_made_of(tuned, place):
    before, after = (torch.load(path, weights_only=True)["encoders"] for path in (place[1], tuned[0] / CHECKPOINT))
    assert after == before
    assert set(after) == {"als", "s2"}


def test_damaged_heads_are_named(tuned, place, tmp_path):
    data = torch.load(tuned[0] / CHECKPOINT, weights_only=True)
    del data["fusion3d_answers"]["heads"]["als.weight"]
    torch.save(data, tmp_path / "broken.ckpt")
    with pytest.raises(InputError, match=r"broken\.ckpt: its heads are damaged"):
        embed(tmp_path / "broken.ckpt", place[0], tmp_path / "no.tif", progress=False, device="cpu")
