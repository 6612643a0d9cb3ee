"""Cross-modal pretraining as a LightningModule: encoders, their decoders and the loss of a step."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from fusion3d.data.observation import ChipBatch
from fusion3d.encoders.output import ColumnEmbedding, FootprintEmbedding
from fusion3d.encoders.registry import Encoder, build, kind_of
from fusion3d.errors import ConfigError
from fusion3d.pretraining.hiding import hide
from fusion3d.pretraining.objective import (
    DrawnPair,
    Embedded,
    LocationContrast,
    Pair,
    draw_pairs,
    meeting_pairs,
    stream,
)
from fusion3d.pretraining.retention import RetentionTarget, make_decoder, retention_loss

_PAIRS, _COLUMNS, _HIDING, _GLOBAL = range(4)
_FINAL_RATE = 0.01


class CrossModalPretraining(LightningModule):
    """Align what different sensors say of the same place, and keep what only one of them sees.

    Every random choice of a step depends on the seed and the step alone, so a resumed run equals an unbroken one.

    Parameters
    ----------
    preset : size of the encoders (tiny, base)
    encoder_options : by sensor, hyperparameters of its encoder that replace the preset's
    pairs : pairs of sensors contrasted a step; as many as there are is the exact sum over all pairs
    pair_weights : by "sensor-sensor", relative chance of being drawn (the loss stays unbiased); 1 when not named
    temperature : of the contrast at the start; it is learnt, within 0.01 and 1
    exclusion : columns nearer than that are no negatives, metres
    geolocation_sigma : of GEDI footprints, metres, one standard deviation
    max_columns : columns contrasted a step and pair, at most
    retention : weight of the reconstruction of hidden parts; 0 switches it off
    retention_target : what is reconstructed: the signal itself, or a frozen random projection of it
    learning_rate, weight_decay, warmup_steps : AdamW, with a linear warm-up and then a cosine down to 1 %
    seed : of the weights and of every step's choices
    scene : sensors, grids and held-out part of the data (`ChipDataModule.facts`); filled in from the data in training
    """

    def __init__(
        self,
        preset: str = "tiny",
        encoder_options: dict[str, dict[str, int | float | str | bool]] | None = None,
        pairs: int = 1,
        pair_weights: dict[str, float] | None = None,
        temperature: float = 0.07,
        exclusion: float = 0.0,
        geolocation_sigma: float = 10.0,
        max_columns: int = 4096,
        retention: float = 1.0,
        retention_target: RetentionTarget = "identity",
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
        if not (math.isfinite(learning_rate) and learning_rate > 0):
            raise ConfigError(f"--model.learning_rate {learning_rate} must be positive")
        self.save_hyperparameters(logger=False)
        self.contrast = LocationContrast(temperature, exclusion, geolocation_sigma, max_columns)
        self.encoders: nn.ModuleDict[str, Encoder] = nn.ModuleDict()  # type: ignore[type-arg]
        self.decoders = nn.ModuleDict()
        self._since_log: dict[str, list[Tensor]] = {}

    @property
    def sensors(self) -> tuple[str, ...]:
        """Names of the sensors that have an encoder."""
        return tuple(self.encoders)

    # -- building

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
        options = self.hparams["encoder_options"] or {}
        sensors = self.hparams["scene"]["sensors"]
        if len(sensors) == 1 and not self.hparams["retention"]:
            raise ConfigError(
                f"{sensors[0]} is the only sensor: there is no other to compare it with; keep --model.retention above 0"
            )
        unknown = sorted(set(options) - set(sensors))
        if unknown:
            raise ConfigError(f"--model.encoder_options names {', '.join(unknown)}, but the sensors are {', '.join(sensors)}")
        possible = {"-".join(pair) for pair in permutations(sensors, 2)}
        strange = sorted(set(self.hparams["pair_weights"] or ()) - possible)
        if strange:
            raise ConfigError(f"--model.pair_weights names {', '.join(strange)}, but pairs are like {sorted(possible)[0]}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.hparams["seed"])
            for sensor in sensors:
                encoder = build(kind_of(sensor), self.hparams["preset"], **options.get(sensor, {}))
                self.encoders[sensor] = encoder
                if self.hparams["retention"]:
                    self.decoders[sensor] = make_decoder(sensor, encoder.width)
        lengths = {name: encoder.shared_dim for name, encoder in self.encoders.items()}
        if len(set(lengths.values())) > 1:
            raise ConfigError(f"encoders must agree on shared_dim to be compared, not {lengths}")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """`ConfigError` when the data of a run that goes on are not those it began with."""
        if checkpoint["hyper_parameters"].get("scene") != self.hparams["scene"]:
            raise ConfigError(
                "the store, the sensors or the held-out part are not those of the checkpoint; "
                "resume with the same --data options, or begin another run with another --out"
            )

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
        """What the encoder of a sensor says of a batch that holds it."""
        return self.encoders[sensor](batch, sensor)

    def embed(self, batch: ChipBatch, sensor: str) -> Embedded:
        """Unit vectors of the shared part."""
        found = self.encode(batch, sensor)
        return Embedded(nn.functional.normalize(found.shared.float(), dim=1), found.present)

    def on_train_batch_start(self, batch: ChipBatch, batch_idx: int) -> None:
        """Layers that draw for themselves (dropout) draw the same in a resumed run."""
        torch.manual_seed(stream(*self._key(batch_idx), _GLOBAL).initial_seed())
        self.contrast.clamp_()

    def _key(self, batch_idx: int) -> tuple[int, ...]:
        """Seed, optimiser step, place among the accumulated batches of it."""
        return self.hparams["seed"], self.global_step, batch_idx % self.trainer.accumulate_grad_batches

    def training_step(self, batch: ChipBatch, batch_idx: int) -> Tensor:
        """Estimate of the sum over all pairs of sensors, from the drawn ones."""
        key = self._key(batch_idx)
        drawn = draw_pairs(self._known_pairs(batch), self.hparams["pairs"], stream(*key, _PAIRS), self.hparams["pair_weights"])
        loss, parts = self.loss(batch, drawn, (*key, self.global_rank))
        parts["loss"] = loss.detach()
        self._remember(parts, batch_idx)
        self.log("loss", loss.detach(), prog_bar=True, logger=False, batch_size=batch.chips)
        return loss

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
        key : of the random choices
        """
        if len(self.sensors) == 1:
            return self._alone(batch, self.sensors[0], key)
        names = sorted({name for item in drawn for name in item.pair}, key=self.sensors.index)
        embedded = {name: self.embed(batch, name) for name in names}
        # A batch in which no pair meets still makes a step, so that steps and batches keep count of each other.
        loss = 0.0 * self.contrast.log_temperature
        parts: dict[str, Tensor] = {}
        for number, item in enumerate(drawn):
            value, _ = self.contrast(batch, item.pair, embedded, stream(*key, _COLUMNS, number))
            if value is not None:
                loss = loss + item.weight * value
                parts[f"contrast_{item.pair[0]}-{item.pair[1]}"] = value.detach()
        weights = {
            name: sum(w for item in drawn for n, w in zip(item.pair, item.own_weight, strict=True) if n == name) for name in names
        }
        for name in names if self.hparams["retention"] else []:
            value = self.retain(batch, name, stream(*key, _HIDING, self.sensors.index(name)))
            if value is not None:
                loss = loss + self.hparams["retention"] * weights[name] * value
                parts[f"retention_{name}"] = value.detach()
        return loss, parts

    def _alone(self, batch: ChipBatch, sensor: str, key: tuple[int, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """A store of one sensor has nothing to compare it with: retention is all there is to learn."""
        value = self.retain(batch, sensor, stream(*key, _HIDING, 0)) if sensor in batch.sensors else None
        loss = 0.0 * self.contrast.log_temperature
        if value is None:
            return loss, {}
        return loss + self.hparams["retention"] * value, {f"retention_{sensor}": value.detach()}

    def retain(self, batch: ChipBatch, sensor: str, generator: torch.Generator) -> Tensor | None:
        """Loss of a sensor's answer about what was hidden of it; None when nothing could be hidden."""
        question = hide(batch, sensor, generator)
        if question is None:
            return None
        shown, hidden = question
        found = self.encode(shown, sensor)
        return retention_loss(
            self.decoders[sensor],
            found.features,
            found.present,
            hidden,
            batch.rasters.get(sensor),
            self.hparams["retention_target"],
            sensor,
        )

    def validation_step(self, batch: ChipBatch, batch_idx: int) -> None:
        """Contrast of every pair that meets in a batch of columns never trained on."""
        pairs = self._known_pairs(batch)
        embedded = {name: self.embed(batch, name) for name in {name for pair in pairs for name in pair}}
        values: dict[str, Tensor] = {}
        for pair in pairs:
            value, _ = self.contrast(batch, pair, embedded, stream(self.hparams["seed"], batch_idx, _COLUMNS))
            if value is not None:
                values[f"val/contrast_{pair[0]}-{pair[1]}"] = value
        if values:
            mean = torch.stack(list(values.values())).mean()
            self.log_dict({**values, "val/loss": mean}, batch_size=batch.chips, on_epoch=True)


def rate(step: int, warmup: int, total: int) -> float:
    """Share of the learning rate at a step: linear up to `warmup`, then a cosine down to 1 % at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return _FINAL_RATE + (1 - _FINAL_RATE) * (1 + math.cos(math.pi * done)) / 2
