"""Figures of probes as `fusion3d evaluate` finds them."""

from __future__ import annotations

import math

from fusion3d.evaluation.figures import Estimate
from fusion3d.evaluation.probe_table import ProbeDifference, ProbeReport, ProbeRow, ProbeVariable

FEW, ALL = Estimate(0.25, 0.125, 0.0, 0.5), Estimate(0.75, None, 0.5, 0.875)


def probe_report() -> ProbeReport:
    labels = {0.01: 5, 1.0: 400}
    second = {0.01: FEW, 1.0: Estimate(math.nan)}
    rows = tuple(
        ProbeRow("height", source, "pretrained", "linear", 120, labels, {0.01: FEW, 1.0: ALL}, second)
        for source in ("fused", "s2")
    )
    return ProbeReport(
        checkpoint="run", store="scene.zarr", steps=60, sensors=("als", "s2"), shares=(0.01, 1.0), draws=5, seed=0,
        supervised_steps=60, alone={"s2": "alone"}, variables=(ProbeVariable("height", "values", "m", "chm.tif", 400, 120),),
        rows=rows, differences=(ProbeDifference("height", "s2", {0.01: FEW, 1.0: ALL}),), notes=("gedi left out",),
    )  # fmt: skip
