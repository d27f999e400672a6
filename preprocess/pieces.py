"""Labelled pieces of recordings, cut out as recordings of their own."""

import io
from pathlib import Path

import numpy as np
import soundfile

from preprocess.metadata import decimal
from preprocess.whole import whole_file

MAX_CHANNELS = 8  # of FLAC
MAX_PIECE_SECONDS = 3600  # real pieces have 5 s


def seconds(text: str) -> float:
    """Return seconds from a number of them or from hh:mm:ss; 1,5 is 1.5."""
    parts = [float(decimal(part)) for part in text.split(":")]
    if not 1 <= len(parts) <= 3 or any(not 0 <= part < 1e6 for part in parts):
        raise ValueError(f"{text[:40]!r} is no time; expected seconds or hh:mm:ss")
    return sum(part * 60**power for power, part in enumerate(reversed(parts)))


def cut(source: Path, destination: Path, start: float, end: float) -> None:
    """Write a stretch of a recording as 16-bit FLAC; nothing is written where that is not possible.

    Raises:
        OSError: if the piece cannot be written.
    """
    try:
        with soundfile.SoundFile(source) as stream:
            stream.seek(min(stream.frames, round(start * stream.samplerate)))
            floats, rate = stream.subtype in ("FLOAT", "DOUBLE"), stream.samplerate
            kind = "float32" if floats else "int16"  # which libsndfile does not scale from one to the other
            samples = stream.read(round((end - start) * rate), dtype=kind, always_2d=True)
        if not len(samples) or not np.isfinite(samples).all():
            return
        if floats:
            samples = np.clip(np.rint(samples * 32_768), -32_768, 32_767).astype(np.int16)
        content = io.BytesIO()  # libsndfile does not tell a full disk from a sound that FLAC cannot hold
        soundfile.write(content, samples[:, :MAX_CHANNELS], rate, subtype="PCM_16", format="FLAC")
    except (soundfile.LibsndfileError, RuntimeError, OSError):
        return
    with whole_file(destination) as partial:
        partial.write_bytes(content.getvalue())
