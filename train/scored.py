"""Recordings with the scores of a network that was not trained on them: holdout.csv, and scores.csv over all folds.

Columns: media_id, class_id (its species), and score_<class id> for every class.
"""

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from config import PipelineError
from preprocess.whole import whole_file
from train.metrics import average_precision, in_top, main_species

PREFIX = "score_"


@dataclass(frozen=True)
class Scored:
    """The recordings of a fold with the scores of a network that did not see them."""

    media_ids: list[str]
    classes: list[str]
    labels: np.ndarray  # int [recordings], columns of the species
    scores: np.ndarray  # float64 [recordings, classes]

    def figures(self) -> dict[str, np.ndarray]:
        """Return top1 and map of every recording, float64 [recordings]."""
        main = main_species(self.labels, len(self.classes))
        return {
            "top1": in_top(self.scores, self.labels, 1).astype(float),
            "map": average_precision(self.scores, main),
        }


def write_scored(path: Path, parts: Sequence[Scored]) -> None:
    """Write recordings of the same classes, one part after the other."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["media_id", "class_id", *(PREFIX + name for name in parts[0].classes)])
        for part in parts:
            for media_id, label, own in zip(part.media_ids, part.labels, part.scores, strict=True):
                writer.writerow([media_id, part.classes[label], *(f"{value:.10g}" for value in own)])


def read_scored(path: Path) -> Scored:
    """Read a file of scores.

    Raises:
        PipelineError: if it is missing or damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = csv.reader(stream)
            head = next(rows, [])
            own, kind = head.index("media_id"), head.index("class_id")
            places = [i for i, name in enumerate(head) if name.startswith(PREFIX)]
            classes = [head[i].removeprefix(PREFIX) for i in places]
            column = {name: i for i, name in enumerate(classes)}
            found = [(row[own], column[row[kind]], np.array([float(row[i]) for i in places])) for row in rows]
        media_ids, labels, scores = zip(*found, strict=True)
        return Scored(list(media_ids), classes, np.array(labels), np.stack(scores))
    except FileNotFoundError:
        raise PipelineError(f"{path} is missing.") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise PipelineError(f"{path} is damaged: {type(error).__name__}: {error}") from None


def ensemble(members: Sequence[Scored]) -> Scored:
    """Return the mean scores of networks that scored the same recordings in the same order."""
    return dataclasses.replace(members[0], scores=np.mean([member.scores for member in members], axis=0))


def read_teacher(teacher: Path) -> Scored:
    """Return the scores that a cross-validation left in its folder.

    Raises:
        PipelineError: if they are missing or damaged.
    """
    if not (teacher / "scores.csv").exists():
        raise PipelineError(
            f"Invalid value for train.teacher: {teacher} holds no scores.csv. Expected: the folder of a finished "
            "cross-validation (python train/crossValidate.py), such as runs/cv-NAME."
        )
    return read_scored(teacher / "scores.csv")


def soften(
    targets: csr_array, media_ids: Sequence[str], classes: Sequence[str], teacher: Path, weight: float
) -> csr_array:
    """Return targets mixed with a teacher's scores (Hinton et al. 2015, arXiv 1503.02531).

    The scores are of networks that had not seen the recording they score, so they are not simply its label again.

    Args:
        targets: float32 [recordings, classes].
        media_ids: of the recordings.
        classes: class ids of the columns.
        teacher: folder of a cross-validation of the same corpus.
        weight: share of the scores; a recording that the teacher did not score keeps its targets.

    Raises:
        PipelineError: if the teacher is missing, damaged, or knows other species or none of the recordings.
    """
    scored = read_teacher(teacher)
    if sorted(scored.classes) != sorted(classes):
        raise PipelineError(f"Invalid value for train.teacher: {teacher} knows other species than the corpus.")
    row_of = {media_id: i for i, media_id in enumerate(scored.media_ids)}
    known = np.array([i for i, media_id in enumerate(media_ids) if media_id in row_of], int)
    if not len(known):
        raise PipelineError(f"Invalid value for train.teacher: {teacher} has scored none of these recordings.")
    columns = [scored.classes.index(name) for name in classes]
    found = scored.scores[[row_of[media_ids[i]] for i in known]][:, columns]
    kept = np.ones((len(media_ids), 1), np.float32)
    kept[known] -= weight
    where = (np.repeat(known, len(classes)), np.tile(np.arange(len(classes)), len(known)))
    soft = csr_array((found.astype(np.float32).ravel() * np.float32(weight), where), targets.shape)
    return csr_array(targets.multiply(kept) + soft)
