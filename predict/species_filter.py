"""Which species to expect: a list, or what was recorded nearby at that time of the year.

The occurrence of a species at a place and date is the sum, over its training recordings i, of

    exp(-(distance_i / 300 km)^2 / 2) * exp(-(weeks apart_i / 4)^2 / 2),

with the week left out where it is not known, and its weight is occurrence / (occurrence + 1): 0 where nobody has
recorded it, a half with one recording at the very place and season, near 1 with many. It says as much about recordists
as about birds, and leaves out a species whose training recordings have no place.
"""

import csv
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import PipelineError
from config.commandline import log
from preprocess.metadata import fold
from preprocess.recordings import Recording, Species
from train.run import Run

DISTANCE = 300.0  # km
WEEKS = 4.0
LEAST = 0.05  # weight below which a strict filter leaves a species out
EARTH_RADIUS = 6371.0  # km
DAYS_PER_YEAR = 365.25

MOST_SHOWN = 5  # names of a list that are not known


def read_list(path: Path, species: Sequence[Species]) -> np.ndarray:
    """Return 1 for the species of a list and 0 for the others, float64 [species].

    Args:
        path: a class id, scientific or vernacular name per line; what follows a # is a comment.
        species: of the run.

    Raises:
        PipelineError: if the file cannot be read or names no species of the run.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise PipelineError(
            f"{path} cannot be read: {reason}. Expected: a file with a class id or name per line."
        ) from None
    given = {fold(text): text for line in lines if (text := line.partition("#")[0].strip())}
    wanted = given.keys()
    named = [{fold(kind.class_id), fold(kind.scientific_name), fold(kind.vernacular_name)} - {""} for kind in species]
    chosen = np.array([float(bool(names & wanted)) for names in named])
    if not chosen.any():
        raise PipelineError(f"{path} names no species of the run. Expected: a class id or name per line.")
    unknown = [text for key, text in given.items() if not any(key in names for names in named)]
    if unknown:
        log(f"warning: {len(unknown)} lines of {path} name no species of the run: {', '.join(unknown[:MOST_SHOWN])}")
    return chosen


@dataclass(frozen=True)
class Occurrence:
    """Where and when the species of a run were recorded."""

    column: np.ndarray  # int [recordings], of the species
    latitude: np.ndarray  # float64 [recordings], degrees
    longitude: np.ndarray
    day: np.ndarray  # of the year, NaN if not known
    species: int

    def weights(self, latitude: float, longitude: float, date: str = "") -> np.ndarray:
        """Return the weight of every species at a place and, if it is known, a date, float64 [species]."""
        near = np.exp(-((distance(latitude, longitude, self.latitude, self.longitude) / DISTANCE) ** 2) / 2)
        day = day_of_year(date)
        if not np.isnan(day):
            apart = np.abs(self.day - day)
            weeks = np.minimum(apart, DAYS_PER_YEAR - apart) / 7
            near = near * np.where(np.isnan(weeks), 1, np.exp(-((weeks / WEEKS) ** 2) / 2))
        sums = np.bincount(self.column, near, minlength=self.species)
        return sums / (sums + 1)


def distance(latitude: float, longitude: float, latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
    """Return great-circle distances in km (haversine formula)."""
    a, b = np.radians(latitude), np.radians(latitudes)
    half = np.sin((b - a) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(np.radians(longitudes - longitude) / 2) ** 2
    return 2 * EARTH_RADIUS * np.arcsin(np.sqrt(np.minimum(half, 1)))


def day_of_year(date: str) -> float:
    """Return the day of the year of YYYY-MM-DD, the middle of the month of YYYY-MM, else NaN."""
    try:
        parts = [int(part) for part in date.split("-")]
        return float(datetime.date(parts[0], parts[1], parts[2] if len(parts) > 2 else 15).timetuple().tm_yday)
    except (ValueError, IndexError):
        return float("nan")


def read_places(target: Run) -> Occurrence:
    """Return where the species of a run were recorded.

    Raises:
        PipelineError: if the run does not know, or the file is damaged.
    """
    path = target.folder / "places.csv"
    column = {kind.class_id: i for i, kind in enumerate(target.read_species())}
    if not path.exists():
        raise PipelineError(f"{target.folder} does not know where its species were recorded ({path.name} is missing).")
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if row["class_id"] in column]
        place = np.array([(float(row["latitude"]), float(row["longitude"])) for row in rows]).reshape(-1, 2)
        columns = np.array([column[row["class_id"]] for row in rows], int)
        days = np.array([day_of_year(row["date"]) for row in rows])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PipelineError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    return Occurrence(columns, place[:, 0], place[:, 1], days, len(column))


@dataclass(frozen=True)
class Filter:
    """What to expect in a recording."""

    listed: np.ndarray | None = None  # 0 or 1 per species
    occurrence: Occurrence | None = None
    place: tuple[float, float] | None = None  # of recordings without one of their own
    date: str = ""
    strict: bool = False  # leave out what is not expected, instead of weighing all scores

    def __bool__(self) -> bool:
        """Tell whether it changes any score."""
        return self.listed is not None or self.occurrence is not None

    def lacks_place(self, recording: Recording) -> bool:
        """Tell whether occurrence says nothing of a recording because nobody knows where it was made."""
        return bool(self.occurrence) and not self.place and not (recording.latitude and recording.longitude)

    def weights(self, recording: Recording) -> np.ndarray | None:
        """Return what to multiply the scores of the species with, float64 [species]; None: nothing."""
        weights = self.listed
        if self.occurrence:
            own = recording.latitude and recording.longitude
            place = (float(recording.latitude), float(recording.longitude)) if own else self.place
            if place:
                found = self.occurrence.weights(*place, recording.date or self.date)
                found = (found >= LEAST).astype(float) if self.strict else found
                weights = found if weights is None else weights * found
        return weights
