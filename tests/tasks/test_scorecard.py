"""Scores and held-out predictions as files."""

from __future__ import annotations

import csv
import json
from dataclasses import fields

import numpy as np
import pytest

from fusion3d.errors import InputError
from fusion3d.tasks.coverage import Coverage
from fusion3d.tasks.held_out import HeldOut
from fusion3d.tasks.scorecard import FoldFacts, Quartile, Scorecard
from fusion3d.tasks.scores import Figure, score

MEASURED = np.array([10.0, 20.0, 30.0, 40.0])


def card(**changes: object) -> Scorecard:
    facts = {
        "task": "biomass", "target": "agb", "unit": "Mg/ha", "transform": "sqrt", "embedding": "emb.tif", "labels": "plots.gpkg",
        "baseline_file": None, "dimensions": 8, "plots": 4, "folds": FoldFacts("blocks", 2, 4, 100.0, 14.142, 0),
        "chosen": {"penalty": 2.5}, "fold_chosen": ({"penalty": 2.0}, {"penalty": 3.0}),
        "model": score(MEASURED, MEASURED + np.array([1, -1, 3, 1])),
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
    assert set(plain) == {"format", *(item.name for item in fields(Scorecard))}


def test_table_names_rows_units_and_figures():
    text = card(baseline=score(MEASURED, MEASURED + 5), baseline_file="/some/where/chm.tif").table()
    lines = text.splitlines()
    assert "RMSE Mg/ha" in lines[0]
    assert [line.split("  ")[0] for line in lines[2:]] == ["embedding", "baseline chm.tif", "mean of training plots"]
    assert "0.98" in lines[2]
    assert "5.00" in lines[3]


def covered(share: float) -> Coverage:
    return Coverage(40, Figure(share, share - 0.1, share + 0.05), 12.0)


def test_coverage_comes_back_and_stands_in_the_table(tmp_path):
    scores = score(MEASURED, MEASURED + 1)
    original = card(
        level=0.8, coverage=covered(0.81), strata={"oak": scores}, strata_coverage={"oak": covered(0.75)},
        quartiles=(Quartile(0.0, 12.5, scores, covered(0.9)), Quartile(13.0, 45.0, scores)), kind="forest", method="trees",
    )  # fmt: skip
    again = Scorecard.read(original.write(tmp_path / "scores.json"))
    assert again.to_json() == original.to_json()
    assert again.quartiles[0].coverage.share.value == 0.9
    lines = original.table().splitlines()
    assert lines[0].endswith("within 80 % interval")
    assert [line.split()[-4] for line in (lines[2], lines[4], lines[5])] == ["0.81", "0.75", "0.90"]
    assert lines[5].startswith("predicted 0 to 12.5 ")
    assert lines[6].endswith(" -")


def test_file_of_before_there_were_other_models_is_read(tmp_path):
    plain = card().to_json()
    for name in ("chosen", "fold_chosen", "kind", "method", "quartiles", "level", "coverage", "strata_coverage"):
        del plain[name]
    (tmp_path / "scores.json").write_text(json.dumps(plain | {"penalty": 2.5, "fold_penalties": [2.0, 3.0]}))
    again = Scorecard.read(tmp_path)
    assert (again.kind, again.coverage, again.chosen) == ("ridge", None, {"penalty": 2.5})
    assert again.fold_chosen == ({"penalty": 2.0}, {"penalty": 3.0})
    assert "interval" not in again.table()


def test_folds_in_words():
    assert str(FoldFacts("blocks", 5, 23, 100.0, 14.1421, 0)) == (
        "5 folds of 23 blocks of 100 m, plots within 14.1 m of a held-out one not trained with"
    )
    assert str(FoldFacts("random", 5, 60, None, 0.0, 0)) == "5 random folds"
    assert str(FoldFacts("strata", 3, 20, 100.0, 0.0, 0)) == "3 strata held out in turn"


def test_predictions_come_back_from_their_file(tmp_path):
    ends = {"lower": np.array([0.0, 1.0, np.nan, 3.5]), "upper": np.array([9.0, 8.0, np.nan, 7.5])}
    original = held_out(baseline=np.array([1.0, np.nan, 2.0, 3.0]), stratum=("oak", "", "oak", "beech"), **ends)
    original.write(tmp_path / "predictions.csv")
    again = HeldOut.read(tmp_path)
    for name in ("x", "y", "measured", "predicted", "null", "baseline", "lower", "upper", "fold", "block"):
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
