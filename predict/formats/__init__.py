"""What predictions are written as, by name: functions (results, path, facts) that write one file or folder."""

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config import Predict
from predict.detections import Result
from preprocess.recordings import Species
from preprocess.whole import whole_file


@dataclass(frozen=True)
class Facts:
    """What a format may say about all results."""

    species: list[Species]  # in the order of the columns
    model: str  # names of the runs
    recipe: str  # name and mark of the front end, as its folder of features is called
    options: str  # of the front end, JSON
    version: str  # of this software
    settings: Predict
    minimum: np.ndarray  # float64 [species], the least score of a detection
    highest: float  # Hz, of what the network hears
    probability: Callable[[float], float] | None = None  # calibrates a score, where the run has a calibration
    rows: Path | None = None  # test.csv or sample_submission.csv of a competition

    def name(self, column: int) -> str:
        """Return a name for people: vernacular, scientific, or the class id."""
        kind = self.species[column]
        return kind.vernacular_name or kind.scientific_name or kind.class_id

    def reached(self, scores: np.ndarray) -> np.ndarray:
        """Tell which species reach their minimum, bool [species]; 0, of what was not heard or not expected, never."""
        return (scores >= self.minimum) & (scores > 0)


@contextmanager
def open_csv(path: Path, delimiter: str = ",") -> Iterator[Any]:
    """Give a CSV writer whose file appears whole."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        yield csv.writer(stream, delimiter=delimiter, lineterminator="\n")


Format = Callable[[Iterable[Result], Path, Facts], None]


def formats() -> dict[str, tuple[Format, str]]:
    """Return name -> the function, and the ending of its file; "/" is a folder."""
    from predict.formats import annotations, competitions, tables
    from predict.formats.activity import activity

    return {
        "birdclef2016": (competitions.birdclef2016, ".csv"),
        "birdclef2018": (competitions.birdclef2018, ".csv"),
        "birdclef2018-soundscapes": (competitions.birdclef2018_soundscapes, ".csv"),
        "kaggle2020": (competitions.kaggle2020, ".csv"),
        "kaggle2021": (competitions.kaggle2021, ".csv"),
        "kaggle2022": (competitions.kaggle2022, ".csv"),
        "kaggle2023": (competitions.kaggle2023, ".csv"),
        "csv": (tables.tidy_csv, ".csv"),
        "parquet": (tables.parquet, ".parquet"),
        "json": (tables.json_file, ".json"),
        "activity": (activity, "/"),
        "raven": (annotations.raven, ".txt"),
        "audacity": (annotations.audacity, "/"),
        "kaleidoscope": (annotations.kaleidoscope, ".csv"),
    }


def plain(file: str) -> str:
    """Return a path that no spreadsheet takes for a formula; it still leads to the file."""
    return f"./{file}" if file.startswith(("=", "+", "-", "@")) else file


def plain_text(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
