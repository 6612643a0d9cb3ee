"""The commands of the tutorials: each verb and option that they name is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from fusion3d.cli import app

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = ("biomass.md", "segmentation.md")


def commands() -> list[str]:
    text = "\n".join((ROOT / "docs" / page).read_text() for page in PAGES)
    return [line for block in BLOCK.findall(text) for line in block.splitlines() if line.startswith("fusion3d ")]


@pytest.mark.parametrize("command", commands())
def test_verb_and_options_of_the_command_exist(command):
    _, verb, *words = shlex.split(command)
    known = get_command(app).commands[verb]
    options = {name for item in known.params for name in item.opts}
    given = {word for word in words if word.startswith("--")}
    # pretrain's options are those of its configuration
    assert verb == "pretrain" or given <= options, given - options
    for word in words:
        assert not word.startswith("configs/") or (ROOT / word).exists()


def test_columns_that_the_biomass_tutorial_explains_are_those_of_the_table():
    from fusion3d.mapping.totals_table import COLUMNS

    text = (ROOT / "docs" / "biomass.md").read_text()
    table = text[text.index("## What each number means") : text.index("## What can go wrong")]
    named = set(re.findall(r"`([a-z_]+)`", table)) - {"level"}
    assert named <= set(COLUMNS)
    families = ("area", "unit", "total_se", "total_low", "total_high")
    assert set(COLUMNS) - named <= set(families)
