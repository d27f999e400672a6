"""Annotations of recordings: what is heard from when to when, as Raven and other tables say it.

Read are Raven selection tables (.txt, tabs; a folder of them, or one with Begin File or Begin Path) and CSV files with
a file, a start, an end and a species, called as below: those of the detections of `predict/formats/tables.py`, of
the annotated soundscapes on Zenodo (Kahl et al. 2022, 2023: Filename, Start Time (s), End Time (s), Species eBird
Code), and of competitions. An empty species says that a recording was listened to and holds nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from config import PipelineError
from preprocess.metadata import fold, read_lines
from preprocess.pieces import seconds

COVERED = 0.1  # share of a stretch that an event must cover to count for it,
CONTAINED = 0.5  # or share of the event that must lie in the stretch
ROUNDING = 1e-9  # s
MOST_SECONDS = 1e6  # of a recording: eleven days
COLUMNS = {  # what they may be called
    "file": ("file", "filename", "begin path", "begin file"),
    "start": ("start", "start time (s)", "begin time (s)"),
    "end": ("end", "end time (s)"),
    "species": (
        *("species code", "class_id", "species ebird code", "primary_label", "species"),
        *("common name", "scientific name", "annotation", "label"),
    ),
}
OFFSET = "file offset (s)"  # of Raven: the start within the file, where times count through several

Problems = list[tuple[str, str]]  # table:line, and what is wrong there


@dataclass(frozen=True)
class Event:
    """A species in a stretch of a file."""

    file: str
    start: float  # s
    end: float
    label: str
    score: float = 1.0


def lies_in(start: float, end: float, low: float, high: float) -> bool:
    """Tell whether an event counts for the stretch from low to high: it covers a tenth of it, or lies in it mostly."""
    inside = min(end, high) - max(start, low)
    return inside >= COVERED * (high - low) - ROUNDING or inside > CONTAINED * (end - start) + ROUNDING


# Reading


def read_annotations(path: Path, column: str = "", problems: Problems | None = None) -> list[Event]:
    """Return the annotations of a CSV, a Raven selection table, or a folder of tables; each once.

    Args:
        path: file or folder.
        column: that holds the species; empty: the first of `COLUMNS` that there is.
        problems: takes what is wrong with single tables and lines, which are left out then.

    Raises:
        PipelineError: if there is no table, or, without `problems`, something is wrong with one.
    """
    tables = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not tables:
        raise PipelineError(f"{path} holds no selection table (.txt).")
    found: dict[Event, None] = {}  # in order; in Raven's tables an event stands once per view
    for table in tables:
        try:
            for line, event in _read_events(table, column):
                if isinstance(event, Event):
                    found[event] = None
                elif problems is None:
                    raise PipelineError(f"{table}, line {line}: {event}.")
                else:
                    problems.append((f"{table.name}:{line}", event))
        except PipelineError as error:
            if problems is None:
                raise
            problems.append((table.name, str(error)))
    return list(found)


def _read_events(path: Path, column: str) -> Iterator[tuple[int, Event | str]]:
    """Yield the line number and the event of every line, or what is wrong with it."""
    header, rows = read_table(path)
    wanted = COLUMNS | ({"species": (fold(column),)} if column else {})
    names = {role: [name for name in choice if name in header] for role, choice in wanted.items()}
    of_raven = path.suffix.lower() == ".txt" and not names["file"]  # such a table is of the recording it is named by
    for role, choice in wanted.items():
        if not names[role] and not (role == "file" and of_raven):
            hint = ". Name it by --label-column or data.label_column" if role == "species" else ""
            raise PipelineError(f"{path} has no column with the {role}: {', '.join(choice)}{hint}.")
    for line, row in rows:
        file, start, end, label = (next((row[name] for name in names[role] if row[name]), "") for role in COLUMNS)
        file = path.name.split(".Table.")[0] if of_raven else file.replace("\\", "/")
        try:
            if not file:
                raise ValueError("no file")
            if not label and not (start and end):
                yield line, Event(file, 0.0, 0.0, "")
                continue
            begin, until = time_of(start), time_of(end)
            if row.get(OFFSET):
                begin, until = (offset := time_of(row[OFFSET])), offset + until - begin
            yield line, Event(file, begin, until, label)
        except ValueError as error:
            yield line, str(error)


def read_table(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """Return the columns of a table in lower case, and its lines: their number and cells, missing ones empty.

    Raises:
        PipelineError: if it cannot be read.
    """
    lines = read_lines(path)
    header = [fold(name) for name in next(lines, (0, []))[1]]
    empty = dict.fromkeys(header, "")
    return header, ((line, empty | dict(zip(header, map(str.strip, cells), strict=False))) for line, cells in lines)


def time_of(text: str) -> float:
    """Return seconds, of a number of them or hh:mm:ss.

    Raises:
        ValueError: saying what there is instead.
    """
    try:
        value = seconds(text) if ":" in text else float(text)
    except ValueError:
        raise ValueError(f"no time: {text[:40]!r}") from None
    if not abs(value) <= MOST_SECONDS:
        raise ValueError(f"no time within {MOST_SECONDS:.0f} s: {text[:40]!r}")
    return value


# Files


def candidates(wanted: Iterable[str], files: Iterable[str]) -> dict[str, set[str]]:
    """Return for annotated files which ones they can be: the same path, else those that end in the same folders."""
    stems = defaultdict(set)
    for file in files:
        stems[PurePosixPath(file).stem].add(file)
    found = {}
    for name in wanted:
        alike = stems.get(PurePosixPath(name).stem, set())
        found[name] = {name} & alike or {f for f in alike if _ends_alike(PurePosixPath(name), PurePosixPath(f))}
    return found


def match_files(wanted: Iterable[str], files: Iterable[str]) -> dict[str, str]:
    """Return for annotated files those that there are.

    A file that is not there keeps its name: one of the same name in another folder is another file.

    Raises:
        PipelineError: if one could be several.
    """
    found = {}
    for name, fitting in candidates(wanted, files).items():
        if len(fitting) > 1:
            raise PipelineError(f"{name} of the truth could be any of {', '.join(sorted(fitting))}.")
        found[name] = next(iter(fitting), name)
    return found


def _ends_alike(one: PurePosixPath, other: PurePosixPath) -> bool:
    """Tell whether one path is the end of the other, but for the ending of the file's name (.wav, .selections.txt)."""
    first, second = ((*path.parts[:-1], path.stem)[::-1] for path in (one, other))
    return all(a == b for a, b in zip(first, second, strict=False))


# Stretches


def held_in_stretches(events: Sequence[Event], length: float) -> dict[int, dict[str, float]]:
    """Return what a file holds in stretches of `length` seconds: number of the stretch -> label -> seconds of it.

    Only stretches that an event counts for by `lies_in` are there, and only what does.
    """
    held: dict[int, dict[str, float]] = {}
    for event in events:
        start, end = max(event.start, 0.0), max(event.end, 0.0)
        for k in stretches_of(start, end, length):
            low, high = k * length, (k + 1) * length
            if event.label and (start == end or lies_in(start, end, low, high)):
                own = held.setdefault(k, {})
                own[event.label] = own.get(event.label, 0.0) + min(end, high) - max(start, low)
    return held


def stretches_of(start: float, end: float, length: float) -> range:
    """Return the numbers of the stretches that an event lies in; a moment lies in one too."""
    return range(int(start // length), max(-int(-end // length), int(start // length) + 1))
