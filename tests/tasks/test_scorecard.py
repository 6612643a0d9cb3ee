"""Scores and held-out predictions as files."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from fusion3d.errors import InputError
from fusion3d.tasks.scorecard import FoldFacts, HeldOut, Scorecard
from fusion3d.tasks.scores import score

MEASURED = np.array([10.0, 20.0, 30.0, 40.0])


def card(**changes: object) -> Scorecard:
    facts = {
        "task": "biomass", "target": "agb", "unit": "Mg/ha", "transform": "sqrt", "embedding": "emb.tif", "labels": "plots.gpkg",
        "baseline_file": None, "dimensions": 8, "plots": 4, "folds": FoldFacts("blocks", 2, 4, 100.0, 14.142, 0), "penalty": 2.5,
        "fold_penalties": (2.0, 3.0), "model": score(MEASURED, MEASURED + np.array([1, -1, 3, 1])),
        "null": score(MEASURED, np.full(4, 25.0)),
    }  # fmt: skip
    return Scorecard(**(facts | changes))


def held_out(**changes: object) -> HeldOut:
    facts = {
        "plot": ("a", "b, c", 'd"', ""), "x": MEASURED / 3, "y": MEASURED / 7, "fold": np.array([0, 1, 0, 1]),
        "block": np.arange(4), "measured": MEASURED, "predicted": MEASURED + 0.1, "null": np.full(4, 25.0),
    }  # fmt: skip
    return HeldOut(**(facts | changes))


def test_scorecard_comes_back_from_its_file(tmp_path):
    strata = {"oak": score(MEASURED[:2], MEASURED[:2] + 1), "": score(MEASURED[:1], MEASURED[:1])}
    original = card(baseline=score(MEASURED, MEASURED + 5), baseline_file="chm.tif", strata=strata, notes=("one", "two"))
    original.write(tmp_path / "scores.json")
    again = Scorecard.read(tmp_path)
    assert again.to_json() == original.to_json()
    assert again.folds == original.folds
    assert again.notes == ("one", "two")
    assert Scorecard.read(card().write(tmp_path / "other.json")).baseline is None


def test_json_keys_are_the_fields(tmp_path):
    plain = json.loads(card().write(tmp_path / "scores.json").read_text())
    assert plain["model"]["rmse"]["value"] == pytest.approx(3**0.5)
    assert plain["model"]["n"] == 4
    assert plain["folds"]["side"] == 100.0
    assert plain["unit"] == "Mg/ha"
    assert set(plain) == {"format", *Scorecard.__dataclass_fields__}


def test_table_names_rows_units_and_figures():
    text = card(baseline=score(MEASURED, MEASURED + 5), baseline_file="/some/where/chm.tif").table()
    lines = text.splitlines()
    assert "RMSE Mg/ha" in lines[0]
    assert [line.split("  ")[0] for line in lines[2:]] == ["embedding", "baseline chm.tif", "mean of training plots"]
    assert "0.98" in lines[2]
    assert "5.00" in lines[3]


def test_folds_in_words():
    assert str(FoldFacts("blocks", 5, 23, 100.0, 14.1421, 0)) == (
        "5 folds of 23 blocks of 100 m, plots within 14.1 m of a held-out one not trained with"
    )
    assert str(FoldFacts("random", 5, 60, None, 0.0, 0)) == "5 random folds"


def test_predictions_come_back_from_their_file(tmp_path):
    original = held_out(baseline=np.array([1.0, np.nan, 2.0, 3.0]), stratum=("oak", "", "oak", "beech"))
    original.write(tmp_path / "predictions.csv")
    again = HeldOut.read(tmp_path)
    for name in ("x", "y", "measured", "predicted", "null", "baseline", "fold", "block"):
        np.testing.assert_array_equal(getattr(again, name), getattr(original, name))
    assert (again.plot, again.stratum) == (original.plot, original.stratum)


def test_columns_of_the_table(tmp_path):
    path = held_out().write(tmp_path / "predictions.csv")
    with path.open(newline="") as file:
        header, first, *_ = csv.reader(file)
    assert header == ["plot", "x", "y", "fold", "block", "measured", "predicted", "null"]
    assert first[0] == "a"
    assert float(first[6]) == 10.1


def test_files_that_are_not_there_or_something_else_are_refused(tmp_path):
    for kind in (Scorecard, HeldOut):
        with pytest.raises(InputError, match="there"):
            kind.read(tmp_path)
    for text in ("{}", "[]", "", '{"format": "fusion3d scores"}', "null"):
        (tmp_path / "scores.json").write_text(text)
        with pytest.raises(InputError, match="not a file of scores"):
            Scorecard.read(tmp_path)
    for text in ("", "plot,x\n1,2\n", "plot,x,y,fold,block,measured,predicted,null\n1,2,3\n"):
        (tmp_path / "predictions.csv").write_text(text)
        with pytest.raises(InputError, match="not a table of predictions"):
            HeldOut.read(tmp_path)
