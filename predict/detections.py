"""From the scores of segments to a ranking of the species of a recording, and to detections with a time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import logsumexp

from config import Predict
from preprocess.recordings import Recording

STRETCHES_AT_ONCE = 512  # of a recording that scores are laid onto
SHARPNESS = 5.0  # of log-mean-exp pooling
NEIGHBOURS = (0.1, 0.2, 0.4, 0.2, 0.1)  # weights of a segment and of two on each side


@dataclass(frozen=True)
class Detection:
    """A species in a stretch of a recording."""

    start: float  # s, in the original recording
    end: float
    species: int  # column
    score: float


@dataclass(frozen=True)
class Result:
    """What was found in a recording."""

    recording: Recording
    path: Path  # of the audio file
    seconds: np.ndarray  # float64 [segments, 2]: from, to, in the original recording
    scores: np.ndarray  # float64 [segments, species]
    ranking: np.ndarray  # float64 [species]
    detections: list[Detection]


def log_mean_exp(scores: np.ndarray) -> np.ndarray:
    """Return log(mean(exp(5 p))) / 5 over the segments: between their mean and their maximum."""
    return np.maximum(0, logsumexp(scores * SHARPNESS, axis=0) - np.log(len(scores))) / SHARPNESS


def squared(scores: np.ndarray) -> np.ndarray:
    """Return the mean of the squares.

    It ranks as the pooling of BirdCLEF-Baseline (Kahl et al. 2018, arXiv 1804.07177), mean((2 p)^2), but stays below 1.
    """
    return np.mean(scores**2, axis=0)


def share(scores: np.ndarray) -> np.ndarray:
    """Return the sum of squares of a species as a share of that of the three best (system 003, JibJib).

    The three best always sum to 1, whatever was heard: these are no probabilities.
    """
    sums = np.sum(scores**2, axis=0)
    return sums / max(np.sort(sums)[-3:].sum(), np.finfo(float).tiny)


POOLS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda scores: scores.mean(axis=0),
    "max": lambda scores: scores.max(axis=0),
    "log_mean_exp": log_mean_exp,
    "squared": squared,
    "share": share,
}


def smooth(scores: np.ndarray) -> np.ndarray:
    """Return scores [segments, species] averaged with their neighbours in time; at the ends with those there are."""
    reach = len(NEIGHBOURS) // 2
    sums, weights = np.zeros_like(scores), np.zeros(len(scores))
    for offset, weight in zip(range(-reach, reach + 1), NEIGHBOURS, strict=True):
        if abs(offset) < len(scores):
            to = slice(max(0, -offset), len(scores) - max(0, offset))
            source = slice(max(0, offset), len(scores) - max(0, -offset))
            sums[to] += weight * scores[source]
            weights[to] += weight
    return sums / weights[:, None]


def detect(seconds: np.ndarray, scores: np.ndarray, minimum: np.ndarray, settings: Predict) -> list[Detection]:
    """Return the species that reach their minimum, in the order of time, then best first.

    Args:
        seconds: float64 [segments, 2], in the order of time.
        scores: float64 [segments, species].
        minimum: float64 [species].
        settings: top (most species of a segment; 0: all) and merge are used. Merged are segments of a species that
            overlap or touch; a detection has the best score of its segments.
    """
    found = scores >= minimum
    if settings.top and settings.top < scores.shape[1]:
        rank = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1)
        found &= rank < settings.top
    open_, done = {}, []
    for i, species in zip(*np.nonzero(found), strict=True):
        start, end, score = *seconds[i].tolist(), float(scores[i, species])
        before = open_.get(species)
        if before and settings.merge and start <= before.end:
            open_[species] = Detection(before.start, max(end, before.end), int(species), max(score, before.score))
            continue
        if before:
            done.append(before)
        open_[species] = Detection(start, end, int(species), score)
    return sorted([*done, *open_.values()], key=lambda found: (found.start, -found.score, found.species))


def conclude(
    recording: Recording,
    path: Path,
    seconds: np.ndarray,
    scores: np.ndarray,
    by_rule: np.ndarray,
    minimum: np.ndarray,
    settings: Predict,
    weights: np.ndarray | None = None,
) -> Result:
    """Return the result of a recording from the scores of its segments: pooled, smoothed, searched for detections.

    Args:
        recording: the row of the manifest.
        path: of the audio file.
        seconds: float64 [segments, 2], in the order of time.
        scores: float64 [segments, species].
        by_rule: float64 [species], the ranking where settings.pool names no other.
        minimum: float64 [species], the least score of a detection.
        settings: pool, smooth, top and merge are used.
        weights: float64 [species] that scores and ranking are multiplied with; what has 0 is never detected.
    """
    ranking = POOLS[settings.pool](scores) if settings.pool else by_rule
    shown = smooth(scores) if settings.smooth else scores
    if weights is not None:
        shown, ranking, minimum = shown * weights, ranking * weights, np.where(weights == 0, np.inf, minimum)
    return Result(recording, path, seconds, shown, ranking, detect(seconds, shown, minimum, settings))


def lay_onto(wanted: np.ndarray, seconds: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the scores of stretches of time, float64 [stretches, species], from those of other stretches.

    They are the mean of those that overlap, weighted by the overlap; 0 where none does.

    Args:
        wanted: float64 [stretches, 2].
        seconds: float64 [segments, 2].
        scores: float64 [segments, species].
    """
    if wanted.shape == seconds.shape and np.array_equal(wanted, seconds):
        return scores
    found = np.zeros((len(wanted), scores.shape[1]))
    for first in range(0, len(wanted), STRETCHES_AT_ONCE):  # all at once take memory by the square of the length
        part = wanted[first : first + STRETCHES_AT_ONCE]
        near = (seconds[:, 1] > part[:, 0].min()) & (seconds[:, 0] < part[:, 1].max())
        own = seconds[near]
        overlap = np.maximum(0, np.minimum(own[:, 1], part[:, 1:]) - np.maximum(own[:, 0], part[:, :1]))
        total = overlap.sum(axis=1, keepdims=True)
        shares = np.divide(overlap, total, out=np.zeros_like(overlap), where=total > 0)
        found[first : first + STRETCHES_AT_ONCE] = shares @ scores[near]
    return found


def on_grid(result: Result, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends, int [cells], and the scores, float64 [cells, species], of consecutive cells of a recording.

    The last cell is whole even where the recording ends in it, as competitions count; a few ms more begin no new one.

    Args:
        result: of a recording.
        step: length of a cell in seconds.
    """
    length = max(float(result.recording.duration), float(result.seconds[:, 1].max()))
    ends = step * np.arange(1, max(1, int(np.ceil(round(length / step, 3)))) + 1)
    cells = np.stack([ends - step, ends], axis=1)
    return ends.astype(int), lay_onto(cells, result.seconds, result.scores)
