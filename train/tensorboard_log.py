"""Curves of a run, and histograms of its weights (train.histograms), for TensorBoard."""

import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram import metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util

BUCKETS = 30


class TensorBoardLog:
    """An event file, open only while an epoch is written.

    TensorBoard's own writer keeps its file open and writes in a thread, which tells a full disk to nobody.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"

    def add(self, epoch: int, figures: Mapping[str, float], weights: Iterable[Any] = ()) -> None:
        """Append the figures of an epoch, and the histogram of each of these weights."""
        summary = Summary()
        for name, figure in figures.items():
            summary.value.add(tag=name, simple_value=figure)
        for weight in weights:
            rows = buckets(np.asarray(weight.numpy(), np.float64).ravel())
            summary.value.add(
                tag=weight.path,
                metadata=metadata.create_summary_metadata(display_name=None, description=None),
                tensor=tensor_util.make_tensor_proto(rows, dtype=np.float64),
            )
        events = [Event(step=epoch, summary=summary, wall_time=time.time())]
        if not self.path.exists():
            events.insert(0, Event(file_version="brain.Event:2", wall_time=time.time()))
        with self.path.open("ab") as stream:
            for event in events:
                RecordWriter(stream).write(event.SerializeToString())


def buckets(values: np.ndarray) -> np.ndarray:
    """Return left edge, right edge and count of equal buckets over the finite values, float64 [buckets, 3]."""
    counts, edges = np.histogram(values[np.isfinite(values)], BUCKETS)
    return np.stack([edges[:-1], edges[1:], counts], axis=1)
