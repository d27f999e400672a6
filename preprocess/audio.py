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
OPEN = 0x7F000000  # bytes of sound, in a header, from which on it may say nothing: sox leaves just this in AIFF
# The first chunk, its head, how much of that its length counts, what that is filled up to, and the one with the sound.
_CHUNKS = {
    "WAV": (12, "<4sI", 0, 2, b"data"),
    "AIFF": (12, ">4sI", 0, 2, b"SSND"),
    "W64": (40, "<16sQ", 24, 8, b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"),
}
UNKNOWN = 1 << 62  # frames from which on libsndfile does not know how many there are: FLAC from a pipe
_OGG_TAIL_BYTES = 1 << 17  # an Ogg page is 65,307 bytes at most, so the last one starts within this
_MP3_TAGS = (b"Xing", b"Info", b"VBRI")  # with the number of frames, in the first of them
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
        Duration in seconds, 0.0 where the header does not say it, and sample rate in Hz; (0.0, 0) for formats that
        only sox or ffmpeg can open.

    Raises:
        AudioError: reason empty, unreadable, no_samples, truncated or not_finite.
        OSError: if the system does not let it be read.
    """
    size = path.stat().st_size
    if size == 0:
        raise AudioError("empty", "0 bytes")
    suffix = path.suffix.lower()
    try:
        info = soundfile.info(os.fsencode(path))
    except (soundfile.LibsndfileError, RuntimeError) as error:
        path.open("rb").close()  # which says more of a file that may not be read
        if suffix in _SOUNDFILE_SUFFIXES:
            raise AudioError("unreadable", str(error).rpartition(": ")[2]) from None
        return 0.0, 0
    frames = 0 if info.frames >= UNKNOWN else info.frames
    with path.open("rb") as stream:
        missing, left = _sound_bytes(stream, size, "WAV" if info.format == "WAVEX" else info.format)
        if info.frames == 0 and not left:
            raise AudioError("no_samples", "a header without samples")
        if missing > 0:
            raise AudioError("truncated", f"{missing} bytes fewer than the header says")
        if left and info.subtype in _BYTES:  # what libsndfile makes of an open header depends on what stands there
            frames = left // (info.channels * _BYTES[info.subtype])
        if info.format == "OGG" and not _has_last_ogg_page(stream, size):
            raise AudioError("truncated", "no end-of-stream page")
        if info.format == "MP3" and not _counts_mp3_frames(stream):
            frames = 0  # libsndfile guesses by the bit rate of the first ones
    if info.subtype in ("FLOAT", "DOUBLE"):
        for block in soundfile.blocks(os.fsencode(path), blocksize=_SCAN_FRAMES, dtype="float32"):
            if not np.isfinite(block).all():
                raise AudioError("not_finite", "samples are NaN or infinite")
    return frames / info.samplerate, info.samplerate


def _sound_bytes(stream: BinaryIO, size: int, kind: str) -> tuple[int, int]:
    """Return how many bytes of the sound are not there, and how many there are if the header of a WAV leaves that open.

    A program that writes into a pipe cannot come back to note the length: it leaves 0 or some number of 2 GB or more.
    """
    position, length = _find_sound(stream, size, kind)
    there = size - position
    if kind == "WAV" and length == 0 and there and not _is_chunk(stream, there):
        return 0, there
    if kind != "W64" and length >= OPEN and length > there:
        return 0, there if kind == "WAV" else 0
    return max(0, length - there), 0


def _find_sound(stream: BinaryIO, size: int, kind: str) -> tuple[int, int]:
    """Return where the sound begins and how many bytes the header promises; none, at the end, if it does not say."""
    if kind == "AU":
        stream.seek(0)
        order = ">" if stream.read(4) == b".snd" else "<"
        return struct.unpack(f"{order}II", stream.read(8))
    position, head, counted, multiple, wanted = _CHUNKS.get(kind, (size, "", 0, 1, b""))
    while head and position + struct.calcsize(head) <= size:
        stream.seek(position)
        name, length = struct.unpack(head, stream.read(struct.calcsize(head)))
        if name == wanted:
            return position + struct.calcsize(head), length - counted
        position += struct.calcsize(head) + max(0, -(-length // multiple) * multiple - counted)
    return size, 0


def _is_chunk(stream: BinaryIO, left: int) -> bool:
    """Tell whether another chunk of a RIFF file begins here."""
    head = stream.read(8)
    return (
        len(head) == 8 and all(32 <= byte < 127 for byte in head[:4]) and struct.unpack("<I", head[4:])[0] <= left - 8
    )


def _counts_mp3_frames(stream: BinaryIO) -> bool:
    """Tell whether the first frame of an MP3, behind an ID3 tag, holds the number of frames."""
    stream.seek(0)
    head = stream.read(10)
    if head[:3] == b"ID3" and len(head) == 10:  # its length has 7 bits in each byte
        stream.seek(10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True)))
    else:
        stream.seek(0)
    start = stream.read(256)
    return any(tag in start for tag in _MP3_TAGS)


def _has_last_ogg_page(stream: BinaryIO, size: int) -> bool:
    """Tell whether the last page is whole and has the end-of-stream flag (RFC 3533, section 6: bit 0x04 of byte 5)."""
    stream.seek(max(0, size - _OGG_TAIL_BYTES))
    tail = stream.read()
    start = tail.rfind(b"OggS")
    page = tail[start:] if start >= 0 else b""
    if len(page) < 27 or not page[5] & 4:
        return False
    lengths = page[27 : 27 + page[26]]  # of the segments of its body
    return len(lengths) == page[26] and len(page) >= 27 + page[26] + sum(lengths)
