"""From a store whose points have classes to a classifier of points, scored on blocks of ground that it never saw.

Squares of ground are drawn by lot until there are enough points; each is encoded with its halo. Blocks are held out in turn:
every point is predicted by a network that learned nothing in its block. Commonest class, random forest and random weights are
scored on the same points. The classes are labels only: heights are made from positions (`ground`), not from the ground class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusion3d.encoders.als import AlsEncoder
from fusion3d.errors import ConfigError, StoreError
from fusion3d.evaluation.blocks import check_split
from fusion3d.evaluation.checkpoint import choose_sensors, load_pretraining
from fusion3d.progress import progress_bar
from fusion3d.store import Store
from fusion3d.tasks.classes.calibration import calibration_error, fit_temperature, tempered
from fusion3d.tasks.fit_folder import out_folder, write_fit
from fusion3d.tasks.scorecard import FoldFacts
from fusion3d.tasks.segmentation.asprs import UNLEARNED, class_name, parse_classes, point_legend
from fusion3d.tasks.segmentation.cloud import Box, StoreCloud
from fusion3d.tasks.segmentation.ground import GroundModel
from fusion3d.tasks.segmentation.network import PointClassifier, untrained
from fusion3d.tasks.segmentation.pieces import SQUARE, WITHOUT_VOXEL, Piece, Squares, occupied, read_piece
from fusion3d.tasks.segmentation.point_card import PointCard
from fusion3d.tasks.segmentation.point_folds import PointFolds, point_folds
from fusion3d.tasks.segmentation.point_model import PointModel, write_point_model
from fusion3d.tasks.segmentation.point_scores import PointScores, confusion_by_block, point_scores
from fusion3d.tasks.segmentation.predictions import PointPredictions
from fusion3d.tasks.segmentation.training import FINETUNE_STEPS, HEAD_STEPS, Schedule, frozen_features, probabilities, train

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MOST_POINTS = 600_000
"""That are learned from and scored; squares beyond are not read."""
FOREST_POINTS = 20_000
"""That each forest learns from."""
_TREES = 100
_LEAST = 500
"""Points below which a class is not learned unless it is asked for."""
_BUFFER = 4
"""Voxels around held-out blocks in which nothing is learned, by default."""


@dataclass(frozen=True)
class PointFit:
    """A fitted classifier and its scores; `out` is the folder that holds them as files."""

    out: Path
    model: PointModel
    card: PointCard
    predictions: PointPredictions

    def __str__(self) -> str:
        card = self.card
        head = f"classes of points: {card.points} points, {card.folds.of('points')}"
        return "\n".join([head, "", card.table(), "", *(f"note: {text}" for text in card.notes), f"model and scores: {self.out}"])


def fit_points(
    store: str | Path | Store,
    checkpoint: str | Path,
    out: str | Path,
    *,
    classes: str | None = None,
    finetune: bool = False,
    steps: int | None = None,
    block: float | None = None,
    folds: int = 5,
    buffer: float | None = None,
    most_points: int = MOST_POINTS,
    head_steps: int = HEAD_STEPS,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> PointFit:
    """Fit a classifier of points, score it on held-out ground and calibrate its confidence.

    Parameters
    ----------
    store : column store with classified points
    checkpoint : .ckpt, or run folder of `fusion3d pretrain`, with an als encoder
    out : folder for model.json and model.safetensors, scores.json and predictions.csv
    classes : codes as "2,5,6"; None takes those of the store but for `UNLEARNED` and very rare ones
    finetune : train the encoder on the labels too, instead of leaving it as pretraining left it
    steps : of finetuning
    block : side of the blocks that are held out, metres; None chooses it
    folds : to hold out in turn
    buffer : metres around held-out blocks in which nothing is learned; None for four voxels
    most_points : more are not read: squares are drawn by lot
    head_steps : of the head on frozen features
    seed : of draws, folds and weights

    Raises
    ------
    InputError
        A file cannot be used, or too few points or classes are there.
    ConfigError
        An option is out of range.
    """
    check_split("blocks", seed)
    if steps is not None and (steps < 1 or not finetune):
        raise ConfigError("--steps counts those of --finetune, at least 1")
    if most_points < 1:
        raise ConfigError(f"--points {most_points} must be at least 1")
    folder = out_folder(out)
    opened = store if isinstance(store, Store) else Store.open(store)
    source = StoreCloud(opened)
    notes: list[str] = []
    codes = _codes(opened, classes, notes)
    module = load_pretraining(checkpoint, device)
    choose_sensors(module, opened, ["als"])
    encoder = module.encoders["als"]
    assert isinstance(encoder, AlsEncoder)
    # of a part of the scene, many small squares show more than a few large ones
    whole = source.store.statistics("als")["points"] <= most_points
    squares = Squares.of(encoder, opened.grid.voxel, SQUARE if whole else SQUARE // 2)
    pieces = _pieces(source, squares, codes, most_points, seed, notes, progress)
    codes = _present(opened, pieces, codes, notes)
    places = [_places(piece, codes) for piece in pieces]
    labelled = [piece.core.take(place >= 0) for piece, place in zip(pieces, places, strict=True)]
    split = point_folds(labelled, block, folds, _BUFFER * squares.voxel if buffer is None else buffer, seed)
    schedule = Schedule(head_steps, (steps or FINETUNE_STEPS) if finetune else 0, seed)
    data = _Data(pieces, places, split, len(codes))
    rounds = 2 * len(pieces) + (2 * split.count + 1) * (1 + schedule.finetune) + 2 * split.count
    with progress_bar("fit", rounds, progress) as advance:
        said, network = _cross_fit(data, encoder, squares.voxel, schedule, advance, final=True)
        random, _ = _cross_fit(data, untrained(encoder, seed).to(module.device).eval(), squares.voxel, schedule, advance)
        forest = _forest(data, seed, advance)
    assert network is not None
    true, fold, block_of = (np.concatenate(part) for part in (data.true, data.fold, data.block))
    temperature, confident = _calibrate(said, true, fold)
    scores: dict[str, Any] = {
        "model": _score(data, said.argmax(axis=1), seed),
        "random_weights": _score(data, random.argmax(axis=1), seed),
        "forest": _score(data, forest, seed),
        "commonest": _score(data, data.commonest(), seed),
    }
    notes += _remarks(scores, codes)
    legend = point_legend(codes)
    trained_on = {"store": opened.path, "checkpoint": str(checkpoint), "points": str(len(true))}
    fitted = PointModel(legend, network, temperature, source.brightest, trained_on)
    card = PointCard(
        store=opened.path,
        checkpoint=str(checkpoint),
        classes=legend.names,
        codes=legend.codes,
        points=len(true),
        folds=FoldFacts("blocks", split.count, split.blocks, split.side, split.buffer, seed),
        voxel=squares.voxel,
        finetuned=schedule.finetune,
        temperature=temperature,
        calibration_error=calibration_error(confident, said.argmax(axis=1) == true),
        notes=tuple(notes),
        **scores,
    )
    predictions = PointPredictions.of(labelled, fold, block_of, true, said.argmax(axis=1), confident, forest, legend, seed)
    write_fit(folder, lambda path: write_point_model(fitted, path), card, predictions)
    return PointFit(folder, fitted, card, predictions)


@dataclass
class _Data:
    """Pieces with the labels of their points; `true`, `fold` and `block` are of the labelled points of each piece."""

    pieces: list[Piece]
    places: list[Int64]
    split: PointFolds
    classes: int

    def __post_init__(self) -> None:
        self.known = [place >= 0 for place in self.places]
        labelled = [piece.core.take(known) for piece, known in zip(self.pieces, self.known, strict=True)]
        self.true = [place[known] for place, known in zip(self.places, self.known, strict=True)]
        self.fold = [self.split.fold_of(cloud) for cloud in labelled]
        self.block = [self.split.block_of(cloud) for cloud in labelled]

    def used(self, number: int | None) -> list[BoolArray]:
        """Points of each piece to learn from when a fold is held out; all labelled ones for None."""
        if number is None:
            return self.known
        found = []
        for piece, known in zip(self.pieces, self.known, strict=True):
            used = known.copy()
            used[known] = self.split.learned(piece.core.take(known), number)
            found.append(used)
        return found

    def commonest(self) -> Int64:
        """[N] commonest class of what is trained with while each labelled point is held out."""
        found = np.zeros(sum(map(len, self.true)), np.int64)
        fold = np.concatenate(self.fold)
        for number in range(self.split.count):
            learned = np.concatenate([place[used] for place, used in zip(self.places, self.used(number), strict=True)])
            found[fold == number] = np.bincount(learned, minlength=self.classes).argmax()
        return found


def _codes(store: Store, classes: str | None, notes: list[str]) -> tuple[int, ...]:
    """Codes to learn: those asked for, or all of the store that say something."""
    assert store.attributes.als is not None
    counts = {int(code): count for code, count in store.attributes.als.classes.items()}
    if classes is not None:
        codes = parse_classes(classes)
        missing = [class_name(code) for code in codes if not counts.get(code)]
        if missing:
            raise StoreError(store.path, f"has no points of {', '.join(missing)}", f"it holds {_counted(counts)}")
        return codes
    codes = tuple(code for code, count in sorted(counts.items()) if code not in UNLEARNED and count >= _LEAST)
    left = {code: count for code, count in counts.items() if code not in codes and count}
    if len(codes) < 2:
        raise StoreError(
            store.path,
            f"holds {_counted(counts)}: too few classes to learn",
            "prepare classified tiles, or give --classes",
        )
    if left:
        notes.append(f"not learned, and not scored: {_counted(left)}")
    return codes


def _counted(counts: dict[int, int]) -> str:
    return ", ".join(f"{class_name(code)} ({code}) {count:,}" for code, count in sorted(counts.items())) or "no points"


def _pieces(
    source: StoreCloud, squares: Squares, codes: tuple[int, ...], most: int, seed: int, notes: list[str], progress: bool
) -> list[Piece]:
    """Squares with labelled points, drawn by lot until there are enough of these."""
    grid, ground = source.store.grid, GroundModel(source)
    west, north = grid.x0 * grid.unit, -grid.y0 * grid.unit
    every = squares.covering(Box(west, north, west + grid.cols * grid.column, north + grid.rows * grid.column))
    order = np.random.default_rng(seed).permutation(len(every))
    found: list[Piece] = []
    with progress_bar("read", len(every), progress) as advance:
        for at in order:
            piece = read_piece(source, ground, squares, *every[at])
            advance()
            if piece is None or not np.isin(piece.core.classes, codes).any():
                continue
            found.append(piece)
            if occupied(found) >= most:
                break
    if not found:
        raise StoreError(source.store.path, "holds no point to learn from", "give other --classes")
    total = source.store.statistics("als")["points"]
    if len(found) < len(every) and occupied(found) >= most:
        notes.append(f"{occupied(found):,} of {total:,} points, in {len(found)} of {len(every)} squares drawn by lot")
    return found


def _present(store: Store, pieces: list[Piece], codes: tuple[int, ...], notes: list[str]) -> tuple[int, ...]:
    """The classes that the drawn squares hold."""
    counts = sum((np.bincount(piece.core.classes, minlength=256) for piece in pieces), np.zeros(256, np.int64))
    found = tuple(code for code in codes if counts[code])
    if len(found) < 2:
        raise StoreError(store.path, "has fewer than two classes in the squares that were drawn", "give a larger --points")
    if gone := [class_name(code) for code in codes if code not in found]:
        notes.append(f"not in the squares that were drawn, so not learned: {', '.join(gone)}")
    return found


def _places(piece: Piece, codes: tuple[int, ...]) -> Int64:
    """[N] place of each point's class among the codes, -1 without one."""
    place = np.full(256, -1, np.int64)
    place[list(codes)] = np.arange(len(codes))
    return place[piece.core.classes]


