"""Scores of a ranking, as the BirdCLEF 2016 task defines them, with NumPy, SciPy and scikit-learn.

Ties: classes with equal scores all get the worst rank of their group, so a tie never helps and a constant score
earns the chance of the last place. Recordings without a relevant class have no score (NaN) and are left out.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

BOOTSTRAP_ROUNDS = 2000
_CLASSES_AT_ONCE = 128  # ranked at once
_PAIRS_AT_ONCE = 4096  # relevant (recording, class) pairs compared at once: 4096 x 999 booleans are 4 MB


def main_species(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return which class is the main species of each recording, bool [recordings, classes], of int [recordings]."""
    matrix = np.zeros((len(labels), classes), bool)
    matrix[np.arange(len(labels)), labels] = True
    return matrix


def average_precision(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Return AveP of every recording: the mean, over its relevant classes, of the precision at their rank.

    Goeau et al. 2016 (CEUR Vol-1609), section 4: MAP is the mean of these over the recordings.

    Args:
        scores: float [recordings, classes].
        relevant: bool [recordings, classes].

    Returns:
        float64 [recordings]; NaN where nothing is relevant.
    """
    rows, columns = np.nonzero(relevant)
    precision = np.empty(len(rows))
    for low in range(0, len(rows), _PAIRS_AT_ONCE):
        part = slice(low, low + _PAIRS_AT_ONCE)
        at_least = scores[rows[part]] >= scores[rows[part], columns[part]][:, None]
        precision[part] = (at_least & relevant[rows[part]]).sum(axis=1) / at_least.sum(axis=1)
    sums = np.bincount(rows, precision, minlength=len(scores))
    counts = relevant.sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(scores), np.nan), where=counts > 0)


def in_top(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return whether the labelled class is among the k best, bool [recordings]; labels are int columns."""
    own = scores[np.arange(len(scores)), labels]
    return (scores >= own[:, None]).sum(axis=1) <= k


def macro_auroc(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Return the mean area under the ROC curve over the classes with both positives and negatives."""
    from scipy.stats import rankdata  # here, as it takes a second that a prediction need not spend

    usable = present(relevant)
    if not len(usable):
        return float("nan")
    areas = np.empty(len(usable))
    for low in range(0, len(usable), _CLASSES_AT_ONCE):
        part = slice(low, low + _CLASSES_AT_ONCE)
        own = relevant[:, usable[part]]
        positives = own.sum(axis=0)
        above = (rankdata(scores[:, usable[part]], axis=0) * own).sum(axis=0) - positives * (positives + 1) / 2
        areas[part] = above / (positives * (len(own) - positives))  # the statistic of Mann and Whitney
    return float(areas.mean())


def class_map(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Return cmAP: the mean average precision over the classes with at least one positive and one negative."""
    from sklearn.metrics import average_precision_score

    usable = present(relevant)
    values = [average_precision_score(relevant[:, c], scores[:, c]) for c in usable]
    return float(np.mean(values)) if values else float("nan")


def padded_class_map(scores: np.ndarray, relevant: np.ndarray, padding: int = 5) -> float:
    """Return the padded cmAP of BirdCLEF 2023: the mean average precision over all classes, each with five hits more.

    The hits come first, so that rare classes weigh less, and a class without a positive counts 1.
    """
    from sklearn.metrics import average_precision_score

    first = np.full((padding, scores.shape[1]), max(1.0, scores.max(initial=0)))
    scores, relevant = np.concatenate([scores, first]), np.concatenate([relevant, np.ones(first.shape, bool)])
    return float(np.mean([average_precision_score(relevant[:, c], scores[:, c]) for c in range(scores.shape[1])]))


def row_f1(found: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Return the F1 of every row, float64 [rows], of bool [rows, classes]; what holds nothing holds a class of its own.

    The competitions of 2020 and 2021 take the mean of these.
    """
    found, relevant = (np.column_stack([held, ~held.any(axis=1)]) for held in (found, relevant))
    return 2 * (found & relevant).sum(axis=1) / (found.sum(axis=1) + relevant.sum(axis=1))


def balanced_accuracy(found: np.ndarray, relevant: np.ndarray, known: np.ndarray) -> float:
    """Return the mean over classes of (true positive rate + true negative rate) / 2.

    The competition of 2022 describes its score so: accuracy over the scored pairs of row and species, weighted so that
    every species has the same total weight, and of each its positives as much as its negatives.

    Args:
        found: bool [rows, classes].
        relevant: bool [rows, classes].
        known: bool [rows, classes]: what is scored. Classes without known positives and negatives are left out.
    """
    positives, negatives = (relevant & known).sum(axis=0), (~relevant & known).sum(axis=0)
    both = (positives > 0) & (negatives > 0)
    hits, rejections = (found & relevant & known).sum(axis=0), (~found & ~relevant & known).sum(axis=0)
    rates = hits[both] / positives[both] + rejections[both] / negatives[both]
    return float(rates.mean() / 2) if len(rates) else float("nan")


def present(relevant: np.ndarray) -> np.ndarray:
    """Return the columns that hold both positives and negatives."""
    counts = relevant.sum(axis=0)
    return np.flatnonzero((counts > 0) & (counts < len(relevant)))


def per_class(scores: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """Return counts, precision, recall and F1 of every class when each recording gets its best class.

    Args:
        scores: float [recordings, classes].
        labels: int columns [recordings].

    Returns:
        One row per class: recordings, predicted, hits, precision, recall, f1. Precision is NaN where the class was
        never predicted, recall where it has no recording, F1 where both counts are 0.
    """
    from sklearn.metrics import precision_recall_fscore_support

    best, classes = np.argmax(scores, axis=1), scores.shape[1]
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, best, labels=np.arange(classes), zero_division=np.nan
    )
    predicted = np.bincount(best, minlength=classes)
    hits = np.bincount(labels[best == labels], minlength=classes)
    columns = zip(support.tolist(), predicted.tolist(), hits.tolist(), precision, recall, f1, strict=True)
    names = ("recordings", "predicted", "hits", "precision", "recall", "f1")
    return [dict(zip(names, map(float, row), strict=True)) for row in columns]


def chance_map(relevant_counts: np.ndarray, classes: int) -> float:
    """Return the expected MAP of a random ranking.

    For R relevant of C classes: (R - 1) / (C - 1) * (1 - H_C / C) + H_C / C, with the harmonic number H_C.
    """
    counts = relevant_counts[relevant_counts > 0]
    if not len(counts):
        return float("nan")
    if classes == 1:
        return 1.0
    first = np.sum(1 / np.arange(1, classes + 1)) / classes
    return float(np.mean((counts - 1) / (classes - 1) * (1 - first) + first))


def bootstrap_interval(
    values: np.ndarray, statistic: Callable[..., np.ndarray] = np.nanmean, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a statistic over recordings."""
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    samples = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(BOOTSTRAP_ROUNDS)]
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


def without_nan(value: Any) -> Any:
    """Return nested figures with null for those that are not defined, as JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
