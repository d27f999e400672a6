"""Batches of training segments: every segment once per epoch, in an order that follows from (seed, epoch) alone."""

import queue
import threading
import time
from collections.abc import Iterator

import numpy as np

from preprocess.segments import SegmentReader, list_segments

PREFETCH_BATCHES = 4


class Batches:
    """An endless iterator over ([codes, targets], dummy) from a given epoch on, filled by a thread.

    All batches have the same size: the last one of an epoch is filled up from the epoch's beginning.
    """

    def __init__(
        self,
        reader: SegmentReader,
        recordings: np.ndarray,
        targets: np.ndarray,
        batch_size: int,
        seed: int,
        random_windows: bool,
    ) -> None:
        """Plan the batches.

        Args:
            reader: the view.
            recordings: indices of the training recordings in the reader.
            targets: float32 [all recordings, classes], in the order of the reader.
            batch_size: segments per batch.
            seed: of the order and of the windows.
            random_windows: draw the start of every segment anew for each epoch.
        """
        self.reader, self.targets, self.seed, self.random_windows = reader, targets, seed, random_windows
        self.owners, self.starts = list_segments(reader, recordings)
        self.batch_size = batch_size
        self.steps = -(-len(self.owners) // batch_size)
        self.latest = np.array([max(0, reader.frames_left(int(i)) - reader.segment_frames) for i in self.owners])
        self.waited = 0.0  # seconds in which a batch was asked for and none was ready
        self._stopped = threading.Event()

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the batches of one epoch: codes [batch, frames, bins] and targets [batch, classes]."""
        rng = np.random.default_rng([self.seed, number])
        order = np.resize(rng.permutation(len(self.owners)), self.steps * self.batch_size)
        starts = self.starts
        if self.random_windows:
            starts = rng.integers(0, self.latest + 1)
        for low in range(0, len(order), self.batch_size):
            part = order[low : low + self.batch_size]
            yield self.reader.read(self.owners[part], starts[part]), self.targets[self.owners[part]]

    def stream(self, first_epoch: int) -> Iterator[tuple[tuple[np.ndarray, np.ndarray], np.ndarray]]:
        """Yield batches for `keras.Model.fit`, one epoch after the other, read ahead by a thread."""
        ready: queue.Queue = queue.Queue(PREFETCH_BATCHES)
        self._stopped = stopped = threading.Event()

        def put(item: object) -> None:
            while not stopped.is_set():
                try:
                    return ready.put(item, timeout=0.2)
                except queue.Full:
                    continue

        def fill() -> None:
            number = first_epoch
            try:
                while not stopped.is_set():
                    for batch in self.epoch(number):
                        put(batch)
                        if stopped.is_set():
                            return
                    number += 1
            except Exception as error:
                put(error)

        threading.Thread(target=fill, daemon=True, name="batches").start()
        dummy = np.zeros(self.batch_size, np.float32)
        try:
            while True:
                asked = time.monotonic()
                item = ready.get()
                self.waited += time.monotonic() - asked
                if isinstance(item, Exception):
                    raise item
                yield item, dummy
        finally:
            stopped.set()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
