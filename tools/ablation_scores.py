"""What a pretrained checkpoint is worth on a simulated scene: probes of the truth, retrieval, and the cost of its loss.

Probes are ridge regressions on frozen embeddings, fitted on columns outside of the held-out part and scored (R2) on the held-out
columns, which neither pretraining nor a probe has seen. Variables are the numbers of `fusion3d.simulate.guide.VISIBILITY`:

- fused: variables that several sensors see, from the mean of all sensors' shared embeddings (no objective trains a fusion);
- half missing: the same, where every column (of the fit too) has lost half of its sensors at random;
- private: variables that one sensor sees, from that sensor's own features.

Canopy height, cover and biomass are scored in forest alone, as in `simulated_baselines.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from simulated_baselines import CLASSES, OF_FOREST, truth
from torch import Tensor

from fusion3d.data.chips import read_chips
from fusion3d.data.observation import ChipBatch
from fusion3d.data.pairs import draw_pairs, stream
from fusion3d.data.split import Split
from fusion3d.encoders.fusion import fuse
from fusion3d.encoders.output import FootprintEmbedding
from fusion3d.errors import ConfigError
from fusion3d.evaluation.checkpoint import load_pretraining
from fusion3d.evaluation.retrieval import held_out_windows, score_pair
from fusion3d.evaluation.ridge import fit_ridge
from fusion3d.grid import Window
from fusion3d.pretraining.baselines.masking import footprint_column
from fusion3d.pretraining.baselines.places import common_places, on_columns
from fusion3d.pretraining.module import CrossModalPretraining
from fusion3d.pretraining.objective import LocationContrast, meeting_pairs
from fusion3d.pretraining.views import Found, Views
from fusion3d.simulate.guide import VISIBILITY
from fusion3d.simulate.model import Cover
from fusion3d.store import Store

FEWEST = 25
"""Sites that a probe must have, to fit and to score."""
DRAWS = 3
"""Times that sensors are taken away at random."""
BATCH = 4


@dataclass(frozen=True)
class Material:
    """What all checkpoints of one split are scored on.

    Attributes
    ----------
    batches : chips of the held-out part, and chips outside of it
    targets : by variable [rows, cols], NaN where it is not defined
    held : [rows, cols] columns never trained on
    """

    batches: tuple[ChipBatch, ...]
    targets: Mapping[str, np.ndarray]
    held: np.ndarray


def read_material(
    module: CrossModalPretraining, store: Store, scene: Path, size: int, max_points: int | None, train_chips: int
) -> Material:
    """Read the chips and the truth that checkpoints with this module's split are scored on."""
    split = Split.from_plain(module.hparams["scene"]["splits"][0])
    test = [origin for window in held_out_windows(module, store) for origin in _tiles(window, size)]
    if not test:
        raise ConfigError(f"no chip of {size} x {size} columns fits into the held-out part; make the scene larger")
    free = split.training()
    train = [at for at in _tiles(store.grid.window, size) if free[at[0] : at[0] + size, at[1] : at[1] + size].all()]
    order = np.random.default_rng(0).permutation(len(train))[:train_chips]
    origins = [*test, *(train[number] for number in sorted(order))]
    batches = [
        read_chips(store, origins[at : at + BATCH], size, max_points_per_column=max_points)
        for at in range(0, len(origins), BATCH)
    ]
    grid = store.grid
    names = [item.truth for item in VISIBILITY if item.truth not in CLASSES]
    targets = {name: truth(scene, name, grid.rows, grid.cols, grid.cell) for name in names}
    forest = truth(scene, "land_cover", grid.rows, grid.cols, grid.cell) == Cover.FOREST
    for name in OF_FOREST:
        if name in targets:
            targets[name] = np.where(forest, targets[name], np.nan)
    return Material(tuple(batches), targets, split.held_out())


def _tiles(window: Window, size: int) -> Iterator[tuple[int, int]]:
    """Corners of whole chips side by side inside a window."""
    for row in range(window.row, window.row_stop - size + 1, size):
        for col in range(window.col, window.col_stop - size + 1, size):
            yield row, col


@dataclass(frozen=True)
class Sites:
    """Features of places by sensor: [N, 2] row and column, [N] chip, and by sensor [N, D] with NaN where it saw nothing."""

    place: np.ndarray
    chip: np.ndarray
    features: Mapping[str, np.ndarray]


