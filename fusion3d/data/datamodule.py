"""Chips of one or several stores for training and validation, as a LightningDataModule."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from fusion3d.data.candidates import Candidates, ChipAddress, coverage, find_candidates, fixed_chips, seen_by_enough
from fusion3d.data.chips import collate, read_chips
from fusion3d.data.holdout import hold_out_with_margin, margin_warning, wanted_margin
from fusion3d.data.observation import ChipBatch
from fusion3d.data.sampler import ChipSampler
from fusion3d.data.split import Mask, Split
from fusion3d.data.strata import check_strata, class_rasters, survey
from fusion3d.data.turn import TURNS, turned
from fusion3d.errors import ConfigError, StoreError
from fusion3d.store import Store


class ChipDataset(Dataset[ChipBatch]):
    """Reads chips by address; each process opens the stores for itself."""

    def __init__(
        self,
        paths: Sequence[str],
        size: int,
        sensors: Sequence[str],
        max_dates: int | None,
        max_points_per_column: int | None,
        min_points_per_column: int | None = None,
        augment: bool = False,
    ) -> None:
        self.paths, self.size, self.sensors = list(paths), size, list(sensors)
        self.max_dates, self.max_points_per_column = max_dates, max_points_per_column
        self.min_points_per_column, self.augment = min_points_per_column, augment
        self._opened: dict[tuple[int, int], Store] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def _store(self, number: int) -> Store:
        # A forked worker must not share its parent's handles.
        key = (os.getpid(), number)
        if key not in self._opened:
            self._opened[key] = Store.open(self.paths[number])
        return self._opened[key]

    def __getitem__(self, address: ChipAddress) -> ChipBatch:
        generator = None if address.seed is None else np.random.default_rng(address.seed)
        chip = read_chips(
            self._store(address.store),
            [(address.row, address.col)],
            self.size,
            self.sensors if address.sensors is None else address.sensors,
            max_dates=self.max_dates,
            max_points_per_column=self._most_points(generator),
            generator=generator,
        )
        if self.augment and generator is not None:
            chip = turned(chip, int(generator.integers(TURNS)))
        return replace(chip, drawn=address.drawn, store=torch.tensor([address.store]))

    def _most_points(self, generator: np.random.Generator | None) -> int | None:
        least, most = self.min_points_per_column, self.max_points_per_column
        if generator is None or least is None or most is None:
            return most
        return round(least * (most / least) ** generator.random())


class ChipDataModule(LightningDataModule):
    """Chips of column stores, balanced over pairs of sensors, strata, places and dates; a part is held out for validation.

    Parameters
    ----------
    store : path of a column store, or several
    size : side of a chip, columns
    batch_size : chips a step (and process)
    sensors : names to use; all that the stores hold when not given, without rasters of classes (they are labels)
    pairs : pairs of sensors drawn for each batch, of which alone the sensors are read; all are read when not given.
        `fusion3d pretrain` fills it in from --model.pairs
    pair_weights : by "sensor-sensor", relative chance of being drawn; filled in from --model.pair_weights
    strata : kinds of ground that are drawn alike, as far as they are known: height (of the canopy, from als), slope (of the
        ground, from als), cover (from a raster of classes); [] for none
    holdout : share of the columns that is never trained on, 0 to below 1
    region : side of the held-out squares, columns; chosen from the scene when not given
    buffer : columns between training chips and held-out squares; auto is as far as the encoders see, less where a small scene
        would leave too little for training
    min_columns : columns that two sensors must have seen in a chip (1 is enough when one of them is gedi)
    max_dates : dates of a series read for a chip, sampled anew each time, all seasons alike
    max_points_per_column : thin denser columns to that many points; all points when not given
    min_points_per_column : thin each training chip to a number drawn between this and max_points_per_column, small ones as
        often as large ones (log-uniform): the encoder learns every density, and chips are lighter. Off when not given
    augment : turn and mirror each training chip at random, all sensors alike: eight scenes out of one. Chips of validation lie
        as they are
    val_chips : chips for validation, at most
    num_workers : processes that read chips; 0 reads in the training process
    seed : decides the chips, the dates and the held-out part

    Raises
    ------
    ConfigError
        On set-up: no two sensors saw the same columns, or no chip fits.
    StoreError
        A store cannot be opened, or does not hold a sensor that was asked for.
    """

    def __init__(
        self,
        store: str | list[str],
        size: int = 16,
        batch_size: int = 8,
        sensors: list[str] | None = None,
        holdout: float = 0.25,
        region: int | None = None,
        buffer: int | Literal["auto"] = "auto",
        min_columns: int = 16,
        max_dates: int = 8,
        max_points_per_column: int | None = None,
        min_points_per_column: int | None = None,
        augment: bool = False,
        val_chips: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        pairs: int | None = None,
        pair_weights: dict[str, float] | None = None,
        strata: list[str] = ["height", "slope", "cover"],  # noqa: B006 - read only; a list is what the command line takes
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("size", size, 1),
            ("batch_size", batch_size, 1),
            ("buffer", 0 if buffer == "auto" else buffer, 0),
            ("max_dates", max_dates, 1),
            ("min_columns", min_columns, 1),
            ("val_chips", val_chips, 0),
            ("num_workers", num_workers, 0),
        ):
            if value < least:
                raise ConfigError(f"--data.{name} {value} must be at least {least}")
        if max_points_per_column is not None and max_points_per_column < 1:
            raise ConfigError(f"--data.max_points_per_column {max_points_per_column} must be at least 1")
        if min_points_per_column is not None:
            if max_points_per_column is None:
                raise ConfigError(
                    "--data.min_points_per_column needs --data.max_points_per_column: numbers are drawn between them"
                )
            if not 1 <= min_points_per_column <= max_points_per_column:
                raise ConfigError(
                    f"--data.min_points_per_column {min_points_per_column} must lie between 1 and --data.max_points_per_column "
                    f"{max_points_per_column}"
                )
        if pairs is not None and pairs < 1:
            raise ConfigError(f"--model.pairs {pairs} must be at least 1")
        self.pairs, self.pair_weights, self.strata = pairs, pair_weights, check_strata(strata)
        self.paths = [store] if isinstance(store, str) else [str(path) for path in store]
        if not self.paths:
            raise ConfigError("--data.store names no store")
        self.size, self.batch_size, self.wanted = size, batch_size, sensors
        self.holdout, self.region, self.buffer, self.min_columns = holdout, region, buffer, min_columns
        self.max_dates, self.max_points_per_column = max_dates, max_points_per_column
        self.min_points_per_column, self.augment = min_points_per_column, augment
        self.val_chips, self.num_workers, self.seed = val_chips, num_workers, seed
        self.sensors: tuple[str, ...] = ()
        self.splits: list[Split] = []
        self.training: list[Candidates] = []
        self.validation: list[ChipAddress] = []
        self.stores: list[Store] = []

    def setup(self, stage: str | None = None) -> None:
        """Open the stores, hold a part out and find the chips."""
        if self.stores:
            return
        stores = [Store.open(path) for path in self.paths]
        self._check_alike(stores)
        self.sensors = self._choose_sensors(stores)
        seen = [coverage(store, [name for name in self.sensors if name in store.sensors]) for store in stores]
        together = [seen_by_enough(masks, min(2, len(self.sensors))) for masks in seen]
        if not any(mask.any() for mask in together):
            raise ConfigError(self._nothing_together(stores, seen))
        self.splits = [self._hold_out(store, path, mask) for store, path, mask in zip(stores, self.paths, together, strict=True)]
        self.training = self._find(seen, [split.training() for split in self.splits])
        if not self.training:
            raise ConfigError(
                f"no training chip of {self.size} x {self.size} columns has {self.min_columns} columns that two sensors saw; "
                f"make --data.size or --data.min_columns smaller, or --data.holdout"
            )
        self.training = self._with_strata(self.training, stores)
        held = self._find(seen, [split.held_out() for split in self.splits])
        self.validation = fixed_chips(held, self.size, self.val_chips)
        self.stores = stores

    def _hold_out(self, store: Store, path: str, observed: Mask) -> Split:
        """The held-out part of a store and its margin; a margin that is too narrow is said once."""
        if not observed.any():
            return Split.none(store.grid)

        def draw(margin: int) -> Split:
            return Split.draw(
                store.grid,
                observed,
                chip=self.size,
                fraction=self.holdout,
                region=self.region,
                buffer=margin,
                seed=self.seed,
            )

        wanted = wanted_margin(store, self.sensors, self._receptive_field(store))
        asked = None if self.buffer == "auto" else self.buffer
        split = hold_out_with_margin(draw, wanted, observed, self.size) if asked is None else draw(asked)
        text = margin_warning(path, asked, split.buffer, wanted) if split.held else None
        if text is not None and (self.trainer is None or self.trainer.is_global_zero):
            print(f"warning: {text}", file=sys.stderr)
        return split

    def _receptive_field(self, store: Store) -> int:
        """Columns around a column that the encoders of the model see; one where no model is there to say."""
        model = None if self.trainer is None else self.trainer.lightning_module
        ask = getattr(model, "receptive_field", None)
        return 1 if ask is None else ask(self.sensors, store.grid.column, store.grid.voxel)

    def _with_strata(self, found: Sequence[Candidates], stores: Sequence[Store]) -> list[Candidates]:
        if not self.strata:
            return list(found)
        surveys = [
            survey(store, split.training(), self.size, self.strata) for store, split in zip(stores, self.splits, strict=True)
        ]
        classed = []
        for item in found:
            strata = np.zeros((len(item), len(self.strata)), np.int64)
            for number, known in enumerate(surveys):
                here = item.store == number
                for kind, name in enumerate(self.strata):
                    strata[here, kind] = known.classes(name, item.origin[here], self.size)
            classed.append(replace(item, strata=strata))
        return classed

    def _find(self, seen: Sequence[dict[str, Mask]], allowed: Sequence[Mask]) -> list[Candidates]:
        found = find_candidates(seen, allowed, self.size, min_columns=self.min_columns)
        # In a narrow region a chip may fit only between the multiples of the usual stride.
        return found or find_candidates(seen, allowed, self.size, min_columns=self.min_columns, stride=1)

    def _check_alike(self, stores: Sequence[Store]) -> None:
        first = stores[0].grid
        for store, path in zip(stores, self.paths, strict=True):
            if (store.grid.column, store.grid.voxel) != (first.column, first.voxel):
                raise StoreError(
                    path,
                    f"columns of {store.grid.column} m and voxels of {store.grid.voxel} m, but {self.paths[0]} has "
                    f"{first.column} m and {first.voxel} m",
                    "prepare the stores with the same --column and --voxel",
                )
        layouts: dict[str, tuple[str, tuple[object, ...]]] = {}
        for store, path in zip(stores, self.paths, strict=True):
            for name, layout in store.attributes.rasters.items():
                own = (layout.bands, layout.pixel, layout.pixels_per_column, layout.columns_per_pixel)
                before, other = layouts.setdefault(name, (path, own))
                if own != other and name in (self.wanted or [name]):
                    raise StoreError(
                        path,
                        f"sensor {name!r} has other bands or pixels than in {before}",
                        "give one of them another name in `prepare`, or leave it out with --data.sensors",
                    )

    def _choose_sensors(self, stores: Sequence[Store]) -> tuple[str, ...]:
        there = {name for store in stores for name in store.sensors}
        missing = sorted(set(self.wanted or ()) - there)
        if missing:
            raise StoreError(", ".join(self.paths), f"no sensor {', '.join(missing)}", f"stored are {', '.join(sorted(there))}")
        labels = {name for store in stores for name in class_rasters(store)}
        chosen = there - labels if self.wanted is None else there & set(self.wanted)
        named = [name for name in ("als", "gedi") if name in chosen]
        return (*named, *sorted(chosen - {"als", "gedi"}))

    def _nothing_together(self, stores: Sequence[Store], seen: Sequence[dict[str, Mask]]) -> str:
        counts = {name: sum(int(masks[name].sum()) for masks in seen if name in masks) for name in self.sensors}
        saw = ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
        return (
            f"{', '.join(self.paths)}: no two sensors saw the same columns (columns seen: {saw}); pretraining aligns sensors, so "
            f"prepare a store in which two of them overlap, or name more with --data.sensors"
        )

    def facts(self) -> dict[str, Any]:
        """Sensors, grids and splits in plain types, for the hyperparameters of a checkpoint."""
        return {
            "sensors": list(self.sensors),
            "column": float(self.stores[0].grid.column),
            "voxel": float(self.stores[0].grid.voxel),
            "size": self.size,
            "grids": [
                {
                    "crs": store.grid.crs,
                    "x0": float(store.grid.x0),
                    "y0": float(store.grid.y0),
                    "rows": store.grid.rows,
                    "cols": store.grid.cols,
                }
                for store in self.stores
            ],
            "splits": [split.to_plain() for split in self.splits],
        }

    def _dataset(self) -> ChipDataset:
        points = self.max_points_per_column, self.min_points_per_column
        return ChipDataset(self.paths, self.size, self.sensors, self.max_dates, *points, self.augment)

    def _start(self) -> int:
        # Batches count optimiser steps, which a checkpoint restores; its own batch counter lags by one in a step's checkpoint.
        return 0 if self.trainer is None else self.trainer.global_step * self.trainer.accumulate_grad_batches

    def train_dataloader(self) -> DataLoader[ChipBatch]:
        """Endless batches, beginning at the step that the trainer has reached."""
        rank, ranks = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        sampler = ChipSampler(
            self.training,
            self.batch_size,
            self.seed,
            pairs=self.pairs,
            pair_weights=self.pair_weights,
            size=self.size,
            start=self._start,
            rank=rank,
            ranks=ranks,
        )
        return DataLoader(
            self._dataset(),
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def val_dataloader(self) -> DataLoader[ChipBatch] | list[Any]:
        """The validation chips in a fixed order; nothing when nothing is held out."""
        if not self.validation:
            return []
        batches = [self.validation[at : at + self.batch_size] for at in range(0, len(self.validation), self.batch_size)]
        return DataLoader(self._dataset(), batch_sampler=batches, collate_fn=collate, num_workers=0)
