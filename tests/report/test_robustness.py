"""Robustness in the report."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fusion3d.errors import InputError
from fusion3d.evaluation.figures import Estimate
from fusion3d.evaluation.outcome import Evaluation
from fusion3d.report.page import write_report
from fusion3d.report.retrieval import read_retrieval
from fusion3d.report.robustness import draw_disturbed, draw_missing, read_robustness, robustness_section
from tests.evaluation.reports import robustness_report
from tests.report.runs import write_run


def pixels(picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"))


def test_the_page_names_the_command_where_robustness_was_not_measured_and_shows_it_where_it_was(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", sensors=("s2",))
    for other in ("summary_section", "inputs_section", "losses_section", "scene_section"):
        monkeypatch.setattr(f"fusion3d.report.page.{other}", lambda *arguments: "")  # they take their time
    page = write_report(run).read_text()
    assert "Robustness was not measured" in page
    assert "--robustness --out" in page
    path = Evaluation(None, None, robustness_report()).write(run / "retrieval.json")
    assert read_retrieval(path) is None
    page = write_report(run).read_text()
    assert "All figures: R2 of height (m)" in page
    assert "There are no figures of retrieval" in page
    assert "cannot be shown" not in page


def test_the_section_shows_variables_and_the_mean_of_the_retrievals_and_escapes_names():
    report, evil = robustness_report(), "<script>x</script>"
    tasks = (replace(report.tasks[0], name=evil), *report.tasks[1:])
    rows = tuple(replace(row, task=evil) if row.task == "height" else row for row in report.rows)
    body = robustness_section(replace(report, tasks=tasks, rows=rows, notes=(evil,)))
    assert evil not in body
    assert "&lt;script&gt;" in body
    assert body.count("<img ") == 4
    assert "R@10 of s2" not in body
    assert "chance is 2.0 %" in body


def test_pictures_show_scores_that_are_undefined_or_far_below_zero():
    report = robustness_report()
    task = report.tasks[0]
    bad = {"fused": Estimate(-30.0, 12.0, -80.0, -5.0), "alone": Estimate(math.nan)}
    low = replace(report, rows=tuple(replace(row, scores={**row.scores, **bad}) for row in report.rows))
    for draw in (lambda of: draw_missing(of, task), lambda of: draw_disturbed(of, task, "mean")):
        first, second = pixels(draw(report)), pixels(draw(low))
        assert min(first.std(), second.std()) > 5
        assert first.shape != second.shape or (first != second).any()


@pytest.mark.parametrize("change", [{"rows": 3}, {"rows": [{}]}, {"tasks": None}, {"surprise": 1}])
def test_damaged_figures_are_one_line(tmp_path, change):
    path = Evaluation(None, None, robustness_report()).write(tmp_path / "retrieval.json")
    plain = json.loads(path.read_text())
    plain["robustness"] |= change
    path.write_text(json.dumps(plain))
    with pytest.raises(InputError, match="damaged figures of robustness") as error:
        read_robustness(path)
    assert "\n" not in str(error.value)


def test_figures_are_read_as_they_were_written(tmp_path):
    path = Evaluation(None, None, robustness_report()).write(tmp_path / "retrieval.json")
    assert read_robustness(path).rows == robustness_report().rows
    markdown = Evaluation(None, None, robustness_report()).write(tmp_path / "tables.md").read_text()
    assert "## Robustness" in markdown
    assert "| als s2 | mean | 88 % | 0.25 ± 0.12 (0.00 to 0.50) | 0.75 (0.50 to 0.88) |" in markdown
