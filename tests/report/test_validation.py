"""The record of validation and the paragraph of method say what is in the files, and name what is not."""

from __future__ import annotations

import html
import re
from dataclasses import replace

from fusion3d.mapping.predict import predict
from fusion3d.report.material import Material
from fusion3d.report.method import data_dates, method_section
from fusion3d.report.raster_view import facts
from fusion3d.report.validation import UNKNOWN, validation_section
from fusion3d.tasks.fit import fit
from tests.report.runs import write_everything, write_run
from tests.tasks.places import planted


def words(body: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", body)))


def test_record_has_every_range_of_the_plots_and_says_what_the_author_must_add(tmp_path):
    place = planted(tmp_path, plots=80)
    card = fit(place.embedding, place.labels, "agb", tmp_path / "out", unit="Mg/ha", level=0.8).scorecard
    predict(tmp_path / "out", place.embedding, tmp_path / "agb.tif")
    text = words(validation_section(tmp_path / "out", facts(tmp_path / "agb.tif", 100), "als 2023-07-19"))
    assert "in 80 % interval" in text
    assert "dates of the data als 2023-07-19" in text
    assert "agb_se_Mg_ha, agb_lower80_Mg_ha, agb_upper80_Mg_ha" in text
    assert text.count(UNKNOWN) == 5
    assert f"plots {card.plots} of" in text
    text = words(validation_section(tmp_path / "out", None))
    assert "map none in this run" in text
    assert text.count(UNKNOWN) == 6


def test_names_from_files_are_shown_and_never_run(tmp_path):
    place = planted(tmp_path, plots=60)
    fit(place.embedding, place.labels, "agb", tmp_path / "out", unit="<script>alert(1)</script>")
    body = validation_section(tmp_path / "out", None)
    assert "<script>" not in body
    assert "&lt;script&gt;" in body


def test_method_tells_what_the_files_tell_and_leaves_out_what_is_not_there(tmp_path):
    run = write_everything(tmp_path / "run")
    text = words(method_section(Material.of(run)))
    assert "columns of 10 m" in text
    assert "(preset tiny) was trained for 4 steps" in text
    assert "described by 8 numbers from als, s2" in text
    assert "agb (Mg/ha) of 60 plots" in text
    assert "bias 10.0" in text
    assert "The model, fitted to all plots, was applied to every cell" in text
    assert "extrapolation" not in text, "the map has no such band"
    bare = words(method_section(Material.of(write_run(tmp_path / "bare"))))
    assert "Model." not in bare
    assert "Map." not in bare
    assert "Training without labels." in bare


def test_dates_are_those_of_the_sensors_that_the_map_was_fitted_on(tmp_path):
    material = Material.of(write_everything(tmp_path / "run"))
    header = facts(material.map, 100)
    assert [text.split()[0] for text in data_dates(material).split("; ")] == ["als", "s2"]
    alone = replace(header, tags={**header.tags, "fitted_on_sensors": "als"})
    assert [text.split()[0] for text in data_dates(material, alone).split("; ")] == ["als"]


def test_method_of_a_run_without_anything_is_no_claim(tmp_path):
    (tmp_path / "empty").mkdir()
    text = words(method_section(Material.of(tmp_path / "empty")))
    assert text.strip().startswith("Computed with fusion3d")
