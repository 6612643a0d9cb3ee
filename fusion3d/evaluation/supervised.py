"""Supervised from scratch: the same encoders, from the weights that pretraining began with, trained end to end on the labels.

A linear head for each sensor; what a place is said to be is the mean over the sensors that saw it. A step takes chips around
labels drawn at random, inside the windows that probes learn from, and the error on all labels in those chips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion3d.data.chips import read_chips
from fusion3d.encoders.footprint_cells import footprints_to_cells
from fusion3d.evaluation.columns import EmbeddedColumns
from fusion3d.evaluation.labels import Float64, Samples, sample_columns
from fusion3d.grid import Window
from fusion3d.pretraining.module import CrossModalPretraining
from fusion3d.pretraining.schedule import rate
from fusion3d.store import Store

_CHIPS = 2
"""Chips of a step."""
_DATES = 8
"""Of a series that are read in training, drawn anew each time; tests read all. Points are all read in training too: how many
there are in a voxel tells the encoder of als something, and tests have them all."""
_RATE = 1e-3
_DECAY = 0.05
_LEAST_COVER = 0.5
_LEAST_SIDE = 4
"""Columns on the side of a chip, less what is read around it."""


@dataclass(frozen=True)
class Labels:
    """Labelled places to train on: `codes` are the classes in order, None for values."""

    samples: Samples
    codes: Float64 | None


class SupervisedModel(nn.Module):
    """Encoders of some sensors, a linear head each, and the scale of the labels."""

    def __init__(
        self,
        module: CrossModalPretraining,
        names: Sequence[str],
        codes: Float64 | None = None,
        centre: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.module, self.names, self.codes, self.centre, self.scale = module, list(names), codes, centre, scale
        outputs = 1 if codes is None else len(codes)
        self.heads = nn.ModuleDict({name: nn.Linear(module.encoders[name].width, outputs) for name in names})

    @classmethod
    def of(cls, module: CrossModalPretraining, names: Sequence[str], labels: Labels) -> SupervisedModel:
        """A model to be trained on labels, on their scale."""
        if labels.codes is not None:
            return cls(module, names, labels.codes)
        values = labels.samples.values
        return cls(module, names, None, float(values.mean()), float(values.std()) or 1.0)

    def answers(self, features: dict[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Mean of the heads' answers [N, K] over the sensors that saw each column, and where one did."""
        total, count = None, None
        for name, (values, present) in features.items():
            said = torch.where(present.unsqueeze(1), self.heads[name](values), 0.0)
            total = said if total is None else total + said
            count = present.float() if count is None else count + present
        assert total is not None
        assert count is not None
        return total / count.clamp(min=1).unsqueeze(1), count > 0

    def loss(self, said: Tensor, values: Tensor) -> Tensor:
        """Squared error of standardised values, or cross-entropy of classes, from answers [S, K] and labels [S]."""
        if self.codes is None:
            return functional.mse_loss(said[:, 0], (values - self.centre) / self.scale)
        codes = torch.as_tensor(self.codes, dtype=values.dtype, device=values.device)
        return functional.cross_entropy(said, (values[:, None] == codes).float().argmax(dim=1))

    def decide(self, said: Float64) -> Float64:
        """Predictions [S] from answers [S, K]."""
        return said[:, 0] * self.scale + self.centre if self.codes is None else self.codes[said.argmax(axis=1)]


