#!/usr/bin/env python3
"""Clips of detections with spectrograms on one page, where a person listens and judges what is right.

./predict.sh site/ --format csv --minimum 0.05 --output detections.csv
python predict/reviewSegments.py detections.csv --audio site/              # 20 clips per species, from all scores
python predict/reviewSegments.py detections.csv --audio site/ --how random --count 50 --species robin
python predict/thresholds.py --run RUN --reviewed reviewed.csv             # what the page gave back

Writes a folder: clips as FLAC, spectrograms as PNG, and index.html, which needs no network. There R, W and U judge a
clip right, wrong or unsure, the arrows go back and forth, and space plays; verdicts stay in the browser until they are
saved as reviewed.csv (clip, file, start, end, class_id, score, verdict). The same seed chooses the same clips.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from joblib import Parallel, delayed
from PIL import Image

from config import PipelineError
from config.commandline import add_jobs_argument, log, progress, run
from predict.drawing import WINDOW, draw_sound
from predict.evaluateDetections import read_table_of_detections
from preprocess.page import write_page
from preprocess.segments import positions_in
from preprocess.whole import whole_file

PAGES = Path(__file__).with_name("pages")
CONTEXT = 1.0  # s before and after a detection
LONGEST = 20.0  # s of a clip; of longer detections the beginning
BANDS = 10  # of scores, from which "balanced" takes alike

How = Literal["balanced", "top", "random"]


@dataclass(frozen=True)
class Clip:
    """A detection to be judged."""

    name: str  # of its files, without ending
    file: str  # as in the table of detections
    start: float  # s
    end: float
    class_id: str
    title: str  # the name of the species for people
    score: float


def choose(
    rows: Sequence[dict[str, str]], how: How, count: int, species: Sequence[str], seed: int, audio: Path
) -> list[Clip]:
    """Return up to `count` clips of every species.

    Args:
        rows: of a tidy CSV of detections.
        how: those with the highest scores, any, or alike from ten bands of the score, so that thresholds can be found.
        count: clips per species.
        species: class ids; empty: all.
        seed: of what is chosen.
        audio: folder or file that was predicted; what lies there is part of the names of the clips.

    Raises:
        PipelineError: if a species was not detected.
    """
    by_species = defaultdict(list)
    for row in rows:
        by_species[row["class_id"]].append(row)
    missing = [name for name in species if name not in by_species]
    if missing:
        raise PipelineError(f"{missing[0]} was not detected. Detected were: {', '.join(sorted(by_species))}.")
    clips = []
    for class_id in sorted(species or by_species):
        own = sorted(by_species[class_id], key=lambda row: (-float(row["score"]), row["file"], float(row["start"])))
        digest = hashlib.sha256(f"{seed} {class_id}".encode()).digest()
        rng = np.random.default_rng(list(digest))
        if how == "top":
            chosen = np.arange(min(count, len(own)))
        elif how == "random":
            chosen = rng.permutation(len(own))[:count]
        else:
            chosen = balanced(np.array([float(row["score"]) for row in own]), count, rng)
        clips += [_clip(own[i], audio) for i in sorted(chosen.tolist())]
    return clips


def balanced(scores: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return indices of up to `count` scores, as evenly from the bands 0-0.1, 0.1-0.2, ... as there are some."""
    order = rng.permutation(len(scores))
    band = np.clip(scores[order] * BANDS, 0, BANDS - 1).astype(int)
    turn = np.empty(len(band), int)
    turn[np.argsort(band, kind="stable")] = positions_in(np.bincount(band))[1]  # within its band
    return order[np.lexsort((-band, turn))][:count]


def _clip(row: dict[str, str], audio: Path) -> Clip:
    """Return a detection as a clip; its name is another one for another time, and for another recording."""
    path = _source(row["file"], audio)
    facts = (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else ()
    identity = f"{path} {row['file']} {facts} {row['start']} {row['end']}"
    mark = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:10]
    name = f"{''.join(c if c.isalnum() else '_' for c in row['class_id'])}-{mark}"
    title = row.get("vernacular_name") or row.get("scientific_name") or row["class_id"]
    times = float(row["start"]), float(row["end"])
    return Clip(name, row["file"], *times, row["class_id"], title, float(row["score"]))


def _source(file: str, audio: Path) -> Path:
    """Return where a recording should be; nothing has been checked."""
    return (audio / file).resolve() if audio.is_dir() else audio.resolve()


