"""Kaggle: Cornell Birdcall Identification 2020 and BirdCLEF 2021 to 2026.

    2020         train.csv with 35 columns, train_audio/<ebird_code>/<filename>.mp3
    2021         train_metadata.csv, train_short_audio/<primary_label>/<filename>.ogg
    2022-2024    train_metadata.csv, train_audio/, filename with its folder: asbfly/XC134896.ogg
    2025-2026    train.csv, taxonomy.csv, train_audio/
    2026         train_soundscapes_labels.csv and train_soundscapes/, see Source.soundscapes

Labels are text, as some are numbers (1139490); lists in cells are Python literals; `length` is a bucket such as
3-6(s) and not used (`duration` is seconds); `sampling_rate` is text such as 44100 (Hz). Ratings of 1 to 5 stars
become the manifest's quality of 5 to 1, 0 stars are unrated. A recording that is there twice, under one or
two labels, is taken once.
"""

import csv
import io
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from config import ConfigError, PipelineError
from config.commandline import log
from preprocess import download
from preprocess.audio import AudioError
from preprocess.metadata import (
    NO_CALL,
    Names,
    check_class_id,
    check_name,
    check_there,
    clean_date,
    clean_number,
    clean_time,
    complete,
    from_rating,
    known,
    leading_number,
    literal_list,
    observation,
    read_rows,
)
from preprocess.pieces import MAX_PIECE_SECONDS, cut, seconds
from preprocess.recordings import Recording, Reject, Species
from preprocess.selection import drop_copies, drop_repeated
from preprocess.sources import Corpus, find_root, table
from preprocess.whole import whole_file

TABLES = ("train_metadata.csv", "train.csv")
AUDIO_FOLDERS = ("train_short_audio", "train_audio")
SOUNDSCAPE_TABLE, SOUNDSCAPE_FOLDER = "train_soundscapes_labels.csv", "train_soundscapes"
_SOUNDSCAPE_COLUMNS = {  # what the columns may be called; the published description names none of them
    "file": ("filename", "file", "soundscape", "audio_id"),
    "start": ("start", "start_time", "begin", "start_seconds"),
    "end": ("end", "end_time", "end_seconds", "seconds"),
    "labels": ("primary_label", "labels", "label", "birds"),
}


@dataclass(frozen=True)
class Source:
    """A competition's data: a folder that is already there, or a download with the kaggle command."""

    root: str = ""  # folder with the table and the audio
    competition: str = ""  # such as birdclef-2024 or birdsong-recognition, to download where root is empty
    soundscapes: bool = False  # take the labelled pieces of the soundscapes instead of the single recordings;
    # the source `merged` joins both. A piece's first label is its class, the others are background species

    def fetch(self, raw: Path, limit: int, jobs: int) -> Path:
        """Return the root after checking its layout; with `soundscapes` the folder of the pieces that were cut.

        Raises:
            PipelineError: if neither root nor competition leads to the data; the message says what to do.
        """
        if self.root:
            root = find_root(self.root, f"a folder with {' or '.join(TABLES)} and audio")
        elif self.competition:
            root = raw / self.competition
            download_competition(self.competition, root)
        else:
            raise PipelineError(
                "The source kaggle needs a folder, --set data.root=FOLDER, or a competition, "
                "--set data.competition=birdclef-2024."
            )
        if self.soundscapes:
            return cut_soundscapes(root, raw / "soundscapes")
        find_layout(root)
        return root

    def read(self, root: Path) -> Corpus:
        """Return the recordings of the competition, or the pieces of its soundscapes."""
        if self.soundscapes:
            return table.Source(str(root)).read(root)
        listing, folder = find_layout(root)
        recordings, taxa, rejects = [], read_taxonomy(root / "taxonomy.csv"), []
        secondary: dict[str, list[str]] = {}
        for line, cells in read_rows(listing, ("filename",)):
            where = f"{listing.name}:{line}"
            if cells is None:
                rejects.append(Reject(where, "fetch", "metadata_malformed", "another number of cells than columns"))
                continue
            try:
                row = _to_recording(cells, root, folder)
            except AudioError as error:
                rejects.append(Reject(where, "fetch", error.reason, error.detail))
                continue
            complete(taxa, Species(row.class_id, row.scientific_name, row.vernacular_name))
            secondary.setdefault(row.media_id, []).extend(
                literal_list(cells.get("secondary_labels", "")) + literal_list(cells.get("background", ""))
            )
            recordings.append(row)
        recordings, twice = drop_repeated(recordings)
        present = {row.class_id for row in recordings}
        species = [taxa[class_id] for class_id in sorted(present)]
        names = Names(species)
        recordings = [
            replace(row, background=names.background(secondary[row.media_id], row.class_id)) for row in recordings
        ]
        recordings, copies = drop_copies(root, recordings)
        return Corpus(recordings, species, rejects + twice + copies)


