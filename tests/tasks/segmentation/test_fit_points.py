"""From a classified store to a model of points with honest scores."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from fusion3d.encoders.als import AlsEncoder
from fusion3d.errors import ConfigError, InputError, StoreError
from fusion3d.evaluation.checkpoint import load_pretraining
from fusion3d.report.material import Material
from fusion3d.report.page import sections
from fusion3d.store import Store
from fusion3d.tasks.segmentation.cloud import Box, StoreCloud
from fusion3d.tasks.segmentation.fit_points import fit_points
from fusion3d.tasks.segmentation.ground import GroundModel
from fusion3d.tasks.segmentation.pieces import Squares, read_piece
from fusion3d.tasks.segmentation.point_card import PointCard, is_point_fit
from fusion3d.tasks.segmentation.point_model import read_point_model
from tests.tasks.segmentation.fitted import Fitted, fit_town
from tests.tasks.segmentation.towns import GROUND, HOUSE, SIDE, TREE, X0, Y0, slope


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Fitted:
    return fit_town(tmp_path_factory)


EVERYTHING = Box(X0 - 10, -Y0 - 3 * SIDE, X0 + 3 * SIDE, -Y0 + 10)


def test_classes_of_a_simple_town_are_learned_and_scored_in_blocks(fitted):
    card = fitted.fit.card
    assert card.codes == (GROUND, TREE, HOUSE)
    assert card.classes == ("ground", "high vegetation", "building")
    assert card.folds.count == 2
    assert card.folds.side == 16
    labelled = sum(count for code, count in Store.open(fitted.store).attributes.als.classes.items() if code != "1")
    assert card.points == labelled == sum(map(sum, card.model.found.confusion))
    assert card.model.mean_iou.value > 0.9
    assert card.forest.mean_iou.value > 0.9
    # the share of the ground, and a third of it as the mean over three classes
    ground = card.model.found.classes[0].measured / labelled
    assert card.commonest.found.accuracy.value == pytest.approx(ground)
    assert card.commonest.mean_iou.value == pytest.approx(ground / 3)
    assert any("not learned, and not scored: unclassified (1)" in note for note in card.notes)


def test_files_of_the_fit_say_the_same_as_the_scores(fitted):
    card = PointCard.read(fitted.fit.out)
    assert card.to_json() == fitted.fit.card.to_json()
    assert is_point_fit(fitted.fit.out)
    with (fitted.fit.out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    # the town has fewer points than the table takes
    right = np.mean([row["measured"] == row["predicted"] for row in rows])
    assert len(rows) == card.points
    assert right == pytest.approx(card.model.found.accuracy.value)
    corner = np.array([[float(row["east"]), float(row["north"])] for row in rows]).min(axis=0)
    assert (corner >= [X0, Y0]).all()


def test_heights_are_those_over_the_true_ground_and_not_from_classes(fitted):
    source = StoreCloud(Store.open(fitted.store))
    points = source.points(EVERYTHING)
    height = GroundModel(source).height(points.east, points.south, points.z)
    true = points.z - slope(points.east, -points.south)
    # the lowest of three points a square metre on a slope of 10 %
    assert np.quantile(np.abs(height - true), 0.5) < 0.1
    assert np.quantile(np.abs(height - true), 0.98) < 0.3


def test_answers_do_not_depend_on_the_classes_in_the_store(fitted):
    class Relabelled(StoreCloud):
        def points(self, box: Box):
            found = super().points(box)
            found.classes[:] = np.arange(len(found)) % 19
            return found

    store = Store.open(fitted.store)
    squares = Squares.of(fitted.fit.model.network.encoder, 1.0, 32)
    row, col = squares.covering(EVERYTHING)[len(squares.covering(EVERYTHING)) // 2]
    answers = []
    for source in (StoreCloud(store), Relabelled(store)):
        piece = read_piece(source, GroundModel(source), squares, row, col)
        answers.append(fitted.fit.model.classify(piece))
    np.testing.assert_array_equal(answers[0][0], answers[1][0])
    np.testing.assert_array_equal(answers[0][1], answers[1][1])


def test_a_model_read_back_gives_the_same_answers(fitted):
    model, again = fitted.fit.model, read_point_model(fitted.fit.out)
    source = StoreCloud(Store.open(fitted.store))
    squares = Squares.of(model.network.encoder, model.voxel)
    piece = next(
        found
        for at in squares.covering(EVERYTHING)
        if (found := read_piece(source, GroundModel(source), squares, *at)) is not None
    )
    for one, other in zip(model.classify(piece), again.classify(piece), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.legend == model.legend
    assert again.trained_on == model.trained_on


def test_frozen_leaves_the_pretrained_weights_and_finetuning_moves_them(fitted, tmp_path):
    before = load_pretraining(fitted.checkpoint, "cpu").encoders["als"].unet.state_dict()
    frozen = fitted.fit.model.network.encoder.unet.state_dict()
    assert all(torch.equal(before[name], frozen[name]) for name in before)
    found = fit_points(
        fitted.store, fitted.checkpoint, tmp_path / "fit", folds=2, block=16, finetune=True, steps=4, most_points=2000,
        head_steps=10, progress=False,
    )  # fmt: skip
    moved = found.model.network.encoder.unet.state_dict()
    assert not all(torch.equal(before[name], moved[name]) for name in before)
    assert found.card.finetuned == 4
    assert any("squares drawn by lot" in note for note in found.card.notes)


def test_only_the_classes_that_are_asked_for_are_learned(fitted, tmp_path):
    found = fit_points(
        fitted.store, fitted.checkpoint, tmp_path / "fit", classes="6,2", folds=2, block=16, head_steps=10, progress=False
    )
    assert found.card.codes == (GROUND, HOUSE)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"classes": "2,9"}, StoreError, "has no points of water; it holds unclassified"),
        ({"classes": "two"}, ConfigError, "--classes two"),
        ({"steps": 5}, ConfigError, "--steps counts those of --finetune"),
        ({"block": 500}, ConfigError, "all points lie in one block of 500 m"),
        ({"folds": 1}, ConfigError, "--folds 1"),
        ({"seed": -1}, ConfigError, "--seed -1"),
        ({"most_points": 0}, ConfigError, "--points 0"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(fitted, tmp_path, options, error, said):
    with pytest.raises(error, match=said):
        fit_points(fitted.store, fitted.checkpoint, tmp_path / "fit", progress=False, **options)
    assert not (tmp_path / "fit").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plain: plain | {"voxel": -1.0}, "must be positive"),
        (lambda plain: plain | {"classes": plain["classes"][:2]}, "is damaged"),
        (lambda plain: plain | {"encoder": {**plain["encoder"], "channels": 16}}, "is damaged"),
        (lambda plain: plain | {"extras": ["east"]}, "another version"),
        (lambda plain: plain | {"sha256": "0" * 64}, "is not the one that model.json was written with"),
        (lambda plain: plain | {"format": "fusion3d model"}, "is not a model"),
    ],
)
def test_a_damaged_model_is_refused(fitted, tmp_path, change, said):
    plain = json.loads((fitted.fit.out / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(change(plain)))
    (tmp_path / "model.safetensors").write_bytes((fitted.fit.out / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=said):
        read_point_model(tmp_path)


def test_the_report_shows_the_classes_of_points(fitted, tmp_path):
    shutil.copytree(fitted.fit.out, tmp_path / "segmentation")
    body = {part.id: part.body for part in sections(Material.of(tmp_path, fit=fitted.fit.out, store=fitted.store))}
    for text in ("high vegetation", "random forest on point features", "Confusion matrix"):
        assert text in body["predictions"]
    assert body["segmentation"] == body["predictions"]


def test_point_features_of_the_encoder_do_not_depend_on_the_order_of_points():
    torch.manual_seed(0)
    encoder = AlsEncoder(16, 8, 8, 2, 1, 4).eval()
    coordinates = torch.randint(0, 6, (200, 4)) * torch.tensor([0, 1, 1, 1])
    height, attributes = torch.rand(200) * 6, torch.rand(200, 4)
    order = torch.randperm(200)
    with torch.no_grad():
        one = encoder.at_points(coordinates, height, attributes, 1.0)
        other = encoder.at_points(coordinates[order], height[order], attributes[order], 1.0)
    torch.testing.assert_close(one[order], other)
    same = (coordinates == coordinates[0]).all(dim=1)
    assert (one[same] == one[0]).all()
