from __future__ import annotations

import pytest
import torch

from fusion3d.errors import ConfigError
from fusion3d.pretraining import memory
from fusion3d.pretraining.memory import parse_size, peak, size_text, used

CPU = torch.device("cpu")
MEBI = 2**20


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("6GiB", 6_442_450_944),
        ("6 GiB", 6_442_450_944),
        ("1.5gb", 1_500_000_000),
        ("800MiB", 838_860_800),
        (".5TiB", 549_755_813_888),
        ("2000000000B", 2_000_000_000),
    ],
)
def test_sizes_are_read_with_their_unit(text, size):
    assert parse_size(text, "--memory") == size


@pytest.mark.parametrize("text", ["6", "", "lots", "-1GiB", "0GiB", "6GiBs", "1e3GiB", "6,5GB", "nan GiB", "GiB", f"{10**400}GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match=r"--memory .* 6GiB"):
        parse_size(text, "--memory")


def test_a_size_is_written_for_people():
    assert [size_text(size) for size in (512, 1536, 3 * MEBI, 6 * 1024 * MEBI)] == ["512 B", "1.50 KiB", "3.00 MiB", "6.00 GiB"]


def test_peak_counts_what_was_held_and_freed_again():
    def run() -> None:
        torch.ones(100 * MEBI // 4)

    before = used(CPU)
    assert peak(CPU, run) == pytest.approx(100 * MEBI, rel=0.1)
    assert peak(CPU, lambda: None) < 10 * MEBI  # the mark is set back
    assert used(CPU) - before < 10 * MEBI


def test_a_system_that_does_not_tell_is_named_with_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    with pytest.raises(ConfigError, match=r"--model\.chips_at_once"):
        used(CPU)
