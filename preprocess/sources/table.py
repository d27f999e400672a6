"""Any audio with a table of labels: a CSV with the columns file, label[, split][, group] and what else is known.

`split` is train (or empty) or test; any other value, such as val or 3, names a fold of the training part, which
train.split = {name = "folds", validation = "val"} uses. Further columns that the manifest has, such as author,
date, latitude, longitude, quality (1 best to 5) and licence, are kept; `background` holds names separated by
commas. Cells stay text: the label 007 is not 7. Dates may be 2023-05-12 or 12.05.2023, places 12.5 or 12,5; columns may
be called in upper or lower case. With the columns start and end, rows are pieces of recordings.
"""

import csv
import io
import itertools
import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from config import PipelineError
from config.commandline import log, progress
from preprocess import audio
from preprocess.metadata import (
    Names,
    check_class_id,
    check_name,
    check_there,
    clean_date,
    clean_number,
    clean_time,
    complete,
    decimal,
    known,
    observation,
    read_rows,
)
from preprocess.pieces import MAX_PIECE_SECONDS, cut, seconds
from preprocess.recordings import Recording, Reject, Species
from preprocess.sources import Corpus, expanded, find_root
from preprocess.whole import whole_file

_CLEANED = {
    "date": clean_date,
    "time": clean_time,
    "latitude": lambda text: clean_number(decimal(text), 90),
    "longitude": lambda text: clean_number(decimal(text), 180),
    "elevation": lambda text: clean_number(text, 9000),
    "quality": lambda text: clean_number(decimal(text), 5),
}
LONGEST_NAME = 240  # bytes, so that endings can follow
PIECES = "labels-of-pieces.csv"  # a table that is made, with a further column:
PROBLEM = "why it could not be cut"  # reason: detail
WHERE = "what it is of"  # where another source made the table: how a reject is called
_KEPT = ("background", "scientific_name", "vernacular_name", "locality", "author", "content", "licence")
_COLUMNS = (*_KEPT, *_CLEANED, "split", "group", "fold", "start", "end")  # which may be there


@dataclass(frozen=True)
class Source:
    """The recordings that a table lists."""

    root: str = ""  # folder that the table and its files are relative to
    table: str = "labels.csv"  # name of the table in it

    def fetch(self, raw: Path, limit: int, jobs: int) -> Path:
        """Return the root.

        Raises:
            PipelineError: if it is no folder, the table is not in it, or has only one of the columns start and end.
        """
        root = find_root(self.root, f"a folder with {self.table} and audio")
        if not (root / self.table).is_file():
            raise PipelineError(f"There is no table {root / self.table}. Name it with --set data.table=NAME.")
        rows = list(read_rows(root / self.table, ("file", "label"), _COLUMNS))
        first = next((cells for _, cells in rows if cells), {})
        lacking = {"start", "end"} - first.keys()
        if len(lacking) == 1:
            (name,) = lacking
            raise PipelineError(
                f"{root / self.table} lacks the column {name}: rows of pieces have both, start and end."
            )
        if lacking:
            return root
        cut_pieces(root, rows, raw / "pieces")
        return raw / "pieces"

    def others(self) -> list[Path]:
        """Return the table where it lies outside root."""
        root = expanded(self.root).resolve()
        path = (root / self.table).resolve()
        return [] if path.is_relative_to(root) else [path]

    def read(self, root: Path) -> Corpus:
        """Return the recordings of the table.

        Raises:
            PipelineError: if the table cannot be read.
        """
        recordings, taxa, rejects = [], {}, []
        lost: dict[str, list[str]] = {}
        listing = root / PIECES
        table = listing if listing.is_file() else root / self.table
        for line, cells in read_rows(table, ("file", "label"), _COLUMNS):
            where = (cells or {}).get(WHERE) or f"{self.table}:{line}"
            if cells is None:
                rejects.append(Reject(where, "fetch", "metadata_malformed", "another number of cells"))
                continue
            try:
                if table == listing and cells[PROBLEM]:
                    raise audio.AudioError(*cells[PROBLEM].split(": ", 1))
                recording = _to_recording(cells, root)
            except audio.AudioError as error:
                rejects.append(Reject(where, "fetch", error.reason, error.detail))
                continue
            recordings.append(recording)
            for name in _CLEANED:
                if known(cells.get(name, "")) and not getattr(recording, name):
                    lost.setdefault(name, []).append(cells[name])
            if recording.class_id:
                complete(taxa, Species(recording.class_id, recording.scientific_name, recording.vernacular_name))
        for name, texts in lost.items():
            log(f"warning: {len(texts)} cells of {name} in {self.table} are not understood, such as {texts[0][:40]!r}")
        names = Names(taxa.values())
        recordings = [
            replace(row, background=names.background(row.background.split(","), row.class_id)) for row in recordings
        ]
        return Corpus(recordings, list(taxa.values()), rejects)


