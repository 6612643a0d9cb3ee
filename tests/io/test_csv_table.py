"""CSV tables keep numbers to the last digit."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fusion3d.io.csv_table import write_csv, write_table


@dataclass
class _Table:
    name: tuple[str, ...]
    value: np.ndarray
    left_out: np.ndarray | None = None


def test_numbers_come_back_to_the_last_bit_and_commas_stay_in_their_field(tmp_path: Path) -> None:
    values = np.array([0.1 + 0.2, 1e-300, 123456789.123456789])
    path = write_table(tmp_path / "t.csv", _Table(("a,b", 'c"d', "e\nf"), values))
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", "value"]
    assert [row[0] for row in rows] == ["a,b", 'c"d', "e\nf"]
    assert [float(row[1]) for row in rows] == values.tolist()


def test_nothing_known_is_an_empty_field(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ["a", "b", "c"], [[None, float("nan"), np.float32("nan")], [0, True, 0.0]])
    assert path.read_text() == "a,b,c\n,,\n0,True,0.0\n"


def test_columns_of_different_lengths_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="longer"):
        write_table(tmp_path / "t.csv", _Table(("a",), np.zeros(2)))
    assert not list(tmp_path.iterdir())
