"""Any audio with a table of labels: a CSV with the columns file, label[, split][, group] and what else is known.

`split` is train (or empty) or test; any other value, such as val or 3, names a fold of the training part, which
train.split = {name = "folds", validation = "val"} uses. Further columns that the manifest has, such as author,
date, latitude, longitude, quality (1 best to 5) and licence, are kept; `background` holds names separated by
commas. Cells stay text: the label 007 is not 7.
"""

from dataclasses import dataclass, replace
from pathlib import Path

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
from preprocess.recordings import Recording, Reject, Species
from preprocess.sources import Corpus, find_root

_CLEANED = {
    "date": clean_date,
    "time": clean_time,
    "latitude": lambda text: clean_number(text, 90),
    "longitude": lambda text: clean_number(text, 180),
    "elevation": lambda text: clean_number(text, 9000),
    "quality": lambda text: clean_number(text, 5),
}
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
