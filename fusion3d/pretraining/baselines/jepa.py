"""Joint-embedding prediction with a teacher, and MIL-NCE: AnySat's recipe (Astruc et al. 2025, CVPR).

The student sees half of the columns of each chip. A predictor tells, from the student's fused embeddings of these and of a random
subset of the sensors, what a teacher that sees all columns of all sensors says of the hidden ones; the teacher is an exponential
moving average of the student (JEPA: Assran et al. 2023, CVPR). The student's tokens are contrasted as OmniSat does::

    L = MIL-NCE + M weight / |H| sum over i in H of |g(student)_i - fused teacher_i|^2
    teacher <- d teacher + (1 - d) student

H are the hidden columns that the teacher saw; d rises from `decay` linearly to 1 at the last step.

The factor M goes with `mil_nce`, which is a sum over M sensors. Encoders here look beyond a column, so columns are hidden in what
the sensors recorded, not among their tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusion3d.data.observation import ChipBatch
from fusion3d.data.pairs import DrawnPair, stream
from fusion3d.encoders.fusion import fuse
from fusion3d.encoders.registry import Encoder
from fusion3d.errors import ConfigError
from fusion3d.pretraining.alignment import Aligned, Alignment, register
from fusion3d.pretraining.baselines.masking import drawn_columns, without_columns
from fusion3d.pretraining.baselines.mil_nce import mil_nce
from fusion3d.pretraining.baselines.places import on_columns
from fusion3d.pretraining.baselines.predictor import ColumnPredictor
from fusion3d.pretraining.objective import LocationContrast
from fusion3d.pretraining.views import Views


@register
class TeacherPrediction(Alignment):
    """Prediction of a teacher's embeddings of hidden columns, with MIL-NCE between the sensors of the others.

    Parameters
    ----------
    decay : of the moving average at the first step, 0 to 1
    hidden : share of the columns hidden from the student
    dropped : chance of a sensor to be left out of what the predictor reads of a chip
    weight : of the prediction
    depth, heads : of the predictor
    """

    name = "jepa"
    every_sensor = True
    teacher: nn.ModuleDict

    def __init__(
        self,
        contrast: LocationContrast,
        decay: float = 0.996,
        hidden: float = 0.5,
        dropped: float = 0.5,
        weight: float = 1.0,
        depth: int = 4,
        heads: int = 4,
    ) -> None:
        super().__init__(contrast)
        for name, value, most in (("decay", decay, 1.0), ("hidden", hidden, 0.95), ("dropped", dropped, 0.95)):
            if not 0.0 <= value <= most:
                raise ConfigError(f"--model.alignment_options.{name} {value} must lie between 0 and {most:g}")
        if not 0.0 <= weight < float("inf"):
            raise ConfigError(f"--model.alignment_options.weight {weight} must be a number from 0 up")
        self.decay, self.hidden, self.dropped, self.weight = decay, hidden, dropped, weight
        self._shape = depth, heads

    def begin(self, encoders: nn.ModuleDict) -> None:
        self.teacher = copy.deepcopy(encoders).requires_grad_(False).eval()
        first = next(iter(encoders.values()))
        assert isinstance(first, Encoder)
        self.predictor = ColumnPredictor(first.shared_dim, *self._shape)

    def train(self, mode: bool = True) -> TeacherPrediction:
        super().train(mode)
        if "teacher" in self._modules:
            self.teacher.eval()
        return self

    @torch.no_grad()
    def after_step(self, encoders: nn.ModuleDict, step: int, steps: int) -> None:
        """Move the teacher towards the student."""
        decay = decay_at(self.decay, step, steps)
        students = encoders.state_dict()
        for name, mean in self.teacher.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(students[name].to(mean), 1.0 - decay)
            else:
                mean.copy_(students[name])

    def forward(self, views: Views, drawn: Sequence[DrawnPair], key: tuple[int, ...]) -> Aligned:
        batch = views.batch
        hidden = drawn_columns(batch, self.hidden, stream(*key, 1))
        student = views.of(without_columns(batch, hidden))
        by_sensor = mil_nce(student, self.contrast, stream(*key, 0))
        loss = 0.0 * self.contrast.log_temperature.sum() + sum(by_sensor.values())
        parts = {f"mil_nce_{name}": value.detach() for name, value in by_sensor.items()}
        told = self.prediction_loss(views, student, hidden, stream(*key, 2))
        if told is not None:
            loss = loss + self.weight * len(views.sensors) * told
            parts["prediction"] = told.detach()
        return Aligned(loss, parts, dict.fromkeys(views.sensors, 1.0))

    def prediction_loss(self, views: Views, student: Views, hidden: Tensor, generator: torch.Generator) -> Tensor | None:
        """Mean squared distance to the teacher at the hidden columns; None when the teacher, or the student, saw none."""
        if not student.sensors:
            return None
        target, seen = self.targets(views)
        kept = kept_sensors(student.batch, student.sensors, self.dropped, generator)
        units = {name: on_columns(student.batch, name, student.unit(name)) for name in student.sensors}
        side = student.batch.size**2
        parts = {
            name: (found.vectors, found.present & kept[name].to(found.present.device).repeat_interleave(side))
            for name, found in units.items()
        }
        fused, known = fuse(parts)
        asked = (hidden.to(seen.device) & seen).nonzero()[:, 0]
        if not len(asked):
            return None
        by_chip = fused.reshape(-1, side, fused.shape[1])
        guess = self.predictor(by_chip, known.reshape(-1, side), student.batch.size).flatten(0, 1)
        return (guess[asked].float() - target[asked]).square().sum(dim=1).mean()

    @torch.no_grad()
    def targets(self, views: Views) -> tuple[Float[Tensor, "columns dimensions"], Bool[Tensor, " columns"]]:
        """The teacher's fused embedding of every column from all sensors, and where there is one."""
        teacher = views.by(lambda batch, sensor: self.teacher[sensor](batch, sensor))
        units = {name: on_columns(views.batch, name, teacher.unit(name)) for name in views.sensors}
        return fuse({name: (found.vectors, found.present) for name, found in units.items()})


def decay_at(first: float, step: int, steps: int) -> float:
    """Decay of the moving average after a step, from `first` linearly to 1 at the last of all `steps`."""
    return first + (1.0 - first) * min(1.0, step / max(1, steps))


def kept_sensors(
    batch: ChipBatch, sensors: Sequence[str], dropped: float, generator: torch.Generator
) -> Mapping[str, Bool[Tensor, " chips"]]:
    """By sensor, in which chips the predictor reads it; of each chip it reads one at least."""
    chance = torch.rand(len(sensors), batch.chips, generator=generator)
    keep = (chance >= dropped) | (chance == chance.amax(dim=0))
    return dict(zip(sensors, keep, strict=True))
