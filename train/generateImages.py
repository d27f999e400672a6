#!/usr/bin/env python3
"""Pictures of what the network sees: one PNG per segment, low frequencies at the bottom.

Where model.normalise takes its mean over time from every bin, so do the pictures; the means are a stripe on the right.

python train/generateImages.py                        # every training segment of the demo corpus
python train/generateImages.py --raw --limit 50       # what was recorded above
python train/generateImages.py --part test --out /tmp/pictures

Writes birdclef_data/<corpus>/images/<ClassId>/<MediaId>_<k>.png, <k> counting the segments of a recording.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import re
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from PIL import Image

from config import Config, Model, PipelineError
from config.commandline import add_config_arguments, add_jobs_argument, load_config, log, progress, run
from preprocess.loadData import features_folder
from preprocess.recordings import Recording, read_table
from preprocess.segments import SegmentReader, open_shards, open_view
from preprocess.whole import whole_file

RANGE = (-1.5, 5.5)  # log10(LSB^2/Hz) from black to white; quieter and louder values are clipped
SPREAD = (1, 99.8)  # percentiles of a segment from black to white, where values are of another kind
LEVELLED = ("segment", "both")  # ways of model.normalise that take the mean of every bin away
GAP = 4  # white pixels between what was recorded and what is seen, and before the stripe
STRIPE = 8  # pixels of what is steady
SEGMENTS_PER_TASK = 256


def to_levels(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Return values [frames, bins(, 3)] as levels between two limits, uint8 [bins, frames(, 3)], the lowest last."""
    low, high = limits
    levels = (values - low) * (255 / max(high - low, 1e-6))
    return np.clip(levels, 0, 255).astype(np.uint8).swapaxes(0, 1)[::-1]


def draw(view: SegmentReader, recording: int, start: int, config: Config, raw: bool = False) -> np.ndarray:
    """Return the picture of one segment, uint8 [bins, frames], or [bins, frames, 3] of three channels, of two one.

    With model.normalise = segment or both the model takes from every bin its mean over time, and what is left is drawn;
    with both that mean is a stripe on the right, GAP + STRIPE more columns. `raw` leaves it all in. Scales that are the
    same for all segments, such as the deviation of a bin, are left out.
    """
    features, encoding = config.features, view.encoding
    values = view.read([recording], [start])[0].astype(np.float32) * encoding.scale_factor + encoding.add_offset
    if encoding.dtype == "int16":  # sound: as the front end in the model sees it
        from train.frontend import open_frontend

        values = np.asarray(open_frontend(features, values.size)(values.reshape(1, -1)))[0]
    if values.ndim == 3 and values.shape[2] != 3:
        values = values[..., 0]
    if not raw and config.model.normalise in LEVELLED:
        return draw_levelled(values, config.model)
    return to_levels(values, RANGE if features.recipe == "birdclef2016" else spread(values))


def draw_levelled(values: np.ndarray, model: Model) -> np.ndarray:
    """Return the picture of values [frames, bins(, 3)] less the mean of every bin, with "both" that mean beside it."""
    if model.dynamic_range:
        values = np.maximum(values, values.max() - model.dynamic_range)
    steady = values.mean(axis=0, keepdims=True)
    moving = values - steady
    moving = to_levels(moving, spread(moving))
    if model.normalise != "both":
        return moving
    stripe = np.repeat(to_levels(steady, (steady.min(), steady.max())), STRIPE, axis=1)
    return np.concatenate([moving, np.full_like(stripe[:, :GAP], 255), stripe], axis=1)


def spread(values: np.ndarray) -> tuple[float, float]:
    """Return what is black and what is white in values of no fixed range."""
    low, high = np.percentile(values, SPREAD)
    return float(low), float(high)


def is_changed(view: SegmentReader, config: Config) -> bool:
    """Tell whether the network sees something else than what was recorded."""
    return view.mask or view.drop_columns or view.repeat or config.model.normalise in LEVELLED


