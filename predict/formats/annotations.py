"""What programs for listening read: Raven, Audacity and Kaleidoscope."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from config import PipelineError
from predict.detections import Result
from predict.formats import Facts, open_csv, plain, plain_text
from preprocess.whole import whole_file

RAVEN = (
    "Selection",
    "View",
    "Channel",
    "Begin Time (s)",
    "End Time (s)",
    "Low Freq (Hz)",
    "High Freq (Hz)",
    "Begin Path",
    "File Offset (s)",
    "Species Code",
    "Common Name",
    "Scientific Name",
    "Confidence",
)


def raven(results: Iterable[Result], path: Path, facts: Facts) -> None:
    """Write one selection table over all recordings.

    Begin and end count through all files one after the other, as Raven opens them together; File Offset is the time in
    the file itself. The upper frequency is that of what the network hears, or half the rate of the file if less.
    """
    with open_csv(path, "\t") as writer:
        writer.writerow(RAVEN)
        before, number = 0.0, 0
        for result in results:
            highest = min(facts.highest, result.recording.sample_rate / 2 or facts.highest)
            for found in result.detections:
                number += 1
                kind = facts.species[found.species]
                begin, end = before + found.start, before + found.end
                place = (number, "Spectrogram 1", 1, f"{begin:.3f}", f"{end:.3f}", 0, f"{highest:.1f}", result.path)
                names = (kind.class_id, plain_text(facts.name(found.species)), plain_text(kind.scientific_name))
                writer.writerow((*place, f"{found.start:.3f}", *names, f"{found.score:.4f}"))
            before += result.recording.duration


def audacity(results: Iterable[Result], path: Path, facts: Facts) -> None:
    """Write a folder with a label file per recording: start, end, and species with score."""
    for result in results:
        file = path / f"{result.recording.file}.txt"
        if not file.resolve().is_relative_to(path.resolve()):
            raise PipelineError(f"{result.recording.file} leads out of the folder {path}.")
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as partial, partial.open("w", encoding="utf-8") as stream:
            for found in result.detections:
                name = " ".join(facts.name(found.species).split())
                stream.write(f"{found.start:.3f}\t{found.end:.3f}\t{name} {found.score:.2f}\n")


def kaleidoscope(results: Iterable[Result], path: Path, facts: Facts) -> None:
    """Write a row per segment with its best species, or NoID; TOP1DIST is 1 - score."""
    with open_csv(path) as writer:
        writer.writerow(("INDIR", "FOLDER", "IN FILE", "OFFSET", "DURATION", "TOP1MATCH", "TOP1DIST"))
        for result in results:
            file = PurePosixPath(result.recording.file)
            root = str(result.path)[: -len(str(file))].rstrip("/")
            folder = "" if str(file.parent) == "." else str(file.parent)
            for (start, end), scores in zip(result.seconds.tolist(), result.scores, strict=True):
                reached = facts.reached(scores)
                best = int(np.argmax(scores - np.where(reached, 0, 2)))
                sure = reached[best]
                match, distance = (plain_text(facts.name(best)), f"{1 - scores[best]:.4f}") if sure else ("NoID", "")
                writer.writerow(
                    (root, plain(folder), plain(file.name), f"{start:.3f}", f"{end - start:.3f}", match, distance)
                )
