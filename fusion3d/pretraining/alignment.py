"""How embeddings of one place from different sensors are made alike: one class for each way, chosen by ``--model.alignment``.

A new way is one class under `register`; the trainer, the encoders and the data stay the same.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from fusion3d.data.pairs import DrawnPair, stream
from fusion3d.errors import ConfigError
from fusion3d.pretraining.objective import LocationContrast
from fusion3d.pretraining.views import Views

Scalar = int | float | str | bool


@dataclass(frozen=True)
class Aligned:
    """What an alignment says of a batch.

    Attributes
    ----------
    loss : scalar with a gradient
    parts : terms by name, as they are, for the log
    own_weight : by sensor that was encoded, the weight of its own terms (retention), so that their expectation is 1 a sensor
    """

    loss: Tensor
    parts: Mapping[str, Tensor]
    own_weight: Mapping[str, float]


class Alignment(nn.Module, ABC):
    """A way to align sensors; further arguments of its constructor are its options.

    Attributes
    ----------
    contrast : of two sensors: what the alignment may use, and what every alignment is validated by
    name : of ``--model.alignment``
    every_sensor : true when each step reads and encodes all sensors of its chips; false when pairs are drawn
    """

    name: ClassVar[str]
    every_sensor: ClassVar[bool]

    def __init__(self, contrast: LocationContrast) -> None:
        super().__init__()
        self.contrast = contrast

    @abstractmethod
    def forward(self, views: Views, drawn: Sequence[DrawnPair], key: tuple[int, ...]) -> Aligned:
        """The loss of a batch.

        Parameters
        ----------
        views : embeddings by sensor, computed when asked for
        drawn : pairs of this step, with weights; every pair that meets, with weight 1, when `every_sensor`
        key : of the random choices; the same on every process that trains with others

        Notes
        -----
        Where several processes train together, each calls this with its own chips and the same pairs. What the loss compares
        across chips must then be gathered (`fusion3d.pretraining.distributed.gather_rows`), as `LocationContrast` does, and a
        mean over what a process counts be a `mean_over_ranks`.
        """

    def begin(self, encoders: nn.ModuleDict) -> None:
        """Called once, when the encoders have been built."""

    def before_step(self) -> None:
        """Called before each step."""
        self.contrast.clamp_()

    def after_step(self, encoders: nn.ModuleDict, step: int, steps: int) -> None:
        """Called after each step of the optimiser, with the number of steps done and of all steps of the run."""


ALIGNMENTS: dict[str, type[Alignment]] = {}
_Class = TypeVar("_Class", bound=type[Alignment])


def register(alignment: _Class) -> _Class:
    """Make ``--model.alignment`` know a class by its `name`."""
    ALIGNMENTS[alignment.name] = alignment
    return alignment


def alignment_class(name: str) -> type[Alignment]:
    """The class of a name.

    Raises
    ------
    ConfigError
        There is none.
    """
    if name not in ALIGNMENTS:
        raise ConfigError(f"--model.alignment {name} is not known; choose from {', '.join(sorted(ALIGNMENTS))}")
    return ALIGNMENTS[name]


def build_alignment(name: str, contrast: LocationContrast, options: Mapping[str, Scalar] | None = None) -> Alignment:
    """A way of aligning by its name, with its options.

    Raises
    ------
    ConfigError
        There is no such way, or it has no such option.
    """
    alignment = alignment_class(name)
    known = [option for option in inspect.signature(alignment).parameters if option != "contrast"]
    unknown = sorted(set(options or ()) - set(known))
    if unknown:
        choices = f"choose from {', '.join(known)}" if known else "it has none"
        raise ConfigError(f"--model.alignment {name} has no option {', '.join(unknown)} in --model.alignment_options; {choices}")
    return alignment(contrast, **dict(options or {}))


@register
class PairContrast(Alignment):
    """Location contrast of drawn pairs of sensors; its expectation is the sum over all pairs."""

    name = "pairs"
    every_sensor = False

    def forward(self, views: Views, drawn: Sequence[DrawnPair], key: tuple[int, ...]) -> Aligned:
        names = sorted({name for item in drawn for name in item.pair})
        embedded = {name: views.unit(name) for name in names}
        # A batch in which no pair meets still makes a step, so that steps and batches keep count of each other.
        loss = 0.0 * self.contrast.log_temperature.sum()
        parts: dict[str, Tensor] = {}
        own_weight: dict[str, float] = dict.fromkeys(names, 0.0)
        for number, item in enumerate(drawn):
            for name, weight in zip(item.pair, item.own_weight, strict=True):
                own_weight[name] += weight
            value, _ = self.contrast(views.batch, item.pair, embedded, stream(*key, number))
            if value is not None:
                loss = loss + item.weight * value
                parts[f"contrast_{item.pair[0]}-{item.pair[1]}"] = value.detach()
        return Aligned(loss, parts, own_weight)


@torch.no_grad()
def contrast_of_pairs(
    contrast: LocationContrast, views: Views, pairs: Sequence[tuple[str, str]], key: tuple[int, ...]
) -> dict[str, Tensor]:
    """Contrast by name of pair, of those that meet: the figure by which every way of aligning is validated."""
    embedded = {name: views.unit(name) for name in {name for pair in pairs for name in pair}}
    found = {f"{a}-{b}": contrast.alone(views.batch, (a, b), embedded, stream(*key))[0] for a, b in pairs}
    return {name: value for name, value in found.items() if value is not None}
