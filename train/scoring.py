"""Scores of whole recordings from the logits of their segments."""

from collections.abc import Sequence

import keras
import numpy as np
from scipy.sparse import csr_array

from config import Predict
from preprocess.segments import SegmentReader, list_segments
from train.devices import whole_batches
from train.losses import Loss


def segment_logits(
    model: keras.Model, reader: SegmentReader, owners: np.ndarray, starts: np.ndarray, batch: int
) -> np.ndarray:
    """Return the logits of segments, float32 [segments, classes]; every batch has the same size."""
    logits = np.empty((len(owners), model.output_shape[-1]), np.float32)
    with whole_batches():
        for low in range(0, len(owners), batch):
            part = np.arange(low, min(low + batch, len(owners)))
            codes = reader.read(owners[part], starts[part])
            if len(part) < batch:
                codes = np.concatenate([codes, np.zeros((batch - len(part), *codes.shape[1:]), codes.dtype)])
            logits[part] = model.predict_on_batch(codes)[: len(part)]
    return logits


def mean_scores(scores: np.ndarray, owners: np.ndarray, recordings: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the mean of the segments' scores per recording, float64 [recordings, classes].

    For soft-max scores this is Toth and Czeba's rule; their division by the sum changes nothing, as it is 1.
    """
    position = np.full(int(np.max(recordings)) + 1, -1)
    position[np.asarray(recordings)] = np.arange(len(recordings))
    rows = position[owners]
    owned = csr_array((np.ones(len(rows)), (rows, np.arange(len(rows)))), shape=(len(recordings), len(rows)))
    return owned @ scores.astype(np.float64) / np.bincount(rows, minlength=len(recordings))[:, None]


def recording_scores(
    loss: Loss, logits: np.ndarray, owners: np.ndarray, recordings: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Return the scores of recordings by the rule of the loss, float64 [recordings, species].

    Args:
        loss: of the training.
        logits: of segments, float32 [segments, outputs].
        owners: the recording of each segment, in any order.
        recordings: in the order of the result; each owns at least one segment.
    """
    if not loss.whole:
        return mean_scores(loss.segment_scores(logits), owners, recordings)
    return np.stack([loss.recording_scores(own) for own in split(logits, owners, recordings)]).astype(np.float64)


def split(logits: np.ndarray, owners: np.ndarray, recordings: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """Return the logits of each recording's segments, [its segments, outputs]."""
    order = np.argsort(owners, kind="stable")
    low = np.searchsorted(owners[order], recordings, "left")
    high = np.searchsorted(owners[order], recordings, "right")
    return [logits[order[i:j]] for i, j in zip(low, high, strict=True)]


def score_recordings(
    model: keras.Model, loss: Loss, reader: SegmentReader, recordings: Sequence[int] | np.ndarray, settings: Predict
) -> np.ndarray:
    """Return the scores of recordings, float64 [recordings, species]."""
    owners, starts = list_segments(reader, recordings, settings.hop)
    return recording_scores(
        loss, segment_logits(model, reader, owners, starts, settings.batch_size), owners, recordings
    )
