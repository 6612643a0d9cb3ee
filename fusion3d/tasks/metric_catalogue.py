"""The plot metrics of the area-based approach: name, unit, definition and source of each.

Names are those of lidR's `stdmetrics` and of lidRmetrics where these have the metric. Heights are above ground, heights below
ground count as 0, and "above t" means greater than t. Which returns a metric counts is one of

- upper: returns above the least height, by default all;
- all: all returns, whatever the least height, because shares of returns are only cover when ground returns are counted;
- first: first returns.

A metric is NaN where a cell or plot has too few of the returns that it counts. Where there are enough but all heights are equal
(bare ground whose returns are the ground model's own), ratios that divide by their spread are 0: open ground stays on a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusion3d.errors import ConfigError

COVER_HEIGHTS = (2, 5, 10)
"""Metres, of the shares of returns above a height."""
GAP_LAYERS = ((2, 5), (5, 10), (10, 15), (15, 20), (20, 30))
"""Metres, of the gap fraction profile."""
VCI_TOP = 60
"""Metres up to which VCI has layers: above nearly all trees, and the same for all places, as the index asks for."""
LEAF_BASE, EXTINCTION = 2, 0.5
"""Metres where the leaf area density profile begins, and its extinction coefficient."""
RETURN_NUMBERS = (1, 2, 3, 4, 5)
HEIGHT_PERCENTILES = (*range(5, 100, 5), 99)
INTENSITY_PERCENTILES = (5, 25, 50, 75, 95)
DECILES = tuple(range(1, 10))

_LIDR = "lidR stdmetrics (Roussel et al. 2020, Remote Sensing of Environment 251)"
_WOODS = "Woods et al. 2008, The Forestry Chronicle 84(6)"
_NAESSET = "Naesset 2002, Remote Sensing of Environment 80"
_HOSKING = "Hosking 1990, Journal of the Royal Statistical Society B 52"
_SHANNON = "Pretzsch 2008, Description and Analysis of Stand Structures; Shannon 1948"
_VAN_EWIJK = "van Ewijk et al. 2011, Photogrammetric Engineering and Remote Sensing 77(3)"
_PARKER = "Parker and Russ 2004, Forest Ecology and Management 189; Kane et al. 2010, Canadian Journal of Forest Research 40"
_BOUVIER = "Bouvier et al. 2015, Remote Sensing of Environment 156; MacArthur and Horn 1969, Ecology 50"
_PIKE = "Pike and Wilson 1971, Geological Society of America Bulletin 82; Parker and Russ 2004"
_ECHO = "lidRmetrics metrics_echo (Tompalski)"
_DISPERSION = "lidRmetrics metrics_dispersion (Tompalski); McGaughey, FUSION manual"


@dataclass(frozen=True)
class Metric:
    """A plot metric.

    Attributes
    ----------
    name, unit : of the band
    text : its definition
    source : who published it
    group : what is computed in one go
    returns : that it counts: upper, all or first
    needs : point attributes beside the height
    predictor : it describes the forest; else the flight, and it is only given when asked for
    """

    name: str
    unit: str
    text: str
    source: str
    group: str
    returns: str = "upper"
    needs: tuple[str, ...] = ()
    predictor: bool = True


def _heights() -> list[Metric]:
    what = [
        ("zmax", "m", "greatest height", _LIDR),
        ("zmean", "m", "mean height", _LIDR),
        ("zsd", "m", "standard deviation of heights (n - 1)", _LIDR),
        ("zcv", "%", "100 zsd / zmean", "lidRmetrics metrics_basic (Tompalski)"),
        ("zskew", "1", "skewness of heights: third central moment over the second to the power 3/2", _LIDR),
        ("zkurt", "1", "kurtosis of heights: fourth central moment over the square of the second; 3 for a normal one", _LIDR),
        ("zMADmean", "m", "mean absolute deviation of heights from their mean", _DISPERSION),
        ("CRR", "1", "canopy relief ratio (mean - min) / (max - min) of heights", _PIKE),
        ("pzabovezmean", "%", "share of returns above zmean", _LIDR),
    ]
    return [Metric(name, unit, text, source, "heights") for name, unit, text, source in what]


def _percentiles() -> list[Metric]:
    ranks = [
        Metric(f"zq{rank}", "m", f"{rank}th percentile of heights, linear between order statistics", _LIDR, "percentiles")
        for rank in HEIGHT_PERCENTILES
    ]
    return [*ranks, Metric("ziqr", "m", "zq75 - zq25", _DISPERSION, "percentiles")]


def _layers() -> list[Metric]:
    entropy = "Shannon's entropy of layers of 1 m from the ground"
    below = "of the way from the least height to zmax"
    return [
        Metric("zentropy", "1", f"{entropy} to zmax over the logarithm of their number", _SHANNON, "layers"),
        Metric("VCI", "1", f"{entropy} to {VCI_TOP} m, higher returns left out, over ln {VCI_TOP}", _VAN_EWIJK, "layers"),
        *(
            Metric(f"zpcum{k}", "%", f"share of returns below {k}/10 {below}, without those at it", _WOODS, "deciles")
            for k in DECILES
        ),
    ]


def _l_moments() -> list[Metric]:
    what = [
        *((f"L{order}", "m", f"L-moment {order} of heights, unbiased") for order in (1, 2, 3, 4)),
        ("Lskew", "1", "L3 / L2"),
        ("Lkurt", "1", "L4 / L2"),
        ("Lcv", "1", "L2 / L1; Lcoefvar in lidRmetrics"),
    ]
    return [Metric(name, unit, text, _HOSKING, "l_moments") for name, unit, text in what]


def _cover() -> list[Metric]:
    number = ("return_number",)
    every = [
        Metric(f"pzabove{z}", "%", f"canopy cover: share of all returns above {z} m", _NAESSET, "cover", "all")
        for z in COVER_HEIGHTS
    ]
    first = [
        Metric(
            f"pfirstabove{z}", "%", f"canopy cover: share of first returns above {z} m", _NAESSET, "first_cover", "first", number
        )
        for z in COVER_HEIGHTS
    ]
    share = "gap fraction: returns not above {} m over returns not above {} m; 0 where there are none"
    gaps = [Metric(f"gf{low}_{high}", "1", share.format(low, high), _BOUVIER, "gaps", "all") for low, high in GAP_LAYERS]
    return [*every, *first, *gaps]


def _leaves() -> list[Metric]:
    profile = f"leaf area density by layers of 1 m from {LEAF_BASE} m to the top, -ln(gap fraction) / ({EXTINCTION} x 1 m)"
    what = [
        ("lad_min", "m-1", "least"),
        ("lad_max", "m-1", "greatest"),
        ("lad_mean", "m-1", "mean"),
        ("lad_cv", "1", "standard deviation over mean"),
        ("lad_sum", "1", "sum times 1 m (leaf area index)"),
    ]
    return [Metric(name, unit, f"{text} of the {profile}", _BOUVIER, "leaves", "all") for name, unit, text in what]


def _echoes() -> list[Metric]:
    number, both = ("return_number",), ("return_number", "number_of_returns")
    numbers = [
        Metric(f"p{rank}th", "%", f"share of returns of number {rank}", _LIDR, "return_numbers", "all", number)
        for rank in RETURN_NUMBERS
    ]
    kinds = [
        ("p_intermediate", "neither first nor last"),
        ("p_last", "the last of several"),
        ("p_single", "the only one of their pulse"),
    ]
    return [
        *numbers,
        *(Metric(name, "%", f"share of returns that are {text}", _ECHO, "echoes", "all", both) for name, text in kinds),
    ]


def _intensity() -> list[Metric]:
    what = [
        ("imax", "DN", "greatest intensity"),
        ("imean", "DN", "mean intensity"),
        ("isd", "DN", "standard deviation of intensities (n - 1)"),
        ("iskew", "1", "skewness of intensities, as zskew"),
        ("ikurt", "1", "kurtosis of intensities, as zkurt"),
        *((f"iq{rank}", "DN", f"{rank}th percentile of intensities") for rank in INTENSITY_PERCENTILES),
    ]
    return [Metric(name, unit, text, _LIDR, "intensity", needs=("intensity",)) for name, unit, text in what]


def _others() -> list[Metric]:
    surface = "area over planimetric area of the surface through the greatest heights of pixels of 1 m"
    return [
        Metric("rumple", "1", f"{surface} that hold returns", _PARKER, "rumple", "all"),
        Metric("pground", "%", "share of returns of class ground (2)", _LIDR, "ground", "all", ("classification",)),
        Metric("n", "1", "number of returns", _LIDR, "number", "all", predictor=False),
    ]


CATALOGUE: dict[str, Metric] = {
    metric.name: metric
    for part in (_heights, _percentiles, _layers, _l_moments, _cover, _leaves, _echoes, _intensity, _others)
    for metric in part()
}
"""Every metric by name, in the order of a map's bands."""


def choose(names: Sequence[str] | None, stored: Sequence[str]) -> tuple[Metric, ...]:
    """Metrics by name; None takes every predictor that the stored point attributes allow.

    Raises
    ------
    ConfigError
        A name is not known or given twice, or its point attribute is not stored.
    """
    if names is None:
        return tuple(metric for metric in CATALOGUE.values() if metric.predictor and set(metric.needs) <= set(stored))
    if not names:
        raise ConfigError("no metric is named; leave --metrics out for all of them")
    unknown = [name for name in names if name not in CATALOGUE]
    if unknown:
        raise ConfigError(f"no metric {', '.join(unknown)}; known are {', '.join(CATALOGUE)}")
    if len(set(names)) != len(names):
        raise ConfigError(f"--metrics names {', '.join(sorted({name for name in names if list(names).count(name) > 1}))} twice")
    for name in names:
        missing = set(CATALOGUE[name].needs) - set(stored)
        if missing:
            raise ConfigError(f"metric {name} needs the points' {', '.join(sorted(missing))}, which the store does not hold")
    return tuple(CATALOGUE[name] for name in names)