def _cross_fit(
    data: _Data, encoder: AlsEncoder, voxel: float, schedule: Schedule, advance: Callable[[], None], *, final: bool = False
) -> tuple[Float32, PointClassifier | None]:
    """Held-out probabilities [N, K] of the labelled points, and a network trained on all of them where it is asked for."""
    device = next(encoder.parameters()).device
    features = frozen_features(PointClassifier(encoder, data.classes, voxel).to(device), data.pieces, advance)
    places = [torch.from_numpy(place) for place in data.places]
    found = [np.zeros((len(true), data.classes), np.float32) for true in data.true]

    def trained(number: int | None) -> PointClassifier:
        used: list[Tensor] = [torch.from_numpy(which) for which in data.used(number)]
        left = torch.unique(torch.cat([place[which] for place, which in zip(places, used, strict=True)]))
        if len(left) < 2:
            raise ConfigError(f"with fold {number} held out, one class is left to learn from: pass a smaller --block")
        return train(encoder, voxel, data.pieces, features, places, used, data.classes, schedule, advance)

    for number in range(data.split.count):
        network = trained(number)
        for at, piece in enumerate(data.pieces):
            held = data.fold[at] == number
            if held.any():
                said = probabilities(network, piece, None if schedule.finetune else features[at])
                found[at][held] = said[data.known[at]][held]
    return np.concatenate(found), trained(None) if final else None


