#!/usr/bin/env python3
"""What a trained network makes of every segment before it names species: vectors to search, cluster or classify.

python predict/embedSegments.py                              # test part of the last run's corpus
python predict/embedSegments.py --part train                 # its training part
python predict/embedSegments.py site/ --run runs/demo --hop 1 --output site.h5

Writes one HDF5 file, predict/<run>[-train|-<input>]-embeddings.h5:

    /embeddings   float32 [segments, features]     the input of the last dense layer
    /seconds      float64 [segments, 2]            from, to, in the recording
    /recording    int64 [segments]                 row of /file
    /file         str [recordings]                 relative to the attribute root
    /class_id     str [recordings]                 where it is known
    attrs: model, weights, network, recipe, hop (s), root, part, version

Sounds that are alike have vectors in like directions. The same command goes on after an interruption.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import h5py

from config import VERSION, Config, change
from config.commandline import add_jobs_argument, log, run
from predict.outputs import default_path
from predict.predict import find_recordings, open_part, prepare, rejects_of, report_rejects
from predict.scores import find_run, make_scores, read_scores, scores_folder
from preprocess.cluster import cluster
from preprocess.manifest import read_description
from preprocess.recipes import folder_name, open_recipe
from preprocess.recordings import Recording, tally
from preprocess.shards import Shard
from preprocess.whole import make_room, whole_file
from train.run import MONITORS, Run


def embed_segments(
    target: Run,
    inputs: Sequence[Path] = (),
    output: Path | None = None,
    part: str = "test",
    monitor: str = "",
    hop: float | None = None,
    jobs: int = 1,
    discard: bool = False,
) -> Path:
    """Write the embeddings of all segments of a part of a corpus, or of folders and files of audio.

    Args:
        target: the run.
        inputs: folders and files of audio; none: the run's corpus.
        output: the file; None: predict/<run>[-train|-<input>]-embeddings.h5.
        part: of the run's corpus, train or test.
        monitor: which weights; empty: by train.monitor of the run.
        hop: seconds from segment to segment, 0: their length; None: as the run.
        jobs: processes.
        discard: remove the working folder of the inputs afterwards.

    Returns:
        The file.

    Raises:
        PipelineError: if there is nothing to embed or the run cannot be used.
    """
    own = target.read_config()
    settings = own.predict if hop is None else change(own.predict, "predict", hop=hop)
    config = prepare(dataclasses.replace(own, predict=settings), inputs, jobs)
    monitor = monitor or config.train.monitor
    shards = open_part(config, target.read_stamp().recipe, part)
    recordings = find_recordings(config, shards)
    folder = scores_folder(config, target, monitor, "embeddings", part)
    make_scores(folder, config, shards, target, monitor, "embeddings")
    rest = "-train-embeddings.h5" if part == "train" else "-embeddings.h5"
    path = output or default_path(None, [target], inputs, rest)
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"model": target.folder.name, "weights": monitor, "part": part}
    segments, features = write_embeddings(path, config, shards, recordings, folder, facts)
    log(f"{path}: {segments} segments x {features} features")
    if inputs:
        rejects = rejects_of(config)
        log(tally(len(recordings), rejects))
        report_rejects(config, rejects, discard)
    if discard and inputs:
        shutil.rmtree(config.corpus_dir, ignore_errors=True)
    return path


def write_embeddings(
    path: Path,
    config: Config,
    shards: Sequence[Shard],
    recordings: Sequence[Recording],
    folder: Path,
    facts: dict[str, str],
) -> tuple[int, int]:
    """Write the file from the embeddings of all shards, whole or not at all.

    Args:
        path: of the file.
        config: of the run, with the corpus that was heard.
        shards: of the part.
        recordings: in the order of the shards.
        folder: where the embeddings of the shards are.
        facts: further attributes.

    Returns:
        The segments and features.
    """
    segments, features = measure(folder, shards)
    with whole_file(path) as partial:
        make_room(partial, segments * (4 * features + 24) + sum(64 + 2 * len(row.file) for row in recordings))
        with h5py.File(partial, "w") as file:
            embeddings = file.create_dataset("embeddings", (segments, features), "float32")
            seconds = file.create_dataset("seconds", (segments, 2), "float64")
            owners = file.create_dataset("recording", (segments,), "int64")
            low = 0
            for i, found in enumerate(read_scores(folder, shards)):
                own = slice(low, low := low + len(found.logits))
                embeddings[own], seconds[own], owners[own] = found.logits, found.seconds, i
            for name in ("file", "class_id"):
                texts = [as_bytes(getattr(row, name)) for row in recordings]
                file.create_dataset(name, data=texts, dtype=h5py.string_dtype())
            facts = facts | {
                "network": config.model.network,
                "recipe": folder_name(open_recipe(config.features), config.features.recipe),
                "root": read_description(config.corpus_dir).get("root", ""),
                "version": VERSION,
            }
            for name, text in facts.items():
                file.attrs.create(name, as_bytes(text), dtype=h5py.string_dtype())
            file.attrs["hop"] = config.predict.hop
    return segments, features


def as_bytes(text: str) -> bytes:
    """Return a text as HDF5 takes it, also the name of a file that is no UTF-8."""
    return text.encode(errors="surrogateescape")


def measure(folder: Path, shards: Sequence[Shard]) -> tuple[int, int]:
    """Return how many segments there are, and features of each."""
    shapes = []
    for shard in shards:
        with h5py.File(folder / shard.path.name, "r") as file:
            shapes.append(file["logits"].shape)
    return sum(count for count, _ in shapes), shapes[0][1]


def main() -> None:
    """Write what a trained network makes of every segment, before it names species, as vectors."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "inputs",
        nargs="*",
        type=Path,
        metavar="INPUT",
        help="folders (all depths) and files of audio (default: a part of the run's corpus)",
    )
    parser.add_argument("--run", type=Path, help="run directory (default: the one finished last)")
    parser.add_argument("--part", choices=("train", "test"), default="test", help="of the corpus (default: test)")
    parser.add_argument("--output", type=Path, help="file (default: predict/<run>[-train|-<input>]-embeddings.h5)")
    parser.add_argument("--hop", type=float, help="seconds from segment to segment, 0: their length")
    parser.add_argument(
        "--weights", choices=[*MONITORS], default="", help="best by (default: train.monitor of the run)"
    )
    parser.add_argument(
        "--discard", action="store_true", help="remove the working folder of the inputs at the end; it is not resumed"
    )
    add_jobs_argument(parser, scheduler=True)
    args = parser.parse_args()
    if args.inputs and args.part != "test":
        parser.error("--part is of the run's corpus; it goes without inputs")
    target = find_run(args.run)
    with cluster(args.scheduler):
        embed_segments(target, args.inputs, args.output, args.part, args.weights, args.hop, args.jobs, args.discard)


if __name__ == "__main__":
    run(main)
