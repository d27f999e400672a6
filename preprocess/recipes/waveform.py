"""The sound itself, for networks that compute their features on the device (systems 000 and 001).

A frame is `hop` samples; features.frontend names the front end that runs in the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from config import Between, Positive
from preprocess.mask import KeepAll
from preprocess.recipes import Encoding
from preprocess.recipes.logmel import CELL_FRAMES, FULL_SCALE
from preprocess.spectrogram import count_samples, cut_blocks, read_samples

EDGE = 1e-5  # share of the peak below which samples at the ends are trimmed
BLOCK_FRAMES = 256


@dataclass(frozen=True)
class Recipe:
    """Options of the front end."""

    sample_rate: Annotated[int, Between(4000, 96000)] = 22_050  # Hz
    hop: Positive = 441  # samples per frame: 20 ms
    trim: bool = False  # leave out samples below 1e-5 of the peak at both ends
    peak: bool = False  # scale every recording to full scale

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop

    @property
    def encoding(self) -> Encoding:
        """16-bit samples as shares of full scale."""
        return Encoding("int16", 1 / FULL_SCALE, 0.0)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a frame."""
        return (self.hop,)

    @property
    def decade(self) -> float | None:
        """What ten times the amplitude adds to a value."""
        return None

    @property
    def is_amplitude(self) -> bool:
        """Values are samples."""
        return True

    @property
    def units(self) -> str:
        """Unit of the decoded values."""
        return "1"

    @property
    def cell_frames(self) -> int:
        """Frames per cell of the mask, which keeps everything."""
        return CELL_FRAMES

    @property
    def edges(self) -> np.ndarray:
        """One band."""
        return np.array([0, self.hop])

    def measure(self, path: Path, samples: int) -> tuple[int, int, int]:
        """Return the first sample to take, the one after the last, and the peak of a recording in LSB."""
        if not (self.trim or self.peak):
            return 0, samples, 0
        largest = max(int(np.abs(chunk.astype(np.int32)).max()) for chunk in read_samples(path, self.sample_rate))
        if not self.trim or largest == 0:  # silence stays as it is
            return 0, samples, largest
        first, last, position = samples, 0, 0
        for chunk in read_samples(path, self.sample_rate):
            loud = np.flatnonzero(np.abs(chunk.astype(np.int32)) >= EDGE * largest)
            if len(loud):
                first, last = min(first, position + int(loud[0])), position + int(loud[-1]) + 1
            position += len(chunk)
        return first, last, largest

    def count_frames(self, path: Path, samples: int) -> int:
        """Return the number of frames; the last one is filled up with silence."""
        first, last, _ = self.measure(path, samples)
        return max(1, -(-(last - first) // self.hop))

    def offset(self, path: Path, samples: int) -> float:
        """Return how many seconds are trimmed at the beginning."""
        return self.measure(path, samples)[0] / self.sample_rate if self.trim else 0.0

    def blocks(self, path: Path) -> Iterator[np.ndarray]:
        """Yield the frames of a recording, int16 [frames, hop]."""
        first, last, largest = self.measure(path, count_samples(path, self.sample_rate))
        gain = (FULL_SCALE - 1) / largest if self.peak and largest else 1.0

        def chosen() -> Iterator[np.ndarray]:
            position = 0
            for chunk in read_samples(path, self.sample_rate):
                part = chunk[max(0, first - position) : max(0, last - position)]
                position += len(chunk)
                yield np.rint(part * gain).astype(np.int16) if gain != 1 else part
            yield np.zeros(-(last - first) % self.hop, np.int16)

        for block in cut_blocks(chosen(), BLOCK_FRAMES, self.hop, self.hop):
            yield block.reshape(-1, self.hop)

    def new_mask(self) -> KeepAll:
        """Return the mask of a new recording."""
        return KeepAll(self.cell_frames)
