"""Acquisition dates in file and product names."""

from __future__ import annotations

import datetime
import re

_SENSING_FIRST = re.compile(r"^(S[123][A-D]_|L[COETM]0?\d_|HLS\.|T\d{2}[A-Z]{3}_)", re.IGNORECASE)
"""Products whose names state the sensing date before other dates: Sentinel, Landsat, HLS."""

_PATTERNS = (
    re.compile(r"(?<!\d)(?P<y>(?:19|20)\d\d)(?P<s>[-_.])(?P<m>\d\d)(?P=s)(?P<d>\d\d)(?!\d)"),
    re.compile(r"(?<!\d)(?P<y>(?:19|20)\d\d)(?P<m>\d\d)(?P<d>\d\d)(?=T\d{4}|T?$|[^\dT]|T\D)"),
)
_DAY_OF_YEAR = re.compile(r"(?:^|(?<=[._\-])|(?<=[._\-]A))(?P<y>(?:19|20)\d\d)(?P<j>\d{3})(?=T\d{4}|$|[^\dT])")


def date_from_name(name: str) -> datetime.date | None:
    """The date that a file or product name states, or None when it states none or several different ones.

    Understood are YYYYMMDD, YYYY-MM-DD, YYYY_MM_DD and YYYY.MM.DD, and YYYYDDD when no other date is there. Of the several dates
    in a Sentinel, Landsat or HLS product name the first one counts: it is the sensing date.
    """
    found: list[tuple[int, datetime.date]] = []
    for pattern in _PATTERNS:
        for match in pattern.finditer(name):
            date = _date(int(match["y"]), int(match["m"]), int(match["d"]))
            if date is not None:
                found.append((match.start(), date))
    if not found:
        for match in _DAY_OF_YEAR.finditer(name):
            day = int(match["j"])
            date = _date(int(match["y"]), 1, 1)
            if date is not None and 1 <= day <= 366 and (date + datetime.timedelta(days=day - 1)).year == date.year:
                found.append((match.start(), date + datetime.timedelta(days=day - 1)))
    found.sort()
    if found and _SENSING_FIRST.match(name):
        return found[0][1]
    return found[0][1] if len({date for _, date in found}) == 1 else None


def _date(year: int, month: int, day: int) -> datetime.date | None:
    try:
        return datetime.date(year, month, day)
    except ValueError:
        return None
