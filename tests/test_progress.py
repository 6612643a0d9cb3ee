"""What a progress bar says of work: how many, how fast, and where to look on."""

from __future__ import annotations

import re

import pytest

from fusion3d.progress import progress_bar


class Cluster:
    """Workers whose dashboard is there after the first piece."""

    dashboard: str | None = None


@pytest.fixture
def lines(monkeypatch, capsys):
    """Runs a bar of 10 tiles, of which 4 were there and 3 are done, and gives what the terminal got."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")

    def run(shown: bool, cluster: Cluster) -> str:
        with progress_bar("embed", 10, shown, unit="tiles", done=4, workers=cluster) as advance:
            for _ in range(3):
                advance()
                cluster.dashboard = "http://127.0.0.1:8787/status"
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)

    return run


def test_bar_tells_how_many_how_fast_and_the_dashboard_once(lines):
    text = lines(True, Cluster())
    assert "7/10 tiles" in text
    assert re.search(r"[0-9.e+]+ tiles/s", text)
    assert text.count("http://127.0.0.1:8787/status") == 1


def test_nothing_is_said_when_it_is_not_shown(lines):
    assert lines(False, Cluster()) == ""
