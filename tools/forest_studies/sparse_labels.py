"""South Texas: labels along GEDI tracks on an optical image, by `fusion3d fit` as a user would call it.

Ten bands of 30 m and a raster of the same grid with 246 labelled pixels, -1 where there is none (`hls_gedi_agb`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from forest_studies.judged import HEADS, Row, Study
from fusion3d.tasks.fit import fit

_NO_LABEL = -1.0


def study(data: Path) -> Study:
    """Every head on the same blocks; `data` is the folder of sample files."""
    folder = data / "hls_gedi_agb"
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for head in HEADS:
            found = fit(
                folder / "hls_10band.tif",
                folder / "gedi_agbd_label.tif",
                "agbd",
                Path(work) / head,
                model=head,
                unit="Mg/ha",
                label_nodata=_NO_LABEL,
            )
            card, held_out = found.scorecard, found.held_out
            rows.append(
                Row(
                    "biomass of GEDI pixels",
                    "Mg/ha",
                    f"{card.dimensions} bands",
                    head,
                    f"blocks of {card.folds.side:g} m",
                    card.model,
                    card.coverage,
                    tuple(quarter.coverage for quarter in card.quartiles or () if quarter.coverage is not None),
                    measured=held_out.measured,
                    predicted=held_out.predicted,
                )
            )
    return Study(
        "hls_gedi_agb",
        "South Texas: GEDI tracks on an optical image",
        tuple(rows),
        reference=(
            "`fusion3d fit hls_10band.tif --labels gedi_agbd_label.tif --label-nodata -1`, by ridge: R2 0.34, RMSE 3.68 Mg/ha",
        ),
        remarks=(
            "The unit is not stated with the data; Mg/ha is what GEDI gives. Labels are estimates themselves, of 23 Mg/ha at "
            "most: the place is nearly without trees.",
        ),
    )
