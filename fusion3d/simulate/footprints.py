"""Where and when GEDI passes over a scene: orbit tracks, beams, shots, and what is wrong with their stated positions.

Eight beams 600 m apart across the track, shots 60 m apart along it (Dubayah et al. 2020, doi:10.1016/j.srs.2020.100002). A shot
is known by its number alone: orbit, beam and place along the track; everything random about it is a function of that number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
from pyproj import Proj, Transformer

from fusion3d.errors import ConfigError
from fusion3d.io.gedi_products import BEAMS
from fusion3d.simulate.keyed import generator, normal, stream, uniform
from fusion3d.simulate.model import Box, Site

Float64 = npt.NDArray[np.float64]

ACROSS, ALONG = 600.0, 60.0
"""Metres between beams and between the shots of a beam."""
SHOT_INTERVAL = 2.0 / 242.0
"""Seconds between the shots of a beam: the laser fires at 242 Hz, and every other shot is dithered to the neighbouring track."""
PASS_SIGMA, SHOT_SIGMA = 6.0, 5.0
"""Geolocation error a axis, metres, 1 sigma: of a whole pass and of a single shot: 11 m on the map; release 2 states 10 m."""
DEGRADED_FACTOR = 3.0
"""How much larger a shot's own error is while pointing is degraded."""

EPOCH = datetime(2018, 1, 1, tzinfo=UTC)
_FIRST_ORBIT, _FIRST_TIME = 1964, datetime(2019, 4, 18, 8, 3, 38, tzinfo=UTC)
_ORBITS_A_DAY = 15.53
"""Of the space station; from the orbits of two real files, 1964 on 2019-04-18 and 6515 on 2020-02-05."""
_INCLINATION = math.radians(51.6)
_EARTH_RADIUS, _ORBIT_RADIUS = 6_371.0, 6_780.0
_ORBIT_SPEED, _EARTH_SPEED = 7.66, 0.465
"""Kilometres and kilometres a second; the second speed is the ground's at the equator."""
_SWATH = ACROSS * (len(BEAMS) - 1)
_INDEX_AT_CENTRE = 100_000
"""Number along the track of the shot nearest to the scene's centre: positive however large the scene."""
_CLOUD_RUN, _DEGRADED_RUN = 5, 40
"""Shots of a beam that share a cloud, or a degraded period."""
_DEGRADED_SHARE = 0.03


@dataclass(frozen=True)
class Pass:
    """One passage of the instrument.

    Attributes
    ----------
    orbit, granule, track : as in the file's name
    ascending : flies north-east; otherwise south-east
    start : when the shot at the scene's centre is fired, UTC
    azimuth : direction of flight on the map, radians clockwise from the y axis
    offset : of the first beam from the scene's centre, metres to the right of the flight direction
    night : sun below the horizon
    transmission : share of the light that haze leaves, there and back
    cloud_share : of the shots
    """

    orbit: int
    granule: int
    track: int
    ascending: bool
    start: datetime
    azimuth: float
    offset: float
    night: bool
    transmission: float
    cloud_share: float

    @property
    def day_of_year(self) -> int:
        return self.start.timetuple().tm_yday


@dataclass(frozen=True)
class Shots:
    """Shots of a pass, [F] each.

    Attributes
    ----------
    number : uint64, orbit (5 digits), beam (2), 0, granule (2), index along the track (8)
    beam : index into `BEAMS`
    x, y : where the light falls, metres in the scene's CRS
    x_stated, y_stated : where the files say that it falls
    seconds : since 2018-01-01 UTC
    cloudy : nothing returns from the ground
    degraded : pointing was bad, and the files say so
    """

    number: npt.NDArray[np.uint64]
    beam: npt.NDArray[np.int64]
    x: Float64
    y: Float64
    x_stated: Float64
    y_stated: Float64
    seconds: Float64
    cloudy: npt.NDArray[np.bool_]
    degraded: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.number)