def cut_pieces(root: Path, rows: Sequence[tuple[int, dict[str, str] | None]], folder: Path) -> None:
    """Cut what a table with the columns start and end says out of its recordings, FLAC at their own rate.

    Labels that overlap a piece in time are its background species; pieces of one file are a group, unless the table
    has groups.

    Args:
        root: what files are relative to.
        rows: from `metadata.read_rows`; times are seconds, or hh:mm:ss. Those with a `PROBLEM` are not cut.
        folder: takes the pieces, and the table `PIECES` of them.
    """
    found: list[dict[str, Any]] = []
    heard: dict[str, list[tuple[float, float, str]]] = {}
    for line, cells in rows:
        row: dict[str, Any] = {**(cells or {}), PROBLEM: (cells or {}).get(PROBLEM, "")}
        found.append(row)
        if row[PROBLEM]:
            continue
        try:
            if cells is None:
                raise ValueError(f"another number of cells than columns in line {line}")
            start, end = row["start"], row["end"] = seconds(cells["start"]), seconds(cells["end"])
            if not start < end <= start + MAX_PIECE_SECONDS:
                raise ValueError(f"a piece from {start:g} to {end:g} s")
            row["file"] = below(root, cells["file"])
            heard.setdefault(row["file"], []).append((start, end, cells["label"]))
        except ValueError as error:
            row[PROBLEM] = f"metadata_malformed: {error}"
    for events in heard.values():
        events.sort()
    longest = {file: max(end - start for start, end, _ in events) for file, events in heard.items()}
    taken: set[str] = set()
    for row in progress((row for row in found if not row[PROBLEM]), len(found), "pieces"):
        start, end, events = row["start"], row["end"], heard[row["file"]]
        first = bisect_left(events, (start - longest[row["file"]],))
        others = {label for _, high, label in events[first : bisect_left(events, (end,))] if high > start}
        others |= set(row.get("background", "").split(","))
        row["background"] = ",".join(sorted(others - {row["label"], ""}))
        row["group"] = row.get("group") or row["file"]
        try:
            row["file"] = _cut_piece(root, row, folder, taken)
        except audio.AudioError as error:
            row[PROBLEM] = f"{error.reason}: {error.detail}"
    columns = [*(key for row in found for key in row if key not in ("start", "end")), "file", "label"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(columns)), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(found)
    listing = folder / PIECES
    if not listing.is_file() or listing.read_text(encoding="utf-8") != buffer.getvalue():  # else its time stays
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(listing) as partial:
            partial.write_text(buffer.getvalue(), encoding="utf-8")


def _cut_piece(root: Path, row: dict[str, Any], folder: Path, taken: set[str]) -> str:
    """Cut a piece unless it is there, with the time of its recording, and return its name.

    Raises:
        AudioError: if the name leads elsewhere, or there is nothing to cut.
    """
    source, made_at = check_inside(root, row["file"])
    stem = f"{row['file']}_{round(1000 * row['start'])}_{round(1000 * row['end'])}"
    piece = next(name for k in itertools.count(1) if (name := f"{stem}{f'_{k}' if k > 1 else ''}.flac") not in taken)
    taken.add(piece)
    made = folder / piece
    if len(os.fsencode(made.name)) > LONGEST_NAME:
        raise audio.AudioError("bad_filename", f"{row['file'][:50]}... is too long a name for pieces")
    if not made.is_file() or made.stat().st_mtime_ns != made_at:
        made.parent.mkdir(parents=True, exist_ok=True)
        made.unlink(missing_ok=True)
        cut(source, made, row["start"], row["end"])
        if not made.is_file():
            raise audio.AudioError("unreadable", "libsndfile cannot cut this piece: another format, or it ends before")
        os.utime(made, ns=(made_at, made_at))
    return piece


def check_inside(root: Path, file: str) -> tuple[Path, int]:
    """Return the path of a file of a table, which has to be there and below root, and when it was changed, in ns.

    Raises:
        AudioError: reason bad_filename, outside_root, no_audio or unreadable.
    """
    file = check_there(root, check_name(file))
    path = root / file
    try:
        if not path.resolve().is_relative_to(root.resolve()):
            raise audio.AudioError("outside_root", "the file lies outside the corpus")
        return path, path.stat().st_mtime_ns
    except (OSError, RuntimeError) as error:  # the second: before Python 3.13, of a link to itself
        raise audio.AudioError("unreadable", getattr(error, "strerror", None) or "a link to itself") from None


def below(root: Path, file: str) -> str:
    """Return an absolute path below root relative to it; others as they are."""
    return Path(file).relative_to(root).as_posix() if Path(file).is_relative_to(root) else file


def _to_recording(cells: dict[str, str], root: Path) -> Recording:
    file = check_name(below(root, cells["file"]))
    if not audio.is_audio(Path(file)):
        raise audio.AudioError("bad_filename", f"{file} is not named like audio")
    file = check_there(root, file)
    split = cells.get("split", "")
    part = "test" if split.casefold() == "test" else "train"
    class_id = check_class_id(cells["label"]) if cells["label"] or part == "train" else ""
    facts = {name: cells[name] for name in _KEPT if name in cells}
    facts |= {name: clean(cells[name]) for name, clean in _CLEANED.items() if name in cells}
    own = observation(class_id, facts.get("author", ""), facts.get("date", ""), file)
    fold = cells.get("fold") or (split if split.casefold() not in ("train", "test") else "")
    return Recording(file, file, class_id=class_id, group=cells.get("group") or own, part=part, fold=fold, **facts)
