"""Training with the loader against the same step on one resident batch, and memory against the size of the corpus.

python -m tests.benchmarks.training [--steps 20] [--repeats 3]
"""

import argparse
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import config as configuration
from preprocess.loadData import features_folder
from preprocess.segments import SegmentReader, open_shards
from tests.benchmarks.corpora import PROJECT, python, ratios, run, settings, show, synthesise


def own_memory() -> dict[str, float]:
    """Return the resident memory of this process in MB: anonymous, and of mapped files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(fields[name].split()[0]) / 1000 for name in ("RssAnon", "RssFile")}


def step_ratio(config: configuration.Config, steps: int, repeats: int) -> None:
    """Print the time of a step fed from the store over that of a step on one batch that is already there."""
    import keras

    from train.batches import Batches
    from train.losses import open_loss
    from train.network import build_model, build_trainer

    reader = SegmentReader(open_shards(features_folder(config), "train"), 310, True, True)
    classes = 12
    labels = np.arange(len(reader)) % classes
    targets = np.eye(classes, dtype=np.float32)[labels]
    batches = Batches(reader, np.arange(len(reader)), labels, targets, config.train)
    model = build_model(config, reader.encoding, reader.shape, classes)
    trainer = build_trainer(config, model, open_loss(config.train.loss), steps)
    stream = batches.stream(0)
    resident = next(stream)

    class Clock(keras.callbacks.Callback):
        """Times the steps alone: TensorFlow 2.21 takes up to 5 s to put a generator away when fit ends."""

        def on_train_begin(self, logs: dict | None = None) -> None:
            self.started = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            self.seconds = time.perf_counter() - self.started

    def seconds_of(source: Iterator) -> float:
        clock = Clock()
        trainer.fit(source, steps_per_epoch=steps, epochs=1, verbose=0, shuffle=False, callbacks=[clock])
        return clock.seconds

    def fed() -> float:
        return seconds_of(stream)

    def on_one_batch() -> float:
        return seconds_of(resident for _ in itertools.count())

    on_one_batch()  # compiles
    ours, _, ratio = ratios(fed, on_one_batch, repeats)
    show("training step, from the store / on one resident batch", f"{ratio:.3f}", "at most 1.03")
    show("segments per second", f"{steps * config.train.batch_size / ours:.1f}", "")


def memory_of(folder: Path, copies: int) -> None:
    """Print, from a process of its own, the memory after one pass of the loader over so many copies of the shards."""
    from train.batches import Batches

    shards = [shard for k in range(copies) for shard in open_shards(folder / str(k), "train")]
    reader = SegmentReader(shards, 310, True, True)
    labels = np.zeros(len(reader), int)
    targets = np.eye(12, dtype=np.float32)[labels]
    batches = Batches(reader, np.arange(len(reader)), labels, targets, configuration.Train())
    stream = batches.stream(0)
    for _ in range(batches.steps):
        next(stream)
    memory = own_memory()
    print(len(reader), len(batches.owners), memory["RssAnon"], memory["RssFile"])


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--copies", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        memory_of(args.memory_of, args.copies)
        return
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        options = settings(home, synthesise(home, args.hours))
        for stage in ("fetchData", "resample", "loadData"):
            run(python(f"preprocess/{stage}.py", *options), cwd=PROJECT)
        config = configuration.load(None, options[1::2])
        folder = features_folder(config)
        # Real copies of the shards, so that every byte of the larger corpus is its own.
        for copies in (1, 20):
            home_of = home / f"x{copies}"
            for k in range(copies):
                (home_of / str(k)).mkdir(parents=True)
            for k in range(copies):
                for path in folder.glob("train-*.h5"):
                    shutil.copyfile(path, home_of / str(k) / path.name)
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks.training",
                "--memory-of",
                str(home_of),
                "--copies",
                str(copies),
            ]
            answer = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT).stdout.split()
            show(
                f"{copies:2} x corpus: {answer[0]} recordings, {answer[1]} segments; MB anonymous + mapped",
                f"{float(answer[2]):.0f} + {float(answer[3]):.0f}",
                "no growth",
            )
        step_ratio(config, args.steps, args.repeats)


if __name__ == "__main__":
    main()
