"""Studies of real data: what they measure is what the files say, and what their tables show is what was measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely

from fusion3d.evaluation.blocks import random_folds
from fusion3d.io.las import open_points, read_chunks
from fusion3d.tasks.plot_metrics import plot_metrics
from tests.evaluation.checkpoints import write_checkpoint

sys.path.append(str(Path(__file__).parents[2] / "tools"))
import real_forests
from forest_studies import canopy_height, single_trees, sparse_labels, tree_inventory
from forest_studies.embedding import AlsEncoders, Scale
from forest_studies.judged import Row, Study, Values, judged, judged_classes


def folds(count: int):
    return random_folds(shapely.buffer(shapely.points(np.arange(count) * 50.0, 0.0), 5.0), 1.0, folds=5)


# -- rows


def test_rows_of_a_straight_line_have_an_r2_of_1_and_a_refused_head_says_why():
    rng = np.random.default_rng(0)
    features = rng.uniform(1, 30, (60, 2))
    target = Values("biomass", "Mg/ha", 200 + 5 * features[:, 0] + rng.normal(0, 0.5, 60))
    names = ("a", "b")
    (ridge,) = judged(target, "two", (names, features), folds(60), "random", heads=("ridge",))
    assert ridge.scores is not None
    assert ridge.scores.r2.value > 0.99
    assert ridge.covered is not None
    assert 0.8 <= ridge.covered.share.value <= 1
    assert len(ridge.quarters) == len(ridge.one_width_quarters) == 4
    (power,) = judged(target, "two", (names, features - 40), folds(60), "random", heads=("power",))
    assert power.scores is None
    assert "positive features" in power.note


def test_intervals_of_one_width_cover_too_often_where_errors_are_small():
    rng = np.random.default_rng(1)
    size = np.linspace(1, 200, 400)
    target = Values("biomass", "Mg/ha", np.maximum(size + rng.normal(0, 0.25, 400) * size, 0))
    (row,) = judged(target, "size", (("size",), size[:, None]), folds(400), "random", heads=("ridge",))
    plain, scaled = ([part.share.value for part in parts] for parts in (row.one_width_quarters, row.quarters))
    assert plain[0] > 0.97
    assert plain[-1] < 0.85
    assert min(scaled) > 0.82


def test_classes_that_a_feature_tells_apart_are_told_apart_in_plots_that_were_not_seen():
    places = np.arange(40) % 2
    features = np.column_stack([places + np.random.default_rng(2).normal(0, 0.1, 40), np.ones(40)])
    (row,) = judged_classes("species", places, 2, "one", features, folds(40), "random", heads=("linear",))
    assert row.scores.accuracy.value == 1


# -- what is measured


def test_subplots_hold_the_biomass_of_the_trees_of_their_plot(data_dir):
    folder = data_dir / "nouragues_gf"
    total = pd.read_csv(folder / "trees_agb.csv").AGB.sum()
    for side, count in ((25.0, 64), (50.0, 16)):
        polygons, plots, biomass = canopy_height.subplots(folder, side)
        assert len(polygons) == len(biomass) == count
        assert [int((plots == name).sum()) for name in (201, 204, 213, 223)] == [count // 4] * 4
        # one tree stands 180 m off its plot, and is left out
        assert biomass.sum() * side**2 / 1e4 == pytest.approx(total, rel=0.002)
        assert shapely.area(polygons) == pytest.approx(side**2, rel=0.01)
        west, south, east, north = shapely.total_bounds(polygons)
        # of the canopy height raster
        assert west > 312844.5
        assert south > 451242.5
        assert east < 313379.5
        assert north < 451737.5


def test_trees_count_in_the_column_of_their_stem():
    trees = pd.DataFrame({"x": [5.0, 5.0, 45.0, 60.0], "y": [45.0, 45.0, 5.0, 5.0], "d": [30.0, 30.0, 30.0, 30.0],
                          "s": ["PIAB", "PIAB", "PIAB", "PIAB"]})  # fmt: skip
    (biomass, area), inside = tree_inventory.column_sums(trees, 0.0, 0.0)
    assert inside == 3
    # 349.1 kg each (Jenkins et al. 2003, spruce of 30 cm) on 0.01 ha; 0.0707 m2 of stem
    assert biomass.values[0] == pytest.approx(2 * 34.91, abs=0.02)
    assert biomass.values[24] == pytest.approx(34.91, abs=0.01)
    assert np.count_nonzero(biomass.values) == 2
    assert area.values[0] == pytest.approx(2 * 7.069, abs=0.01)


def test_clips_are_as_tall_as_the_trees_that_were_measured_in_them(data_dir):
    folder = data_dir / "uas_trees_wa_usa"
    trees = pd.read_csv(folder / "trees.csv").iloc[::6].reset_index()
    clips = single_trees.normalised(folder, trees)
    height = np.array([points[:, 2].max() for points, _ in clips])
    # theirs is counted from the foot of the stem, on slopes, and is a mean of several methods
    np.testing.assert_allclose(height, trees.aveHeight, atol=2.0)
    for points, attributes in clips:
        assert np.abs(points[:, :2]).max() < 5
        assert len(attributes["intensity"]) == len(points)


@pytest.fixture(scope="module")
def lattice(tmp_path_factory):
    """Five trees on a lattice, the last like the first."""
    rng = np.random.default_rng(4)
    clips = []
    for count, top in ((300, 20.0), (200, 30.0), (250, 12.0), (300, 25.0)):
        points = np.column_stack([rng.uniform(-3, 3, (count, 2)), rng.uniform(0.5, top, count)])
        clips.append((points, {"intensity": rng.integers(0, 900, count).astype(np.uint16)}))
    folder = tmp_path_factory.mktemp("lattice")
    return folder, clips, single_trees.lattice_store([*clips, clips[0]], Scale(), 60.0, folder / "trees")


def test_each_tree_has_a_square_of_its_own(lattice, tmp_path):
    _, clips, (store, squares) = lattice
    fine, same = single_trees.lattice_store([*clips, clips[0]], Scale(0.5, 2.0), 0.0, tmp_path / "fine")
    assert fine.grid.column == 2.0
    for held, places in ((store, squares), (fine, same)):
        assert shapely.area(places) == pytest.approx(100)
        found = plot_metrics(held, places, names=["n", "zmax"]).values
        assert found[:, 0].tolist() == [300, 200, 250, 300, 300]
        tops = [points[:, 2].max() for points, _ in [*clips, clips[0]]]
        np.testing.assert_allclose(found[:, 1], tops, atol=0.002)
        assert len(held.points(held.grid.window)) == 1350


def test_an_encoder_sees_each_tree_alone(lattice):
    folder, clips, (store, squares) = lattice
    # nearer to each other, so that a chip holds enough of them
    dense, _ = single_trees.lattice_store([*clips, clips[0]], Scale(), 30.0, folder / "dense")
    run = write_checkpoint(folder / "random.ckpt", str(dense.path), ["als"], holdout=0.0)
    encoders = AlsEncoders({"here": run})
    assert encoders.scales() == {"here": Scale(1.0, 10.0)}
    assert encoders.reach("here", Scale()) <= 60
    found = list(encoders.embedded("here", store, squares))
    assert [words for words, _, _ in found] == ["als, pretrained on here", "als, random weights of here"]
    for _, names, values in found:
        assert values.shape == (5, len(names))
        np.testing.assert_allclose(values[0], values[4], atol=1e-5)
        assert np.abs(values[0] - values[1]).max() > 1e-3


def test_without_a_run_there_are_metrics_alone():
    encoders = AlsEncoders({})
    assert encoders.scales() == {"": Scale()}
    assert encoders.reach("", Scale()) == 0


def test_stems_and_points_are_moved_together_to_the_lines_of_columns(data_dir, tmp_path):
    folder = data_dir / "chablais3_fr"
    trees, west, south = tree_inventory.on_lines_of_columns(folder, tmp_path)
    assert west % 10 == south % 10 == 0
    before = pd.read_csv(folder / "tree_inventory.csv")
    (own,), (moved,) = (list(read_chunks(open_points(path))) for path in (folder / "las_chablais3.laz", tmp_path / "points.laz"))
    for axis in "xy":
        shift = float((trees[axis] - before[axis]).mean())
        assert -10 < shift <= 0
        np.testing.assert_allclose(getattr(moved, axis) - getattr(own, axis), shift, atol=0.001)
    # the middle of the inventory is that of the columns
    assert (trees.x.min() + trees.x.max()) / 2 == pytest.approx(west + 25)
    assert (trees.y.min() + trees.y.max()) / 2 == pytest.approx(south + 25)


# -- the command


def test_the_sparse_labels_of_real_data_give_the_published_figures(data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sparse_labels, "HEADS", ("ridge",))
    out, text = tmp_path / "real.json", tmp_path / "real.md"
    arguments = [str(data_dir), "--study", "hls_gedi_agb", "--out", str(out), "--markdown", str(text)]
    assert real_forests.main([*arguments, "--pictures", str(tmp_path / "pictures")]) == 0
    (study,) = json.loads(out.read_text())
    (row,) = study["rows"]
    assert row["scores"]["r2"]["value"] == pytest.approx(0.34, abs=0.005)
    assert row["scores"]["rmse"]["value"] == pytest.approx(3.68, abs=0.005)
    assert row["scores"]["n"] > 200
    assert "0.34 (0." in text.read_text()
    assert text.read_text() in capsys.readouterr().out
    assert (tmp_path / "pictures" / "hls_gedi_agb.png").stat().st_size > 5000


def test_tables_show_refused_models_and_dashes_for_logarithms():
    study = Study("s", "Title", (Row("ln basal area", "ln(m2/ha)", "metrics", "power", "each plot", note="has values below 0"),))
    assert "| ln basal area, ln(m2/ha) | metrics | power | each plot | - | has values below 0 |  |  |" in real_forests.markdown(
        study
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "name the folder of sample files"),
        (["{tmp}"], "holds no forest_plots"),
        (["{tmp}", "--pretrained", "runs"], "--pretrained runs: give NAME=RUN"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(tmp_path, monkeypatch, capsys, arguments, problem):
    monkeypatch.delenv("FUSION3D_TEST_DATA", raising=False)
    with pytest.raises(SystemExit) as stopped:
        real_forests.main([each.format(tmp=tmp_path) for each in arguments])
    assert stopped.value.code == 2
    assert problem in capsys.readouterr().err


def test_a_run_that_is_none_ends_in_one_line(data_dir, tmp_path, capsys):
    arguments = [str(data_dir), "--study", "chablais3_fr", "--pretrained", f"none={tmp_path / 'none.ckpt'}"]
    assert real_forests.main(arguments) == 1
    assert "no checkpoint there" in capsys.readouterr().err
