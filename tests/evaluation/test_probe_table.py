"""Figures of probes as text, Markdown and JSON."""

from __future__ import annotations

import json

import pytest

from fusion3d.errors import InputError
from fusion3d.evaluation.outcome import Evaluation
from fusion3d.evaluation.probe_table import ProbeReport
from tests.evaluation.reports import ALL, FEW, probe_report
from tests.evaluation.test_table import report as retrieval_report


def test_text_shows_the_spread_over_draws_or_the_interval():
    text = probe_report().table()
    line = next(line for line in text.splitlines() if line.startswith("fused"))
    assert line.split() == ["fused", "pretrained", "linear", "120", "5/400", "0.25", "±", "0.12", "0.75", "(0.50", "to", "0.88)"]
    assert "height (m): R2 by share of 400 labels, tested on 120" in text
    assert text.splitlines()[-1] == "note: gedi left out"


def test_markdown_has_both_spreads_and_both_scores():
    text = Evaluation(retrieval_report(), probe_report()).markdown()
    row = next(line for line in text.splitlines() if line.startswith("| s2 | pretrained"))
    few = "0.25 ± 0.12 (0.00 to 0.50)"
    assert row == f"| s2 | pretrained | linear | 120 | 5/400 | {few} | 0.75 (0.50 to 0.88) | {few} | - |"
    header = next(line for line in text.splitlines() if line.startswith("| input"))
    assert header.endswith("| R2, 1 % | R2, 100 % | RMSE, 1 % | RMSE, 100 % |")
    assert "| als | s2 | 40 | 50.0 % (2.5 %)" in text


def test_json_reads_back_and_has_no_nan(tmp_path):
    path = Evaluation(retrieval_report(), probe_report()).write(tmp_path / "figures.json")
    plain = json.loads(path.read_text())
    assert plain["pairs"][0]["query"] == "als"
    assert plain["probes"]["rows"][0]["second"]["100"]["value"] is None
    assert plain["probes"]["rows"][0]["labels"] == {"1": 5, "100": 400}
    again = ProbeReport.from_json(plain["probes"])
    assert again.to_json() == probe_report().to_json()
    assert again.rows[0].score == {0.01: FEW, 1.0: ALL}


def test_markdown_goes_by_the_name_of_the_file(tmp_path):
    found = Evaluation(None, probe_report())
    assert found.write(tmp_path / "figures.md").read_text().startswith("# Evaluation\n\n## Probes")
    assert set(json.loads(found.write(tmp_path / "figures.json").read_text())) == {"probes"}
    with pytest.raises(InputError, match="nowhere"):
        found.write(tmp_path / "nowhere" / "figures.md")
