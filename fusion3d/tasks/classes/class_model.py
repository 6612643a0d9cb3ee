"""A fitted classifier with its classes: what a map of them is made with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusion3d import __version__
from fusion3d.errors import ConfigError
from fusion3d.tasks.classes import CLASS_TASKS, Classifier, classifier_family
from fusion3d.tasks.classes.calibration import tempered
from fusion3d.tasks.classes.legend import Legend
from fusion3d.tasks.model import require_bands

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClassModel:
    """Classes of cells from the bands of a raster.

    Attributes
    ----------
    task, target : what was fitted: landcover or crops, and the column of the labels
    legend : of the classes
    features : [D] names of the bands, in order
    classifier : gives probabilities of the classes
    kind : name of its family
    temperature : that calibrates them
    trained_on : what the model was fitted on, by name (embedding map, its checkpoint and sensors, labels, cells)
    version : of fusion3d
    """

    task: str
    target: str
    legend: Legend
    features: tuple[str, ...]
    classifier: Classifier
    kind: str
    temperature: float
    trained_on: dict[str, str] = field(default_factory=dict)
    version: str = __version__

    def __post_init__(self) -> None:
        classifier_family(self.kind)
        if self.task not in CLASS_TASKS:
            raise ConfigError(f"{self.task!r} is no task of classes")
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise ConfigError("the temperature of a calibration must be a positive number")

    def classify_bands(self, bands: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.uint8], Float64]:
        """Code of the likeliest class [...] of bands [D, ...], the first of equal ones, and its calibrated probability [...]."""
        if len(bands) != len(self.features):
            raise ConfigError(f"the model has {len(self.features)} features, not {len(bands)}")
        found = tempered(self.classifier.probabilities(bands), self.temperature)
        return np.array(self.legend.codes, np.uint8)[found.argmax(axis=0)], found.max(axis=0)

    def check_bands(self, names: tuple[str, ...], path: str | Path) -> None:
        """Refuse a raster whose bands are not those of the fit: InputError."""
        require_bands(names, self.features, path)