def cut(clip: Clip, audio: Path, folder: Path) -> str:
    """Write the sound and the picture of a clip, unless they are there; return what was in the way, or nothing."""
    sound, image = folder / f"{clip.name}.flac", folder / f"{clip.name}.png"
    if sound.exists() and image.exists():
        return ""
    path = _source(clip.file, audio)
    if audio.is_dir() and not path.is_relative_to(audio.resolve()):
        return "its path leads out of the folder"
    if not clip.end > clip.start >= 0:
        return "its end is not after its start"
    try:
        with soundfile.SoundFile(path) as file:
            first = max(0, int((clip.start - CONTEXT) * file.samplerate))
            last = int((min(clip.end, clip.start + LONGEST) + CONTEXT) * file.samplerate)
            file.seek(min(first, file.frames))
            samples = file.read(last - first, dtype="float32", always_2d=True).mean(axis=1)
            rate = file.samplerate
    except (OSError, RuntimeError) as error:
        return str(error)
    if len(samples) < WINDOW or not np.isfinite(samples).all():
        return "it holds no sound there"
    with whole_file(image) as partial:
        Image.fromarray(draw_sound(samples, rate)).save(partial, format="PNG")
    peak = float(np.abs(samples).max())
    try:
        with whole_file(sound) as partial:  # loud enough to be heard
            soundfile.write(partial, samples * (0.9 / peak if peak else 1), rate, format="FLAC", subtype="PCM_16")
    except soundfile.LibsndfileError as error:  # a rate that FLAC does not have
        return str(error)
    return ""


def place(clip: Clip, folder: Path) -> dict[str, float]:
    """Return where in its clip a detection is, from and to as shares of it, and the frequency at the picture's top."""
    sound = soundfile.info(folder / f"{clip.name}.flac")
    first = max(0.0, clip.start - CONTEXT)
    shares = [min(1.0, (time - first) / sound.duration) for time in (clip.start, clip.end)]
    return {"from": round(shares[0], 4), "to": round(shares[1], 4), "highest": sound.samplerate / 2}


def write_review(folder: Path, clips: Sequence[Clip]) -> None:
    """Write the page."""
    facts = [
        {"name": c.name, "file": c.file, "start": c.start, "end": c.end, "class_id": c.class_id, "title": c.title}
        | {"score": c.score, **place(c, folder / "clips")}
        for c in clips
    ]
    data = json.dumps(facts).replace("<", "\\u003c")  # no end of the script element inside it
    mark = hashlib.sha256(data.encode()).hexdigest()[:12]
    card = (PAGES / "review.html").read_text(encoding="utf-8").replace("COUNT", str(len(clips)))
    card += f'<script type="application/json" id="clips" data-mark="{mark}">{data}</script>'
    script = (PAGES / "review.js").read_text(encoding="utf-8")
    write_page(folder / "index.html", f"Review of {len(clips)} clips", [("", card)], script)


def main() -> None:
    """Cut clips of detections and write a page to judge them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("detections", type=Path, help="tidy CSV of ./predict.sh --format csv")
    parser.add_argument("--audio", type=Path, required=True, help="folder (or file) that was predicted")
    parser.add_argument("--output", type=Path, default=Path("review"), help="folder (default: review)")
    parser.add_argument("--how", choices=("balanced", "top", "random"), default="balanced", help="(default: balanced)")
    parser.add_argument("--count", type=int, default=20, help="clips per species (default: 20)")
    parser.add_argument("--species", action="append", default=[], metavar="CLASS_ID", help="only this; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of what is chosen (default: 0)")
    add_jobs_argument(parser)
    args = parser.parse_args()
    if args.count < 1:
        parser.error("--count is at least 1")
    if not args.audio.exists():
        raise PipelineError(f"There is no file or folder {args.audio}.")
    rows = read_table_of_detections(args.detections)
    if not rows:
        raise PipelineError(f"{args.detections} holds no detection. Predict with a lower --minimum.")
    clips = choose(rows, args.how, args.count, args.species, args.seed, args.audio)
    folder = args.output / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    work = Parallel(n_jobs=args.jobs, return_as="generator")(delayed(cut)(clip, args.audio, folder) for clip in clips)
    reasons = list(progress(work, len(clips), "clips"))
    for clip, reason in zip(clips, reasons, strict=True):
        if reason:
            log(f"left out: {clip.file} at {clip.start:.1f} s: {reason}")
    good = [clip for clip, reason in zip(clips, reasons, strict=True) if not reason]
    if not good:
        raise PipelineError(f"Not one clip could be cut from {args.audio}. Is that the folder that was predicted?")
    write_review(args.output, good)
    species = len({clip.class_id for clip in good})
    log(f"{args.output / 'index.html'}: {len(good)} clips of {species} species; {len(clips) - len(good)} left out")


if __name__ == "__main__":
    run(main)
