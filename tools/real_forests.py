"""What fusion3d says of small published forest data: heads, intervals and als embeddings on held-out plots and trees.

    FUSION3D_TEST_DATA=data python tools/real_forests.py --pretrained simulated=runs/simulated --out real.json --markdown real.md

Each study is a file in `tools/forest_studies`. Scores are of predictions for plots that the model had not seen, with 90 %
bootstrap intervals. Without --pretrained the studies of als embeddings show metrics alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from forest_studies import canopy_height, published_metrics, single_trees, sparse_labels, tree_inventory
from forest_studies.embedding import AlsEncoders
from forest_studies.judged import ClassRow, Row, Study

from fusion3d.errors import Fusion3DError
from fusion3d.io.whole_file import write_whole
from fusion3d.tasks.coverage import Coverage

STUDIES: dict[str, Callable[[Path, AlsEncoders], Study]] = {
    "forest_plots": lambda data, encoders: published_metrics.study(data),
    "nouragues_gf": lambda data, encoders: canopy_height.study(data),
    "chablais3_fr": tree_inventory.study,
    "uas_trees_wa_usa": single_trees.study,
    "hls_gedi_agb": lambda data, encoders: sparse_labels.study(data),
}
_HEADER = ("target", "features", "model", "held out", "n", "R2", "RMSE", "RMSE, % of mean")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of sample files [default: $FUSION3D_TEST_DATA]")
    parser.add_argument("--study", action="append", choices=list(STUDIES), help="may be given several times [default: all]")
    parser.add_argument("--pretrained", action="append", default=[], metavar="NAME=RUN", help="run folder of `fusion3d pretrain`")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--markdown", type=Path, help="tables")
    parser.add_argument("--pictures", type=Path, help="folder for a scatter plot of each study")
    options = parser.parse_args(arguments)
    given = options.data or os.environ.get("FUSION3D_TEST_DATA")
    if not given or not Path(given).is_dir():
        parser.error("name the folder of sample files, or set FUSION3D_TEST_DATA")
    data = Path(given)
    runs = {}
    for each in options.pretrained:
        name, equals, run = each.partition("=")
        if not (name and equals and run):
            parser.error(f"--pretrained {each}: give NAME=RUN")
        runs[name] = Path(run)
    chosen = options.study or list(STUDIES)
    for name in chosen:
        if not (data / name).is_dir():
            parser.error(f"{data} holds no {name}")
    found = []
    try:
        for name in chosen:
            began = time.process_time()
            found.append(STUDIES[name](data, AlsEncoders(runs)))
            print(f"{name}: {time.process_time() - began:.0f} CPU s", file=sys.stderr)
            print(markdown(found[-1]) + "\n", flush=True)
            _write(found, options.out, options.markdown, options.pictures)
    except (Fusion3DError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _write(found: Sequence[Study], out: Path | None, text: Path | None, pictures: Path | None) -> None:
    """All that was found so far; a picture of the last study."""
    if out:
        write_whole(out, json.dumps([study.to_json() for study in found], indent=1) + "\n")
    if text:
        write_whole(text, "\n\n".join(markdown(study) for study in found) + "\n")
    if pictures:
        from forest_studies.pictures import scatter

        pictures.mkdir(parents=True, exist_ok=True)
        scatter(found[-1], pictures / f"{found[-1].name}.png")


def markdown(study: Study) -> str:
    """A section with the tables of a study."""
    parts = [f"### {study.title}", "\n".join(f"- Reference: {text}." for text in study.reference)]
    parts.append("\n".join(f"- {text}" for text in study.remarks))
    parts += [_scores(study.rows), _intervals(study.rows), _classes(study.classes)]
    return "\n\n".join(part for part in parts if part)


def _scores(rows: Sequence[Row]) -> str:
    lines = [_line(_HEADER), _line(["---"] * 4 + ["--:"] * 4)]
    for row in rows:
        about = [f"{row.target}, {row.unit}", row.features, row.model, row.folds]
        if row.scores is None:
            lines.append(_line([*about, "-", row.note, "", ""]))
            continue
        found = row.scores
        relative = (
            "-"
            if row.unit.startswith("ln")
            else _percent(found.relative_rmse.value, found.relative_rmse.low, found.relative_rmse.high)
        )
        lines.append(_line([*about, str(found.n), found.r2.text(), _sized(row), relative]))
    return "\n".join(lines)


def _intervals(rows: Sequence[Row]) -> str:
    """Share of measured values within 90 % intervals, in all and by quarter of the prediction."""
    known = [row for row in rows if row.covered is not None]
    if not known:
        return ""
    header = ["target", "features", "model", "held out", "within 90 % intervals", "by quarter", "of one width", "by quarter"]
    lines = [_line(header), _line(["---"] * 4 + ["--:"] * 4)]
    for row in known:
        shown = [_covered(row.covered), _quarters(row.quarters), _covered(row.one_width), _quarters(row.one_width_quarters)]
        lines.append(_line([row.target, row.features, row.model, row.folds, *shown]))
    return "\n".join(lines)


def _classes(rows: Sequence[ClassRow]) -> str:
    if not rows:
        return ""
    lines = [_line(["target", "features", "model", "held out", "n", "right", "macro F1"]), _line(["---"] * 4 + ["--:"] * 3)]
    for row in rows:
        right, macro = row.scores.accuracy, row.scores.macro_f1
        lines.append(_line([row.target, row.features, row.model, row.folds, str(row.scores.n), right.text(), macro.text()]))
    return "\n".join(lines)


def _sized(row: Row) -> str:
    assert row.scores is not None
    size = row.scores.rmse
    return size.text(0 if size.value >= 100 else 1 if size.value >= 10 else 2)


def _percent(value: float, low: float, high: float) -> str:
    return f"{100 * value:.0f} ({100 * low:.0f} to {100 * high:.0f})"


def _covered(found: Coverage | None) -> str:
    return "-" if found is None else found.share.text()


def _quarters(found: Sequence[Coverage]) -> str:
    return ", ".join(f"{each.share.value:.2f}" for each in found) or "-"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
