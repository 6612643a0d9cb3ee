"""Texts of `--help` from the docstrings of the classes that the options belong to."""

from __future__ import annotations

import inspect
import re
from argparse import ArgumentParser
from collections.abc import Mapping


def parameter_texts(owner: type) -> dict[str, str]:
    """By name, what the section "Parameters" of a class's docstring says: ``name, name : text``, further lines indented."""
    found = re.search(r"\nParameters\n-+\n(.*?)(?=\n\n|\Z)", inspect.getdoc(owner) or "", re.DOTALL)
    items = re.findall(r"^(\w[\w, ]*?) : (.*(?:\n[ ]+.*)*)", found[1], re.MULTILINE) if found else []
    return {name: " ".join(text.split()) for names, text in items for name in re.split(r",\s*", names)}


def describe_options(parser: ArgumentParser, owners: Mapping[str, type]) -> None:
    """Give the options of some classes their texts.

    Parameters
    ----------
    owners : by prefix of the options (``model`` for ``--model.pairs``)
    """
    texts = {f"{prefix}.{name}": text for prefix, owner in owners.items() for name, text in parameter_texts(owner).items()}
    for action in parser._actions:
        if action.dest in texts:
            action.help = texts[action.dest]