def train_supervised(
    module: CrossModalPretraining,
    store: Store,
    names: Sequence[str],
    windows: Sequence[Window],
    labels: Labels,
    steps: int,
    seed: int,
    advance: Callable[[], None] | None = None,
    *,
    encoder_rate: float = _RATE,
    halo: int = 0,
) -> SupervisedModel:
    """Train encoders end to end.

    Parameters
    ----------
    module : with the weights to begin with; it is trained in place
    windows : to cut chips from
    encoder_rate : largest learning rate of the encoders; that of the heads is 0.001
    halo : columns that are read around a chip, so that its columns are seen with what lies around them
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SupervisedModel.of(module, names, labels).to(module.device).train()
        own = [p for name in names for p in module.encoders[name].parameters()]
        parameters = [*model.heads.parameters(), *own]
        groups = [{"params": list(model.heads.parameters()), "top": _RATE}, {"params": own, "top": encoder_rate}]
        optimizer = torch.optim.AdamW(groups, lr=_RATE, weight_decay=_DECAY)
        generator = np.random.default_rng(seed)
        places = [divmod(int(column), store.grid.cols) for column in sample_columns(labels.samples)]
        centres = [(place, window) for place in places for window in windows if _holds(window, place)]
        size = max(_LEAST_SIDE, int(module.hparams["scene"]["size"]) - 2 * halo)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = group["top"] * rate(step, min(10, steps // 5), steps)
            optimizer.zero_grad()
            for _ in range(_CHIPS):
                place, window = centres[int(generator.integers(len(centres)))]
                chip = _chip_around(place, window, size, generator)
                error = _chip_error(model, store, chip, halo, labels.samples, generator)
                if error is not None:
                    (error / _CHIPS).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            if advance is not None:
                advance()
    module.eval()
    return model.eval()


def predict_supervised(model: SupervisedModel, embedded: EmbeddedColumns, samples: Samples) -> Float64:
    """Predictions [S] from what the trained encoders say of columns (`embed_columns`)."""
    device = model.module.device
    features = {
        name: (torch.from_numpy(part.features).to(device), torch.from_numpy(part.present).to(device))
        for name, part in embedded.sensors.items()
    }
    with torch.inference_mode():
        said, seen = (found.cpu().numpy() for found in model.answers(features))
    answers, _ = samples.mean(embedded.columns, said, seen)
    return model.decide(answers)


def _holds(window: Window, place: tuple[int, int]) -> bool:
    return window.row <= place[0] < window.row_stop and window.col <= place[1] < window.col_stop


def _chip_around(place: tuple[int, int], window: Window, size: int, generator: np.random.Generator) -> Window:
    """A square of `size` columns (fewer in a narrow window) that holds a column, at random inside of a window that does."""
    row, col = place
    size = min(size, window.rows, window.cols)
    start = [
        int(generator.integers(max(low, at - size + 1), min(at, high - size) + 1))
        for at, low, high in ((row, window.row, window.row_stop), (col, window.col, window.col_stop))
    ]
    return Window(start[0], start[1], size, size)


def _chip_error(
    model: SupervisedModel, store: Store, chip: Window, halo: int, samples: Samples, generator: np.random.Generator
) -> Tensor | None:
    """Error on the labels that lie in a chip for the greater part; None when the chip's sensors saw none of them."""
    whole = chip.buffered(halo)
    batch = read_chips(store, [(whole.row, whole.col)], whole.rows, model.names, max_dates=_DATES, generator=generator)
    batch = batch.to(model.module.device)
    features = {}
    for name in model.names:
        if name not in batch.sensors:
            continue
        found = model.module.encoders[name](batch, name)
        features[name] = found.features.float(), found.present
        if name == "gedi":
            assert batch.gedi is not None
            features[name] = footprints_to_cells(*features[name], batch.gedi.position, batch.column, batch.size)
    if not features:
        return None
    said, seen = model.answers(features)
    row, col = np.mgrid[chip.row : chip.row_stop, chip.col : chip.col_stop]
    columns = (row * store.grid.cols + col).ravel()
    here = samples.take(np.flatnonzero(samples.weight_on(columns) >= _LEAST_COVER - 1e-9))
    at = np.searchsorted(columns, here.columns).clip(max=len(columns) - 1)
    place = (at // chip.cols + halo) * whole.cols + at % chip.cols + halo
    known = (columns[at] == here.columns) & seen.cpu().numpy()[place]
    owner = np.repeat(np.arange(len(here)), np.diff(here.row_splits))
    share = np.bincount(owner[known], here.weights[known], minlength=len(here))
    if not (share > 0).any():
        return None
    index, weight = (
        torch.as_tensor(part, device=said.device) for part in (place[known], here.weights[known] / share[owner[known]])
    )
    to = torch.as_tensor(owner[known], device=said.device)
    pooled = said.new_zeros(len(here), said.shape[1]).index_add(0, to, weight.to(said.dtype).unsqueeze(1) * said[index])
    usable = torch.as_tensor(share >= _LEAST_COVER - 1e-9, device=said.device)
    if not usable.any():
        return None
    values = torch.as_tensor(here.values, dtype=torch.float32, device=said.device)
    error = model.loss(pooled[usable], values[usable])
    return error if math.isfinite(float(error.detach())) else None
