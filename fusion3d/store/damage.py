"""What a damaged store raises while it is read, said in one line."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from fusion3d.errors import StoreError, one_line

DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RuntimeError, FileNotFoundError)
"""What Zarr and its codecs raise on a wrong checksum, bytes that do not decode, and metadata that are gone or make no sense."""


@contextmanager
def damage_named(path: str, part: str) -> Iterator[None]:
    """Turn the errors of a damaged part of a store into a `StoreError` that names it and its remedy.

    Parameters
    ----------
    path : of the store
    part : of it, such as ``als/0_3/intensity``
    """
    try:
        yield
    except StoreError:
        raise
    except DAMAGE as error:
        raise StoreError(f"{path}/{part}", f"damaged ({reason(error)})", f"mend it with `{repair_command(path)}`") from None


def repair_command(path: str) -> str:
    """The command that mends a store, to be copied into a shell."""
    return f"fusion3d doctor {shlex.quote(path)} --repair"


def reason(error: Exception) -> str:
    """An error in a few words; a checksum's bytes say nothing to a reader."""
    text = one_line(error, 120)
    if text.startswith("Stored and computed checksum"):
        return "its checksum does not fit its bytes"
    if isinstance(error, (TypeError, AttributeError)):
        return "not what `fusion3d prepare` writes"
    if isinstance(error, (KeyError, FileNotFoundError)):
        return f"missing: {text}" if str(error) else "missing"
    return text