def find_layout(root: Path) -> tuple[Path, str]:
    """Return the table of recordings and the name of the audio folder.

    Raises:
        PipelineError: naming what is missing.
    """
    table = next((root / name for name in TABLES if (root / name).is_file()), None)
    folder = next((name for name in AUDIO_FOLDERS if (root / name).is_dir()), None)
    missing = [" or ".join(names) for names, found in ((TABLES, table), (AUDIO_FOLDERS, folder)) if not found]
    if missing:
        raise PipelineError(f"{root} is no Birdcall or BirdCLEF competition of Kaggle. Missing: {', '.join(missing)}.")
    return table, folder


def download_competition(name: str, root: Path) -> None:
    """Download a competition with the kaggle command into root and unpack it; what is done already is skipped.

    Raises:
        ConfigError: if the name could not be that of a competition.
        PipelineError: if the command is missing, not configured, or refused.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,99}", name):
        raise ConfigError(f"Invalid value for data.competition. Received: {name!r}. Expected: such as birdclef-2024.")
    done = root / ".unpacked"
    if done.exists():
        return
    by_hand = f"Or download {name} by hand and give its folder: --set data.root=FOLDER."
    if shutil.which("kaggle") is None:
        raise PipelineError(f"The kaggle command is not installed (pip install kaggle). {by_hand}")
    settings = Path(os.environ.get("KAGGLE_CONFIG_DIR") or Path.home() / ".kaggle") / "kaggle.json"
    environment = os.environ.get("KAGGLE_API_TOKEN") or (
        os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY")
    )
    if not environment and not settings.is_file():
        raise PipelineError(
            f"The kaggle command is not configured: there is no {settings}, nor KAGGLE_USERNAME and KAGGLE_KEY. "
            f"{by_hand}"
        )
    root.mkdir(parents=True, exist_ok=True)
    log(f"downloading {name} with the kaggle command")
    process = subprocess.run(
        ["kaggle", "competitions", "download", "-c", name, "-p", str(root)], stderr=subprocess.PIPE, check=False
    )
    archive = root / f"{name}.zip"
    if process.returncode or not archive.is_file():
        words = process.stderr.decode(errors="replace").strip().splitlines()
        raise PipelineError(
            f"kaggle competitions download -c {name} failed: {words[-1][:200] if words else 'no archive came'}. "
            f"Have its rules been accepted on the competition's page? {by_hand}"
        )
    download.unpack_zip(archive, root)
    done.touch()
    archive.unlink()


def read_taxonomy(path: Path) -> dict[str, Species]:
    """Return the classes of taxonomy.csv; the table of 2021 to 2024 has none."""
    if not path.is_file():
        return {}
    taxa = {}
    for _, cells in read_rows(path, ("primary_label",)):
        if cells:
            class_id = cells["primary_label"]
            taxa[class_id] = Species(
                class_id, cells.get("scientific_name", ""), cells.get("common_name", ""), cells.get("class_name", "")
            )
    return taxa


def _to_recording(cells: dict[str, str], root: Path, folder: str) -> Recording:
    class_id = check_class_id(cells.get("ebird_code") or cells.get("primary_label", ""))
    name = check_name(cells["filename"])
    file = check_there(root, f"{folder}/{name if '/' in name else f'{class_id}/{name}'}")
    media_id = Path(name).stem
    recordist = known(cells.get("recordist") or cells.get("author", ""))
    date = clean_date(cells.get("date", ""))
    kinds = literal_list(cells.get("type", ""))
    return Recording(
        media_id,
        file,
        class_id=class_id,
        group=observation(class_id, recordist, date, media_id),
        duration=float(clean_number(cells.get("duration", ""), 1e6) or 0),
        sample_rate=int(float(leading_number(cells.get("sampling_rate", ""), 1e6) or 0)),
        scientific_name=cells.get("sci_name") or cells.get("scientific_name", ""),
        vernacular_name=cells.get("species") or cells.get("common_name", ""),
        date=date,
        time=clean_time(cells.get("time", "")),
        latitude=clean_number(cells.get("latitude", ""), 90),
        longitude=clean_number(cells.get("longitude", ""), 180),
        elevation=leading_number(cells.get("elevation", ""), 9000),
        locality=known(cells.get("location", "")),
        author=recordist,
        content=", ".join(kinds) or known(cells.get("type", "").strip("[]'\"")),
        quality=from_rating(cells.get("rating", "")),
        licence=cells.get("license", ""),
    )


def cut_soundscapes(root: Path, folder: Path) -> Path:
    """Cut the labelled pieces out of the soundscapes, FLAC at their own rate, with a table for the source `table`.

    Raises:
        PipelineError: if the table or the soundscapes are missing, or its columns are not understood.
    """
    labels_of = root / SOUNDSCAPE_TABLE
    if not labels_of.is_file() or not (root / SOUNDSCAPE_FOLDER).is_dir():
        raise PipelineError(f"{root} has no labelled soundscapes. Missing: {SOUNDSCAPE_TABLE} or {SOUNDSCAPE_FOLDER}/.")
    folder.mkdir(parents=True, exist_ok=True)
    taxa = read_taxonomy(root / "taxonomy.csv")
    rows = [("file", "label", "background", "group", "scientific_name", "vernacular_name")]
    for name, start, end, labels in soundscape_pieces(labels_of):
        if not labels:
            continue
        file = f"{Path(name).stem}_{start:g}_{end:g}.flac"
        piece = folder / file
        try:
            soundscape, made_at = table.check_inside(root / SOUNDSCAPE_FOLDER, name)
        except AudioError:
            piece.unlink(missing_ok=True)
        else:
            if not piece.is_file() or piece.stat().st_mtime_ns != made_at:
                piece.unlink(missing_ok=True)
                cut(soundscape, piece, start, end)  # one that fails is found missing
                if piece.is_file():
                    os.utime(piece, ns=(made_at, made_at))
        kind = taxa.get(labels[0], Species(labels[0]))
        rows.append((file, labels[0], ",".join(labels[1:]), name, kind.scientific_name, kind.vernacular_name))
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    listing = folder / "labels.csv"
    if not listing.is_file() or listing.read_text(encoding="utf-8") != buffer.getvalue():  # else its time stays
        with whole_file(listing) as partial:
            partial.write_text(buffer.getvalue(), encoding="utf-8")
    return folder


def soundscape_pieces(table: Path) -> Iterator[tuple[str, float, float, list[str]]]:
    """Yield file name, start and end in seconds, and the labels of every piece of a soundscape; none are `NO_CALL`.

    Raises:
        PipelineError: if a column is missing or a row is not understood.
    """
    columns: dict[str, str] = {}
    for line, cells in read_rows(table):
        if not columns and cells:
            for role, names in _SOUNDSCAPE_COLUMNS.items():
                found = [name for name in names if name in cells]
                if not found:
                    raise PipelineError(
                        f"{table} has no column for the {role} of a piece. Found: {', '.join(cells)[:200]}. "
                        f"Expected one of: {', '.join(names)}."
                    )
                columns[role] = found[0]
        try:
            if cells is None:
                raise AudioError("metadata_malformed", "another number of cells than columns")
            name = check_name(cells[columns["file"]])
            if "/" in name:
                raise AudioError("bad_filename", name)
            start, end = seconds(cells[columns["start"]]), seconds(cells[columns["end"]])
            if not 0 <= start < end <= start + MAX_PIECE_SECONDS:
                raise AudioError("metadata_malformed", f"a piece from {start:g} to {end:g} s")
            text = cells[columns["labels"]]
            labels = literal_list(text) or re.split(r"[\s,;]+", text)
            labels = [check_class_id(label) for label in labels if label and label != NO_CALL]
        except (AudioError, ValueError) as error:
            raise PipelineError(f"{table}, line {line}: {error}.") from None
        yield name, start, end, list(dict.fromkeys(labels))
