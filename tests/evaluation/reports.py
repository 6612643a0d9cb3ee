"""Figures of probes as `fusion3d evaluate` finds them."""

from __future__ import annotations

import math

from fusion3d.evaluation.figures import Estimate
from fusion3d.evaluation.probe_table import ProbeDifference, ProbeReport, ProbeRow, ProbeVariable
from fusion3d.evaluation.robustness_table import (
    ALONE,
    FAILURE,
    FUSED,
    MEAN,
    MISSING,
    NOISE,
    REFITTED,
    RETRIEVAL,
    SHIFT,
    SIZE,
    SUBSET,
    RobustnessReport,
    RobustnessRow,
    RobustnessTask,
)

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


def robustness_report() -> RobustnessReport:
    sensors = ("als", "s2")
    height = RobustnessTask("height", "values", "R2", "m", 400, 120, 0.0)
    mean, s2 = (RobustnessTask(name, RETRIEVAL, "R@10", "", 0, 500, 0.02) for name in (MEAN, "s2"))

    def rows(task: RobustnessTask) -> list[RobustnessRow]:
        probed = task.kind != RETRIEVAL
        both = {FUSED: FEW, REFITTED: ALL} if probed else {FUSED: FEW}
        subsets = [("als",), ("s2",), ("als", "s2")] if probed else [("als",), ("s2",)]
        found = [(SUBSET, subset, None, both, 0.875) for subset in subsets]
        found += [(SIZE, (), size, both, None) for size in ((1.0, 2.0) if probed else (1.0,))]
        found += [(FAILURE, (), chance, both, None) for chance in (0.1, 0.3, 0.5)]
        found += [(MISSING, sensors, share, {FUSED: FEW}, None) for share in (0.0, 0.25, 0.5, 0.75)]
        found += [(NOISE, (name,), level, {FUSED: ALL, ALONE: FEW}, None) for name in sensors for level in (0.0, 0.5, 1.0, 2.0)]
        found += [(SHIFT, ("als",), step, {FUSED: ALL, ALONE: FEW}, None) for step in (0.0, 0.25, 0.5, 1.0, 2.0)]
        found += [(SHIFT, ("s2",), step, {FUSED: ALL, ALONE: FEW}, None) for step in (0.0, 1.0, 2.0)]
        return [
            RobustnessRow(task.name, task.kind, way, part, who, amount, scores, seen)
            for way in ("mean", "precision")
            for part, who, amount, scores, seen in found
        ]

    return RobustnessReport(
        checkpoint="run", store="scene.zarr", steps=60, sensors=sensors, fusions=("mean", "precision"), subsets=3, possible=3,
        draws=3, columns=500, held_out=640, margin=2, seed=0, noise_units={"als": "m of height", "s2": "standard deviations"},
        tasks=(height, mean, s2), rows=tuple(row for task in (height, mean, s2) for row in rows(task)), notes=("gedi left out",),
    )  # fmt: skip
