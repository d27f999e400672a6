"""Annotations of recordings: what is heard from when to when, as Raven and other tables say it.

Read are Raven selection tables (.txt, tabs; a folder of them, or one with Begin File or Begin Path) and CSV files with
a file, a start, an end and a species, called as below: those of the detections of `predict/formats/tables.py`, of
the annotated soundscapes on Zenodo (Kahl et al. 2022, 2023: Filename, Start Time (s), End Time (s), Species eBird
Code), and of competitions. In a CSV an empty species, or nocall, says that a recording was listened to.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from config import PipelineError
from preprocess import audio
from preprocess.metadata import NO_CALL, fold, read_lines
from preprocess.pieces import seconds
from preprocess.recordings import shown

COVERED = 0.1  # share of a stretch that an event must cover to count for it,
CONTAINED = 0.5  # or share of the event that must lie in the stretch
ROUNDING = 1e-9  # s
MOST_SECONDS = 1e6  # of a recording: eleven days
COLUMNS = {  # what they may be called; the first that there is counts
    "file": ("file", "filename", "begin path", "begin file"),
    "start": ("start", "start time (s)", "begin time (s)"),
    "end": ("end", "end time (s)"),
    "species": (
        *("species code", "class_id", "species ebird code", "primary_label", "species"),
        *("common name", "scientific name", "annotation", "label"),
    ),
}
LISTS = "primary_label"  # of competitions: class ids separated by semicolons
SCIENTIFIC = ("scientific_name", "scientific name")
OFFSET = "file offset (s)"  # of Raven: the start within the file, where times count through several
TABLE_ENDINGS = re.compile(r"(\.Table\.\d+)?(\.BirdNET)?(\.selections?)?(\.table)?\.(txt|tsv|csv)$", re.IGNORECASE)

Problems = list[tuple[str, str]]  # table:line, and what is wrong there


@dataclass(frozen=True)
class Event:
    """A species in a stretch of a file."""

    file: str
    start: float  # s
    end: float
    label: str
    score: float = 1.0
    scientific_name: str = ""


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
            for line, events in _read_events(table, column):
                if not isinstance(events, str):
                    found.update(dict.fromkeys(events))
                elif problems is None:
                    raise PipelineError(f"{table}, line {line}: {events}.")
                else:
                    problems.append((f"{table.name}:{line}", events))
        except PipelineError as error:
            if problems is None:
                raise
            problems.append((table.name, str(error)))
    return list(found)


def is_annotations(header: Iterable[str], column: str = "") -> bool:
    """Tell whether a CSV with these columns, in lower case, holds annotations."""
    return all(set(header) & set(names) for names in _columns(column).values())


def _columns(column: str) -> dict[str, tuple[str, ...]]:
    """Return what every column may be called; that of the species is `column`, if that is given."""
    return COLUMNS | ({"species": (fold(column),)} if column else {})


def _read_events(path: Path, column: str) -> Iterator[tuple[int, list[Event] | str]]:
    """Yield the line number and the events of every line, or what is wrong with it."""
    header, rows = read_table(path)
    wanted = _columns(column)
    names = {role: [name for name in choice if name in header] for role, choice in wanted.items()}
    is_csv = path.suffix.lower() == ".csv"
    for role, choice in wanted.items():
        if not names[role] and (is_csv or role != "file"):
            hint = "; another one is named by --label-column, data.label_column" if role == "species" else ""
            raise PipelineError(f"{path} has no column with the {role}: {', '.join(choice)}{hint}.")
    start, end, species = names["start"][0], names["end"][0], names["species"][0]
    scientific = next((name for name in SCIENTIFIC if name in header), species)
    for line, row in rows:
        file = next((row[name] for name in names["file"] if row.get(name)), "").replace("\\", "/")
        if not is_csv:  # a table without names of files is of the recording that it is named by
            file = file or bare_name(path)
        try:
            if not file.isprintable() or not file:
                raise ValueError(f"no name of a file: {file!a:.80}")
            if any("\n" in cell or "\r" in cell for cell in row.values()):
                raise ValueError("a cell of several lines; a quotation mark may be left open")
            if not {start, end, species} <= row.keys():
                raise ValueError("the line is cut off")
            labels = row[species].split(";") if species == LISTS else [row[species]]
            labels = [label.strip() for label in labels if label.strip() and fold(label) != NO_CALL]
            if not labels and is_csv:
                yield line, [Event(file, 0.0, 0.0, "")]
                continue
            begin, until = time_of(row[start]), time_of(row[end])
            if row.get(OFFSET):
                begin, until = (offset := time_of(row[OFFSET])), offset + until - begin
            if until < max(begin, 0):
                raise ValueError(f"it ends at {until:g} s, before it begins")
            known = row.get(scientific, "") if scientific in SCIENTIFIC and len(labels) == 1 else ""
            yield line, [Event(file, begin, until, label, 1.0, known) for label in labels or [""]]
        except ValueError as error:
            yield line, str(error)


def read_table(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """Return the columns of a table in lower case, and its lines: their number and the cells that there are.

    Raises:
        PipelineError: if it cannot be read.
    """
    lines = read_lines(path, strict=False)  # what is wrong with a line is told by its number, see `_read_events`
    header = [fold(name) for name in next(lines, (0, []))[1]]
    return header, ((line, dict(zip(header, map(str.strip, cells), strict=False))) for line, cells in lines)


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


def bare_name(path: Path | PurePosixPath) -> str:
    """Return the name of a recording without its ending, or that of the recording that a table is named by."""
    return path.stem if audio.is_audio(Path(path.name)) else TABLE_ENDINGS.sub("", path.name)


def find_files(wanted: Iterable[str], files: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return which files annotated ones are, and what is unclear about others.

    A file is meant that has the same path, else one that ends in the same folders: Raven writes paths of the
    machine that it ran on. Those that are not there are in neither.
    """
    alike = defaultdict(list)
    for file in files:
        alike[bare_name(PurePosixPath(file))].append(file)
    found: dict[str, str] = {}
    unclear: dict[str, str] = {}
    owner: dict[str, str] = {}
    for name in wanted:
        path = PurePosixPath(name)
        fitting = [file for file in alike.get(bare_name(path), ()) if _ends_alike(path, PurePosixPath(file))]
        fitting = [file for file in fitting if PurePosixPath(file).name == path.name] or fitting
        fitting = [name] if name in fitting else fitting
        if len(fitting) > 1:
            unclear[name] = f"{shown(name)} could be any of {', '.join(map(shown, sorted(fitting)[:3]))}"
        for file in fitting[:1] if name not in unclear else ():
            other = owner.setdefault(file, name)
            if _ends_alike(PurePosixPath(other), path):
                found[name] = file
            else:  # two recordings of the annotations, of which one is there
                unclear[name] = unclear[other] = f"{shown(file)} could be {shown(other)} or {shown(name)}"
    return {name: file for name, file in found.items() if name not in unclear}, unclear


