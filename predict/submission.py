"""The rows of a competition's files, as competitors submit them and as their truth is given, in one table.

Rows are stretches of `STEP` seconds, or whole recordings where a row id has no end. Kinds, told by the header:

row_id,birds            class ids separated by spaces, or nocall (2020; 2021, whose train_soundscape_labels.csv is one)
row_id,target           True or False for <file>_<species>_<end> (2022)
row_id,<species>,...    a score or a 0 or 1 per species (2023 to 2026)
filename,start,end,primary_label    labelled pieces of soundscapes (2026)
no header               MediaId;TC1-TC2;ClassId;probability (LifeCLEF 2017 and 2018)
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from config import PipelineError
from predict.formats.competitions import STEP
from preprocess.annotations import (
    LISTS,
    Event,
    bare_name,
    held_in_stretches,
    is_annotations,
    read_annotations,
)
from preprocess.metadata import NO_CALL, fold, read_lines, read_rows
from preprocess.pieces import seconds
from preprocess.sources.kaggle import soundscape_pieces

KINDS = "row_id,birds; row_id,target; row_id and a column per species; MediaId;TC1-TC2;ClassId;probability"
VALUES = {"true": 1.0, "1": 1.0, "false": 0.0, "0": 0.0}
PAIR = re.compile(r"(.+)_([^_]+)_([0-9]{1,7})")  # file, species, end
END = re.compile(r"[0-9]{1,7}")  # s, of a row
CODE = re.compile(r"\s*[\d:]+-(\d+:[0-5]\d:[0-5]\d)\s*")  # hh:mm:ss-hh:mm:ss
MOST_SCORES = 1 << 26  # rows times species; real ones have 7 million

Rows = Iterator[tuple[int, str, dict[str, str]]]  # line, row id, other cells


@dataclass(frozen=True)
class Table:
    """What a file says of some rows."""

    rows: list[str]  # ids
    species: list[str]  # class ids
    scores: np.ndarray  # float64 [rows, species]; NaN where the file says nothing, as those of 2022 do of most
    decided: bool  # scores are 0 or 1: what is there, not how likely it is
    listed: bool = True  # rows that hold nothing stand there too


def read_submission(path: Path) -> Table:
    """Return the table of a file of any kind.

    Raises:
        PipelineError: naming the line, if it is of no kind, a row comes twice, or a score is no number.
    """
    header = _header(path)
    if "row_id" in header:
        read = _of_lists if "birds" in header else _of_pairs if set(header) == {"row_id", "target"} else _of_columns
        return _with_rows(path, read(path, _named_rows(path)))
    if len(header) == 4 and CODE.fullmatch(header[1]):
        return _of_codes(path)
    try:
        return _with_rows(path, _joined(_row_of(path, *piece) for piece in soundscape_pieces(path)))
    except PipelineError as error:
        raise PipelineError(f"{path} is no submission ({KINDS}), and no table of soundscapes: {error}") from None


def read_row_truth(path: Path, submission: Table, column: str = "") -> Table:
    """Return the truth of a submission's rows: a file of any kind, or annotations.

    Annotations are Raven tables or a CSV, as `read_annotations` reads them with `column`; then the rows are those of
    the submission in the annotated files, and those that it lacks for an annotation.

    Raises:
        PipelineError: if it cannot be read, or holds no row of the submission.
    """
    of_raven = path.is_dir() or path.suffix.lower() == ".txt"
    header = [] if of_raven else [fold(name) for name in _header(path)]
    if of_raven or (is_annotations(header, column) and LISTS not in header):
        truth = _of_annotations(read_annotations(path, column), submission)
    else:
        truth = read_submission(path)
        if not truth.decided and not np.isin(truth.scores, (0, 1)).all():
            raise PipelineError(f"{path} is no truth: a score is neither 0 nor 1.")
        if not truth.listed:
            truth = _with_empty_rows(truth, submission)
    if not set(truth.rows) & set(submission.rows):
        raise PipelineError(
            f"{path} holds none of the submission's rows. It has rows such as {', '.join(truth.rows[:2]) or 'none'}; "
            f"the submission has {', '.join(submission.rows[:2])}."
        )
    return truth


def recording_of(row: str) -> str:
    """Return the part of a row id that names the recording."""
    name, _, end = row.rpartition("_")
    return name if name and END.fullmatch(end) else row


def _header(path: Path) -> list[str]:
    return [name.strip() for name in next(read_lines(path), (0, []))[1]]


def _with_rows(path: Path, table: Table) -> Table:
    if not table.rows:
        raise PipelineError(f"{path} holds no row.")
    return table


def _named_rows(path: Path) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Yield line, row id and the other cells by column of a file with the column row_id; every row once."""
    seen = set()
    for line, cells in read_rows(path, ["row_id"]):
        if cells is None:
            raise PipelineError(f"{path}, line {line}: another number of cells than columns.")
        row = cells.pop("row_id")
        if row in seen:
            raise PipelineError(f"{path}, line {line}: row {row[:80]} comes twice.")
        seen.add(row)
        yield line, row, cells


def check_size(rows: int, species: int) -> None:
    """Make sure that a table is not larger than any real one.

    Raises:
        PipelineError: if it is.
    """
    if rows * species > MOST_SCORES:
        raise PipelineError(f"That is too much to compare: {rows} rows of {species} species.")


def _row_of(path: Path, file: str, start: float, end: float, labels: list[str]) -> tuple[str, list[str]]:
    """Return the row of a piece of a soundscape, and its labels."""
    if abs(end - start - STEP) > 0.5:
        raise PipelineError(f"{path} has a piece from {start:g} to {end:g} s. Expected: pieces of {STEP:g} s.")
    return f"{bare_name(Path(file))}_{end:.0f}", labels


