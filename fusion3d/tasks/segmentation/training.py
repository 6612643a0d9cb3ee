"""Training of the network on labelled points: of the head on frozen features, then, if asked for, of the encoder with it.

Rare classes count more: a point of a class weighs the inverse square root of the class's share, a compromise between the error
over all points and the mean over classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from fusion3d.encoders.als import AlsEncoder
from fusion3d.pretraining.schedule import rate
from fusion3d.tasks.segmentation.network import PointClassifier
from fusion3d.tasks.segmentation.pieces import Piece

BoolArray = npt.NDArray[np.bool_]

HEAD_STEPS = 500
"""Of the head alone."""
FINETUNE_STEPS = 150
"""Of encoder and head together; each takes one square."""
_BATCH = 2048
_RATE = 3e-3
_ENCODER_RATE = 1e-3
_DECAY = 0.01


@dataclass(frozen=True)
class Schedule:
    """How long is trained.

    Attributes
    ----------
    head : steps of the head alone
    finetune : steps of encoder and head; 0 leaves the encoder as it is
    seed : of weights and of draws
    """

    head: int = HEAD_STEPS
    finetune: int = 0
    seed: int = 0


@torch.inference_mode()
def frozen_features(network: PointClassifier, pieces: Sequence[Piece], advance: Callable[[], None]) -> list[Tensor]:
    """Features of the squares' points, piece by piece."""
    found = []
    for piece in pieces:
        found.append(network.features(piece))
        advance()
    return found


def train(
    encoder: AlsEncoder,
    voxel: float,
    pieces: Sequence[Piece],
    features: Sequence[Tensor],
    places: Sequence[Tensor],
    used: Sequence[Tensor],
    classes: int,
    schedule: Schedule,
    advance: Callable[[], None],
) -> PointClassifier:
    """A network for labelled points; the encoder that is given stays as it is.

    Parameters
    ----------
    features : of each piece by that encoder, as `frozen_features` gives them
    places : class of each point of a square, -1 without one
    used : which points to learn from; they have a class
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(schedule.seed)
        network = PointClassifier(copy.deepcopy(encoder) if schedule.finetune else encoder, classes, voxel)
        device = features[0].device
        network.to(device)
        known = torch.cat([part[which] for part, which in zip(features, used, strict=True)])
        true = torch.cat([part[which] for part, which in zip(places, used, strict=True)]).to(device)
        share = torch.bincount(true, minlength=classes).double() / len(true)
        weight = torch.where(share > 0, share.clamp(min=1e-12) ** -0.5, 0.0)
        weight = (weight / (weight * share).sum()).float()
        network.head.standardise_to(known)
        generator = np.random.default_rng(schedule.seed)
        _train_head(network.head, known, true, weight, schedule.head, generator)
        advance()
        if schedule.finetune:
            _finetune(network, pieces, places, used, weight, schedule.finetune, generator, advance)
    return network.eval()


def _train_head(head: nn.Module, known: Tensor, true: Tensor, weight: Tensor, steps: int, generator: np.random.Generator) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), lr=_RATE, weight_decay=_DECAY)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * rate(step, min(20, steps // 5), steps)
        batch = torch.from_numpy(generator.integers(len(known), size=min(_BATCH, len(known)))).to(known.device)
        optimizer.zero_grad()
        functional.cross_entropy(head(known[batch]), true[batch], weight).backward()
        optimizer.step()


def _finetune(
    network: PointClassifier,
    pieces: Sequence[Piece],
    places: Sequence[Tensor],
    used: Sequence[Tensor],
    weight: Tensor,
    steps: int,
    generator: np.random.Generator,
    advance: Callable[[], None],
) -> None:
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=_ENCODER_RATE, weight_decay=_DECAY)
    # a square counts as its points do
    counts = np.array([int(which.sum()) for which in used], np.float64)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _ENCODER_RATE * rate(step, min(10, steps // 5), steps)
        at = int(generator.choice(len(pieces), p=counts / counts.sum()))
        which = used[at].to(weight.device)
        optimizer.zero_grad()
        functional.cross_entropy(network(pieces[at])[which], places[at].to(weight.device)[which], weight).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        advance()


@torch.inference_mode()
def probabilities(network: PointClassifier, piece: Piece, features: Tensor | None = None) -> npt.NDArray[np.float32]:
    """[N, K] of the points of a square; from features where they are known."""
    said = network(piece) if features is None else network.head(features)
    return np.asarray(said.softmax(dim=1).cpu().numpy())