def _forest(data: _Data, seed: int, advance: Callable[[], None]) -> Int64:
    """[N] classes of held-out points by a random forest on what the head knows without the encoder; classes weigh as there."""
    from sklearn.ensemble import RandomForestClassifier

    features = [piece.extras[:, WITHOUT_VOXEL].numpy()[known] for piece, known in zip(data.pieces, data.known, strict=True)]
    joined, true = np.concatenate(features), np.concatenate(data.true)
    fold, generator = np.concatenate(data.fold), np.random.default_rng(seed)
    found = np.zeros(len(true), np.int64)
    for number in range(data.split.count):
        used = np.concatenate([which[known] for which, known in zip(data.used(number), data.known, strict=True)])
        drawn = np.flatnonzero(used)
        if len(drawn) > FOREST_POINTS:
            drawn = generator.choice(drawn, FOREST_POINTS, replace=False)
        share = np.bincount(true[drawn], minlength=data.classes) / len(drawn)
        weight = np.where(share > 0, np.maximum(share, 1e-12) ** -0.5, 0.0)
        grown = RandomForestClassifier(_TREES, min_samples_leaf=3, random_state=seed, n_jobs=1)
        grown.fit(joined[drawn], true[drawn], sample_weight=weight[true[drawn]])
        advance()
        held = fold == number
        if held.any():
            found[held] = grown.predict(joined[held])
        advance()
    return found


