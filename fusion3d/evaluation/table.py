"""Figures of an evaluation, as a text table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fusion3d.io.whole_file import write_whole

RECALLS = (1, 5, 10)
"""The k of recall at k."""


@dataclass(frozen=True)
class PairRetrieval:
    """Retrieval from one sensor to another.

    Attributes
    ----------
    query, gallery : names of the sensors
    candidates : N, size of the gallery and number of queries
    recall : share of queries whose column is among the k most similar, by k
    chance : the same for a random order: k / N, more where neighbours count as hits
    median_rank : 1 is best, (N + 1) / 2 is chance
    """

    query: str
    gallery: str
    candidates: int
    recall: Mapping[int, float]
    chance: Mapping[int, float]
    median_rank: float


@dataclass(frozen=True)
class RetrievalReport:
    """Retrieval for every ordered pair of sensors.

    Attributes
    ----------
    steps : of training; 0 for random weights
    held_out : columns that training never touched
    max_columns, seed, hit_radius : as asked for; metres
    pairs : those with two candidates or more
    left_out : why a pair is not in `pairs`
    """

    checkpoint: str
    store: str
    steps: int
    untrained: bool
    held_out: int
    max_columns: int
    seed: int
    hit_radius: float
    pairs: tuple[PairRetrieval, ...]
    left_out: tuple[str, ...] = ()

    def table(self) -> str:
        """The figures as text, chance in brackets beside each."""
        header = ["query", "gallery", "N", *(f"R@{k} (chance)" for k in RECALLS), "median rank (chance)"]
        rows = [
            [
                pair.query,
                pair.gallery,
                str(pair.candidates),
                *(f"{100 * pair.recall[k]:.1f} % ({100 * pair.chance[k]:.1f} %)" for k in RECALLS),
                f"{pair.median_rank:g} ({(pair.candidates + 1) / 2:g})",
            ]
            for pair in self.pairs
        ]
        weights = "random weights (untrained)" if self.untrained else f"{self.steps} steps of training"
        title = f"Cross-sensor retrieval on {self.held_out} columns never trained on, {weights}"
        if self.hit_radius > 0:
            title += f"; a column within {self.hit_radius:g} m counts as found"
        return "\n".join([title, "", text_table(header, rows, left=2), *(f"left out: {text}" for text in self.left_out)])

    def to_json(self) -> dict[str, Any]:
        """Plain types; recalls are keyed by "1", "5", "10"."""
        plain = asdict(self)
        for pair in plain["pairs"]:
            pair["recall"], pair["chance"] = ({str(k): value for k, value in pair[name].items()} for name in ("recall", "chance"))
        return plain

    def write(self, path: str | Path) -> Path:
        """Write the figures as JSON, whole or not at all."""
        return write_whole(Path(path), json.dumps(self.to_json(), indent=2) + "\n")


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Lines of aligned cells under a header and a rule.

    Parameters
    ----------
    left : that many first columns are aligned left (words), the others right (numbers)
    """
    lines = [list(header), *(list(row) for row in rows)]
    if any(len(line) != len(header) for line in lines):
        raise ValueError(f"every row of the table needs {len(header)} cells")
    widths = [max(len(line[at]) for line in lines) for at in range(len(header))]

    def drawn(line: Sequence[str]) -> str:
        cells = [cell.ljust(width) if at < left else cell.rjust(width) for at, (cell, width) in enumerate(zip(line, widths))]
        return "  ".join(cells).rstrip()

    return "\n".join([drawn(lines[0]), "  ".join("-" * width for width in widths), *map(drawn, lines[1:])])
