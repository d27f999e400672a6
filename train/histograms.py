"""Histograms of the weights for TensorBoard (train.histograms), beside the curves of a run."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram import metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util

BUCKETS = 30


def write_histograms(folder: Path, epoch: int, weights: Iterable[Any]) -> None:
    """Add an event file with the histogram of every weight after an epoch."""
    writer = EventFileWriter(str(folder), filename_suffix=f".histograms-{epoch:04d}")
    try:
        for weight in weights:
            rows = buckets(np.asarray(weight.numpy(), np.float64).ravel())
            summary = Summary()
            summary.value.add(
                tag=weight.path,
                metadata=metadata.create_summary_metadata(display_name=None, description=None),
                tensor=tensor_util.make_tensor_proto(rows, dtype=np.float64),
            )
            writer.add_event(Event(step=epoch, summary=summary, wall_time=time.time()))
    finally:
        writer.close()


def buckets(values: np.ndarray) -> np.ndarray:
    """Return left edge, right edge and count of equal buckets over the finite values, float64 [buckets, 3]."""
    counts, edges = np.histogram(values[np.isfinite(values)], BUCKETS)
    return np.stack([edges[:-1], edges[1:], counts], axis=1)
