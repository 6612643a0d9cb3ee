"""Cross-modal pretraining as a LightningModule: encoders, their decoders and the loss of a step."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from fusion3d.data.observation import ChipBatch
from fusion3d.data.pairs import DrawnPair, Pair, draw_pairs, stream
from fusion3d.encoders.fusion import ColumnFusion
from fusion3d.encoders.output import ColumnEmbedding, FootprintEmbedding
from fusion3d.encoders.registry import ENCODERS, Encoder, Scalar, build, kind_of
from fusion3d.errors import ConfigError
from fusion3d.pretraining import baselines as baselines  # registers them
from fusion3d.pretraining.alignment import Aligned, build_alignment, contrast_of_pairs
from fusion3d.pretraining.budget import Plan, plan_pieces
from fusion3d.pretraining.distributed import counted_before, mean_over_ranks, of_any_rank, total_over_ranks
from fusion3d.pretraining.further_terms import FurtherTerms
from fusion3d.pretraining.hiding import hide_by_chip
from fusion3d.pretraining.memory import give_back_freed_memory, parse_size
from fusion3d.pretraining.objective import LocationContrast, meeting_pairs, meetings
from fusion3d.pretraining.prediction import SubsetPrediction
from fusion3d.pretraining.private import PrivateParts, check_private, decoded_width
from fusion3d.pretraining.retention import RetentionTarget, balanced, make_decoder, retention_error
from fusion3d.pretraining.schedule import rate
from fusion3d.pretraining.sharding import NAME, gather, is_sharded, make_rows_of_numbers, mesh_of, shard
from fusion3d.pretraining.views import Cut, Views, equal_pieces, nothing_seen

_PAIRS, _COLUMNS, _HIDING, _GLOBAL, _SUBSETS, _FURTHER = range(6)
_TRIM_EVERY = 50
"""Batches."""


class CrossModalPretraining(LightningModule):
    """Align what different sensors say of the same place, and keep what only one of them sees.

    Every random choice of a step depends on the seed and the step alone, so a resumed run equals an unbroken one.

    Parameters
    ----------
    preset : size of the encoders (tiny, small, base)
    encoder_options : by sensor, hyperparameters of its encoder that replace the preset's
    alignment : how embeddings of one place are made alike; the default contrasts drawn pairs of sensors. Published ways to
        compare with: mil_nce, star, consensus, jepa; none only reconstructs
    alignment_options : by name, options of the alignment: centre of star; decay, hidden, dropped, weight, depth and heads of jepa
    pairs : pairs of sensors contrasted a step; as many as there are is the exact sum over all pairs
    pair_weights : by "sensor-sensor", relative chance of being drawn (the loss stays unbiased); 1 when not named
    temperature : of the contrast at the start; it is learnt, within 0.01 and 1
    exclusion : columns nearer than that are no negatives, metres
    geolocation_sigma : of GEDI footprints, metres, one standard deviation
    max_columns : columns contrasted a step and pair, at most
    chips_at_once : chips that an encoder holds in memory; a larger batch is encoded in pieces, with the same gradients
    memory_budget : of each process, for instance 6GiB (also --memory-budget): chooses the pieces of each sensor by a dry run
    retention : weight of the reconstruction of hidden parts: at 1 about as strong as the contrast, larger to keep more of what
        only one sensor knows, 0: off
    retention_target : what is reconstructed: the signal itself, or a frozen random projection of it
    prediction : weight of predicting the sensors of a step from a random subset of them, which trains the fusion; 0: no fusion
    prediction_teaches : its gradient reaches the encoders too, not the fusion alone
    date_positives : weight of the contrast of each series that ran with itself on other dates; 0: off
    chip_contrast : weight of the contrast of whole chips, of each drawn pair; 0: off
    private : length of a private part of each embedding, from which, with the shared one, retention reconstructs; 0: not split
    private_weight : of the correlation of private with shared parts
    learning_rate, weight_decay, warmup_steps : AdamW, with a linear warm-up and then a cosine down to 1 %
    seed : of the weights and of every step's choices
    scene : sensors, grids and held-out part of the data (`ChipDataModule.facts`); filled in from the data in training
    """

    def __init__(
        self,
        preset: str = "tiny",
        encoder_options: dict[str, dict[str, int | float | str | bool]] | None = None,
        alignment: str = "pairs",
        alignment_options: dict[str, int | float | str | bool] | None = None,
        pairs: int = 1,
        pair_weights: dict[str, float] | None = None,
        temperature: float = 0.07,
        exclusion: float = 0.0,
        geolocation_sigma: float = 10.0,
        max_columns: int = 4096,
        chips_at_once: int | None = None,
        memory_budget: str | None = None,
        retention: float = 1.0,
        retention_target: RetentionTarget = "identity",
        prediction: float = 1.0,
        prediction_teaches: bool = False,
        date_positives: float = 0.0,
        chip_contrast: float = 0.0,
        private: int = 0,
        private_weight: float = 0.2,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        warmup_steps: int = 50,
        seed: int = 0,
        scene: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if pairs < 1:
            raise ConfigError(f"--model.pairs {pairs} must be at least 1")
        if retention < 0 or not math.isfinite(retention):
            raise ConfigError(f"--model.retention {retention} must be 0 or more")
        if prediction < 0 or not math.isfinite(prediction):
            raise ConfigError(f"--model.prediction {prediction} must be 0 or more")
        check_private(private, retention)
        if not (math.isfinite(learning_rate) and learning_rate > 0):
            raise ConfigError(f"--model.learning_rate {learning_rate} must be positive")
        self.save_hyperparameters(logger=False)
        if chips_at_once is not None and chips_at_once < 1:
            raise ConfigError(f"--model.chips_at_once {chips_at_once} must be at least 1")
        if memory_budget is not None and chips_at_once is not None:
            raise ConfigError("--model.memory_budget chooses --model.chips_at_once; give one of them")
        self._budget = None if memory_budget is None else parse_size(memory_budget, "--model.memory_budget")
        self._plan: Plan | None = None
        if alignment == "none" and not retention:
            raise ConfigError("--model.alignment none learns from reconstruction alone; keep --model.retention above 0")
        contrast = LocationContrast(temperature, exclusion, geolocation_sigma, max_columns)
        self.alignment = build_alignment(alignment, contrast, alignment_options)
        self.further_terms = FurtherTerms(date_positives, chip_contrast, private_weight)
        self.encoders: nn.ModuleDict[str, Encoder] = nn.ModuleDict()  # type: ignore[type-arg]
        self.decoders = nn.ModuleDict()
        self.private: PrivateParts | None = None
        self.fusion: ColumnFusion | None = None
        self.prediction: SubsetPrediction | None = None
        self._since_log: dict[str, list[Tensor]] = {}
        self.recorded_encoders: Mapping[str, Mapping[str, Scalar]] = {}
        """By sensor, all hyperparameters of its encoder: those of a checkpoint, which a preset may have changed since."""

    @property
    def contrast(self) -> LocationContrast:
        """Contrast of two sensors, with its temperature."""
        return self.alignment.contrast

    @property
    def sensors(self) -> tuple[str, ...]:
        """Names of the sensors that have an encoder."""
        return tuple(self.encoders)

    # -- building

    def _make_encoder(self, sensor: str) -> Encoder:
        kind = kind_of(sensor)
        if sensor in self.recorded_encoders:
            return ENCODERS[kind](**self.recorded_encoders[sensor])  # type: ignore[arg-type]
        return build(kind, self.hparams["preset"], **(self.hparams["encoder_options"] or {}).get(sensor, {}))

    def configure_model(self) -> None:
        """Build the encoders, from the data in training and from the hyperparameters in a loaded checkpoint."""
        if len(self.encoders):
            return
        if self.hparams["scene"] is None:
            facts = getattr(getattr(self._trainer, "datamodule", None), "facts", None)
            if facts is None:
                raise ConfigError(
                    "the sensors are not known: train with a ChipDataModule, or load a checkpoint of `fusion3d pretrain`"
                )
            self.hparams["scene"] = facts()
        sensors = self.hparams["scene"]["sensors"]
        if len(sensors) == 1 and not self.hparams["retention"]:
            raise ConfigError(
                f"{sensors[0]} is the only sensor: there is no other to compare it with; keep --model.retention above 0"
            )
        unknown = sorted(set(self.hparams["encoder_options"] or {}) - set(sensors))
        if unknown:
            raise ConfigError(f"--model.encoder_options names {', '.join(unknown)}, but the sensors are {', '.join(sensors)}")
        possible = {"-".join(pair) for pair in permutations(sensors, 2)}
        strange = sorted(set(self.hparams["pair_weights"] or ()) - possible)
        if strange:
            raise ConfigError(f"--model.pair_weights names {', '.join(strange)}, but pairs are like {sorted(possible)[0]}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.hparams["seed"])
            for sensor in sensors:
                encoder = self._make_encoder(sensor)
                self.encoders[sensor] = encoder
                if self.hparams["retention"]:
                    self.decoders[sensor] = make_decoder(sensor, decoded_width(encoder, self.hparams["private"]))
            lengths = {name: encoder.shared_dim for name, encoder in self.encoders.items()}
            if len(set(lengths.values())) > 1:
                raise ConfigError(f"encoders must agree on shared_dim to be compared, not {lengths}")
            self.alignment.begin(self.encoders)
        if self.hparams["private"]:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(stream(self.hparams["seed"], _FURTHER).initial_seed())
                self.private = PrivateParts(self.encoders, self.hparams["private"])
        if self.hparams["prediction"] and len(self.encoders) > 1:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(stream(self.hparams["seed"], _SUBSETS).initial_seed())
                self.fusion, self.prediction = self._make_fusion(next(iter(lengths.values())))
        shard(self, self.encoders, mesh_of(self._trainer), ("training_step", "validation_step"))

    def _make_fusion(self, shared_dim: int) -> tuple[ColumnFusion, SubsetPrediction]:
        fusion = ColumnFusion({name: encoder.width for name, encoder in self.encoders.items()}, shared_dim, shared_dim)
        target, sigma = self.hparams["retention_target"], self.hparams["geolocation_sigma"]
        return fusion, SubsetPrediction(self.encoders, fusion, target, sigma, self.hparams["prediction_teaches"])

    def receptive_field(self, sensors: Sequence[str], column: float, voxel: float) -> int:
        """Columns around a column that can change what an encoder of `sensors` says of it; metres in."""
        with torch.device("meta"):
            encoders = [self._make_encoder(name) for name in sensors]
        return max(encoder.receptive_field(column, voxel=voxel) for encoder in encoders)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """`ConfigError` when the data of a run that goes on are not those it began with."""
        if "prediction" not in checkpoint["hyper_parameters"]:
            # written before there was a fusion to train: it is used, and goes on, without one
            self.fusion = self.prediction = None
            self.hparams["prediction"] = 0.0
        make_rows_of_numbers(checkpoint["state_dict"], self)
        if checkpoint["hyper_parameters"].get("scene") != self.hparams["scene"]:
            raise ConfigError(
                "the store, the sensors or the held-out part are not those of the checkpoint; "
                "resume with the same --data options, or begin another run with another --out"
            )
        plan = Plan.from_plain(checkpoint["pieces"]) if "pieces" in checkpoint else None
        if plan is not None and (plan.budget, plan.device) == (self._budget, self.device.type):
            self._plan = plan

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW without decay of biases, norms and the temperature; the rate rises linearly and falls as a cosine."""
        decayed = [parameter for parameter in self.parameters() if parameter.requires_grad and parameter.dim() >= 2]
        plain = [parameter for parameter in self.parameters() if parameter.requires_grad and parameter.dim() < 2]
        optimizer = AdamW(
            [{"params": decayed, "weight_decay": self.hparams["weight_decay"]}, {"params": plain, "weight_decay": 0.0}],
            lr=self.hparams["learning_rate"],
        )
        total = self.trainer.max_steps
        if total < 1:
            raise ConfigError("say how long to train: --trainer.max_steps N")
        warmup = min(self.hparams["warmup_steps"], max(0, total - 1))
        scheduler = LambdaLR(optimizer, lambda step: rate(step, warmup, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # -- a step

    def encode(self, batch: ChipBatch, sensor: str) -> ColumnEmbedding | FootprintEmbedding:
        """What the encoder of a sensor says of a batch; nothing is present where the batch does not hold the sensor."""
        encoder = self.encoders[sensor]
        if sensor not in batch.sensors:  # other processes of a step may hold it
            return nothing_seen(batch, sensor, encoder.shared_dim, encoder.width, next(encoder.parameters()))
        return encoder(batch, sensor)

    def views(self, batch: ChipBatch) -> Views:
        """Embeddings of a batch by sensor, computed when asked for."""
        return Views(batch, self.encode, self._cut, self.device)

    @property
    def _cut(self) -> Cut | None:
        chips = self.hparams["chips_at_once"]
        if chips is not None:
            return equal_pieces(chips)
        return None if self._plan is None else self._plan.cut

    def on_fit_start(self) -> None:
        """Plan the pieces that fit the memory budget, unless the checkpoint has a plan."""
        if self._budget is None or self._plan is not None:
            return
        data = getattr(self.trainer, "datamodule", None)
        if data is None or is_sharded(self):
            raise ConfigError(f"--model.memory_budget needs a ChipDataModule and not {NAME}; set --model.chips_at_once instead")
        context = self.trainer.precision_plugin.train_step_context
        self._plan = plan_pieces(self, self._budget, data.train_dataloader(), data.batch_size, context)
        if self.trainer.is_global_zero:
            print(self._plan.line(), file=sys.stderr)

    def transfer_batch_to_device(self, batch: ChipBatch, device: torch.device, dataloader_idx: int) -> ChipBatch:
        """A batch that is encoded in pieces stays where it is: its pieces are moved."""
        return batch if self._cut is not None else batch.to(device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what encoders are made of, and the plan of the pieces: a resumed run rounds as an unbroken one does."""
        checkpoint["encoders"] = {name: dict(encoder.hyperparameters) for name, encoder in self.encoders.items()}
        if self._plan is not None:
            checkpoint["pieces"] = self._plan.to_plain()

    def on_train_batch_start(self, batch: ChipBatch, batch_idx: int) -> None:
        """Layers that draw for themselves (dropout) draw the same in a resumed run."""
        torch.manual_seed(stream(*self._key(batch_idx), _GLOBAL).initial_seed())
        if batch_idx % _TRIM_EVERY == 0:  # batches differ in size: what the C library keeps of freed blocks grows for hours
            give_back_freed_memory()
        self.alignment.before_step()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A step, and what the alignment does after it: checkpoints are written before `on_train_batch_end` is called."""
        super().optimizer_step(*args, **kwargs)
        self.alignment.after_step(self.encoders, self.global_step + 1, self.trainer.max_steps)

    def _key(self, batch_idx: int) -> tuple[int, ...]:
        """Seed, optimiser step, place among the accumulated batches of it."""
        return self.hparams["seed"], self.global_step, batch_idx % self.trainer.accumulate_grad_batches

    def training_step(self, batch: ChipBatch, batch_idx: int) -> Tensor:
        """Estimate of the sum over all pairs of sensors, from the drawn ones."""
        key = self._key(batch_idx)
        drawn = self.draw(batch, key)
        names = self.sensors if self.alignment.every_sensor else {name for item in drawn for name in item.pair}
        gather(self.encoders[name] for name in sorted(names))
        loss, parts = self.loss(batch, drawn, key)
        parts["loss"] = loss.detach()
        self._remember(parts, batch_idx)
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=batch.chips)
        return loss

    def draw(self, batch: ChipBatch, key: tuple[int, ...]) -> list[DrawnPair]:
        """Pairs to contrast: those that the batch was drawn for, else drawn from those that meet in it.

        The same on every process that trains with others: pairs meet where the batches of all of them, as one, say so.
        """
        if batch.drawn is not None:
            return list(batch.drawn)
        counts = total_over_ranks(meetings(batch, self.sensors).to(self.device)).tolist()
        pairs = [pair for pair, count in zip(combinations(self.sensors, 2), counts, strict=True) if count >= 2]
        count = max(1, len(pairs)) if self.alignment.every_sensor else self.hparams["pairs"]
        return draw_pairs(pairs, count, stream(*key, _PAIRS), self.hparams["pair_weights"])

    def _remember(self, parts: dict[str, Tensor], batch_idx: int) -> None:
        """Log the mean of each term over the steps since the last time; Lightning's own log repeats terms that were not drawn."""
        for name, value in parts.items():
            self._since_log.setdefault(name, []).append(value)
        every = self.trainer.log_every_n_steps * self.trainer.accumulate_grad_batches
        if every == 0 or (batch_idx + 1) % every:
            return
        means = {f"train/{name}": float(torch.stack(values).mean()) for name, values in self._since_log.items()}
        means["train/temperature"] = float(self.contrast.temperature.detach())
        means["train/learning_rate"] = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        for logger in self.loggers:
            logger.log_metrics(means, step=self.global_step)
        self._since_log.clear()

    def _known_pairs(self, batch: ChipBatch) -> list[Pair]:
        return [pair for pair in meeting_pairs(batch) if pair[0] in self.encoders and pair[1] in self.encoders]

    def loss(self, batch: ChipBatch, drawn: list[DrawnPair], key: tuple[int, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted loss of drawn pairs, and each term as it is.

        Parameters
        ----------
        key : of the random choices; the same on every process that trains with others
        """
        views = self.views(batch)
        first = counted_before(batch.chips, self.device)
        if len(self.sensors) == 1:
            # A store of one sensor has nothing to compare it with: retention is all there is to learn.
            aligned = Aligned(0.0 * sum(p.sum() for p in self.alignment.parameters()), {}, dict.fromkeys(batch.sensors, 1.0))
        else:
            aligned = self.alignment(views, drawn, (*key, _COLUMNS))
        loss, parts = aligned.loss, dict(aligned.parts)
        own_weight = of_any_rank(aligned.own_weight, self.sensors, self.device)
        retention = balanced(self.hparams["retention"], len(self.sensors), self.hparams["temperature"])
        for name, weight in own_weight.items() if retention else []:
            value = self.retain(views, name, (*key, _HIDING, self.sensors.index(name)), first)
            if value is not None:
                loss = loss + retention * weight * value
                parts[f"retention_{name}"] = value.detach()
        if self.fusion is not None and self.prediction is not None and own_weight:
            value, told = self.prediction(self.fusion, views, own_weight, stream(*key, _SUBSETS))
            loss, parts = loss + self.hparams["prediction"] * value, {**parts, **told}
        key = (*key, _FURTHER)
        told = self.further_terms(self.contrast, views, drawn, own_weight, key, first, self.private)
        for name, weight, value in told:
            loss = loss + weight * value
            parts[name] = value.detach()
        return loss, parts

    def retain(self, views: Views, sensor: str, key: tuple[int, ...], first: int = 0) -> Tensor | None:
        """Loss of a sensor's answer about what was hidden of it; None when nothing could be hidden.

        Parameters
        ----------
        key : of what is hidden
        first : number of the batch's first chip among the chips of all processes
        """
        found = views.in_pieces(sensor, lambda piece, start: self.answer(piece, sensor, key, first + start))
        answers = [answer for answer in found if answer is not None]
        nothing = torch.zeros((), device=self.device)
        total, count = (sum((answer[item] for answer in answers), nothing) for item in (0, 1))
        return mean_over_ranks(total, count)

    def answer(self, piece: ChipBatch, sensor: str, key: tuple[int, ...], first: int) -> tuple[Tensor, Tensor] | None:
        """Sum and number of the terms of `retain` in chips of which the first has number `first`; None without any."""
        question = hide_by_chip(piece, sensor, [stream(*key, number) for number in range(first, first + piece.chips)])
        if question is None:
            return None
        shown, hidden = question
        found = self.encode(shown, sensor)
        target, raster = self.hparams["retention_target"], piece.rasters.get(sensor)
        told = found.features if self.private is None else self.private.both(sensor, found)
        return retention_error(self.decoders[sensor], told, found.present, hidden, raster, target, sensor)

    def validation_step(self, batch: ChipBatch, batch_idx: int) -> None:
        """Contrast of every pair that meets in a batch of columns never trained on."""
        gather(self.encoders.values())
        pairs = self._known_pairs(batch)
        values = contrast_of_pairs(self.contrast, self.views(batch), pairs, (self.hparams["seed"], batch_idx, _COLUMNS))
        if values:
            mean = torch.stack(list(values.values())).mean()
            named = {f"val/contrast_{name}": value for name, value in values.items()}
            self.log_dict({**named, "val/loss": mean}, batch_size=batch.chips, on_epoch=True)