def match_files(wanted: Iterable[str], files: Iterable[str]) -> dict[str, str]:
    """Return which files annotated ones are by `find_files`; those that are not there keep their names.

    Raises:
        PipelineError: if it is unclear.
    """
    wanted = list(wanted)
    found, unclear = find_files(wanted, files)
    if unclear:
        raise PipelineError(f"Which recordings are meant is unclear: {next(iter(unclear.values()))}.")
    return {name: found.get(name, name) for name in wanted}


def _ends_alike(one: PurePosixPath, other: PurePosixPath) -> bool:
    """Tell whether one path is the end of the other, but for the ending of the file's name (.wav, .selections.txt)."""
    first, second = ((*path.parts[:-1], bare_name(path))[::-1] for path in (one, other))
    return all(a == b for a, b in zip(first, second, strict=False))


# Stretches


def lies_in(start: float, end: float, low: float, high: float) -> bool:
    """Tell whether an event counts for a stretch that it touches: it covers a tenth of it, or lies in it mostly.

    An event without a length counts.
    """
    inside = min(end, high) - max(start, low)
    enough = inside >= COVERED * (high - low) - ROUNDING or inside > CONTAINED * (end - start) + ROUNDING
    return enough or start == end


def stretches_of(start: float, end: float, length: float) -> range:
    """Return the numbers of the stretches of `length` seconds that an event touches; a moment touches one."""
    first = int(start // length)
    return range(first, max(-int(-end // length), first + 1))


def held_in_stretches(events: Sequence[Event], length: float) -> dict[int, dict[str, float]]:
    """Return what a file holds in stretches of `length` seconds: number of the stretch -> label -> seconds of it.

    Only stretches that an event counts for by `lies_in` are there, and only what does. Seconds that several events of
    a label cover count once.
    """
    covered: dict[int, dict[str, list[tuple[float, float]]]] = {}
    for event in events:
        start, end = max(event.start, 0.0), max(event.end, 0.0)
        for k in stretches_of(start, end, length) if event.label else ():
            low, high = k * length, (k + 1) * length
            if lies_in(start, end, low, high):
                covered.setdefault(k, {}).setdefault(event.label, []).append((max(start, low), min(end, high)))
    return {k: {label: _union(spans) for label, spans in own.items()} for k, own in covered.items()}


def _union(spans: list[tuple[float, float]]) -> float:
    """Return how many seconds some stretches cover together."""
    total, until = 0.0, -1.0
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