class Embeddings:
    """What a checkpoint says of the material, by column and by footprint."""

    def __init__(self, module: CrossModalPretraining, material: Material, geolocation_sigma: float) -> None:
        self.sensors = module.sensors
        contrast = LocationContrast(max_columns=10**9, geolocation_sigma=geolocation_sigma)
        columns: list[dict[str, Any]] = []
        footprints: list[dict[str, Any]] = []
        self._held = material.held
        for number, batch in enumerate(material.batches):
            with torch.inference_mode():
                views = module.views(batch)
                names = [name for name in batch.sensors if name in module.encoders]
                units = {name: views.unit(name) for name in names}
                found = {name: views.embedding(name) for name in names}
                shared = {name: on_columns(batch, name, unit) for name, unit in units.items()}
                places = common_places(batch, units, contrast, stream(0)) if len(units) > 1 else []
            chip = np.arange(batch.chips) + number * BATCH
            columns.append(
                {
                    "place": _columns_of(batch),
                    "chip": chip.repeat(batch.size**2),
                    "shared": {name: _nan(unit.vectors, unit.present) for name, unit in shared.items()},
                    "features": {
                        name: _nan(item.features, item.present)
                        for name, item in found.items()
                        if not isinstance(item, FootprintEmbedding)
                    },
                }
            )
            if "gedi" in found and batch.gedi is not None:
                under = [item for item in places if "gedi" in item.sensors]
                at = footprint_column(batch, batch.gedi).numpy()
                footprints.append(
                    {
                        "place": _columns_of(batch)[at],
                        "chip": columns[-1]["chip"][at],
                        "features": {"gedi": _nan(found["gedi"].features, found["gedi"].present)},
                        "matched": {
                            name: _nan(item.vectors[row], item.present[row])
                            for item in under
                            for row, name in enumerate(item.sensors)
                        },
                    }
                )
        self.columns = _sites(columns, "features")
        self.shared = _sites(columns, "shared")
        self.footprints = _sites(footprints, "features") if footprints else None
        self.matched = _sites(footprints, "matched") if footprints else None

    def held(self, sites: Sites) -> np.ndarray:
        """[N] whether a site was never trained on."""
        return self._held[tuple(sites.place.T)]

    @cached_property
    def fused(self) -> np.ndarray:
        """[N, D] of the columns."""
        return self.fused_of(self.present)

    @cached_property
    def present(self) -> np.ndarray:
        """[N, sensors] which sensors saw a column."""
        return np.stack([np.isfinite(values[:, 0]) for values in self.shared.features.values()], axis=1)

    def fused_of(self, present: np.ndarray) -> np.ndarray:
        """Fused embeddings from some of the sensors, NaN where there is none."""
        parts = {
            name: (torch.from_numpy(np.nan_to_num(values)), torch.from_numpy(present[:, number]))
            for number, (name, values) in enumerate(self.shared.features.items())
        }
        fused, observed = fuse(parts)
        return np.where(observed.numpy()[:, None], fused.numpy(), np.nan)


def _columns_of(batch: ChipBatch) -> np.ndarray:
    at = np.arange(batch.size)
    row, col = (axis.ravel() for axis in np.meshgrid(at, at, indexing="ij"))
    return np.concatenate([np.stack([row, col], axis=1) + origin for origin in batch.origin.numpy()])


def _nan(values: Tensor, present: Tensor) -> np.ndarray:
    return np.where(present.numpy()[:, None], values.double().numpy(), np.nan)


def _sites(parts: list[dict[str, Any]], kind: str) -> Sites:
    """Join batches; a sensor that is absent from one saw nothing there."""
    widths = {name: values.shape[1] for part in parts for name, values in part[kind].items()}
    features = {
        name: np.concatenate([part[kind].get(name, np.full((len(part["place"]), width), np.nan)) for part in parts])
        for name, width in sorted(widths.items())
    }
    return Sites(np.concatenate([part["place"] for part in parts]), np.concatenate([part["chip"] for part in parts]), features)


# -- scores


def score(checkpoint: Path, material: Material, seed: int) -> dict[str, Any]:
    """All figures of a checkpoint, in plain types."""
    module = load_pretraining(checkpoint, "cpu")
    found = Embeddings(module, material, module.hparams["geolocation_sigma"])
    fused, half = fused_scores(found, material, seed)
    private = private_scores(found, material)
    recall = recall_scores(found, seed)
    return {
        "fused": _mean(fused.values()),
        "half_missing": _mean(half.values()),
        "private": _mean(private.values()),
        "recall_at_10": _mean(item[0] for item in recall.values()),
        "chance_at_10": _mean(item[1] for item in recall.values()),
        "loss_ms": loss_milliseconds(module, material.batches[0], seed),
        "fused_by_variable": fused,
        "half_missing_by_variable": half,
        "private_by_variable": private,
        "recall_by_pair": {name: {"recall": item[0], "chance": item[1], "candidates": item[2]} for name, item in recall.items()},
    }


