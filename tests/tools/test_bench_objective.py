from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "tools"))
import bench_objective


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_objective.py", *arguments])
    bench_objective.main()


def test_table_has_a_row_for_each_loss_and_number_of_sensors(monkeypatch, tmp_path):
    file = tmp_path / "objective.md"
    run(
        monkeypatch,
        "--columns",
        "128",
        "--dimensions",
        "8",
        "--sensors",
        "2,3",
        "--rounds",
        "1",
        "--least",
        "0",
        "--output",
        str(file),
    )
    rows = [line.strip("| ").split(" | ") for line in file.read_text().splitlines() if line.startswith("|")][2:]
    assert [(row[0], row[1]) for row in rows] == [(sensors, name) for sensors in "23" for name in bench_objective.NAMES]
    assert all(float(row[2]) > 0 for row in rows)
    assert [row[4] for row in rows if row[0] == "2"] == ["1.00"] * len(bench_objective.NAMES)
    assert "The sampled pair's CPU time departs" in file.read_text()


def test_one_pair_runs_of_a_sampled_step_and_all_of_the_sum():
    vectors = [bench_objective.torch.randn(128, 8) for _ in range(4)]
    for name, embedded in (("sampled pair", 2), ("all pairs", 4)):
        case = bench_objective.Case.of(name, vectors)
        case.loss(0).loss.backward()
        assert sum(encoder.vectors.grad is not None for encoder in case.encoders.values()) == embedded


def test_a_loss_that_is_not_what_it_must_be_stops_the_run(monkeypatch):
    bench_objective.check("star", 3, 128, 8)
    monkeypatch.setattr(bench_objective, "value_of_equal", lambda *_: math.log(128))
    with pytest.raises(SystemExit, match=r"star of 3 sensors is 9\.70406 for equal embeddings"):
        bench_objective.check("star", 3, 128, 8)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(("--losses", "clip"), "no loss clip; there are sampled pair"), (("--columns", "100"), "multiple of 64 columns")],
)
def test_impossible_options_are_refused(monkeypatch, arguments, text):
    with pytest.raises(SystemExit, match=text):
        run(monkeypatch, *arguments)


def test_verdict_says_when_the_sampled_pair_grows():
    cost = bench_objective.Cost
    costs = {(2, "sampled pair"): cost(1.0, 100), (6, "sampled pair"): cost(1.05, 120)}
    text = bench_objective.verdict(costs)
    assert "CPU time departs from that of 2 sensors by at most 5.0%: constant" in text
    assert "peak memory departs from that of 2 sensors by at most 20.0%: NOT constant" in text
