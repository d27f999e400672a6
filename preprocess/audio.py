"""What the header of an audio file says, and whether the file keeps that promise."""

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from config import PipelineError

# What sox with its format libraries reads. Files with other suffixes are not taken for audio.
SUFFIXES = frozenset([".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".w64", ".wv", ".caf"])
_SOUNDFILE_SUFFIXES = frozenset([".wav", ".flac", ".mp3", ".ogg", ".oga", ".aif", ".aiff", ".au", ".w64", ".caf"])
_SCAN_FRAMES = 1 << 18  # samples read at once when looking for NaN: 1 MiB per channel in float32
_OGG_TAIL_BYTES = 1 << 17  # an Ogg page is 65,307 bytes at most, so the last one starts within this


class AudioError(PipelineError):
    """A file cannot be used as a recording; `reason` is the code for rejected.csv."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def is_audio(path: Path) -> bool:
    """Tell whether the name is that of an audio file, in upper or lower case."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def probe(path: Path) -> tuple[float, int]:
    """Check a recording as far as its header allows.

    Returns:
        Duration in seconds and sample rate in Hz; (0.0, 0) for formats that only sox can open.

    Raises:
        AudioError: reason empty, unreadable, no_samples, truncated or not_finite.
    """
    size = path.stat().st_size
    if size == 0:
        raise AudioError("empty", "0 bytes")
    suffix = path.suffix.lower()
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        if suffix in _SOUNDFILE_SUFFIXES:
            raise AudioError("unreadable", str(error).rpartition(": ")[2]) from None
        return 0.0, 0
    if info.frames == 0:
        raise AudioError("no_samples", "a header without samples")
    with path.open("rb") as stream:
        if info.format in ("WAV", "WAVEX"):
            missing = _missing_wav_bytes(stream, size)
            if missing > 0:
                raise AudioError("truncated", f"{missing} bytes fewer than the header says")
        elif info.format == "OGG" and not _has_last_ogg_page(stream, size):
            raise AudioError("truncated", "no end-of-stream page")
    if info.subtype in ("FLOAT", "DOUBLE"):
        for block in soundfile.blocks(str(path), blocksize=_SCAN_FRAMES, dtype="float32"):
            if not np.isfinite(block).all():
                raise AudioError("not_finite", "samples are NaN or infinite")
    return info.frames / info.samplerate, info.samplerate


def _missing_wav_bytes(stream: BinaryIO, size: int) -> int:
    """Return how many bytes of the data chunk are not there; 0 also where the header leaves it open."""
    position = 12  # after "RIFF", size, "WAVE"
    while position + 8 <= size:
        stream.seek(position)
        name, length = struct.unpack("<4sI", stream.read(8))
        position += 8
        if name == b"data":
            streamed = length in (0, 0xFFFFFFFF)  # written by a program that could not seek back
            return 0 if streamed else max(0, position + length - size)
        position += length + length % 2
    return 0


def _has_last_ogg_page(stream: BinaryIO, size: int) -> bool:
    """Tell whether the last page carries the end-of-stream flag (RFC 3533, section 6: bit 0x04 of byte 5)."""
    stream.seek(max(0, size - _OGG_TAIL_BYTES))
    tail = stream.read()
    page = tail.rfind(b"OggS")
    return page >= 0 and len(tail) > page + 5 and bool(tail[page + 5] & 4)
