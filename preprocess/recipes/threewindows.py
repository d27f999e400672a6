"""Three resolutions of one sound as channels: the 299 x 299 x 3 image of system 001 (toddstep 2023).

Mel bands of Hann windows of 120, 15 and 3.7 ms, centred on the same instant. The original's longest window was
longer than its transform, so that only its rising half counted; here the transform is as long as the window. Its
range and scaling followed the loudest item of the batch; here each segment has its own (model.dynamic_range = 80,
model.normalise = "item").
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from config import Between, ConfigError, Count
from preprocess.mel import mel_matrix
from preprocess.recipes import logmel
from preprocess.spectrogram import cut_blocks, hann, power_spectra


@dataclass(frozen=True)
class Recipe(logmel.Decibels):
    """Options of the front end."""

    windows: tuple[int, ...] = (2646, 330, 82)  # samples; one channel each, the longest first
    window: logmel.Size = 2646  # samples: the longest
    n_fft: logmel.Size = 2646
    hop: logmel.Size = 369  # samples, 16.7 ms: 299 frames are 5 s
    mels: logmel.Size = 320
    skip: Count = 21  # lowest bands left out: 299 remain
    scale: Literal["slaney", "htk"] = "htk"
    decibel: Literal[10, 20] = 20
    floor: Annotated[float, Between(1e-12, 1)] = 1e-5

    def __post_init__(self) -> None:
        """Check what depends on several options."""
        for name, wrong, expected in (
            ("windows", not self.windows or max(self.windows) != self.window or min(self.windows) < 2,
             f"lengths from 2 up to the longest, features.window = {self.window}"),
            ("skip", self.skip >= self.mels, f"fewer than the {self.mels} bands"),
        ):  # fmt: skip
            if wrong:
                value = getattr(self, name)
                raise ConfigError(f"Invalid value for features.{name}. Received: {value}. Expected: {expected}.")
        super().__post_init__()

    @cached_property
    def matrix(self) -> np.ndarray:
        """The filter bank without the skipped bands, float32 [n_fft // 2 + 1, mels - skip]."""
        full = mel_matrix(self.sample_rate, self.n_fft, self.mels, self.low, self.upper, self.scale)
        return np.ascontiguousarray(full[:, self.skip :])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a frame: bands and channels."""
        return self.mels - self.skip, len(self.windows)

    @property
    def edges(self) -> np.ndarray:
        """One band."""
        return np.array([0, self.mels - self.skip])

    @cached_property
    def tapers(self) -> list[np.ndarray]:
        """The windows, each in the middle of zeros, float64 [window], scaled to equal sums."""
        tapers = []
        for length in self.windows:
            taper = np.zeros(self.window)
            start = (self.window - length) // 2
            taper[start : start + length] = hann(length)
            tapers.append(taper * (np.sum(hann(self.window)) / np.sum(taper)))
        return tapers

    def energies(self, path: Path) -> Iterator[np.ndarray]:
        """Yield mel bands of a recording, float32 [frames, bands, channels], before the logarithm."""
        for samples in cut_blocks(self.sound(path), logmel.BLOCK_FRAMES, self.window, self.hop):
            channels = []
            for taper in self.tapers:
                spectra = power_spectra(samples, taper / logmel.FULL_SCALE, self.n_fft, self.hop)
                channels.append(self.summed(spectra, self.matrix))
            yield np.stack(channels, axis=-1)
