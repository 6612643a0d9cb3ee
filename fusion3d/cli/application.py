"""The application that verbs belong to, where it prints, and how it ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from fusion3d import __version__
from fusion3d.errors import ConfigError, Fusion3DError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One embedding for every column of ground, from whatever sensors saw it, LiDAR first.",
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        out.print(f"fusion3d {__version__}")
        raise typer.Exit


def listed(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


def name_and_path(text: str, option: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not (separator and name and path):
        raise ConfigError(f"{option} wants NAME=PATH, not {text!r}")
    return name, path


def options_given(context: typer.Context, names: Sequence[str]) -> list[str]:
    """The options, as --name, that the user has written."""
    options = {param.name: param.opts[0] for param in context.command.params}
    written = [name for name in names if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"]
    return [options[name] for name in written]


def main() -> None:
    """Entry point: errors that a user can act on are one line and exit status 2."""
    try:
        app()
    except Fusion3DError as error:
        err.print(f"fusion3d: {error}", markup=False)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        err.print(
            f"fusion3d: {where}{error.strerror or error}; check the path, its rights and the free space",
            markup=False,
        )
        sys.exit(2)
