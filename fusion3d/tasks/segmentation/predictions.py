"""A sample of the held-out points as a table: `predictions.csv`."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusion3d.io.whole_file import write_whole
from fusion3d.tasks.classes.legend import Legend
from fusion3d.tasks.segmentation.cloud import Cloud

Int64 = npt.NDArray[np.int64]

MOST_ROWS = 20_000


@dataclass(frozen=True)
class PointPredictions:
    """Points with the class that a model which had not seen their fold gave them; the columns of `predictions.csv`.

    Attributes
    ----------
    east, north, z : [N] metres
    fold, block : [N] numbers
    measured, predicted, forest : [N] codes of classes: of the file, of the model, of the random forest
    confidence : [N] probability of what was predicted, calibrated on other folds
    """

    east: npt.NDArray[np.float64]
    north: npt.NDArray[np.float64]
    z: npt.NDArray[np.float64]
    fold: Int64
    block: Int64
    measured: Int64
    predicted: Int64
    forest: Int64
    confidence: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls,
        clouds: list[Cloud],
        fold: Int64,
        block: Int64,
        true: Int64,
        said: Int64,
        confidence: npt.NDArray[np.float64],
        forest: Int64,
        legend: Legend,
        seed: int,
    ) -> PointPredictions:
        """At most `MOST_ROWS` of the points, by lot."""
        east, south, z = (np.concatenate([getattr(cloud, name) for cloud in clouds]) for name in ("east", "south", "z"))
        at = np.arange(len(true))
        if len(at) > MOST_ROWS:
            at = np.sort(np.random.default_rng(seed).choice(len(true), MOST_ROWS, replace=False))
        codes = np.array(legend.codes, np.int64)
        return cls(
            east[at], -south[at], z[at], fold[at], block[at], codes[true[at]], codes[said[at]], codes[forest[at]], confidence[at]
        )

    def write(self, path: str | Path) -> Path:
        """Write the table as CSV, whole or not at all."""
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__}
        text = io.StringIO()
        text.write(",".join(columns) + "\n")
        np.savetxt(text, np.stack(list(columns.values()), axis=1), delimiter=",", fmt=["%.3f"] * 3 + ["%d"] * 5 + ["%.4f"])
        return write_whole(Path(path), text.getvalue())