def shot_number(orbit: int, beam: str, granule: int, index: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """GEDI's scheme OOOOOBBRGGNNNNNNNN; always below 2**63."""
    head = orbit * 10**13 + int(beam.removeprefix("BEAM"), 2) * 10**11 + granule * 10**8
    return np.asarray(index, np.uint64) + np.uint64(head)


def passes_over(site: Site, count: int) -> tuple[Pass, ...]:
    """Passes over a scene in its year, in order of time.

    Three in four come while broadleaves carry leaves, every other one in the night, and full-power beams and coverage beams take
    turns at the scene's centre.

    Raises
    ------
    ConfigError
        The count is not positive.
    """
    if count < 1:
        raise ConfigError(f"--passes {count} must be at least 1")
    summer = count - count // 4
    drawn = sorted((_draw(site, index, count, summer) for index in range(count)), key=lambda one: one.start)
    orbits: list[int] = []
    for one in drawn:
        orbits.append(max(one.orbit, orbits[-1] + 1) if orbits else one.orbit)
    return tuple(Pass(**{**vars(one), "orbit": orbit}) for one, orbit in zip(drawn, orbits, strict=True))


def _draw(site: Site, index: int, count: int, summer: int) -> Pass:
    random = generator(site.seed, "gedi pass", site.year, index)
    if index % 4 == 3:
        day = 315 + 50 * (index // 4 + random.uniform()) / max(1, count - summer)
    else:
        day = 145 + 125 * (index - index // 4 + random.uniform()) / summer
    night = index % 2 == 0
    hour = random.uniform(0.0, 3.0) if night else random.uniform(8.0, 15.0)
    midnight = datetime.combine(site.day(min(int(day), 365)), datetime.min.time(), UTC)
    start = (midnight + timedelta(hours=hour)).replace(microsecond=0)
    ascending = bool(random.integers(2)) if count == 1 else index % 2 == 1
    beam = int(random.integers(4)) + (4 if index % 4 in (0, 3) else 0)
    wander = 0.7 * min(ACROSS, site.size) + max(0.0, site.size - _SWATH)
    return Pass(
        orbit=_FIRST_ORBIT + int((start - _FIRST_TIME) / timedelta(days=1) * _ORBITS_A_DAY),
        granule=1 if ascending else 2,
        track=int(random.integers(1, 11_000)),
        ascending=ascending,
        start=start,
        azimuth=ground_track(site, ascending),
        offset=wander * (random.uniform() - 0.5) - ACROSS * beam,
        night=night,
        transmission=random.uniform(0.85, 1.0),
        cloud_share=random.uniform(0.05, 0.25),
    )


def ground_track(site: Site, ascending: bool) -> float:
    """Direction on the scene's map in which the footprints of the space station's orbit move, radians clockwise from the y axis.

    Heading of a circular inclined orbit (sin h = cos i / cos lat) less the Earth's turning below it.
    """
    longitude, latitude = centre(site)
    cosine = math.cos(math.radians(latitude))
    heading = math.asin(min(1.0, math.cos(_INCLINATION) / cosine))
    speed = _ORBIT_SPEED * _EARTH_RADIUS / _ORBIT_RADIUS
    east = speed * math.sin(heading) - _EARTH_SPEED * cosine
    north = speed * math.cos(heading) * (1.0 if ascending else -1.0)
    convergence = Proj(site.crs).get_factors(longitude, latitude).meridian_convergence
    return math.atan2(east, north) - math.radians(convergence)


def centre(site: Site) -> tuple[float, float]:
    """Longitude and latitude of the scene's centre, degrees."""
    box = site.box
    to_degrees = Transformer.from_crs(site.crs, 4326, always_xy=True)
    longitude, latitude = to_degrees.transform((box.xmin + box.xmax) / 2, (box.ymin + box.ymax) / 2)
    return float(longitude), float(latitude)


def shots_in(site: Site, one: Pass, box: Box) -> Shots:
    """The shots of a pass whose light falls into a box (half-open), whatever position the files state for them."""
    beams, indices, x, y = [], [], [], []
    sine, cosine = math.sin(one.azimuth), math.cos(one.azimuth)
    middle_x, middle_y = (site.box.xmin + site.box.xmax) / 2, (site.box.ymin + site.box.ymax) / 2
    corner_x = np.array([box.xmin, box.xmin, box.xmax, box.xmax]) - middle_x
    corner_y = np.array([box.ymin, box.ymax, box.ymin, box.ymax]) - middle_y
    along, across = corner_x * sine + corner_y * cosine, corner_x * cosine - corner_y * sine
    phases = uniform(stream(site.seed, "gedi phase"), one.orbit, np.arange(len(BEAMS)))
    for beam, phase in enumerate(phases):
        right = one.offset + ACROSS * beam
        if not across.min() <= right <= across.max():
            continue
        index = np.arange(math.floor(along.min() / ALONG - phase), math.ceil(along.max() / ALONG - phase) + 1)
        forward = ALONG * (index + phase)
        beam_x, beam_y = middle_x + forward * sine + right * cosine, middle_y + forward * cosine - right * sine
        inside = box.contains(beam_x, beam_y)
        beams.append(np.full(int(inside.sum()), beam))
        indices.append(index[inside])
        x.append(beam_x[inside])
        y.append(beam_y[inside])
    if not beams:
        nothing = np.zeros(0)
        beams, indices, x, y = [nothing.astype(np.int64)], [nothing.astype(np.int64)], [nothing], [nothing]
    return _shots(site, one, np.concatenate(beams), np.concatenate(indices), np.concatenate(x), np.concatenate(y))


def _shots(site: Site, one: Pass, beam: npt.NDArray[np.int64], index: npt.NDArray[np.int64], x: Float64, y: Float64) -> Shots:
    heads = np.array([shot_number(one.orbit, name, one.granule, 0) for name in BEAMS], np.uint64)
    number = heads[beam] + (index + _INDEX_AT_CENTRE).astype(np.uint64)
    cloudy = uniform(stream(site.seed, "gedi clouds"), one.orbit, beam, index // _CLOUD_RUN) < one.cloud_share
    degraded = uniform(stream(site.seed, "gedi pointing"), one.orbit, index // _DEGRADED_RUN) < _DEGRADED_SHARE
    spread = SHOT_SIGMA * np.where(degraded, DEGRADED_FACTOR, 1.0)
    x_error, y_error = (
        PASS_SIGMA * normal(stream(site.seed, f"gedi pass {axis}"), one.orbit)
        + spread * normal(stream(site.seed, f"gedi shot {axis}"), number)
        for axis in "xy"
    )
    seconds = (one.start - EPOCH).total_seconds() + SHOT_INTERVAL * index
    return Shots(number, beam, x, y, x + x_error, y + y_error, seconds.astype(np.float64), cloudy, degraded)
