"""Prediction from subsets: what trains the fusion, and what says what an absent sensor would have seen.

Of the sensors that ran in a step, each chip keeps a random subset S. From the fused embedding of S come, for every sensor m that
ran, inside and outside of S,

    L_m = Huber(R_m g_m(z_S, f_S), R_m x_m)                                  the signal of m, as in `retention`
        + [m not in S] (Huber(e_m(z_S, f_S), f_m) + 1 - z_S . z_m)           its features and its shared vector, no gradient to m

with small decoders g_m and e_m, z_S and f_S the unit vector and the features of the set attention. The variances of the
precision-weighted mean are learnt from pairs of sensors alone, by the likelihood of how far they lie apart in a column:

    L_ab = log(s_a^2 + s_b^2) + |z_a - z_b|^2 / (s_a^2 + s_b^2)

With three sensors or more that tells the share of each, as in triple collocation (Stoffelen 1998, JGR 103), and a step with two
sensors is enough to learn from. It has no gradient to the encoders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from fusion3d.data.observation import Band, ChipBatch, RasterObservation
from fusion3d.encoders.footprint_cells import on_cells
from fusion3d.encoders.fusion import ColumnFusion, Parts
from fusion3d.encoders.output import ColumnEmbedding, FootprintEmbedding
from fusion3d.encoders.registry import Encoder
from fusion3d.errors import ConfigError
from fusion3d.ops import footprint_pool
from fusion3d.pretraining.distributed import counts_by_rank, mean_over_ranks, rank
from fusion3d.pretraining.hiding import all_of
from fusion3d.pretraining.retention import RetentionTarget, make_decoder, retention_error
from fusion3d.pretraining.views import Found, Views

if TYPE_CHECKING:
    from fusion3d.pretraining.module import CrossModalPretraining

_Embedding = TypeVar("_Embedding", ColumnEmbedding, FootprintEmbedding)
_Sum = tuple[Tensor, Tensor | int]
"""Of the terms of a loss, and how many they are."""
_NAMELESS = 0.1
_LEAST_MASS = 0.2


class SubsetPrediction(nn.Module):
    """The loss that trains a `ColumnFusion`, with its decoders.

    Parameters
    ----------
    encoders : by sensor
    fusion : to be trained; it stays the caller's
    target : what is predicted of a signal, as in retention
    geolocation_sigma : of GEDI footprints, metres
    teach_encoders : the gradient reaches the encoders too, not the fusion alone
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        fusion: ColumnFusion,
        target: RetentionTarget = "identity",
        geolocation_sigma: float = 10.0,
        teach_encoders: bool = False,
    ) -> None:
        super().__init__()
        inputs = fusion.shared_dim + fusion.width
        self.target, self.geolocation_sigma, self.teach_encoders = target, geolocation_sigma, teach_encoders
        self.signal = nn.ModuleDict({name: make_decoder(name, inputs) for name in encoders})
        self.features = nn.ModuleDict({name: _feature_decoder(inputs, encoder.width) for name, encoder in encoders.items()})

    def forward(
        self, fusion: ColumnFusion, views: Views, weights: Mapping[str, float], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the terms, and each as it is.

        Parameters
        ----------
        views : of which the sensors in `weights` are encoded
        weights : by sensor that ran
        generator : of the subsets, on the CPU; in the same state on every process that trains with others
        """
        batch = views.batch
        chips = ChipsOfAll.of(batch.chips, next(fusion.parameters()).device)
        found = {name: self._limit_gradient(views.embedding(name)) for name in sorted(weights)}
        parts = {name: on_cells(item, batch) for name, item in found.items()}
        nameless = {name: _of_columns(chips.rand(generator) < _NAMELESS, part) for name, part in parts.items()}
        loss, terms = variance_loss(fusion, parts, weights, nameless, generator)
        kept = {name: _of_columns(keep, parts[name]) for name, keep in draw_subsets(parts, chips, generator).items()}
        subset = {name: _limited(part, kept[name]) for name, part in parts.items()}

        def answered(piece: ChipBatch, start: int, *vectors: Tensor) -> dict[str, tuple[_Sum, _Sum]]:
            own = slice(start * batch.size**2, (start + piece.chips) * batch.size**2)
            seen = {
                name: _rows(replace(part, shared=shared, features=features), own)
                for (name, part), shared, features in zip(subset.items(), vectors[::2], vectors[1::2], strict=True)
            }
            fused = fusion.attention(seen, {name: item[own] for name, item in nameless.items()})
            told = torch.cat((fused.shared, fused.features), dim=1)
            sums = {}
            for name in weights:
                answer = self._answer(name, told, fused.observed, piece)
                truth = _rows(found[name], own if name != "gedi" else _footprints(batch, start, start + piece.chips))
                absent = self._absent_error(name, *answer, truth, ~kept[name][own], piece, fusion.shared_dim)
                sums[name] = self._signal_error(name, *answer, piece), absent
            return sums

        # as fine as the sensor of most pieces: here all of them are decoded
        finest = max(weights, key=lambda name: len(views.pieces(name)))
        vectors = [item for part in subset.values() for item in (part.shared, part.features)]
        pieces = views.in_pieces(finest, answered, *vectors)
        for name, weight in weights.items():
            for index, term in enumerate((f"prediction_{name}", f"prediction_absent_{name}")):
                sums = [piece[name][index] for piece in pieces]
                value = mean_over_ranks(torch.stack([total for total, _ in sums]).sum(), sum(count for _, count in sums))
                if value is not None:
                    loss, terms[term] = loss + weight * value, value.detach()
        return loss, terms

    def _limit_gradient(self, found: Found) -> Found:
        return found if self.teach_encoders else replace(found, shared=found.shared.detach(), features=found.features.detach())

    def _answer(self, sensor: str, told: Tensor, observed: Tensor, batch: ChipBatch) -> tuple[Tensor, Tensor]:
        """The fused embeddings at the places of a sensor, columns or footprints, and where they are."""
        if sensor != "gedi":
            return told, observed
        return self._at_footprints(told, observed, batch)

    def _at_footprints(self, values: Tensor, present: Tensor, batch: ChipBatch) -> tuple[Tensor, Tensor]:
        if batch.gedi is None:
            return values[:0], present[:0]
        position, chip = batch.gedi.position.to(values.device), batch.gedi.chip.to(values.device)
        place = (batch.chips, batch.size, batch.column, position, chip)
        pooled, mass = footprint_pool(values.float(), *place, geolocation_sigma=self.geolocation_sigma, present=present)
        return pooled.to(values.dtype), mass >= _LEAST_MASS

    def _signal_error(self, sensor: str, answer: Tensor, there: Tensor, batch: ChipBatch) -> _Sum:
        asked = all_of(batch, sensor)
        if asked is None:
            return torch.zeros((), device=answer.device), 0
        asked = replace(asked, target=asked.target.to(answer.device), known=asked.known.to(answer.device))
        raster = batch.rasters.get(sensor)
        return retention_error(self.signal[sensor], answer, there, asked, raster, self.target, sensor)

    def _absent_error(
        self,
        sensor: str,
        answer: Tensor,
        there: Tensor,
        truth: Found,
        left_out: Tensor,
        batch: ChipBatch,
        shared_dim: int,
    ) -> _Sum:
        """Features and shared vector of a sensor where it was left out and the others saw something."""
        if sensor == "gedi" and batch.gedi is not None:
            left_out = left_out.view(batch.chips, -1)[:, 0][batch.gedi.chip.to(left_out.device)]
        if sensor == "gedi" and batch.gedi is None:
            left_out = left_out[:0]
        keep = there & truth.present & left_out
        features = self.features[sensor](answer[keep]).float()
        shared = functional.normalize(answer[keep][:, :shared_dim].float(), dim=1)
        true = functional.normalize(truth.shared[keep].detach().float(), dim=1)
        apart = 1 - (shared * true).sum(dim=1)
        wrong = functional.huber_loss(features, truth.features[keep].detach().float(), reduction="none").mean(dim=1)
        return (wrong + apart).sum(), keep.sum()


def _feature_decoder(inputs: int, outputs: int) -> nn.Module:
    hidden = max(inputs, outputs)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


def variance_loss(
    fusion: ColumnFusion,
    parts: Parts,
    weights: Mapping[str, float],
    nameless: Mapping[str, Bool[Tensor, " sites"]],
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Likelihood of the squared distances of sensors that saw the same sites, each compared with the next of a random circle."""
    log_variance = fusion.log_variances(parts, nameless)
    names = sorted(parts)
    circle = [names[at] for at in torch.randperm(len(names), generator=generator).tolist()]
    loss, values = next(iter(log_variance.values())).new_zeros(()), []
    for first, second in zip(circle, circle[1:] + circle[:1] if len(circle) > 2 else circle[1:]):
        both = parts[first].present & parts[second].present
        units = [functional.normalize(parts[name].shared[both].detach().float(), dim=1) for name in (first, second)]
        variance = log_variance[first][both].float().exp() + log_variance[second][both].float().exp()
        terms = variance.log() + (units[0] - units[1]).square().sum(dim=1) / variance
        value = mean_over_ranks(terms.sum(), both.sum())
        if value is None:
            continue
        loss = loss + (weights[first] + weights[second]) / 2 * value
        values.append(value.detach())
    return loss, {"prediction_variance": torch.stack(values).mean()} if values else {}


@dataclass(frozen=True)
class ChipsOfAll:
    """The chips of this process among those of all processes: what is drawn for a chip depends on its place among all of them.

    Parameters
    ----------
    own : chips of this process
    first : place of the first of them
    total : chips of all processes
    """

    own: int
    first: int
    total: int

    @classmethod
    def of(cls, own: int, device: torch.device | str) -> ChipsOfAll:
        """Ask the other processes (`device`: one that they exchange tensors of)."""
        counts = counts_by_rank(own, device)
        return cls(own, sum(counts[: rank()]), sum(counts))

    def rand(self, generator: torch.Generator, *shape: int) -> Float[Tensor, "... own"]:
        """Numbers within 0 and 1, drawn for all chips."""
        return self._own(torch.rand(*shape, self.total, generator=generator))

    def spread(self, generator: torch.Generator) -> Float[Tensor, " own"]:
        """Numbers within 0 and 1 that lie evenly, in random order, over all chips."""
        order = torch.randperm(self.total, generator=generator)
        return self._own((order + torch.rand((), generator=generator)) / max(1, self.total))

    def _own(self, values: Tensor) -> Tensor:
        return values[..., self.first : self.first + self.own]


def draw_subsets(
    parts: Mapping[str, ColumnEmbedding], chips: ChipsOfAll, generator: torch.Generator
) -> dict[str, Bool[Tensor, " chips"]]:
    """Of each chip a subset of the sensors that saw something of it, not empty: all sizes alike, then all subsets of the size.

    The sizes are spread evenly over the chips of a step.
    """
    names = sorted(parts)
    there = torch.stack([parts[name].present.view(chips.own, -1).any(dim=1).cpu() for name in names])
    drawn = chips.rand(generator, len(names))
    order = torch.where(there, drawn, torch.inf).argsort(dim=0).argsort(dim=0)
    size = (chips.spread(generator) * there.sum(dim=0)).long() + 1
    return dict(zip(names, (order < size) & there, strict=True))


def _of_columns(of_chips: Tensor, part: ColumnEmbedding) -> Bool[Tensor, " columns"]:
    chosen = of_chips.to(part.present.device)
    return chosen.repeat_interleave(len(part.present) // max(1, len(chosen)))


def _limited(part: ColumnEmbedding, kept: Tensor) -> ColumnEmbedding:
    return replace(part, present=part.present & kept)


def _rows(found: _Embedding, where: slice) -> _Embedding:
    """Some columns, or footprints, of an embedding."""
    return replace(found, shared=found.shared[where], features=found.features[where], present=found.present[where])


def _footprints(batch: ChipBatch, start: int, stop: int) -> slice:
    """The footprints in the chips ``start:stop``."""
    if batch.gedi is None:
        return slice(0, 0)
    return slice(*torch.searchsorted(batch.gedi.chip, torch.tensor([start, stop], device=batch.gedi.chip.device)).tolist())


# -- what an absent sensor would say


@dataclass(frozen=True)
class AbsentSensor:
    """What the others say that a sensor would have seen of each column.

    Attributes
    ----------
    features : as its encoder would give them, shared and private
    signal : its measurement: square roots of the shares of returns (als) or energy (gedi) in bins of 1 m from -1 m to 64 m,
        scaled to a mean square of 1 [columns, bins]; or standardised means of bands on dates [chips, dates, bands, rows, cols].
        None where no bands were asked for
    observed : one of the others saw the column; the rest is 0 there
    """

    features: Float[Tensor, "columns width"]
    signal: Tensor | None
    observed: Bool[Tensor, " columns"]


@torch.no_grad()
def predict_absent(
    module: CrossModalPretraining,
    batch: ChipBatch,
    sensor: str,
    given: Sequence[str] | None = None,
    bands: Sequence[Band] = (),
    days: Sequence[float] = (float("nan"),),
) -> AbsentSensor:
    """What a sensor would say of the columns of a batch, from other sensors.

    Parameters
    ----------
    module : checkpoint of `fusion3d pretrain` with a trained fusion
    sensor : that training knew
    given : sensors to predict from; None takes all others that the batch holds
    bands, days : of a raster sensor's signal that is asked for; days since 1970-01-01, NaN for no date

    Raises
    ------
    ConfigError
        The module has no trained fusion, does not know a sensor, or the batch holds none to predict from.
    """
    heads, fusion = getattr(module, "prediction", None), getattr(module, "fusion", None)
    if heads is None or fusion is None:
        raise ConfigError("the checkpoint has no trained fusion; pretrain with --model.prediction above 0")
    if sensor not in heads.signal:
        raise ConfigError(f"the checkpoint knows no sensor {sensor!r}; it has {', '.join(heads.signal)}")
    names = [name for name in batch.sensors if name != sensor and name in module.encoders] if given is None else list(given)
    strange = [name for name in names if name not in batch.sensors or name not in module.encoders]
    if strange or not names:
        raise ConfigError(
            f"nothing to predict {sensor} from: the batch and the checkpoint must hold {', '.join(strange) or 'another'}"
        )
    parts = {name: on_cells(module.encode(batch, name), batch) for name in names}
    fused = fusion.attention(parts)
    told = torch.cat((fused.shared, fused.features), dim=1)
    features = torch.where(fused.observed.unsqueeze(1), heads.features[sensor](told), 0.0)
    return AbsentSensor(features, _signal(heads.signal[sensor], told, fused.observed, sensor, batch, bands, days), fused.observed)


def _signal(
    decoder: nn.Module,
    told: Tensor,
    observed: Tensor,
    sensor: str,
    batch: ChipBatch,
    bands: Sequence[Band],
    days: Sequence[float],
) -> Tensor | None:
    if sensor in ("als", "gedi"):
        return torch.where(observed.unsqueeze(1), decoder(told), 0.0)
    if not bands:
        return None
    chips, size = batch.chips, batch.size
    empty = told.new_zeros(chips, len(days), len(bands), 0, 0)
    dates = torch.tensor(list(days), device=told.device).expand(chips, -1)
    raster = RasterObservation(
        empty, empty.bool(), dates, torch.ones_like(dates, dtype=torch.bool), tuple(bands), batch.column, 1, 1, batch.origin * 0
    )
    answer = decoder(told.view(chips, size, size, -1), raster)
    return torch.where(observed.view(chips, 1, 1, size, size), answer, 0.0)
