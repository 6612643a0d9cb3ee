"""The catalogue of plot metrics."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fusion3d.errors import ConfigError
from fusion3d.tasks.metric_catalogue import CATALOGUE, choose

EVERY = ("return_number", "number_of_returns", "intensity", "classification")


def test_the_names_that_users_of_lidr_know_are_there():
    known = {"zmax", "zmean", "zsd", "zcv", "zskew", "zkurt", "zentropy", "VCI", "CRR", "pzabovezmean", "pzabove2", "rumple"}
    known |= {f"zq{rank}" for rank in range(5, 100, 5)} | {f"zpcum{tenth}" for tenth in range(1, 10)}
    known |= {"L1", "L2", "L3", "L4", "Lskew", "Lkurt", "Lcv", "lad_min", "lad_max", "lad_mean", "lad_cv", "lad_sum"}
    known |= {"imean", "isd", "imax", "iskew", "ikurt", "iq50", "p1th", "p5th", "pground", "n"}
    assert known <= set(CATALOGUE)


def test_the_page_on_plot_metrics_names_every_metric():
    page = (Path(__file__).parents[2] / "docs" / "plot_metrics.md").read_text()
    inside = re.compile(r"zq\d+|zpcum\d|p\dth")  # the page gives first and last
    assert [name for name in CATALOGUE if f"`{name}`" not in page and not inside.fullmatch(name)] == []


def test_every_metric_has_a_unit_a_definition_and_a_source():
    for name, metric in CATALOGUE.items():
        assert name == metric.name
        assert all([metric.unit, metric.text, metric.source])
        assert set(metric.needs) <= set(EVERY)


def test_the_number_of_returns_says_how_was_flown_and_is_only_given_when_asked_for():
    assert "n" not in [metric.name for metric in choose(None, EVERY)]
    assert [metric.name for metric in choose(["n", "zmax"], EVERY)] == ["n", "zmax"]


def test_what_needs_an_absent_attribute_is_left_out_or_refused():
    assert not {"imean", "p1th", "pground"} & {metric.name for metric in choose(None, ())}
    with pytest.raises(ConfigError, match="imean needs the points' intensity"):
        choose(["zmax", "imean"], ())


@pytest.mark.parametrize(
    ("names", "said"), [(["zq96"], "no metric zq96; known are zmax"), (["zmax", "zmax"], "twice"), ([], "named")]
)
def test_a_wrong_choice_is_one_line(names, said):
    with pytest.raises(ConfigError, match=said):
        choose(names, EVERY)
