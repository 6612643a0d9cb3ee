"""The folder that a fit leaves: model, scores and held-out predictions, all of one fit."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from fusion3d.errors import InputError
from fusion3d.tasks.card_file import SCORES_FILE
from fusion3d.tasks.held_out import PREDICTIONS_FILE
from fusion3d.tasks.model_file import ARRAYS_FILE, MODEL_FILE


def out_folder(out: str | Path) -> Path:
    """The folder that a fit is going to leave; InputError where a file is in its place."""
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(folder, "is a file, not a folder", "give another --out")
    return folder


class Writable(Protocol):
    """What writes itself to a file."""

    def write(self, path: str | Path) -> Path: ...


def write_fit(
    folder: Path,
    write_model: Callable[[Path], object],
    card: Writable,
    held_out: Writable,
    write_more: Callable[[Path], Sequence[str]] | None = None,
) -> None:
    """Write a fit's files, those of one that was there before being replaced together.

    Parameters
    ----------
    write_model : writes the model's JSON to a path, and its arrays beside
    write_more : writes further files to a folder, and returns their names

    Raises
    ------
    InputError
        The folder cannot be written.
    """
    draft = folder / f".{uuid.uuid4().hex[:8]}.draft"
    try:
        draft.mkdir(parents=True)
        held_out.write(draft / PREDICTIONS_FILE)
        card.write(draft / SCORES_FILE)
        write_model(draft / MODEL_FILE)
        more = () if write_more is None else write_more(draft)
        # renamed only when all are whole, so that a full disk does not leave a new model with old scores
        for name in (*more, PREDICTIONS_FILE, SCORES_FILE, ARRAYS_FILE, MODEL_FILE):
            os.replace(draft / name, folder / name)
    except OSError as error:
        raise InputError(folder, f"cannot be written ({error.strerror or error})", "give another --out") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
