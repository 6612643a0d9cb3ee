"""What a reviewer of a biomass product asks for, in the order of the CEOS good practices, and what only the author can say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from fusion3d.report.markup import Cell, number, sentence, table
from fusion3d.report.raster_view import RasterFacts
from fusion3d.tasks.domain import EXTRAPOLATION
from fusion3d.tasks.held_out import HeldOut
from fusion3d.tasks.scorecard import Scorecard
from fusion3d.tasks.scores import Figure
from fusion3d.tasks.validation import RangeScores, validate

UNKNOWN = "to be stated by the author"
_FEW = 10
_SOURCE = (
    "In the order of the CEOS good practices for validating biomass products (Duncanson et al. 2021, Aboveground Woody Biomass "
    "Product Validation Good Practices Protocol, CEOS Working Group on Calibration and Validation). Measured values are taken as "
    "true: errors of allometric models, of tree measurements and of plot positions are inside of the differences."
)


def validation_section(folder: Path, product: RasterFacts | None, dates: str = "") -> str:
    """Product, reference data, and how they differ, of the folder that `fusion3d fit` wrote.

    Parameters
    ----------
    product : header of the map that the model made; None when there is none
    dates : of the data that it was made from, in words; "" where they are not known
    """
    plots, card = HeldOut.read(folder), Scorecard.read(folder)
    unit = card.unit or "unit not stated"
    found = validate(plots, card.unit)
    body = sentence(_SOURCE)
    body += table(["product", ""], _product(card, product, dates), left=2)
    body += table(["reference data", ""], _reference(plots, card), left=2)
    header = ["measured", "plots", "mean", "predicted", "difference", "RMSE", "RMSE, %", f"in {100 * card.level:g} % interval"]
    caption = f"Predicted minus measured by range of what was measured, {unit}; 90 % intervals in brackets"
    body += table(header, [_range_row(item) for item in found.ranges], caption=caption)
    few = [item for item in found.ranges if item.scores.n < _FEW]
    if few:
        body += sentence(f"Ranges of fewer than {_FEW} plots ({len(few)} here) say little.", "note")
    slope = (
        f"measured = {number(found.intercept)} + {found.slope:.2f} x predicted" if found.slope == found.slope else "not defined"
    )
    text = f"Line of measured on predicted values: {slope} (1 and 0 where the error has no trend). "
    if found.blocks is None:
        text += "Too few blocks have three plots or more for a comparison of their means."
    else:
        scores = found.blocks
        text += (
            f"Means over {scores.n} blocks of ground ({found.per_block:.1f} plots each on average): R² "
            f"{scores.r2.text()}, RMSE {number(scores.rmse.value)} {unit}, against {number(card.model.rmse.value)} {unit} of "
            f"single plots; difference {number(scores.bias.value)} {unit}."
        )
    return body + sentence(text)


def _product(card: Scorecard, product: RasterFacts | None, dates: str) -> list[list[str | Cell]]:
    rows: list[list[str | Cell]] = [
        ["variable", f"{card.target}, {card.unit or 'unit not stated'}"],
        ["definition (components, least diameter, live or dead)", UNKNOWN],
        ["made from", card.embedding],
        ["model", card.method or card.kind],
        ["dates of the data", dates or UNKNOWN],
    ]
    if product is None:
        return [*rows, ["map", "none in this run"]]
    place, names = product.place, product.names
    error = next((name for name in names if "_se" in name), None)
    ends = [name for name in names if "_lower" in name or "_upper" in name]
    return [
        *rows,
        ["map", f"cells of {place.pixel * place.unit:g} m on {place.axis_label.rpartition(' (')[0]}"],
        ["uncertainty of a cell", ", ".join([error, *ends]) if error else "not mapped"],
        ["extrapolation", "mapped (area of applicability)" if EXTRAPOLATION in names else "not mapped"],
    ]


def _reference(plots: HeldOut, card: Scorecard) -> list[list[str | Cell]]:
    area = "not recorded" if plots.area is None else _spread(plots.area, "m²")
    return [
        ["plots", f"{len(plots.measured)} of {card.labels}"],
        ["plot area", area],
        ["measured", _spread(plots.measured, card.unit)],
        ["sampling design (probability sample or chosen)", UNKNOWN],
        ["dates of measurement", UNKNOWN],
        ["allometric models and their errors", UNKNOWN],
        ["accuracy of plot positions", UNKNOWN],
        ["support", "area-weighted mean of the cells under a plot"],
        ["independence", f"{card.folds}; a plot is predicted by a model that did not see its fold"],
    ]


def _spread(values: np.ndarray, unit: str) -> str:
    low, middle, high = (number(float(value)) for value in (values.min(), np.median(values), values.max()))
    if low == high:
        return f"{low} {unit}".rstrip()
    return f"{low} to {high}, median {middle} {unit}".rstrip()


def _range_row(item: RangeScores) -> list[str | Cell]:
    low, high = (number(value) for value in (item.low, item.high))
    scores, share = item.scores, item.coverage.share
    ends = f"({share.low:.2f} to {share.high:.2f})" if item.coverage.n else ""
    return [
        f"{low} and more" if math.isinf(item.high) else f"{low} to {high}",
        str(scores.n),
        number(item.measured),
        number(item.predicted),
        _with_ends(scores.bias),
        _with_ends(scores.rmse),
        number(100 * scores.relative_rmse.value),
        Cell(f"{share.value:.2f}" if item.coverage.n else "–", ends),
    ]


def _with_ends(found: Figure) -> Cell:
    known = found.low == found.low
    return Cell(number(found.value), f"({number(found.low)} to {number(found.high)})" if known else "")
