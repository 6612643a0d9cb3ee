from __future__ import annotations

import pytest

from fusion3d.report.drawing import INK, Picture
from fusion3d.report.markup import Cell, figure, missing, number, shade_colour, table, text


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.1)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("share", [0, 0.5, 1, -1, 2])
def test_text_on_any_shade_is_read_well(share):
    low, high = sorted((luminance(INK), luminance(shade_colour(share))))
    assert (high + 0.05) / (low + 0.05) >= 7


def test_everything_is_escaped():
    hostile = '"><script>&'
    assert text(hostile) == "&quot;&gt;&lt;script&gt;&amp;"
    html = table([hostile], [[hostile], [Cell(hostile, hostile, 0.5)]], caption=hostile)
    html += figure(Picture(b"", 1, 1), hostile, hostile) + missing(hostile, hostile)
    assert "<script" not in html
    assert '">' + "<script" not in html


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (1e-15, "0"), (0.12345, "0.123"), (12.345, "12.3"), (123.456, "123"), (12345.6, "12 346"), (float("nan"), "–"),
     (-2.5, "-2.5")],
)  # fmt: skip
def test_numbers_have_three_digits(value, shown):
    assert number(value) == shown
