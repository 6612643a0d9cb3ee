"""Probes in the report."""

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
from fusion3d.report.probes import draw_probes, probes_section, read_probes
from fusion3d.report.retrieval import read_retrieval
from tests.evaluation.reports import probe_report
from tests.evaluation.test_table import report as retrieval_report
from tests.report.runs import write_run


def test_a_report_without_probes_names_the_command_and_with_them_shows_them(tmp_path):
    run = write_run(tmp_path / "run", sensors=("ortho", "s2"))
    Evaluation(retrieval_report(), None).write(run / "retrieval.json")
    page = write_report(run).read_text()
    assert "Nothing was probed for" in page
    assert "--labels LABELS" in page
    Evaluation(None, probe_report()).write(run / "retrieval.json")
    page = write_report(run).read_text()
    assert "All figures of height" in page
    assert "There are no figures of retrieval" in page
    assert "cannot be shown" not in page


def test_the_section_has_every_figure_and_escapes_names():
    report = probe_report()
    evil = "<script>x</script>"
    report = replace(report, variables=(replace(report.variables[0], name=evil),), notes=(evil,),
                     rows=tuple(replace(row, variable=evil) for row in report.rows))  # fmt: skip
    body = probes_section(report)
    assert evil not in body
    assert "&lt;script&gt;" in body
    assert body.count("± 0.12 (0.00 to 0.50)") == 3


def test_scores_far_below_zero_and_undefined_ones_are_drawn():
    report = probe_report()
    bad = {0.01: Estimate(-30.0, 12.0, -80.0, -5.0), 1.0: Estimate(math.nan)}
    report = replace(report, rows=(report.rows[0], replace(report.rows[1], features="raw features", probe="forest", score=bad)))
    picture = draw_probes(report, report.variables[0])
    pixels = np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"))
    assert pixels.std() > 5


@pytest.mark.parametrize("change", [{"rows": 3}, {"rows": [{}]}, {"variables": None}])
def test_damaged_figures_are_one_line(tmp_path, change):
    path = Evaluation(retrieval_report(), probe_report()).write(tmp_path / "retrieval.json")
    plain = json.loads(path.read_text())
    plain["probes"] |= change
    path.write_text(json.dumps(plain))
    with pytest.raises(InputError, match="damaged figures of probes") as error:
        read_probes(path)
    assert "\n" not in str(error.value)


def test_retrieval_reads_beside_probes(tmp_path):
    path = Evaluation(retrieval_report(), probe_report()).write(tmp_path / "retrieval.json")
    assert read_retrieval(path).pairs == retrieval_report().pairs
    assert read_probes(path) is not None
    Evaluation(None, probe_report()).write(path)
    assert read_retrieval(path) is None
