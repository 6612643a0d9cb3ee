"""Several variables of the same labels in one run: a folder each, and one table of their scores.

One that cannot be fitted does not keep the others from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion3d.errors import ConfigError, Fusion3DError
from fusion3d.evaluation.label_tables import Labels
from fusion3d.evaluation.table import text_table
from fusion3d.tasks.fit import fit
from fusion3d.tasks.scorecard import score_cells
from fusion3d.tasks.scored_fit import FitResult


@dataclass(frozen=True)
class TargetFits:
    """What became of each target.

    Attributes
    ----------
    out : folder that holds one folder per target, of its name
    fits : those that were fitted, in the order asked for
    failed : names of the others and why, in one line each
    """

    out: Path
    fits: tuple[FitResult, ...]
    failed: tuple[tuple[str, str], ...] = ()

    def table(self) -> str:
        """The scores of all targets on held-out plots, with 90 % intervals in brackets."""
        header = ["target", "unit", "n", "R2", "RMSE", "RMSE %", "MAE", "bias", "within interval"]
        rows = []
        for each in self.fits:
            card = each.scorecard
            covered = "-" if card.coverage is None else card.coverage.share.text()
            rows.append([card.target, card.unit or "-", str(card.model.n), *score_cells(card.model), covered])
        rows += [[name, "-", "-", "failed", *["-"] * 5] for name, _ in self.failed]
        return text_table(header, rows)

    def __str__(self) -> str:
        parts = [*map(str, self.fits), self.table(), *(f"{name}: not fitted: {reason}" for name, reason in self.failed)]
        return "\n\n".join([*parts, f"models and scores: {self.out}"])


def fit_targets(
    embedding_map: str | Path,
    labels: Labels,
    targets: Sequence[str],
    out: str | Path,
    *,
    units: Sequence[str] | None = None,
    **options: Any,
) -> TargetFits:
    """Fit a model of each target; its files are in the folder of its name below `out`.

    Parameters
    ----------
    targets : distinct names that can be names of folders
    units : of the targets in the same order, "" where one has none; None for none at all
    options : other arguments of `fit`

    Raises
    ------
    ConfigError
        There is no target, one comes twice or cannot name a folder, or there are not as many units.
    """
    names = list(targets)
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--target {','.join(names)}: name different columns, with commas between them")
    for name in names:
        if name in (".", "..") or "/" in name or "\\" in name:
            raise ConfigError(f"--target {name!r} cannot be the name of a folder: fit it alone")
    if units is not None and len(units) != len(names):
        raise ConfigError(f"{len(units)} units for {len(names)} targets: give --unit one for each, with commas between them")
    fits, failed = [], []
    for at, name in enumerate(names):
        unit = None if units is None else units[at] or None
        try:
            fits.append(fit(embedding_map, labels, name, Path(out) / name, unit=unit, **options))
        except Fusion3DError as error:
            failed.append((name, str(error)))
    return TargetFits(Path(out), tuple(fits), tuple(failed))
