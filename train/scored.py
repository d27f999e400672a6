"""Recordings with the scores of a network that was not trained on them: holdout.csv, and scores.csv over all folds.

Columns: media_id, class_id (its species), and score_<class id> for every class.
"""

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from config import PipelineError
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

    def rows(self) -> list[dict[str, Any]]:
        """Return the lines of the file."""
        return [
            {"media_id": media_id, "class_id": self.classes[label]}
            | {f"{PREFIX}{name}": f"{value:.10g}" for name, value in zip(self.classes, own, strict=True)}
            for media_id, label, own in zip(self.media_ids, self.labels, self.scores, strict=True)
        ]


def read_scored(path: Path) -> Scored:
    """Read a file of scores.

    Raises:
        PipelineError: if it is missing or damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        classes = [name.removeprefix(PREFIX) for name in rows[0] if name.startswith(PREFIX)]
        column = {name: i for i, name in enumerate(classes)}
        scores = np.array([[float(row[PREFIX + name]) for name in classes] for row in rows])
        labels = np.array([column[row["class_id"]] for row in rows])
        return Scored([row["media_id"] for row in rows], classes, labels, scores)
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
