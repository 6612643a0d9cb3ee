"""Classification of cells: families of classifiers by the name that `fusion3d fit --task landcover --model` takes."""

from __future__ import annotations

from typing import Any

from fusion3d.errors import ConfigError
from fusion3d.tasks.classes.forest import ForestFamily
from fusion3d.tasks.classes.logistic import LogisticFamily
from fusion3d.tasks.classes.protocol import Classifier, ClassifierFamily, FittedClassifier

__all__ = ["CLASSIFIERS", "CLASS_TASKS", "Classifier", "ClassifierFamily", "FittedClassifier", "classifier_family"]

CLASS_TASKS = ("landcover", "crops")
_ALL: tuple[ClassifierFamily[Any], ...] = (LogisticFamily(), ForestFamily())
CLASSIFIERS = {each.name: each for each in _ALL}


def classifier_family(name: str) -> ClassifierFamily[Any]:
    """The family of a name; ConfigError where there is none."""
    if name not in CLASSIFIERS:
        raise ConfigError(f"--model {name!r}: classes are told apart by {' or '.join(CLASSIFIERS)}")
    return CLASSIFIERS[name]
