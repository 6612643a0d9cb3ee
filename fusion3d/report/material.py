"""What a report is made of: the run's own files, the store it was trained on, and what other commands made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from fusion3d.errors import Fusion3DError, InputError, one_line
from fusion3d.report.raster_view import facts
from fusion3d.report.store_view import StoreView
from fusion3d.store.reader import Store
from fusion3d.tasks.classes.class_card import ClassCard
from fusion3d.tasks.scorecard import Scorecard

EMBEDDING, RETRIEVAL, FIT, MAP = "embedding.tif", "retrieval.json", "biomass", "agb.tif"
"""Names in a run folder under which a report finds what other commands made."""


@dataclass(frozen=True)
class Material:
    """Where everything is; None for what is not there. `truth` is by name of the variable."""

    run: Path
    store_path: str | Path | None = None
    embedding: Path | None = None
    retrieval: Path | None = None
    fit: Path | None = None
    map: Path | None = None
    truth: Mapping[str, Path] = field(default_factory=dict)
    simulated_as_told: bool | None = None

    @classmethod
    def of(
        cls,
        run: str | Path,
        *,
        store: str | Path | Store | None = None,
        embedding: str | Path | None = None,
        retrieval: str | Path | None = None,
        fit: str | Path | None = None,
        map: str | Path | None = None,
        truth: Mapping[str, str | Path] | None = None,
        simulated: bool | None = None,
    ) -> Material:
        """Parts by argument, else under their usual names in the run folder.

        Raises
        ------
        InputError, StoreError
            The run is no folder, or what was named is not there.
        """
        run = Path(run)
        if not run.is_dir():
            raise InputError(run, "no run folder there", "give the folder of `fusion3d pretrain`")
        if isinstance(store, str | Path):
            Store.open(store)
        for path in (embedding, retrieval, fit, map, *(truth or {}).values()):
            if path is not None and not Path(path).exists():
                raise InputError(path, "no such file", "check the path, or leave it out of the report")

        def part(given: str | Path | None, name: str) -> Path | None:
            return Path(given) if given is not None else run / name if (run / name).exists() else None

        return cls(
            run,
            store.path if isinstance(store, Store) else store,
            part(embedding, EMBEDDING),
            part(retrieval, RETRIEVAL),
            part(fit, FIT),
            part(map, MAP),
            {name: Path(path) for name, path in (truth or {}).items()},
            simulated,
        )

    # -- the run

    @cached_property
    def configuration_text(self) -> str | None:
        """The resolved configuration as it was written; None when the run has none."""
        path = self.run / "config.yaml"
        try:
            return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None
        except OSError as error:
            raise InputError(path, f"cannot be read ({error.strerror})", "check its rights") from None

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """The same as nested values; empty when there is none."""
        try:
            values = yaml.safe_load(self.configuration_text or "")
        except yaml.YAMLError as error:
            raise InputError(self.run / "config.yaml", f"not YAML ({one_line(error)})", "train again") from None
        return values if isinstance(values, dict) else {}

    def option(self, room: str, name: str) -> Any:
        """An option of the configuration, None when it is not there or the configuration is damaged."""
        try:
            values = self.configuration.get(room)
        except InputError:
            return None
        return values.get(name) if isinstance(values, dict) else None

    @cached_property
    def trained_on(self) -> datetime | None:
        """When the last checkpoint was written, UTC."""
        checkpoints = list((self.run / "checkpoints").glob("*.ckpt"))
        return datetime.fromtimestamp(max(path.stat().st_mtime for path in checkpoints), UTC) if checkpoints else None

    # -- the store

    @cached_property
    def store(self) -> Store:
        """The store that was given, else the one the configuration names.

        Raises
        ------
        InputError
            Neither is there.
        """
        if self.store_path is not None:
            return Store.open(self.store_path)
        named = self.option("data", "store")
        if not isinstance(named, str):
            raise InputError(self.run, "its configuration names no store", "give the store with --store")
        # A configuration written in another folder names the store from there; beside the run is the next best guess.
        places = [named, *(str(folder / named) for folder in (self.run, *self.run.absolute().parents[:2]))]
        for place in places:
            if "://" in place or Path(place).exists():
                return Store.open(place)
        raise InputError(named, "the store that this run was trained on is not there", "give its present place with --store")

    @cached_property
    def view(self) -> StoreView:
        return StoreView(self.store)

    # -- what was fitted

    @cached_property
    def scorecard(self) -> Scorecard | None:
        """Of the fit, when it is there and whole."""
        return attempt(lambda: Scorecard.read(self.fit)) if self.fit is not None else None

    @cached_property
    def variable(self) -> str:
        """Name of what was fitted and mapped: as the fit says, else that of the map's file."""
        if self.scorecard is not None:
            return self.scorecard.target
        if self.fit is not None and (card := attempt(lambda: ClassCard.read(self.fit))) is not None:
            return str(card.target)
        return self.map.stem if self.map is not None else Path(MAP).stem

    @cached_property
    def map_truth(self) -> Path | None:
        """The raster of what is mapped: by the variable's name, or by that of the map's file."""
        names = (self.variable, self.map.stem if self.map is not None else Path(MAP).stem)
        return next((self.truth[name] for name in names if name in self.truth), None)

    @cached_property
    def simulated(self) -> bool:
        """Whether the data are simulated: as told, else as the store or a map that was made from it says."""
        if self.simulated_as_told is not None:
            return self.simulated_as_told
        store = attempt(lambda: self.store)
        if store is not None and store.attributes.simulated:
            return True
        maps = [path for path in (self.embedding, self.map) if path is not None]
        return any((attempt(lambda path=path: facts(path, 1).tags) or {}).get("simulated") == "yes" for path in maps)


def attempt(read: Callable[[], Any]) -> Any:
    """A part for the summary; None when it is missing or damaged, which its own section then says."""
    try:
        return read()
    except (Fusion3DError, OSError):
        return None
