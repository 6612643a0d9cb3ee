"""Fine-tuning: the encoders of a pretraining trained further on plots, scored on ground that no fold of them had labels of.

In each fold the encoders begin with the pretrained weights and are trained, with a linear head each, on the plots of the other
folds; what they answer for the held-out plots is scored and makes the intervals. The encoders that are kept are trained on all
plots. Frozen encoders with a ridge that weighs sensors are scored in the same folds: with few plots they are often better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.blocks import Folds, check_split
from fusion3d.evaluation.checkpoint import checkpoint_file, choose_sensors, load_pretraining
from fusion3d.evaluation.columns import EmbeddedColumns, embed_columns
from fusion3d.evaluation.label_tables import LabelOptions, Labels, named, read_labels
from fusion3d.evaluation.labels import Samples, plot_samples
from fusion3d.evaluation.places import Patch
from fusion3d.evaluation.plots import PlotTable
from fusion3d.evaluation.ridge import Ridge
from fusion3d.evaluation.supervised import Labels as Training
from fusion3d.evaluation.supervised import SupervisedModel, predict_supervised, train_supervised
from fusion3d.evaluation.tuned_file import answer_band, write_tuned
from fusion3d.grid import Window
from fusion3d.progress import progress_bar
from fusion3d.store import Store
from fusion3d.tasks.area_based import area_based
from fusion3d.tasks.card_file import SCORES_FILE
from fusion3d.tasks.conformal import LEVEL, Conformal, check_level, nested_bounds
from fusion3d.tasks.cross_fit import CrossFit, WholeFit, cross_fit
from fusion3d.tasks.fit import folds_of
from fusion3d.tasks.fit_folder import out_folder
from fusion3d.tasks.model import TargetModel
from fusion3d.tasks.regressors import Fitted, family
from fusion3d.tasks.scored_fit import FEWEST_PLOTS, Compared, FitResult, score_fit

if TYPE_CHECKING:
    from fusion3d.pretraining.module import CrossModalPretraining

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

STEPS = 100
FROZEN = "frozen encoders, banded ridge"
CHECKPOINT = "checkpoints/last.ckpt"
_METHOD = (
    "fine-tuning of the pretrained encoders with a linear head for each sensor, whose answers are averaged (AdamW, {steps} "
    "steps, learning rate {rate:g})"
)
_RATE = 2e-4
"""Of the encoders; the heads begin with random weights and learn at 0.001."""
_LEAST_SEEN = 0.5


def finetune(
    checkpoint: str | Path,
    store: str | Path | Store,
    labels: Labels,
    target: str,
    out: str | Path,
    *,
    sensors: Sequence[str] | None = None,
    steps: int = STEPS,
    unit: str | None = None,
    radius: float | None = None,
    layer: str | None = None,
    crs: str | None = None,
    stratum: str | None = None,
    scheme: str = "blocks",
    block: float | None = None,
    folds: int = 5,
    buffer: float | None = None,
    level: float = LEVEL,
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
) -> FitResult:
    """Train pretrained encoders on plots, score them on held-out plots and calibrate their intervals.

    The folder `out` is that of a fit, and has the encoders besides: `fusion3d embed OUT STORE` maps their answers, and
    `fusion3d map OUT` makes estimates with intervals of these.

    Parameters
    ----------
    checkpoint : .ckpt, or run folder of `fusion3d pretrain`
    store : that has the sensors where the plots are
    sensors : to train; None takes all that both have
    steps : of training, in each fold and with all plots
    progress : draw a progress bar
    Other arguments are those of `fit`.

    Raises
    ------
    InputError
        A file cannot be used, or too few plots lie on the store's data.
    ConfigError
        An option is out of range.
    """
    check_split(scheme, seed)
    if steps < 1:
        raise ConfigError(f"--steps {steps} must be at least 1")
    if scheme == "strata" and stratum is None:
        raise ConfigError("--scheme strata needs --stratum COLUMN")
    check_level(level)
    folder = out_folder(out)
    if (folder / CHECKPOINT).exists() and not (folder / SCORES_FILE).exists():
        raise InputError(folder, "holds a checkpoint of another run", "give another --out")
    store = store if isinstance(store, Store) else Store.open(store)
    grid = store.grid
    module = load_pretraining(checkpoint, device)
    names = choose_sensors(module, store, sensors)
    options = LabelOptions(unit, crs, radius, layer, stratum)
    table = read_labels(labels, target, options, grid.pyproj_crs, grid.bounds(grid.window))
    if table.gaussian is not None:
        raise ConfigError("--finetune takes field plots, no GEDI footprints")
    notes = list(table.notes)
    tuning = _Tuning(checkpoint, store, names, steps, seed, device)
    table, samples, embedded = _on_store(table, tuning, module, notes)
    scale = grid.column / grid.cell
    split = folds_of(table, scheme, grid.column, scale, block, folds, buffer, seed)
    notes += split.notes
    about = {"target": target, "unit": table.unit, "transform": "none", "nonnegative": True}
    rounds = sum(bool(split.split(number)[1].any()) for number in range(split.count)) + 1
    with progress_bar("fine-tune", rounds * steps, progress) as advance:
        found, model = tuning.cross_fit(samples, table.values, split, level, about, advance)
    others = {FROZEN: _frozen(embedded, samples, table, split, about)}
    if store.attributes.als is not None:
        others |= area_based(str(store.path), table, split, about, notes, FEWEST_PLOTS)
    return score_fit(
        folder, table, split, found, fitted=tuning.answers(model, samples), beside=Compared(None, others), cell=grid.cell,
        crs=grid.pyproj_crs, scheme=scheme, seed=seed, notes=notes, remarks=(),
        write=lambda draft: _write(model, target, tuning.path, draft, folder), task="biomass", embedding=str(checkpoint),
        labels=named(labels), baseline_file=None, dimensions=sum(module.encoders[name].width for name in names), kind="finetuned",
        method=_METHOD.format(steps=steps, rate=_RATE), store=str(store.path),
    )  # fmt: skip


class _Tuning:
    """Encoders of a checkpoint, trained anew on any of the samples of a store."""

    def __init__(
        self, checkpoint: str | Path, store: Store, names: list[str], steps: int, seed: int, device: str
    ) -> None:  # fmt: skip
        self.path = checkpoint_file(checkpoint)
        self.checkpoint, self.store, self.names = checkpoint, store, names
        self.steps, self.seed, self.device = steps, seed, device

    def train(self, samples: Samples, advance: Callable[[], None]) -> SupervisedModel:
        module = load_pretraining(self.checkpoint, self.device)
        window = self.store.grid.window
        return train_supervised(
            module, self.store, self.names, [window], Training(samples, None), self.steps, self.seed, advance,
            encoder_rate=_RATE, halo=self._halo(module),
        )  # fmt: skip

    def _halo(self, module: CrossModalPretraining) -> int:
        """Columns around one that its embedding depends on."""
        grid = self.store.grid
        return max(module.encoders[name].receptive_field(grid.column, voxel=grid.voxel, cell=None) for name in self.names)

    def embed(self, module: CrossModalPretraining, samples: Samples) -> EmbeddedColumns:
        """What encoders say of the columns under samples, each seen with all that its encoder looks at."""
        grid = self.store.grid
        wanted = np.zeros(grid.window.size, np.bool_)
        wanted[samples.columns] = True
        around = _around(samples, grid.cols, self._halo(module))
        return embed_columns(module, self.store, around, self.names, wanted.reshape(grid.rows, grid.cols))

    def answers(self, model: SupervisedModel, samples: Samples) -> Float64:
        """[S] answers, not below 0."""
        return np.maximum(predict_supervised(model, self.embed(model.module, samples), samples), 0.0)

    def cross_fit(
        self, samples: Samples, values: Float64, split: Folds, level: float, about: dict[str, object], advance: Callable[[], None]
    ) -> tuple[WholeFit, SupervisedModel]:
        predicted = np.full(len(values), np.nan)
        chosen = []
        for number in range(split.count):
            training, held_out = (np.flatnonzero(part) for part in split.split(number))
            if not len(held_out):
                continue
            if len(training) < FEWEST_PLOTS:
                problem = f"fold {number} leaves {len(training)} plots to train with"
                raise ConfigError(f"{problem}; pass a smaller --block or --buffer, or give more plots")
            model = self.train(samples.take(training), advance)
            predicted[held_out] = self.answers(model, samples.take(held_out))
            chosen.append({"steps": float(self.steps)})
        model = self.train(samples, advance)
        identity = Ridge(np.zeros(1), np.ones(1), np.ones(1), 0.0, 0.0)
        whole = TargetModel.of(
            Fitted(identity, values - predicted), features=(answer_band(str(about["target"])),), kind="ridge", level=level,
            intervals=Conformal.of(values, predicted), domain=None,
            trained_on={"pretrained": str(self.checkpoint), "sensors": ",".join(self.names), "plots": str(len(values))}, **about,
        )  # fmt: skip
        lower, upper = nested_bounds(values, predicted, split, level, True)
        return WholeFit(whole, {"steps": float(self.steps)}, CrossFit(predicted, tuple(chosen)), lower, upper), model


def _on_store(
    table: PlotTable, tuning: _Tuning, module: CrossModalPretraining, notes: list[str]
) -> tuple[PlotTable, Samples, EmbeddedColumns]:
    """Plots that lie on the store for the greater part, and of which some sensor saw half; and what the encoders say of them."""
    grid = tuning.store.grid
    samples = plot_samples(table.geometry, np.arange(len(table), dtype=np.float64), grid)
    outside = len(table) - len(samples)
    if outside:
        notes.append(f"{outside} plot{'s' if outside > 1 else ''} left out: outside the store")
    seen, found = np.zeros(0, np.bool_), None
    if len(samples):
        found = tuning.embed(module, samples)
        present = np.logical_or.reduce([part.present for part in found.sensors.values()])
        _, share = samples.mean(found.columns, np.zeros((len(found.columns), 1)), present)
        seen = share >= _LEAST_SEEN - 1e-9
        if (~seen).any():
            notes.append(f"{int((~seen).sum())} plots left out: without data under half of the area")
    if found is None or seen.sum() < FEWEST_PLOTS:
        raise InputError(
            table.path,
            f"{int(seen.sum())} of its plots lie on data of {tuning.store.path} ({'; '.join(notes) or 'none left out'})",
            f"at least {FEWEST_PLOTS} are needed: check the plots' CRS",
        )
    samples = samples.take(np.flatnonzero(seen))
    kept = np.zeros(len(table), np.bool_)
    kept[samples.values.astype(np.int64)] = True
    table = table.take(kept)
    return table, Samples(table.values, samples.row_splits, samples.columns, samples.weights), found


def _frozen(found: EmbeddedColumns, samples: Samples, table: PlotTable, split: Folds, about: dict[str, object]) -> Float64:
    """[P] held-out predictions from the features of the encoders as they were pretrained."""
    values, present = found.joined()
    features, _ = samples.mean(found.columns, values, present)
    names = [f"{name}_{at:03d}" for name, part in found.sensors.items() for at in range(part.features.shape[1])]
    return cross_fit(family("banded", names), features, table.values, split, about).predicted


def _around(samples: Samples, cols: int, halo: int) -> list[Patch]:
    """A square around each sample; a column under several is taken from the first."""
    found: list[Patch] = []
    row, col = np.divmod(samples.columns, cols)
    for first, stop in pairwise(samples.row_splits.tolist()):
        top, left = int(row[first:stop].min()), int(col[first:stop].min())
        own = Window(top, left, int(row[first:stop].max()) - top + 1, int(col[first:stop].max()) - left + 1)
        side = max(own.rows, own.cols) + 2 * halo
        found.append(Patch(Window(top - halo, left - halo, side, side), own))
    return found


def _write(model: SupervisedModel, target: str, pretrained: Path, draft: Path, folder: Path) -> tuple[str, ...]:
    write_tuned(model, target, pretrained, draft / CHECKPOINT)
    (folder / CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
    return (CHECKPOINT,)
