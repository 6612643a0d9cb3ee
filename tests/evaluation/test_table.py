"""Figures as text and JSON."""

from __future__ import annotations

import json

import pytest

from fusion3d.errors import InputError
from fusion3d.evaluation.table import PairRetrieval, RetrievalReport, text_table


def report(**changes) -> RetrievalReport:
    pair = PairRetrieval("als", "s2", 40, {1: 0.5, 5: 0.75, 10: 1.0}, {1: 0.025, 5: 0.125, 10: 0.25}, 1.5)
    facts = {
        "checkpoint": "run",
        "store": "scene.zarr",
        "steps": 300,
        "untrained": False,
        "held_out": 96,
        "max_columns": 2000,
        "seed": 0,
        "hit_radius": 0.0,
        "pairs": (pair,),
        "left_out": ("gedi -> s2 (0 held-out candidates)",),
    }
    return RetrievalReport(**{**facts, **changes})


def test_words_are_aligned_left_and_numbers_right():
    assert text_table(["name", "N"], [["a", "10"], ["long name", "7"]]) == "\n".join(
        [
            "name        N",
            "---------  --",
            "a          10",
            "long name   7",
        ]
    )


def test_a_table_without_rows_is_its_header():
    assert text_table(["a", "b"], []) == "a  b\n-  -"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="2 cells"):
        text_table(["a", "b"], [["only one"]])


def test_chance_stands_beside_every_figure():
    text = report().table()
    row = next(line for line in text.splitlines() if line.startswith("als"))
    assert row.split("  ")[0] == "als"
    assert "50.0 % (2.5 %)" in row
    assert "100.0 % (25.0 %)" in row
    assert row.endswith("1.5 (20.5)")
    assert "96 columns never trained on, 300 steps" in text
    assert "left out: gedi -> s2 (0 held-out candidates)" in text


def test_a_report_on_random_weights_says_so():
    assert "random weights" in report(untrained=True).table()


def test_json_holds_the_figures_and_replaces_an_older_file(tmp_path):
    path = tmp_path / "retrieval.json"
    path.write_text("old")
    report().write(path)
    read = json.loads(path.read_text())
    assert read["pairs"][0]["recall"] == {"1": 0.5, "5": 0.75, "10": 1.0}
    assert read["pairs"][0]["chance"]["10"] == 0.25
    assert read["steps"] == 300
    assert [item.name for item in tmp_path.iterdir()] == ["retrieval.json"]


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        report().write(tmp_path / "nowhere" / "retrieval.json")