def draw_beside_raw(view: SegmentReader, raw: SegmentReader, recording: int, start: int, config: Config) -> np.ndarray:
    """Return a segment as it was recorded, and below it as the network sees it, uint8 [2 * bins + GAP, columns].

    Where the view drops frames the two do not cover the same stretch: the raw one begins at the same share of the
    recording.
    """
    share = start / max(1, view.frames_left[recording] - view.segment_frames)
    latest = max(0, raw.frames_left[recording] - raw.segment_frames)
    above = draw(raw, recording, round(min(1.0, share) * latest), config, raw=True)
    below = draw(view, recording, start, config)
    page = np.full((len(above) + GAP + len(below), *below.shape[1:]), 255, np.uint8)
    page[: len(above), : above.shape[1]], page[-len(below) :] = above, below
    return page


def generate(config: Config, part: str, out: Path, limit: int, raw: bool, jobs: int) -> int:
    """Write the pictures of a part and return their number.

    Raises:
        PipelineError: if there are no features.
    """
    folder = features_folder(config)
    shards = open_shards(folder, part)
    if not shards:
        raise PipelineError(f"{folder} holds no {part} part.")
    features = config.features
    view = open_view(shards, features)
    class_of = {row.media_id: row.class_id for row in read_table(config.corpus_dir / "recordings.csv", Recording)}
    tasks = []
    for recording, media_id in enumerate(view.media_id):
        name = as_name(media_id)
        home = out / as_name(class_of.get(media_id) or "unknown")
        for k, start in enumerate(view.segment_starts(recording)):
            tasks.append((recording, start, home / f"{name}_{k}.png"))
        if limit and len(tasks) >= limit:
            break
    if not tasks:
        raise PipelineError(f"{folder} holds no {part} recording.")
    tasks = tasks[: limit or None]
    for home in {path.parent for _, _, path in tasks}:
        home.mkdir(parents=True, exist_ok=True)
    chunks = [tasks[i : i + SEGMENTS_PER_TASK] for i in range(0, len(tasks), SEGMENTS_PER_TASK)]
    if config.features.frontend.name:  # each process would load the whole of the network's library
        jobs = 1
    work = Parallel(n_jobs=min(jobs, len(chunks)), return_as="generator_unordered")(
        delayed(_draw_all)(config, part, chunk, raw) for chunk in chunks
    )
    for _ in progress(work, len(chunks), f"x {SEGMENTS_PER_TASK} pictures"):
        pass
    return len(tasks)


def as_name(text: str) -> str:
    """Return an identifier as the name of a file or folder that leads nowhere else."""
    return re.sub(r"^\.+|[^\w. '-]", "_", text)


def _draw_all(config: Config, part: str, tasks: list[tuple[int, int, Path]], raw: bool) -> None:
    shards, features = open_shards(features_folder(config), part), config.features
    view = open_view(shards, features)
    plain = SegmentReader(shards, features.segment_frames, mask=False, drop_columns=False)
    for recording, start, path in tasks:
        pixels = draw_beside_raw(view, plain, recording, start, config) if raw else draw(view, recording, start, config)
        with whole_file(path) as partial:  # level 1: ten times faster than 9, a tenth larger
            Image.fromarray(pixels).save(partial, "PNG", compress_level=1)


def main() -> None:
    """Draw what the network sees, one picture per segment."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add_config_arguments(parser)
    add_jobs_argument(parser)
    parser.add_argument("--part", choices=["train", "test"], default="train", help="default: train")
    parser.add_argument("--limit", type=int, default=0, help="so many pictures, 0: all (default: 0)")
    parser.add_argument("--raw", action="store_true", help="draw what was recorded above it")
    parser.add_argument("--out", type=Path, help="folder (default: birdclef_data/<corpus>/images)")
    args = parser.parse_args()
    if args.limit < 0:
        parser.error("--limit is 0 or a number of pictures")
    config = load_config(args)
    out = args.out or config.corpus_dir / "images"
    count = generate(config, args.part, out, args.limit, args.raw, args.jobs)
    log(f"{count} pictures in {out}")


if __name__ == "__main__":
    run(main)
