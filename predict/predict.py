#!/usr/bin/env python3
"""Stage 5: rank the species of recordings with a trained run.

python predict/predict.py                              # test set of the last run
python predict/predict.py --run runs/demo-alexnet      # test set of a certain run
python predict/predict.py path/to/recordings --top 5   # any folder or file of audio
python predict/predict.py --run runs/a --run runs/b    # the mean scores of several runs

Writes predict/<run>.csv or predict/<run>-<input>.csv: MediaId;ClassId;probability, best first. The front end, the
mask, the normalisation and the classes are those of the run.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import dataclasses
import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from config import PROJECT, Config, Data, PipelineError, Predict
from config.commandline import add_jobs_argument, log, progress, run
from predict.runfile import write_run_file
from preprocess.fetchData import fetch
from preprocess.loadData import features_folder, load
from preprocess.recipes import open_recipe
from preprocess.recordings import Recording, read_table
from preprocess.resample import resample, wav_folder, wav_name
from preprocess.segments import SegmentReader, open_shards
from train.run import MONITORS, Run, last_run

RECORDINGS_AT_ONCE = 64  # scored together; bounds the memory
MOST_NAMED = 3  # runs of an ensemble in the name of the CSV
MARK_BYTES = 1 << 16  # 2 s at 16 kHz


def load_run(target: Run, monitor: str = "") -> tuple[Config, Any, Any]:
    """Return the configuration, the model with the weights by a monitor (default: the run's) and the loss of a run.

    Raises:
        PipelineError: if the run is incomplete or its weights are damaged.
    """
    config, stamp = target.read_config(), target.read_stamp()
    from train.losses import open_loss
    from train.network import build_model

    noise_class = config.train.noise_class > 0
    model = build_model(config, stamp.encoding, stamp.shape, len(target.read_species()) + noise_class)
    target.load_best(model, monitor or config.train.monitor)
    return config, model, open_loss(config.train.loss, noise_class)


def as_input(config: Config, path: Path) -> Config:
    """Return the configuration with a folder or file of audio as its corpus, in a working folder of its own."""
    path = path.expanduser().resolve()
    mark = hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:8]
    data = Data("folder", f"predict-{path.stem or 'root'}-{mark}", config.data.folder, options={"root": str(path)})
    return dataclasses.replace(config, data=data)


def open_view(config: Config, stamp_recipe: str) -> SegmentReader | None:
    """Return the view of the test part that the network expects, or None where it holds no recording.

    Raises:
        PipelineError: if the features were made by another recipe than that of the run.
    """
    shards = open_shards(features_folder(config), "test")
    if any(shard.recipe != stamp_recipe for shard in shards):
        raise PipelineError(f"{features_folder(config)} was made by another recipe than the run was trained with.")
    features = config.features
    return SegmentReader(shards, features.segment_frames, features.mask, features.drop_columns) if shards else None


def find_trained_on(target: Run, scored: Config) -> set[str]:
    """Return the recordings of a corpus's test part that the network of a run was trained on, by media id.

    In another corpus than that of the run they are found by their sound, as stage 2 left it; where the run's corpus
    has gone, by their names.
    """
    own, rate = target.read_config(), open_recipe(scored.features).sample_rate
    rows = [row for row in read_table(scored.corpus_dir / "recordings.csv", Recording) if row.part == "test"]
    manifest, wavs = own.corpus_dir / "recordings.csv", wav_folder(own.corpus_dir, rate)
    found = target.trained_on(row.media_id for row in rows)
    if scored.corpus_dir == own.corpus_dir or not manifest.exists() or not wavs.is_dir():
        return found
    files = {row.media_id: wav_folder(scored.corpus_dir, rate) / wav_name(row.file) for row in rows}
    known = read_table(manifest, Recording)
    trained = target.trained_on(row.media_id for row in known)
    lengths = {path.stat().st_size for path in files.values() if path.exists()}
    others = (wavs / wav_name(row.file) for row in known if row.media_id in trained)
    sounds = {sound_mark(path) for path in others if path.exists() and path.stat().st_size in lengths}
    return {media_id for media_id, path in files.items() if path.exists() and sound_mark(path) in sounds}


def sound_mark(path: Path) -> tuple[int, bytes]:
    """Return what tells the sound of a WAV from others: its size and a hash of up to 64 KiB from its middle."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - MARK_BYTES) // 2)
        return size, hashlib.sha256(stream.read(MARK_BYTES)).digest()


def warn_of_trained_on(target: Run, seen: set[str], scored: int) -> None:
    """Say loudly that figures on these recordings are worth nothing."""
    if seen:
        log(
            f"warning: {target.folder.name} was TRAINED on {len(seen)} of these {scored} recordings, such as "
            f"{min(seen)}: figures on them say nothing about other recordings."
        )


@dataclasses.dataclass(frozen=True)
class Member:
    """A trained network, and recordings as it hears them."""

    model: Any
    loss: Any
    reader: SegmentReader
    settings: Predict

    def score(self, recordings: np.ndarray) -> np.ndarray:
        """Return scores, float64 [recordings, classes].

        Raises:
            PipelineError: if they are no numbers.
        """
        from train.scoring import score_recordings

        scores = score_recordings(self.model, self.loss, self.reader, recordings, self.settings)
        if not np.isfinite(scores).all():
            raise PipelineError(
                "The network's scores are not finite: its training diverged. Train it with other settings."
            )
        return scores


def score(members: Sequence[Member]) -> Iterator[tuple[Sequence[str], np.ndarray]]:
    """Yield media ids and mean scores of the members, float64 [recordings, classes], a few recordings at a time."""
    media_ids = members[0].reader.media_id
    for low in progress(
        range(0, len(media_ids), RECORDINGS_AT_ONCE),
        -(-len(media_ids) // RECORDINGS_AT_ONCE),
        f"x {RECORDINGS_AT_ONCE} recordings",
    ):
        recordings = np.arange(low, min(low + RECORDINGS_AT_ONCE, len(media_ids)))
        yield media_ids[low : low + RECORDINGS_AT_ONCE], np.mean([m.score(recordings) for m in members], axis=0)


def open_member(target: Run, source: Path | None, settings: Predict, monitor: str, jobs: int) -> tuple[Member, Config]:
    """Return a run's network with the recordings that it shall score, and the configuration of their corpus.

    Raises:
        PipelineError: if there is nothing to predict or the run cannot be used.
    """
    config = target.read_config()
    if source:
        config = as_input(config, source)
        fetch(config, jobs)
        resample(config, jobs)
        load(config, jobs)
    reader = open_view(config, target.read_stamp().recipe)
    if reader is None or not len(reader):
        raise PipelineError(f"{config.corpus_dir} holds no test recording to predict.")
    warn_of_trained_on(target, find_trained_on(target, config), len(reader))
    _, model, loss = load_run(target, monitor)
    return Member(model, loss, reader, settings), config


def predict(
    targets: Sequence[Run],
    source: Path | None = None,
    output: Path | None = None,
    monitor: str = "",
    jobs: int = 1,
    **settings: int,
) -> Path:
    """Write the prediction CSV of a test set, or of a folder or file of audio.

    Args:
        targets: runs whose scores are averaged; all of the same species.
        source: folder or file of audio; None: the test part of the first run's corpus.
        output: the CSV; None: predict/<runs>[-<input>].csv.
        monitor: which weights; empty: by train.monitor of each run.
        jobs: processes; 0: one per core.
        settings: fields of `config.Predict` in place of those of the first run.

    Raises:
        PipelineError: if there is nothing to predict, or the runs cannot be used, alone or together.
    """
    first = targets[0]
    chosen = dataclasses.replace(first.read_config().predict, **settings)
    classes = [species.class_id for species in first.read_species()]
    members = []
    for target in targets:
        if [species.class_id for species in target.read_species()] != classes:
            raise PipelineError(f"{first.folder} and {target.folder} know other species; they have no common ranking.")
        member, config = open_member(target, source, chosen, monitor, jobs)
        if members and member.reader.media_id != members[0].reader.media_id:
            raise PipelineError(f"{first.folder} and {target.folder} were made for the test parts of other corpora.")
        members.append(member)
    name = "+".join(target.folder.name for target in targets[:MOST_NAMED])
    name += f"+{len(targets) - MOST_NAMED}" if len(targets) > MOST_NAMED else ""
    ending = f"-{source.expanduser().resolve().stem or 'root'}" if source else ""
    output = output or PROJECT / "predict" / f"{name}{ending}.csv"
    started = time.monotonic()
    count = write_run_file(output, score(members), classes, chosen.top)
    seconds = time.monotonic() - started
    manifest = read_table(config.corpus_dir / "recordings.csv", Recording)
    length = sum(row.duration for row in manifest if row.part == "test")
    log(
        f"{output}: {count} recordings x {min(chosen.top or len(classes), len(classes))} species by "
        f"{monitor or config.train.monitor} weights of {name}; "
        f"scored in {seconds:.1f} s, {length / seconds:.0f} times real time"
    )
    return output


def main() -> None:
    """Rank the species of recordings with a trained run."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("input", nargs="?", type=Path, help="folder or file of audio (default: the run's test set)")
    parser.add_argument(
        "--run",
        type=Path,
        action="append",
        help="run directory (default: the one finished last); given several times, the scores are averaged",
    )
    parser.add_argument("--output", type=Path, help="CSV to write (default: predict/<run>[-<input>].csv)")
    parser.add_argument("--top", type=int, help="species per recording, 0: all (default: predict.top of the run)")
    parser.add_argument(
        "--shifts", type=int, help="segments per length of a segment, averaged (default: predict.shifts of the run)"
    )
    parser.add_argument(
        "--weights", choices=[*MONITORS], default="", help="best by (default: train.monitor of the run)"
    )
    add_jobs_argument(parser)
    args = parser.parse_args()
    if args.top is not None and args.top < 0:
        parser.error("--top is 0 or a number of species")
    if args.shifts is not None and args.shifts < 1:
        parser.error("--shifts is at least 1")
    targets = [Run(folder) for folder in args.run] if args.run else [last_run(PROJECT / "runs")]
    given = {"top": args.top, "shifts": args.shifts}
    settings = {name: value for name, value in given.items() if value is not None}
    predict(targets, args.input, args.output, args.weights, args.jobs, **settings)


if __name__ == "__main__":
    run(main)
