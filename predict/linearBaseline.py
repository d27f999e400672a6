#!/usr/bin/env python3
"""A sanity check beside the network: a linear classifier on the mean spectrum of each recording.

python predict/linearBaseline.py --run runs/demo-residual

Trains logistic regression on the training side of the run and writes predict/<run>-linear.csv for the test part.
What it reaches needs no network; what a network adds to it is what it learned about time and shape.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from config import PREDICTIONS, PipelineError
from config.commandline import log, run
from predict.runfile import write_run_file
from predict.scores import find_run
from preprocess.loadData import features_folder
from preprocess.recordings import Recording, read_table
from preprocess.segments import open_shards
from preprocess.shards import Shard
from train.run import Run

MAX_RECORDINGS = 5000  # more take longer than they tell
BLOCK = 4096  # frames in memory, whatever the length of a recording


def mean_spectra(shards: list[Shard]) -> tuple[list[str], np.ndarray]:
    """Return media ids and mean and deviation over time of every bin, float32 [recordings, 2 * bins (* channels)]."""
    media_ids, rows = [], []
    for shard in shards:
        for i, media_id in enumerate(shard.media_id):
            first, count = int(shard.frame_start[i]), int(shard.frame_count[i])
            sums = np.zeros((2, *shard.frames.shape[1:]))  # of the values and of their squares
            for low in range(first, first + count, BLOCK):
                frames = shard.frames[low : min(low + BLOCK, first + count)].astype(np.float64)
                sums += frames.sum(axis=0), (frames**2).sum(axis=0)
            mean, square = sums / count
            deviation = np.sqrt(np.maximum(square - mean**2, 0))
            media_ids.append(media_id)
            both = (mean * shard.scale_factor + shard.add_offset).ravel(), (deviation * shard.scale_factor).ravel()
            rows.append(np.concatenate(both))
    return media_ids, np.array(rows, np.float32)


def write_baseline(target: Run, output: Path) -> bool:
    """Write the baseline's run file; return False where the corpus is too large, has no test part, or holds sound."""
    config = target.read_config()
    if config.features.recipe == "waveform":
        return False
    split = target.read_split()
    folder = features_folder(config)
    test = open_shards(folder, "test")
    if sum(side == "train" for side in split.values()) > MAX_RECORDINGS or not any(
        len(shard.media_id) for shard in test
    ):
        return False
    class_of = {row.media_id: row.class_id for row in read_table(config.corpus_dir / "recordings.csv", Recording)}
    media_ids, spectra = mean_spectra(open_shards(folder, "train"))
    chosen = np.array([split.get(media_id) == "train" for media_id in media_ids])
    labels = np.array([class_of.get(media_id, "") for media_id in media_ids])[chosen]
    if len(set(labels.tolist())) < 2:
        raise PipelineError(f"{target.folder / 'split.csv'} does not belong to the features in {folder}.")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    classifier.fit(spectra[chosen], labels)
    test_ids, test_spectra = mean_spectra(test)
    scores = classifier.predict_proba(test_spectra)
    write_run_file(output, [(test_ids, scores)], classifier.classes_.tolist(), top=0)
    return True


def main() -> None:
    """Train a linear classifier on mean spectra and predict the test part."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", type=Path, help="run directory (default: the one finished last)")
    args = parser.parse_args()
    target = find_run(args.run)
    output = PREDICTIONS / f"{target.folder.name}-linear.csv"
    if write_baseline(target, output):
        log(f"{output}: linear classifier on mean spectra, for comparison")
    else:
        log(f"no linear baseline: no test part, sound instead of spectra, or over {MAX_RECORDINGS} training recordings")


if __name__ == "__main__":
    run(main)
