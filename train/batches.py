"""Batches of training segments, in an order that follows from (seed, epoch) alone; by default each once per epoch."""

import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_array

from config import PipelineError, Train
from preprocess.segments import SegmentReader, list_segments, positions_in

PREFETCH_BATCHES = 4


class Batches:
    """An endless iterator over ([codes, targets, *companions], dummy) from a given epoch on, filled by a thread.

    All batches have the same size: the last one of an epoch is filled up from the epoch's beginning. With bags, an
    epoch holds every recording once for each `bag` segments that it has, and `bag` segments in a row are of one.
    With train.balance, segments (or bags) are drawn with replacement instead. train.epoch_segments, recording_segments
    and epoch_limit make an epoch longer or shorter.
    """

    def __init__(
        self,
        reader: SegmentReader,
        recordings: np.ndarray,
        labels: np.ndarray,
        targets: np.ndarray | csr_array,
        train: Train,
        needs: Sequence[str] = (),
        noise: SegmentReader | None = None,
    ) -> None:
        """Plan the batches.

        Args:
            reader: the view.
            recordings: indices of the training recordings in the reader.
            labels: int [all recordings], the main species, in the order of the reader.
            targets: float32 [all recordings, classes].
            train: batch_size, bag, seed, epoch_segments, epoch_limit, recording_segments, balance, random_windows,
                random_padding and noise_class are used.
            needs: further segments per item: "companion" is of a recording of the same species, "noise" of `noise`.
            noise: the view of the frames that the mask took for noise.

        Raises:
            PipelineError: if noise is needed and there is none, or bags do not fit into a batch.
        """
        self.reader, self.targets, self.train = reader, csr_array(targets), train
        self.needs, self.noise = tuple(needs), noise
        self.owners, self.starts = list_segments(reader, recordings)
        self.batch_size = train.batch_size
        spare = spare_frames(reader, self.owners)
        self.latest = np.maximum(0, spare)
        self.first = np.minimum(0, spare) if train.random_padding else spare * 0
        self.noisy = count_noisy(train)
        self.block_start = np.flatnonzero(np.diff(self.owners, prepend=-1))  # the first segment of every recording
        self.block_size = np.diff(self.block_start, append=len(self.owners))
        self.taken = np.minimum(self.block_size, train.recording_segments or len(self.owners))  # of it, per epoch
        self.bag_block, self.bag_number = positions_in(-(-self.taken // train.bag))
        if train.balance:
            main = labels[self.owners[self.block_start]][self.bag_block]
            weights = np.bincount(main)[main] ** -train.balance
            self.chances = weights / weights.sum()  # of the bags
        segments = len(self.bag_block) * train.bag
        self.segments = min(max(segments, train.epoch_segments), train.epoch_limit or sys.maxsize)  # per epoch
        self.steps = -(-self.segments // (self.batch_size - self.noisy))
        self.same: dict[int, np.ndarray] = {}
        if "companion" in self.needs:
            order = recordings[np.argsort(labels[recordings], kind="stable")]
            species = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
            self.same = {int(i): group for group in species for i in group}
        if "noise" in self.needs or self.noisy:
            self.sources = recordings[noise.lengths[recordings] > 0] if noise else recordings[:0]
            if not len(self.sources):
                asked = "Noise is asked for (train.augment.noise or train.noise_class), but "
                if noise and noise.lengths.any():
                    raise PipelineError(f"{asked}only recordings that are held back have noise frames. Train on more.")
                raise PipelineError(
                    f"{asked}the mask of the recipe leaves no noise frames. Take birdclef2016 or sprengel2016."
                )
        self.waited = 0.0  # seconds in which a batch was asked for and none was ready
        self._stopped = threading.Event()

    def epoch(self, number: int) -> Iterator[tuple[np.ndarray, ...]]:
        """Yield the batches of one epoch: codes [batch, frames, ...], targets [batch, classes], and what is needed."""
        rng = np.random.default_rng([self.train.seed, number])
        take = self.batch_size - self.noisy
        order = self._order(rng, take)
        starts = self.starts[order]
        if self.train.random_windows:
            starts = rng.integers(self.first[order], self.latest[order] + 1)
        elif self.train.random_padding:
            first = self.first[order]
            starts = np.where(first < 0, rng.integers(first, 1), starts)
        extra = np.random.default_rng([self.train.seed, 4, number])
        for low in range(0, len(order), take):
            part = slice(low, low + take)
            owners = self.owners[order[part]]
            batch = [self.reader.read(owners, starts[part]), self.targets[owners].toarray()]
            if self.noisy:
                quiet = np.zeros((self.noisy, self.targets.shape[1]), np.float32)
                quiet[:, -1] = 1
                batch[0] = np.concatenate([batch[0], self._noise(extra, self.noisy)])
                batch[1] = np.concatenate([batch[1], quiet])
            for need in self.needs:
                companion = need == "companion"
                batch.append(self._same(extra, owners, batch[0]) if companion else self._noise(extra, self.batch_size))
            yield tuple(batch)

    def _order(self, rng: np.random.Generator, take: int) -> np.ndarray:
        """Return the segments of an epoch, `take` for each step; every `bag` in a row are of one recording."""
        bags = len(self.bag_block)
        wanted = -(-self.segments // self.train.bag)
        if self.train.balance:
            order = rng.choice(bags, wanted, p=self.chances)
        else:
            order = np.concatenate([rng.permutation(bags) for _ in range(-(-wanted // bags))])[:wanted]
        return self._fill(np.resize(order, self.steps * take // self.train.bag), rng).ravel()

    def _fill(self, bags: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return segments for some bags, int64 [bags, bag]: each of one recording, all its bags of different ones."""
        bag = self.train.bag
        if bag == 1 and not self.train.recording_segments:
            return bags[:, None]
        used, of = np.unique(self.bag_block[bags], return_inverse=True)
        block, number = positions_in(self.block_size[used])
        shuffled = (self.block_start[used][block] + number)[np.lexsort((rng.random(len(block)), block))]
        low = bag * self.bag_number[bags]
        size = np.minimum(bag, self.taken[used][of] - low)[:, None]  # what is missing repeats what is there
        begin = (np.cumsum(self.block_size[used]) - self.block_size[used])[of]
        return shuffled[(begin + low)[:, None] + np.arange(bag) % size]

    def _same(self, rng: np.random.Generator, owners: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return a segment of a recording of the same species per item, at times the same; noise goes with itself."""
        others = np.array([rng.choice(self.same[int(i)]) for i in owners])
        latest = np.maximum(0, spare_frames(self.reader, others))
        companions = self.reader.read(others, rng.integers(0, latest + 1))
        return np.concatenate([companions, codes[len(owners) :]]) if self.noisy else companions

    def _noise(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return random segments of noise."""
        chosen = rng.choice(self.sources, count)
        latest = np.maximum(0, spare_frames(self.noise, chosen))
        return self.noise.read(chosen, rng.integers(0, latest + 1))

    def stream(self, first_epoch: int) -> Iterator[tuple[tuple[np.ndarray, ...], np.ndarray]]:
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


def spare_frames(reader: SegmentReader, recordings: np.ndarray) -> np.ndarray:
    """Return how many frames longer than a segment recordings are, int64 [n]; negative for shorter ones."""
    return reader.frames_left[recordings] - reader.segment_frames


def count_noisy(train: Train) -> int:
    """Return how many segments of a batch are noise.

    Raises:
        PipelineError: if bags do not fit into a batch, or noise and species do not both get one.
    """
    if train.batch_size % train.bag:
        raise PipelineError(
            f"Invalid value for train.bag. Received: {train.bag}. "
            f"Expected: a divisor of train.batch_size, {train.batch_size}."
        )
    noisy = round(train.noise_class * train.batch_size / train.bag) * train.bag
    if train.noise_class and not 0 < noisy < train.batch_size:
        raise PipelineError(
            f"Invalid value for train.noise_class. Received: {train.noise_class:g}. Expected: a share that leaves "
            f"at least one bag of {train.bag} for noise and one for species, of {train.batch_size} segments."
        )
    return noisy