def _joined(rows: Iterable[tuple[str, Iterable[str]]]) -> Table:
    """Return the table of rows and the species in them; a row may come several times."""
    held: dict[str, dict[str, float]] = {}
    for row, names in rows:
        held.setdefault(row, {}).update(dict.fromkeys(names, 1.0))
    return _of_scores(held, 0.0, decided=True)


def _of_lists(path: Path, rows: Rows) -> Table:
    return _joined((row, set(cells["birds"].split()) - {NO_CALL}) for _, row, cells in rows)


def _of_pairs(path: Path, rows: Rows) -> Table:
    found: dict[str, dict[str, float]] = {}
    for line, row, cells in rows:
        match, value = PAIR.fullmatch(row), VALUES.get(cells["target"].lower())
        if not match:
            raise PipelineError(f"{path}, line {line}: {row[:80]!r} is not <file>_<species>_<end>.")
        if value is None:
            raise PipelineError(f"{path}, line {line}: target is True or False, not {cells['target'][:40]!r}.")
        found.setdefault(f"{match[1]}_{match[3]}", {})[match[2]] = value
    return _of_scores(found, np.nan, decided=True)


def _of_columns(path: Path, rows: Rows) -> Table:
    ids, scores, species = [], [], [name for name in _header(path) if name != "row_id"]
    if not species:
        raise PipelineError(f"{path} holds no species.")
    for line, row, cells in rows:
        if len(cells) < len(species):
            raise PipelineError(f"{path}: a column comes twice.")
        try:
            own = np.array(list(cells.values()), np.float64)
        except ValueError:
            own = np.array([np.nan])
        if not np.isfinite(own).all():
            raise PipelineError(f"{path}, line {line}: a score is no number.")
        ids.append(row)
        scores.append(own)
        check_size(len(ids), len(species))
    return Table(ids, species, np.array(scores).reshape(len(ids), len(species)), decided=False)


def _of_codes(path: Path) -> Table:
    found: dict[str, dict[str, float]] = {}
    for line, row in read_lines(path):
        match = CODE.fullmatch(row[1]) if len(row) == 4 else None
        try:
            end, score = (seconds(match[1]), float(row[3])) if match else (0.0, np.nan)
        except ValueError:
            score = np.nan
        if not np.isfinite(score):
            raise PipelineError(f"{path}, line {line}: expected MediaId;TC1-TC2;ClassId;probability.")
        own = found.setdefault(f"{row[0]}_{end:.0f}", {})
        if row[2] in own:
            raise PipelineError(f"{path}, line {line}: {row[0]} lists species {row[2]} twice for {row[1]}.")
        own[row[2]] = score
    return replace(_of_scores(found, 0.0, decided=False), listed=False)


def _with_empty_rows(truth: Table, submission: Table) -> Table:
    """Return a truth with the submission's other rows of the same recordings, which hold nothing."""
    known, recordings = set(truth.rows), {recording_of(row) for row in truth.rows}
    others = [row for row in submission.rows if row not in known and recording_of(row) in recordings]
    check_size(len(truth.rows) + len(others), len(truth.species))
    scores = np.concatenate([truth.scores, np.zeros((len(others), len(truth.species)))])
    return replace(truth, rows=[*truth.rows, *others], scores=scores)


def _of_scores(found: dict[str, dict[str, float]], unsaid: float, decided: bool) -> Table:
    """Return the table of row -> species -> score."""
    species = sorted({name for own in found.values() for name in own})
    check_size(len(found), len(species))
    scores = np.full((len(found), len(species)), unsaid)
    column = {name: i for i, name in enumerate(species)}
    for own, named in zip(scores, found.values(), strict=True):
        own[[column[name] for name in named]] = list(named.values())
    return Table(list(found), species, scores, decided)


def _of_annotations(events: Sequence[Event], submission: Table) -> Table:
    """Return what annotations say of the rows of a submission in the annotated files, and of rows that it lacks.

    Raises:
        PipelineError: if a row could be of two annotated files, or does not end after a whole number of `STEP`.
    """
    called = {fold(name): name for name in submission.species}
    by_file: dict[str, list[Event]] = {}
    for event in events:
        named = replace(event, label=called.get(fold(event.label), event.label))
        by_file.setdefault(event.file, []).append(named)
    stems, shorter = defaultdict(list), defaultdict(list)
    for file in by_file:
        stem = bare_name(PurePosixPath(file))
        stems[stem].append(file)
        shorter["_".join(stem.split("_")[:2])].append(file)  # a row of 2021 is <audio>_<site>_<end>
    inside = {file: held_in_stretches(own, STEP) for file, own in by_file.items()}
    held: dict[str, Iterable[str]] = {}
    recordings: dict[str, str] = {}
    for row in submission.rows:
        recording = recording_of(row)
        files = stems.get(recording) or stems.get(bare_name(PurePosixPath(recording))) or shorter.get(recording)
        if not files:
            continue
        if len(files) > 1:
            raise PipelineError(f"{row} could be of {' or '.join(files[:2])} of the truth. Score one at a time.")
        if recording == row:
            held[row] = [event.label for event in by_file[files[0]] if event.label]
        elif int(row.rpartition("_")[2]) % STEP:
            raise PipelineError(f"{row} does not end after a whole number of {STEP:g} s.")
        else:
            held[row] = inside[files[0]].get(int(row.rpartition("_")[2]) // int(STEP) - 1, ())
        recordings[files[0]] = recording
    for file, own in inside.items():
        recording = recordings.get(file, bare_name(PurePosixPath(file)))
        if recording not in held:  # it is no row as a whole
            for k, labels in own.items():
                held.setdefault(f"{recording}_{(k + 1) * STEP:.0f}", labels)
    return _joined(held.items())