def _score(data: _Data, said: Int64, seed: int) -> PointScores:
    true, block = np.concatenate(data.true), np.concatenate(data.block)
    return point_scores(confusion_by_block(block, true, said, data.classes, data.split.fold.size), seed)


def _calibrate(said: Float32, true: Int64, fold: Int64) -> tuple[float, npt.NDArray[np.float64]]:
    """The temperature of all held-out points, and their confidence with that of the other folds; from a sample of points."""
    every = max(1, len(true) // 100_000)
    columns, ones = said.T.astype(np.float64), np.ones(len(true))
    confident = np.zeros(len(true))
    for number in range(int(fold.max()) + 1):
        other = np.flatnonzero(fold != number)[::every]
        held = fold == number
        temperature = fit_temperature(columns[:, other], true[other], ones[other])
        confident[held] = tempered(columns[:, held], temperature).max(axis=0)
    return fit_temperature(columns[:, ::every], true[::every], ones[::every]), confident


def _remarks(scores: dict[str, PointScores], codes: tuple[int, ...]) -> list[str]:
    notes = []
    model, best = scores["model"], max(scores["forest"].mean_iou.value, scores["random_weights"].mean_iou.value)
    if not model.mean_iou.value > best:
        notes.append("warning: the pretrained encoder is no better than a baseline on held-out ground: see the first table")
    for code, each in zip(codes, model.found.classes, strict=True):
        if each.measured < _LEAST:
            notes.append(f"class {class_name(code)} is rare ({each.measured} points): its scores say little")
    return notes
