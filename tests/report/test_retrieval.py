from __future__ import annotations

import json

import pytest

from fusion3d.errors import InputError
from fusion3d.report.retrieval import above_chance, mean_recall, read_retrieval, retrieval_tables
from tests.report.runs import write_retrieval


def test_figures_come_back_as_they_were_written(tmp_path):
    report = read_retrieval(write_retrieval(tmp_path / "retrieval.json"))
    written = json.loads((tmp_path / "retrieval.json").read_text())
    assert {**written, **json.loads(json.dumps(report.to_json()))} == written
    assert written.keys() - report.to_json().keys() == {"probes", "robustness"}
    assert mean_recall(report, 10) == (pytest.approx(0.75), pytest.approx(0.05), 6)


@pytest.mark.parametrize(
    ("recall", "chance", "share"), [(0.05, 0.05, 0), (0.01, 0.05, 0), (1, 0.05, 1), (0.55, 0.1, 0.5), (1, 1, 0)]
)
def test_shade_runs_from_chance_to_certainty(recall, chance, share):
    assert above_chance(recall, chance) == pytest.approx(share)


def test_two_sensors_have_one_table_and_three_a_square_too(tmp_path):
    two = retrieval_tables(read_retrieval(write_retrieval(tmp_path / "two.json", ("als", "s2"))))
    three = retrieval_tables(read_retrieval(write_retrieval(tmp_path / "three.json")))
    assert two.count("<table>") == 1
    assert three.count("<table>") == 2
    assert three.count("<tr>") == 1 + 3 + 1 + 6


def test_no_pair_at_all_is_said(tmp_path):
    assert "No two sensors" in retrieval_tables(read_retrieval(write_retrieval(tmp_path / "none.json", ("als",))))


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pairs": [{"query": "als"}]}', '{"pairs": 3}', "null", '{"pairs": []}'])
def test_damaged_figures_are_named_with_the_command_that_makes_them(tmp_path, text):
    path = tmp_path / "retrieval.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"retrieval.json.*fusion3d evaluate"):
        read_retrieval(path)
