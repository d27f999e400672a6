"""What the header of an audio file says, and whether the file keeps that promise."""

import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from config import PipelineError

_SOUNDFILE_SUFFIXES = frozenset([".wav", ".flac", ".mp3", ".ogg", ".oga", ".aif", ".aiff", ".au", ".w64", ".caf"])
_FFMPEG_SUFFIXES = frozenset([".m4a", ".mp4", ".aac", ".amr", ".3gp", ".webm", ".wma", ".mka", ".opus"])
# What stage 2 reads: by sox, or by sox after ffmpeg. Files with other suffixes are not taken for audio.
SUFFIXES = _SOUNDFILE_SUFFIXES | _FFMPEG_SUFFIXES | {".wv"}
_SCAN_FRAMES = 1 << 18  # samples read at once when looking for NaN: 1 MiB per channel in float32
OPEN = 0x7FFFF000  # bytes of sound, in the header of a WAV, from which on it may say nothing: sox leaves just this
UNKNOWN = 1 << 62  # frames from which on libsndfile does not know how many there are: FLAC from a pipe
_OGG_TAIL_BYTES = 1 << 17  # an Ogg page is 65,307 bytes at most, so the last one starts within this
_BYTES = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}  # of a sample


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
        Duration in seconds and sample rate in Hz; (0.0, 0) for formats that only sox or ffmpeg can open.

    Raises:
        AudioError: reason empty, unreadable, no_samples, truncated or not_finite.
    """
    size = path.stat().st_size
    if size == 0:
        raise AudioError("empty", "0 bytes")
    suffix = path.suffix.lower()
    try:
        info = soundfile.info(os.fsencode(path))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        if suffix in _SOUNDFILE_SUFFIXES:
            raise AudioError("unreadable", str(error).rpartition(": ")[2]) from None
        return 0.0, 0
    frames = 0 if info.frames >= UNKNOWN else info.frames
    with path.open("rb") as stream:
        is_wav = info.format in ("WAV", "WAVEX")
        missing, left = _wav_bytes(stream, size) if is_wav else (0, 0)
        if info.frames == 0 and not left:
            raise AudioError("no_samples", "a header without samples")
        if is_wav:
            if missing > 0:
                raise AudioError("truncated", f"{missing} bytes fewer than the header says")
            if left and info.subtype in _BYTES:  # what libsndfile makes of an open header depends on what stands there
                frames = left // (info.channels * _BYTES[info.subtype])
        elif info.format == "OGG" and not _has_last_ogg_page(stream, size):
            raise AudioError("truncated", "no end-of-stream page")
    if info.subtype in ("FLOAT", "DOUBLE"):
        for block in soundfile.blocks(os.fsencode(path), blocksize=_SCAN_FRAMES, dtype="float32"):
            if not np.isfinite(block).all():
                raise AudioError("not_finite", "samples are NaN or infinite")
    return frames / info.samplerate, info.samplerate


def _wav_bytes(stream: BinaryIO, size: int) -> tuple[int, int]:
    """Return how many bytes of the data chunk are not there, and how many there are if the header leaves that open.

    A program that writes into a pipe cannot come back to note the length: it leaves 0 or some number of 2 GB or more.
    """
    position = 12  # after "RIFF", size, "WAVE"
    while position + 8 <= size:
        stream.seek(position)
        name, length = struct.unpack("<4sI", stream.read(8))
        position += 8
        if name == b"data":
            there = size - position
            streamed = (length == 0 and there and not _is_chunk(stream, there)) or (length >= OPEN and length > there)
            return (0, there) if streamed else (max(0, length - there), 0)
        position += length + length % 2
    return 0, 0


def _is_chunk(stream: BinaryIO, left: int) -> bool:
    """Tell whether another chunk of a RIFF file begins here."""
    head = stream.read(8)
    return (
        len(head) == 8 and all(32 <= byte < 127 for byte in head[:4]) and struct.unpack("<I", head[4:])[0] <= left - 8
    )


def _has_last_ogg_page(stream: BinaryIO, size: int) -> bool:
    """Tell whether the last page carries the end-of-stream flag (RFC 3533, section 6: bit 0x04 of byte 5)."""
    stream.seek(max(0, size - _OGG_TAIL_BYTES))
    tail = stream.read()
    page = tail.rfind(b"OggS")
    return page >= 0 and len(tail) > page + 5 and bool(tail[page + 5] & 4)
