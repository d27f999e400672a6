"""Random segments per second from the store, on one core, from a warm page cache: plain, and as the 2016 view.

python -m tests.benchmarks.loading [--hours 1] [--repeats 5]
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from preprocess.loadData import features_folder
from preprocess.segments import SegmentReader, list_segments, open_shards
from tests.benchmarks.corpora import PROJECT, python, run, settings, show, synthesise


def segments_per_second(reader: SegmentReader, batch: int = 64, least: float = 2.0) -> float:
    """Read all segments in random order, again and again for at least so many seconds."""
    owners, starts = list_segments(reader, range(len(reader)))
    order = np.random.default_rng(0).permutation(len(owners))
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < least:
        for low in range(0, len(order), batch):
            part = order[low : low + batch]
            count += len(reader.read(owners[part], starts[part]))
    return count / (time.perf_counter() - started)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        options = settings(home, synthesise(home, args.hours))
        for stage in ("fetchData", "resample", "loadData"):
            run(python(f"preprocess/{stage}.py", *options), cwd=PROJECT)
        import config

        folder = features_folder(config.load(None, options[1::2]))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        shards = open_shards(folder, "train")
        plain, masked = SegmentReader(shards, 310, False, False), SegmentReader(shards, 310, True, True)
        segments_per_second(plain, least=0.5)
        rates = [(segments_per_second(plain), segments_per_second(masked)) for _ in range(args.repeats)]
        show("segments of 310 x 200 per second, one core", f"{median(a for a, _ in rates):,.0f}", "at least 30,000")
        show("the same through the mask (2016 view)", f"{median(b for _, b in rates):,.0f}", "at least 15,000")
        show("2016 view / plain", f"{median(b / a for a, b in rates):.2f}", "")


if __name__ == "__main__":
    main()
