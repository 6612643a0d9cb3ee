"""Predicted against measured, and how often intervals cover."""

from __future__ import annotations

import re

from fusion3d.report.predictions import predictions_section
from fusion3d.tasks.fit import fit
from tests.tasks.places import planted


def test_coverage_and_quarters_of_prediction_are_shown(tmp_path):
    place = planted(tmp_path, plots=80)
    found = fit(place.embedding, place.labels, "agb", tmp_path / "out", unit="Mg/ha", stratum="half", level=0.8).scorecard
    body = predictions_section(tmp_path / "out")
    assert body.count("data:image/png") == 2
    text = re.sub("<[^>]+>", " ", re.sub(r'src="[^"]+"', "", body))
    assert "lies within the 80 % interval of its prediction" in text
    assert "Model: ridge regression (Hoerl and Kennard 1970)" in text
    assert text.count("embedding, predicted") == len(found.quartiles) == 4
    # at a level for which the plots are too few there is nothing to draw
    fit(place.embedding, place.labels, "agb", tmp_path / "high", level=0.999)
    assert predictions_section(tmp_path / "high").count("data:image/png") == 1
