"""The run file of BirdCLEF 2016 (``MediaId;ClassId;probability``, no header) and ground truths, as matrices."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import PipelineError

TRUTH_COLUMNS = ("MediaId", "ClassId", "BackgroundClassIds")


@dataclass(frozen=True)
class Ranking:
    """Predictions laid beside a ground truth.

    Scores of species that the file does not list are -1, below every probability.
    """

    media_ids: list[str]  # of the truth, in its order
    classes: list[str]
    scores: np.ndarray  # float64 [recordings, classes]
    labels: np.ndarray  # int [recordings], columns of the main species
    relevant: np.ndarray  # bool [recordings, classes], main and background species
    missing: list[str]  # recordings of the truth without a prediction
    surplus: int  # predicted recordings that are not in the truth
    unknown_background: int  # background species that are no class of the run


def write_run_file(
    path: Path, rows: Iterable[tuple[Sequence[str], np.ndarray]], classes: Sequence[str], top: int
) -> int:
    """Write scores as a run file, best first, whole or not at all.

    Args:
        path: the file.
        rows: pairs of media ids [n] and their scores, float [n, classes].
        classes: class ids in the order of the columns.
        top: species per recording; 0: all.

    Returns:
        How many recordings were written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    count = 0
    with partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=";", lineterminator="\n")
        for media_ids, scores in rows:
            order = np.argsort(-scores, axis=1, kind="stable")[:, : top or None]
            for media_id, own, best in zip(media_ids, scores, order, strict=True):
                writer.writerows((media_id, classes[c], f"{own[c]:.10g}") for c in best)
            count += len(media_ids)
    partial.replace(path)
    return count


def read_run_file(path: Path) -> dict[str, dict[str, float]]:
    """Return media id -> class id -> score.

    Raises:
        PipelineError: naming the line, if it is no run file or lists a species twice for a recording.
    """
    found: dict[str, dict[str, float]] = {}
    for line, row in _rows(path, ";"):
        if len(row) < 3:
            raise PipelineError(
                f"{path}, line {line}: expected MediaId;ClassId;probability, found {';'.join(row)[:80]!r}."
            )
        if line == 1 and row[0] == "MediaId":
            continue
        media_id, class_id = row[0], row[1]
        try:
            score = float(row[2])
        except ValueError:
            score = float("nan")
        if not 0 <= score <= 1:
            raise PipelineError(f"{path}, line {line}: the probability is no number from 0 to 1: {row[2][:40]!r}.")
        own = found.setdefault(media_id, {})
        if class_id in own:
            raise PipelineError(f"{path}, line {line}: recording {media_id} lists species {class_id} twice.")
        own[class_id] = score
    if not found:
        raise PipelineError(f"{path} holds no prediction.")
    return found


def read_truth(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Return media id -> main class id and background class ids.

    Raises:
        PipelineError: naming the line, if columns are missing, or a recording comes twice or without a class.
    """
    truth: dict[str, tuple[str, list[str]]] = {}
    names: list[str] = []
    for line, row in _rows(path, ","):
        if not names:
            names = row
            if any(name not in names for name in TRUTH_COLUMNS[:2]):
                raise PipelineError(
                    f"{path}: expected the columns {', '.join(TRUTH_COLUMNS)}, found {', '.join(row)[:120]}."
                )
            continue
        entry = dict(zip(names, row, strict=False))
        media_id, class_id = entry.get("MediaId", ""), entry.get("ClassId", "")
        if not media_id or not class_id or media_id in truth:
            raise PipelineError(f"{path}, line {line}: a recording without MediaId or ClassId, or listed twice.")
        background = entry.get("BackgroundClassIds", "").replace(";", ",").split(",")
        truth[media_id] = class_id, [name.strip() for name in background if name.strip()]
    if not truth:
        raise PipelineError(f"{path} holds no recording.")
    return truth


def compare(predictions: dict[str, dict[str, float]], truth: dict[str, tuple[str, list[str]]]) -> Ranking:
    """Lay predictions beside a truth.

    Classes are those of the predictions and the main species of the truth; background species that are neither
    cannot be found by the run and are left out.
    """
    classes = sorted({c for own in predictions.values() for c in own} | {main for main, _ in truth.values()})
    column = {class_id: i for i, class_id in enumerate(classes)}
    scores = np.full((len(truth), len(classes)), -1.0)
    relevant = np.zeros(scores.shape, bool)
    labels, missing, unknown = np.empty(len(truth), np.int64), [], 0
    for i, (media_id, (main, background)) in enumerate(truth.items()):
        labels[i] = column[main]
        relevant[i, column[main]] = True
        for class_id in background:
            if class_id in column:
                relevant[i, column[class_id]] = True
            else:
                unknown += 1
        if media_id not in predictions:
            missing.append(media_id)
        for class_id, score in predictions.get(media_id, {}).items():
            scores[i, column[class_id]] = score
    surplus = len(predictions.keys() - truth.keys())
    return Ranking(list(truth), classes, scores, labels, relevant, missing, surplus, unknown)


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, delimiter=delimiter)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except OSError as error:
        raise PipelineError(f"Cannot read {path}: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise PipelineError(f"{path} is no CSV file: {error}.") from None
