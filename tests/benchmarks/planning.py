"""Time and memory of what training does before its first batch, over a very large corpus without its sound.

python -m tests.benchmarks.planning [--recordings 1000000] [--species 10000]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy.sparse import csr_array

from config import Train
from preprocess.recordings import Recording, read_columns, read_table, write_table
from tests.benchmarks.corpora import show
from train.batches import Batches


class Lengths:
    """A reader of recordings of 2 to 120 s, at 50 frames per second, whose segments of 5 s are empty."""

    segment_frames = 250

    def __init__(self, count: int) -> None:
        """Draw the lengths."""
        self.frames_left = np.random.default_rng(0).integers(100, 6000, count)

    def read(self, recordings: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return nothing for every segment."""
        return np.zeros((len(recordings), 0), np.uint8)


def timed(what: str, work: Callable[[], Any]) -> Any:
    """Print how long something took, and the memory of the process after it; return its result."""
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    show(what, f"{seconds:.1f} s, {psutil.Process().memory_info().rss / 1e9:.2f} GB", "")
    return result


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--recordings", type=int, default=1_000_000)
    parser.add_argument("--species", type=int, default=10_000)
    args = parser.parse_args()
    count = args.recordings
    labels = np.random.default_rng(1).integers(0, args.species, count)
    targets = csr_array((np.ones(count, np.float32), labels, np.arange(count + 1)), (count, args.species))
    train = Train(recording_segments=4, epoch_limit=20_000, random_padding=True)
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "recordings.csv"
        rows = (Recording(f"XC{k}", f"{k // 1000}/{k}.mp3", f"species{label}") for k, label in enumerate(labels))
        write_table(manifest, Recording, rows)
        timed("two columns of the manifest", lambda: read_columns(manifest, Recording, "media_id", "class_id"))
        timed("its rows", lambda: read_table(manifest, Recording))
    reader = Lengths(count)
    batches = timed("plan", lambda: Batches(reader, np.arange(count), labels, targets, train, ["companion"]))
    show("segments", f"{len(batches.owners):,}", "")
    epoch = batches.epoch(0)
    timed("first batch of an epoch", lambda: next(epoch))
    timed(f"the other {batches.steps - 1} batches", lambda: list(epoch))


if __name__ == "__main__":
    main()
