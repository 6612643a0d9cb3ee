"""Errors that a user can act on: each names the file, what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path


class Fusion3DError(Exception):
    """Base of every error that fusion3d raises on purpose; its text is one line for the user."""


class InputError(Fusion3DError):
    """A file that cannot be used.

    Parameters
    ----------
    path : path of the offending file, or None when no file is involved
    problem : what is wrong, in words
    remedy : what the user can do about it
    """

    def __init__(self, path: str | Path | None, problem: str, remedy: str = "") -> None:
        self.path = None if path is None else str(path)
        self.problem = problem
        self.remedy = remedy
        parts = [part for part in (self.path, problem) if part]
        text = ": ".join(parts)
        super().__init__(f"{text}; {remedy}" if remedy else text)

    def __reduce__(self) -> tuple[type, tuple[str | None, str, str]]:
        return type(self), (self.path, self.problem, self.remedy)


class CRSError(InputError):
    """A coordinate reference system that is missing, unusable or contradictory."""


class StoreError(InputError):
    """A store that is missing, incomplete or does not hold what was asked for."""


class ConfigError(Fusion3DError):
    """An option or configuration that contradicts itself or the data."""


def one_line(reason: object, most: int = 160) -> str:
    """What another library says of a failure, as part of one of our lines: no line breaks, at most `most` characters.

    An error without a text is told by its class.
    """
    text = " ".join(str(reason).split()) or type(reason).__name__
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."
