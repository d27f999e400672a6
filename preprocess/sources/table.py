"""Any audio with a table of labels: a CSV with the columns file, label[, split][, group] and what else is known.

`split` is train (or empty) or test; any other value, such as val or 3, names a fold of the training part, which
train.split = {name = "folds", validation = "val"} uses. Further columns that the manifest has, such as author,
date, latitude, longitude, quality (1 best to 5) and licence, are kept; `background` holds names separated by
commas. Cells stay text: the label 007 is not 7. With the columns start and end, rows are pieces of recordings.
"""

import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from config import PipelineError
from preprocess import audio
from preprocess.metadata import (
    Names,
    check_class_id,
    check_name,
    clean_date,
    clean_number,
    clean_time,
    complete,
    observation,
    read_rows,
)
from preprocess.pieces import MAX_PIECE_SECONDS, cut, seconds
from preprocess.recordings import Recording, Reject, Species
from preprocess.sources import Corpus, find_root
from preprocess.whole import whole_file

_CLEANED = {
    "date": clean_date,
    "time": clean_time,
    "latitude": lambda text: clean_number(text, 90),
    "longitude": lambda text: clean_number(text, 180),
    "elevation": lambda text: clean_number(text, 9000),
    "quality": lambda text: clean_number(text, 5),
}
PROBLEM = "problem"  # column of a row that was refused while pieces were cut
_KEPT = ("background", "scientific_name", "vernacular_name", "locality", "author", "content", "licence")


@dataclass(frozen=True)
class Source:
    """The recordings that a table lists."""

    root: str = ""  # folder that the table and its files are relative to
    table: str = "labels.csv"  # name of the table in it

    def fetch(self, raw: Path, limit: int, jobs: int) -> Path:
        """Return the root.

        Raises:
            PipelineError: if it is no folder, or the table is not in it.
        """
        root = find_root(self.root, f"a folder with {self.table} and audio")
        if not (root / self.table).is_file():
            raise PipelineError(f"There is no table {root / self.table}. Name it with --set data.table=NAME.")
        rows = list(read_rows(root / self.table, ("file", "label")))
        if any(cells and "start" in cells and "end" in cells for _, cells in rows):
            cut_pieces(root, rows, raw / "pieces", self.table)
            return raw / "pieces"
        return root

    def read(self, root: Path) -> Corpus:
        """Return the recordings of the table.

        Raises:
            PipelineError: if the table cannot be read.
        """
        recordings, taxa, rejects = [], {}, []
        for line, cells in read_rows(root / self.table, ("file", "label")):
            if cells is None:
                rejects.append(Reject(f"{self.table}:{line}", "fetch", "metadata_malformed", "another number of cells"))
                continue
            try:
                if cells.get(PROBLEM):
                    raise audio.AudioError("metadata_malformed", cells[PROBLEM])
                recording = _to_recording(cells, root)
            except audio.AudioError as error:
                rejects.append(Reject(f"{self.table}:{line}", "fetch", error.reason, error.detail))
                continue
            recordings.append(recording)
            if recording.class_id:
                complete(taxa, Species(recording.class_id, recording.scientific_name, recording.vernacular_name))
        names = Names(taxa.values())
        recordings = [
            replace(row, background=names.background(row.background.split(","), row.class_id)) for row in recordings
        ]
        return Corpus(recordings, list(taxa.values()), rejects)


def cut_pieces(root: Path, rows: Sequence[tuple[int, dict[str, str] | None]], folder: Path, name: str) -> None:
    """Cut what a table with the columns start and end says out of its recordings, FLAC at their own rate.

    Labels that overlap a piece in time are its background species; pieces of one file are a group, unless the table
    has groups. What cannot be cut stays in the table, to be rejected.

    Args:
        root: what files are relative to.
        rows: from `metadata.read_rows`; times are seconds, or hh:mm:ss.
        folder: takes the pieces, and a table without times.
        name: of that table.
    """
    others: dict[str, list[tuple[float, float, str]]] = {}
    found = []
    for line, cells in rows:
        if cells is None:
            found.append({PROBLEM: f"another number of cells than columns in line {line}"})
            continue
        row, times = {key: value for key, value in cells.items() if key not in ("start", "end")}, (0.0, 0.0)
        try:
            times = seconds(cells["start"]), seconds(cells["end"])
            if not times[0] < times[1] <= times[0] + MAX_PIECE_SECONDS:
                raise ValueError(f"a piece from {times[0]:g} to {times[1]:g} s")
            others.setdefault(cells["file"], []).append((*times, cells["label"]))
        except ValueError as error:
            row[PROBLEM] = str(error)
        found.append(row | {"start": times[0], "end": times[1]})
    taken: set[str] = set()
    for row in found:
        if PROBLEM not in row and (piece := _cut_piece(root, row, folder, taken)):
            start, end = row["start"], row["end"]
            heard = {label for low, high, label in others[row["file"]] if low < end and high > start}
            heard |= set(row.get("background", "").split(","))
            row["background"] = ",".join(sorted(heard - {row["label"], ""}))
            row["group"] = row.get("group") or row["file"]
            row["file"] = piece
    columns = list(dict.fromkeys(key for row in found for key in row if key not in ("start", "end")))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(found)
    listing = folder / name
    if not listing.is_file() or listing.read_text(encoding="utf-8") != buffer.getvalue():  # else its time stays
        listing.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(listing) as partial:
            partial.write_text(buffer.getvalue(), encoding="utf-8")


def _cut_piece(root: Path, row: dict[str, Any], folder: Path, taken: set[str]) -> str:
    """Cut a piece unless it is there and newer than its recording, and return its name; nothing where that fails."""
    try:
        source = root / check_name(row["file"])
        if not source.resolve().is_relative_to(root.resolve()) or not source.is_file():
            return ""
    except (audio.AudioError, OSError, RuntimeError):  # the last: before Python 3.13, of a link to itself
        return ""
    stem = f"{row['file']}_{round(1000 * row['start'])}_{round(1000 * row['end'])}"
    piece = next(name for k in itertools.count(1) if (name := f"{stem}{f'_{k}' if k > 1 else ''}.flac") not in taken)
    taken.add(piece)
    made = folder / piece
    if not made.is_file() or made.stat().st_mtime_ns < source.stat().st_mtime_ns:
        made.parent.mkdir(parents=True, exist_ok=True)
        made.unlink(missing_ok=True)
        cut(source, made, row["start"], row["end"])
    return piece


def _to_recording(cells: dict[str, str], root: Path) -> Recording:
    file = check_name(cells["file"])
    if not audio.is_audio(Path(file)):
        raise audio.AudioError("bad_filename", f"{file} is not named like audio")
    if not (root / file).is_file():
        raise audio.AudioError("no_audio", f"{file} is not there")
    split = cells.get("split", "")
    part = "test" if split.casefold() == "test" else "train"
    class_id = check_class_id(cells["label"]) if cells["label"] or part == "train" else ""
    known = {name: cells[name] for name in _KEPT if name in cells}
    known |= {name: clean(cells[name]) for name, clean in _CLEANED.items() if name in cells}
    own = observation(class_id, known.get("author", ""), known.get("date", ""), file)
    fold = cells.get("fold") or (split if split.casefold() not in ("train", "test") else "")
    return Recording(file, file, class_id=class_id, group=cells.get("group") or own, part=part, fold=fold, **known)