def fused_scores(found: Embeddings, material: Material, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """R2 by variable from all sensors, and from a random half of them."""
    held = found.held(found.shared)
    random = np.random.default_rng((seed, 1))
    poorer = [found.fused_of(without_half(found.present, random)) for _ in range(DRAWS)]
    whole, half = {}, {}
    for name, what in _variables(several=True).items():
        if not any(_sees(sensor, what) for sensor in found.sensors):
            continue
        scores = [probe(name, features, material, found.shared, held) for features in (found.fused, *poorer)]
        if all(value is not None for value in scores):
            whole[name], half[name] = scores[0], float(np.mean(scores[1:]))
    return whole, half


def private_scores(found: Embeddings, material: Material) -> dict[str, float]:
    """R2 by "variable from sensor", for variables that one sensor sees."""
    result = {}
    for name, what in _variables(several=False).items():
        for sensor in found.sensors:
            sites = found.footprints if sensor == "gedi" else found.columns
            if not _sees(sensor, what) or sites is None or sensor not in sites.features:
                continue
            value = probe(name, sites.features[sensor], material, sites, found.held(sites))
            if value is not None:
                result[f"{name} from {sensor}"] = value
    return result


def probe(name: str, features: np.ndarray, material: Material, sites: Sites, held: np.ndarray) -> float | None:
    """R2 on held-out sites of a ridge regression fitted on the others; None if there are few.

    A direction has a period of 180 degrees: its score is the mean of those of the cosine and the sine of twice the angle.
    """
    target = material.targets[name][tuple(sites.place.T)]
    usable = np.isfinite(target) & np.isfinite(features).all(axis=1)
    train, test = usable & ~held, usable & held
    if min(train.sum(), test.sum()) < FEWEST:
        return None
    turned = np.radians(2 * target)
    parts = (np.cos(turned), np.sin(turned)) if name == "row_direction" else (target,)
    scores = []
    for part in parts:
        fit = fit_ridge(features[train], part[train], groups=sites.chip[train].astype(np.int64))
        scores.append(r_squared(fit.ridge.predict(features[test]), part[test]))
    return float(np.mean(scores))


def r_squared(predicted: np.ndarray, target: np.ndarray) -> float:
    """Share of the variance that is explained; below 0 when the mean of the targets would be nearer."""
    spread = ((target - target.mean()) ** 2).sum()
    return float(1.0 - ((target - predicted) ** 2).sum() / spread) if spread > 0 else float("nan")


def without_half(present: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """[N, sensors] what is left when each column loses half of its sensors, rounded down, at random."""
    rank = np.where(present, random.random(present.shape), np.inf).argsort(axis=1).argsort(axis=1)
    return present & (rank < (present.sum(axis=1, keepdims=True) + 1) // 2)


def recall_scores(found: Embeddings, seed: int, most: int = 1000) -> dict[str, tuple[float, float, int]]:
    """By "query -> gallery", R@10 on held-out sites, what chance gives, and the number of candidates."""
    result = {}
    for query, gallery in permutations(found.sensors, 2):
        sites = found.matched if "gedi" in (query, gallery) else found.shared
        if sites is None or not {query, gallery} <= set(sites.features):
            continue
        first, second = sites.features[query], sites.features[gallery]
        both = np.flatnonzero(np.isfinite(first[:, 0]) & np.isfinite(second[:, 0]) & found.held(sites))
        both = np.sort(np.random.default_rng(seed).permutation(both)[:most])
        if len(both) < 2:
            continue
        pair = score_pair((query, gallery), first[both], second[both], sites.place[both].astype(float), 0.0)
        result[f"{query} -> {gallery}"] = pair.recall[10], pair.chance[10], pair.candidates
    return result


def loss_milliseconds(module: CrossModalPretraining, batch: ChipBatch, seed: int, times: int = 3) -> float:
    """Median CPU time of the alignment's loss and its gradient with respect to the embeddings, milliseconds.

    Of jepa, the predictor and the teacher's encoders are part of the loss.
    """
    pairs = meeting_pairs(batch)
    count = len(pairs) if module.alignment.every_sensor else module.hparams["pairs"]
    drawn = draw_pairs(pairs, max(1, count), stream(seed))
    encoding = 0.0

    def encode(part: ChipBatch, sensor: str) -> Found:
        nonlocal encoding
        began = time.process_time()
        with torch.no_grad():
            found = module.encode(part, sensor)
        encoding += time.process_time() - began
        return replace(found, shared=found.shared.clone().requires_grad_(), features=found.features.clone().requires_grad_())

    seconds = []
    for _ in range(times):
        encoding, began = 0.0, time.process_time()
        module.alignment(Views(batch, encode), drawn, (seed, 0)).loss.backward()
        seconds.append(time.process_time() - began - encoding)
    return 1000 * float(np.median(seconds))


def _variables(several: bool) -> dict[str, tuple[str, ...]]:
    return {item.truth: item.sensors for item in VISIBILITY if item.truth not in CLASSES and (len(item.sensors) > 1) == several}


def _sees(sensor: str, kinds: tuple[str, ...]) -> bool:
    """Sentinel-1's two orbits are the sensors s1_asc and s1_desc of a scene."""
    return any(sensor == kind or sensor.startswith(f"{kind}_") for kind in kinds)


def _mean(values: Any) -> float | None:
    found = [value for value in values if np.isfinite(value)]
    return float(np.mean(found)) if found else None
