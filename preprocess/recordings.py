"""The manifest: one row per recording in `recordings.csv`, beside it `classes.csv` and `rejected.csv`.

Every later stage reads these tables and nothing else about the corpus.
"""

import csv
import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from config import PipelineError
from preprocess.whole import whole_file

BACKGROUND_SEPARATOR = ","


@dataclass(frozen=True, slots=True)
class Recording:
    """One recording. Unknown is the empty string, except for numbers read from the audio header (0)."""

    media_id: str
    file: str  # relative to the root of the corpus, with '/'
    class_id: str = ""  # empty in a test part without labels
    background: str = ""  # class ids, separated by commas
    group: str = ""  # species + recordist + day: never split between training and validation
    part: str = "train"  # train or test
    fold: str = ""
    duration: float = 0.0  # seconds, by the header of the file
    sample_rate: int = 0  # Hz, of the file
    scientific_name: str = ""
    vernacular_name: str = ""
    date: str = ""  # YYYY, YYYY-MM or YYYY-MM-DD
    time: str = ""  # HH:MM
    latitude: str = ""
    longitude: str = ""
    elevation: str = ""  # metres
    locality: str = ""
    author: str = ""
    content: str = ""  # song, call, ...
    quality: str = ""  # 1 best to 5 worst, 0 or empty: unrated
    licence: str = ""

    @property
    def background_ids(self) -> list[str]:
        """The class ids of the background species."""
        return self.background.split(BACKGROUND_SEPARATOR) if self.background else []


@dataclass(frozen=True, slots=True)
class Species:
    """One class, in the order of the network's outputs."""

    class_id: str
    scientific_name: str = ""
    vernacular_name: str = ""
    order: str = ""
    family: str = ""


@dataclass(frozen=True, slots=True)
class Reject:
    """One file that a stage could not use, and why."""

    file: str
    stage: str  # fetch, resample or load
    reason: str  # a short code; README lists them
    detail: str = ""


def shown(file: str) -> str:
    """Return a file name as a table may hold it: one with control characters or no characters at all is escaped."""
    return file if file.isprintable() else ascii(file)


Row = TypeVar("Row", Recording, Species, Reject)
R = TypeVar("R")


def write_table(path: Path, kind: type[Row], rows: Iterable[Row]) -> None:
    """Write rows of one kind as CSV, whole or not at all."""
    names = [field.name for field in dataclasses.fields(kind)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(names)
        quoting = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)  # Python 3.11 leaves a lone "\r" bare
        for row in rows:
            values = [getattr(row, name) for name in names]
            (quoting if any("\r" in str(value) for value in values) else writer).writerow(values)
        stream.flush()
        os.fsync(stream.fileno())


def read_table(path: Path, kind: type[Row]) -> list[Row]:
    """Read what `write_table` wrote.

    Raises:
        PipelineError: naming the file and the row, if it is missing or not such a table.
    """
    fields = dataclasses.fields(kind)
    numbers = [(i, field.type) for i, field in enumerate(fields) if field.type in (int, float)]

    def build(lines: Iterable[list[str]]) -> list[Row]:
        rows = []
        for values in lines:
            for i, number in numbers:
                values[i] = number(values[i])
            rows.append(kind(*values))
        return rows

    return _read(path, [field.name for field in fields], build)


def read_columns(path: Path, kind: type[Row], *names: str) -> list[list]:
    """Read some columns of what `write_table` wrote, a list each: faster than rows, in a fraction of the memory.

    Raises:
        PipelineError: as `read_table`.
    """
    types = {field.name: field.type for field in dataclasses.fields(kind)}
    columns: list[list] = [[] for _ in names]
    work = [(columns[k].append, list(types).index(name), types[name]) for k, name in enumerate(names)]

    def build(lines: Iterable[list[str]]) -> list[list]:
        for values in lines:
            for append, place, type_of in work:
                append(values[place] if type_of is str else type_of(values[place]))
        return columns

    return _read(path, list(types), build)


def _read(path: Path, names: list[str], build: Callable[[Iterator[list[str]]], R]) -> R:
    """Return what `build` makes of the lines of a table; each has as many values as there are names."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.reader(stream)
            if next(reader, None) != names:
                raise PipelineError(f"{path} has other columns than expected ({', '.join(names)}). Make it again.")
            return build(_checked(reader, len(names)))
    except FileNotFoundError:
        raise PipelineError(
            f"{path} is missing. Run stages 1 to 3 with the same --config and --set: ./doall.sh --stop-stage 3"
        ) from None
    except (ValueError, TypeError, IndexError, UnicodeDecodeError, csv.Error) as error:
        raise PipelineError(
            f"{path}, line {reader.line_num}: {error}. Remove the file and run stage 1 again."
        ) from None


def _checked(lines: Iterable[list[str]], width: int) -> Iterator[list[str]]:
    for values in lines:
        if len(values) != width:
            raise ValueError(f"{len(values)} values for {width} columns")
        yield values


def update_rejects(path: Path, stages: Sequence[str], rejects: Iterable[Reject]) -> None:
    """Replace the rows of the given stages in `rejected.csv`, in the order stage, file."""
    kept = [row for row in read_table(path, Reject) if row.stage not in stages] if path.exists() else []
    order = {"fetch": 0, "resample": 1, "load": 2}
    write_table(
        path,
        Reject,
        sorted([*kept, *rejects], key=lambda row: (order.get(row.stage, 9), row.file, row.reason)),
    )


def tally(taken: int, rejects: Sequence[Reject], unit: str = "recordings") -> str:
    """Return the closing words of a stage: how many were taken and how many rejected, by reason."""
    reasons = Counter(reject.reason for reject in rejects)
    detail = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    return f"{taken} {unit} taken, {len(rejects)} rejected" + (f" ({detail})" if detail else "")
