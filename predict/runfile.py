"""The run file of BirdCLEF 2016 (``MediaId;ClassId;probability``, no header), and laid beside a ground truth."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import PipelineError
from preprocess.metadata import read_lines
from preprocess.whole import whole_file


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
    count = 0
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=";", lineterminator="\n")
        for media_ids, scores in rows:
            order = np.argsort(-scores, axis=1, kind="stable")[:, : top or None]
            for media_id, own, best in zip(media_ids, scores, order, strict=True):
                writer.writerows((media_id, classes[c], f"{own[c]:.10g}") for c in best)
            count += len(media_ids)
    return count


def read_run_file(path: Path) -> dict[str, dict[str, float]]:
    """Return media id -> class id -> score.

    Raises:
        PipelineError: naming the line, if it is no run file or lists a species twice for a recording.
    """
    found: dict[str, dict[str, float]] = {}
    for line, row in read_lines(path, ";"):
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


def compare(predictions: dict[str, dict[str, float]], truth: dict[str, tuple[str, list[str]]]) -> Ranking:
    """Lay predictions beside a truth.

    Classes are those of the predictions and the main species of the truth; background species that are neither
    cannot be found by the run and are left out.

    Raises:
        PipelineError: if the truth is empty.
    """
    if not truth:
        raise PipelineError("The ground truth holds no recording.")
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
