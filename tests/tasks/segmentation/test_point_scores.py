"""Scores from confusion matrices by block, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, precision_score, recall_score

from fusion3d.tasks.segmentation.point_scores import PointScores, confusion_by_block, point_scores


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    true = rng.choice(4, 5000, p=[0.6, 0.3, 0.1, 0.0])
    said = np.where(rng.random(5000) < 0.7, true, rng.integers(0, 4, 5000))
    return true, said, rng.integers(0, 30, 5000)


def test_scores_are_those_of_scikit_learn(drawn):
    true, said, block = drawn
    found = point_scores(confusion_by_block(block, true, said, 4, 40))
    known = [0, 1, 2]
    assert found.found.n == 5000
    assert found.found.accuracy.value == pytest.approx(accuracy_score(true, said))
    assert found.mean_iou.value == pytest.approx(jaccard_score(true, said, average="macro", labels=known))
    assert found.found.macro_f1.value == pytest.approx(f1_score(true, said, average="macro", labels=known))
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score), ("iou", jaccard_score)):
        expected = score(true, said, average=None, labels=known)
        assert [getattr(each, name).value for each in found.found.classes[:3]] == pytest.approx(expected)
    assert np.isnan(found.found.classes[3].iou.value)


def test_intervals_hold_the_score_and_are_wide_with_few_blocks(drawn):
    true, said, block = drawn
    many, few = (point_scores(confusion_by_block(part, true, said, 4, 40)).mean_iou for part in (block, (true == 0) * 1))
    assert many.low < many.value < many.high
    assert few.high - few.low > 3 * (many.high - many.low)


def test_scores_survive_json(drawn):
    true, said, block = drawn
    found = point_scores(confusion_by_block(block, true, said, 4, 40))
    assert PointScores.from_json(found.to_json()).to_json() == found.to_json()
