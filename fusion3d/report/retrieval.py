"""Cross-sensor retrieval as tables: how often a column is found again by another sensor, against chance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from fusion3d.evaluation.outcome import PROBES, ROBUSTNESS
from fusion3d.evaluation.table import RECALLS, PairRetrieval, RetrievalReport
from fusion3d.io.json_file import parsing, read_json
from fusion3d.report.markup import Cell, folded, sentence, table


def read_retrieval(path: Path) -> RetrievalReport | None:
    """Figures of retrieval that `fusion3d evaluate --out` wrote; None when it made other figures only.

    Raises
    ------
    InputError
        Not such a file, or a damaged one.
    """
    remedy = "make it again with `fusion3d evaluate RUN STORE --out retrieval.json`"
    with parsing(path, "damaged figures of retrieval", remedy):
        raw = read_json(path)
        if "pairs" not in raw and (PROBES in raw or ROBUSTNESS in raw):
            return None
        pairs = tuple(
            PairRetrieval(
                str(item["query"]),
                str(item["gallery"]),
                int(item["candidates"]),
                {k: float(item["recall"][str(k)]) for k in RECALLS},
                {k: float(item["chance"][str(k)]) for k in RECALLS},
                float(item["median_rank"]),
            )
            for item in raw["pairs"]
        )
        shares = [share for pair in pairs for share in (*pair.recall.values(), *pair.chance.values())]
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError("a share that is not between 0 and 1")
        return RetrievalReport(
            str(raw["checkpoint"]),
            str(raw["store"]),
            int(raw["steps"]),
            bool(raw["untrained"]),
            int(raw["held_out"]),
            int(raw["max_columns"]),
            int(raw["seed"]),
            float(raw["hit_radius"]),
            pairs,
            tuple(str(item) for item in raw.get("left_out", ())),
        )


_LISTED = 12
"""Ordered pairs that are listed in full; more of them are folded under the matrix."""


def above_chance(recall: float, chance: float) -> float:
    """0 at chance or below, 1 when every column is found."""
    return max(0.0, (recall - chance) / (1 - chance)) if chance < 1 else 0.0


def mean_recall(report: RetrievalReport, k: int) -> tuple[float, float, int]:
    """Mean of recall at k and of its chance over ordered pairs, and how many: those that chance finds less than half the time."""
    pairs = [pair for pair in report.pairs if pair.chance[k] < 0.5] or report.pairs
    return fmean(pair.recall[k] for pair in pairs), fmean(pair.chance[k] for pair in pairs), len(pairs)


def retrieval_tables(report: RetrievalReport) -> str:
    weights = "random weights" if report.untrained else f"{report.steps} steps of training"
    found = f" A column within {report.hit_radius:g} m counts as found." if report.hit_radius > 0 else ""
    intro = (
        f"For a column that one sensor saw (query), all held-out columns that another sensor saw (gallery, N of them) are sorted "
        f"by how alike their embeddings are. R@k is the share of queries whose own column is among the first k. "
        f"{report.held_out} columns were held out; {weights}.{found} The darker a cell, the further it lies above chance."
    )
    body = sentence(intro)
    sensors = sorted({name for pair in report.pairs for name in (pair.query, pair.gallery)})
    if len(sensors) > 2:
        body += _matrix(report.pairs, sensors)
    if not report.pairs:
        body += sentence("No two sensors share enough held-out columns.")
    elif len(report.pairs) > _LISTED:
        body += folded(
            f"R@{', R@'.join(map(str, RECALLS))} and median rank of all {len(report.pairs)} ordered pairs", _by_pair(report.pairs)
        )
    else:
        body += _by_pair(report.pairs)
    return body + "".join(sentence(f"Left out: {reason}", "note") for reason in report.left_out)


def _matrix(pairs: Sequence[PairRetrieval], sensors: Sequence[str]) -> str:
    k = RECALLS[-1]
    known = {(pair.query, pair.gallery): pair for pair in pairs}
    rows: list[list[str | Cell]] = []
    for query in sensors:
        row: list[str | Cell] = [query]
        for gallery in sensors:
            pair = known.get((query, gallery))
            row.append("–" if pair is None else _recall(pair, k))
        rows.append(row)
    caption = f"R@{k}, chance in brackets: query by row, gallery by column"
    return table(["query \\ gallery", *sensors], rows, caption=caption)


def _by_pair(pairs: Sequence[PairRetrieval]) -> str:
    rows: list[list[str | Cell]] = [
        [
            pair.query,
            pair.gallery,
            str(pair.candidates),
            *(_recall(pair, k) for k in RECALLS),
            Cell(f"{pair.median_rank:g}", f"({(pair.candidates + 1) / 2:g})"),
        ]
        for pair in pairs
    ]
    header = ["query", "gallery", "N", *(f"R@{k} (chance)" for k in RECALLS), "median rank (chance)"]
    return table(header, rows, left=2, caption="Retrieval for every ordered pair of sensors")


def _recall(pair: PairRetrieval, k: int) -> Cell:
    recall, chance = pair.recall[k], pair.chance[k]
    return Cell(f"{100 * recall:.1f} %", f"({100 * chance:.1f} %)", above_chance(recall, chance))
