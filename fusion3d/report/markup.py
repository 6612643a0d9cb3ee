"""Pieces of HTML. Everything that comes from a file or a user passes through `text`, so it can be shown but never run."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from fusion3d.report.drawing import Picture


@dataclass(frozen=True)
class Section:
    """A part of the page: id of its anchor, title, HTML."""

    id: str
    title: str
    body: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, a smaller text behind it, and how dark it is shaded, 0 to 1 (None: not at all)."""

    value: str
    aside: str = ""
    shade: float | None = None


def text(value: object) -> str:
    """Escaped text, also safe inside of an attribute."""
    return html.escape(str(value), quote=True)


def sentence(value: object, kind: str = "") -> str:
    return f'<p class="{text(kind)}">{text(value)}</p>' if kind else f"<p>{text(value)}</p>"


def missing(what: str, command: str) -> str:
    """What is not there, and the command that makes it."""
    return f'<p class="missing">{text(what)}: make it with <code>{text(command)}</code>.</p>'


def damaged(problem: object) -> str:
    """One line on a part that is there but cannot be shown."""
    return sentence(f"This part cannot be shown. {problem}", "damaged")


def figure(picture: Picture, caption: str, alt: str) -> str:
    return (
        f'<figure><img alt="{text(alt)}" width="{picture.width}" height="{picture.height}" src="{picture.data_uri}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def folded(title: str, body: str) -> str:
    return f"<details><summary>{text(title)}</summary>{body}</details>"


def cards(items: Sequence[tuple[str, str, str]]) -> str:
    """Key figures: (figure, what it is, what to compare it with)."""
    inside = "".join(
        f'<div class="card"><div class="value">{text(value)}</div><div class="label">{text(label)}</div>'
        f'<div class="aside">{text(aside)}</div></div>'
        for value, label, aside in items
    )
    return f'<div class="cards">{inside}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str | Cell]], left: int = 1, caption: str = "") -> str:
    """A table whose first `left` columns are words, aligned left; the others are numbers, aligned right."""
    head = "".join(f'<th scope="col"{_side(at, left)}>{text(name)}</th>' for at, name in enumerate(header))
    body = "".join("<tr>" + "".join(_cell(cell, at, left) for at, cell in enumerate(row)) + "</tr>" for row in rows)
    above = f"<caption>{text(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _side(at: int, left: int) -> str:
    return ' class="word"' if at < left else ""


def _cell(cell: str | Cell, at: int, left: int) -> str:
    if isinstance(cell, str):
        return f"<td{_side(at, left)}>{text(cell)}</td>"
    style = "" if cell.shade is None else f' style="background:{shade_colour(cell.shade)}"'
    aside = f' <span class="aside">{text(cell.aside)}</span>' if cell.aside else ""
    return f"<td{_side(at, left)}{style}>{text(cell.value)}{aside}</td>"


def shade_colour(share: float) -> str:
    """From white (0) to a blue on which dark text is still read well (1: contrast 7.6 to 1 with #1c2733)."""
    share = min(1.0, max(0.0, share))
    red, green, blue = (round(255 + share * (end - 255)) for end in (126, 190, 222))
    return f"#{red:02x}{green:02x}{blue:02x}"


def number(value: float, digits: int = 3) -> str:
    """A number with that many significant digits and spaces between thousands."""
    if value != value:
        return "–"
    if abs(value) < 1e-9:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.{digits}g}"
