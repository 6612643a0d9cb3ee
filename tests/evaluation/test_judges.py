"""Probes and retrieval as judges of what subsets of sensors say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from fusion3d.encoders import ColumnEmbedding, ColumnFusion
from fusion3d.evaluation.columns import EmbeddedColumns, SensorColumns
from fusion3d.evaluation.judges import ProbeJudge, RetrievalJudge, Told, fused
from fusion3d.evaluation.labels import Samples, Variable
from fusion3d.evaluation.probe_table import ProbeVariable
from fusion3d.evaluation.probe_tasks import ProbeTask

RNG = np.random.default_rng(5)
COUNT, COLS = 120, 40


def unit(rows: int, width: int) -> np.ndarray:
    vectors = RNG.normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def saw(vectors: np.ndarray, present: np.ndarray | None = None) -> SensorColumns:
    here = np.ones(len(vectors), bool) if present is None else present
    return SensorColumns(np.where(here[:, None], vectors, 0), np.where(here[:, None], vectors, 0), here)


def told(part: SensorColumns) -> Told:
    return Told(part.shared, part.features, part.present)


def probe_judge(present: np.ndarray, labels: np.ndarray, vectors: np.ndarray, classes: bool = False) -> ProbeJudge:
    """The first half of the columns to learn from, the second to test on; one sensor."""
    sides = [np.arange(COUNT), np.arange(COUNT, 2 * COUNT)]
    samples = [Samples.of_columns(side, labels[side]) for side in sides]
    block = [side // 10 for side in sides]
    kind = "classes" if classes else "values"
    task = ProbeTask(Variable("x", kind), ProbeVariable("x", kind, "", "x.tif", COUNT, COUNT), *samples, *block)
    parts = [EmbeddedColumns(side, {"s2": saw(vectors[side], present[side])}) for side in sides]
    return ProbeJudge(task, *parts, 0)


def test_a_probe_guesses_the_mean_of_the_training_labels_where_nothing_was_seen():
    vectors, everywhere = unit(2 * COUNT, 6), np.ones(2 * COUNT, bool)
    labels = vectors @ np.arange(6.0) + 3 + 0.3 * RNG.normal(size=2 * COUNT)
    judge = probe_judge(everywhere, labels, vectors)
    model = judge.model(told(saw(vectors[:COUNT])))
    present = RNG.random(COUNT) < 0.5
    found = judge.score([told(saw(vectors[COUNT:], present))], model)
    least_squares = LinearRegression().fit(vectors[:COUNT], labels[:COUNT]).predict(vectors[COUNT:])
    predicted = np.where(present, least_squares, labels[:COUNT].mean())
    # the penalty of the ridge is small here
    assert found.draws[0] == pytest.approx(r2_score(labels[COUNT:], predicted), abs=0.02)
    nothing = judge.score([told(saw(vectors[COUNT:], np.zeros(COUNT, bool)))], model)
    assert nothing.draws[0] == pytest.approx(r2_score(labels[COUNT:], np.full(COUNT, labels[:COUNT].mean())))


def test_a_probe_of_classes_guesses_the_commonest():
    vectors = unit(2 * COUNT, 6)
    labels = np.where(vectors[:, 0] > -0.2, 4.0, 9.0)
    judge = probe_judge(np.ones(2 * COUNT, bool), labels, vectors, classes=True)
    nothing = judge.score([told(saw(vectors[COUNT:], np.zeros(COUNT, bool)))], judge.model(told(saw(vectors[:COUNT]))))
    assert nothing.draws[0] == pytest.approx((labels[COUNT:] == 4.0).mean())


def test_places_that_no_sensor_saw_undisturbed_are_not_judged():
    vectors = unit(2 * COUNT, 6)
    labels = vectors @ np.arange(6.0)
    present = np.ones(2 * COUNT, bool)
    present[COUNT : COUNT + 30] = present[:20] = False
    judge = probe_judge(present, labels, vectors)
    assert (judge.task.training, judge.task.tested) == (COUNT - 20, COUNT - 30)
    # a wild answer where nothing was seen would ruin the score if it counted
    wild = saw(vectors[COUNT:], present[COUNT:])
    assert judge.score([told(wild)], judge.model(told(saw(vectors[:COUNT], present[:COUNT])))).draws[0] > 0.99


def test_a_subset_that_saw_too_few_labels_guesses():
    vectors = unit(2 * COUNT, 6)
    judge = probe_judge(np.ones(2 * COUNT, bool), vectors @ np.arange(6.0), vectors)
    few = np.zeros(COUNT, bool)
    few[:3] = True
    model = judge.model(told(saw(vectors[:COUNT], few)))
    assert np.ptp(model(vectors[COUNT:].astype(np.float64))) == 0


def test_inner_columns_alone_are_judged_and_none_is_no_score():
    vectors = unit(2 * COUNT, 6)
    labels = vectors @ np.arange(6.0)
    judge = probe_judge(np.ones(2 * COUNT, bool), labels, vectors)
    model = judge.model(told(saw(vectors[:COUNT])))
    inner = np.arange(COUNT) < 60
    broken = vectors[COUNT:].copy()
    broken[60:] = 100.0
    assert judge.score([told(saw(broken))], model, inner).draws[0] > 0.99
    assert judge.score([told(saw(broken))], model).draws[0] < 0
    assert judge.score([told(saw(broken))], model, np.zeros(COUNT, bool)) is None


# -- retrieval


def gallery(**sensors: SensorColumns) -> EmbeddedColumns:
    return EmbeddedColumns(np.arange(COUNT), sensors)


def test_columns_that_were_not_seen_are_not_found():
    vectors = unit(COUNT, 32)
    judge = RetrievalJudge("s2", gallery(als=saw(vectors), s2=saw(vectors)), COLS, np.zeros(COUNT, bool), 1000, 0)
    assert judge.sensors == ("als",)
    assert judge.task.chance == pytest.approx(10 / COUNT)
    assert judge.score([told(saw(vectors))], None).draws.tolist() == [1.0]
    half = np.arange(COUNT) % 2 == 0
    draws = [told(saw(vectors, half)), told(saw(vectors))]
    assert judge.score(draws, None).draws.tolist() == [0.5, 1.0]


def test_random_answers_are_right_by_chance():
    vectors = unit(COUNT, 32)
    judge = RetrievalJudge("s2", gallery(als=saw(vectors), s2=saw(vectors)), COLS, np.zeros(COUNT, bool), 1000, 0)
    found = judge.score([told(saw(unit(COUNT, 32))) for _ in range(40)], None)
    # 4800 tries of chance 1/12: standard error 0.004
    assert found.draws.mean() == pytest.approx(10 / COUNT, abs=0.02)


def test_the_gallery_of_gedi_holds_one_column_a_footprint_and_at_most_as_many_as_asked_for():
    vectors = unit(COUNT, 8)
    both = gallery(als=saw(vectors), gedi=saw(vectors))
    centres = np.arange(COUNT) % 3 == 0
    assert RetrievalJudge("gedi", both, COLS, centres, 1000, 0).task.tested == 40
    assert RetrievalJudge("als", both, COLS, centres, 50, 0).task.tested == 50
    assert "5 held-out candidates" in RetrievalJudge("gedi", both, COLS, np.arange(COUNT) < 5, 1000, 0).problem


# -- fusion


def test_a_subset_is_fused_as_the_checkpoint_does():
    trained = ColumnFusion({"als": 8, "s2": 8}, 8, 8)
    sensors = {name: saw(unit(COUNT, 8), RNG.random(COUNT) < 0.7) for name in ("als", "s2")}
    parts = {
        name: ColumnEmbedding(*(torch.from_numpy(each) for each in (part.shared, part.features, part.present)), 10.0, 1, COUNT)
        for name, part in sensors.items()
    }
    for way in ("mean", "precision", "attention"):
        found, expected = fused(trained, sensors, way), trained.fuse(parts, way)
        assert np.allclose(found.shared, expected.shared.detach(), atol=1e-6)
        assert found.features.shape[1] == (16 if way == "attention" else 8)
        assert (found.present == (sensors["als"].present | sensors["s2"].present)).all()
    without = fused(None, sensors, "mean")
    assert np.allclose(without.shared, trained.mean(parts).shared, atol=1e-6)
