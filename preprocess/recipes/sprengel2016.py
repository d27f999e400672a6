"""The front end of Sprengel et al. (BirdCLEF 2016, winner): log magnitudes, and frames told into signal and noise.

With features.drop_columns the network sees the signal frames one after the other; the noise frames serve
train.augment.noise.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from config import Between, ConfigError
from preprocess.mask import SignalNoiseMask
from preprocess.recipes import Encoding
from preprocess.recipes.logmel import BLOCK_FRAMES, FULL_SCALE, Size
from preprocess.spectrogram import count_frames, cut_blocks, hann, power_spectra, read_samples

FLOOR = -6.0  # log10 of the smallest magnitude; 16-bit dither lies at about -3.5
STEP = 0.04  # of the uint8 codes in log10, 0.8 dB


@dataclass(frozen=True)
class Recipe:
    """Options of the front end."""

    sample_rate: Annotated[int, Between(4000, 96000)] = 22_050  # Hz
    n_fft: Size = 512  # samples, Hann
    hop: Size = 128  # samples, 5.8 ms: 512 frames are 3 s
    bins: Size = 256  # from DC
    signal: Annotated[float, Between(1)] = 3.0  # times the medians of row and column
    noise: Annotated[float, Between(1)] = 2.5
    median_seconds: Annotated[float, Between(1, 3600)] = 300.0  # stretch that medians are taken over, or nearly
    storage: Literal["uint8", "float16", "float32"] = "uint8"

    def __post_init__(self) -> None:
        if self.hop > self.n_fft:
            raise ConfigError(
                f"Invalid value for features.hop. Received: {self.hop}. Expected: at most {self.n_fft}, the window."
            )
        if self.bins > self.n_fft // 2 + 1:
            raise ConfigError(
                f"Invalid value for features.bins. Received: {self.bins}. Expected: at most {self.n_fft // 2 + 1}."
            )

    @property
    def revision(self) -> int:
        """2: the end of a recording is measured with what comes before it; 3: stretches are shorter than a block."""
        return 3 if self.new_mask().stretch < BLOCK_FRAMES else 2

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop

    @property
    def encoding(self) -> Encoding:
        """uint8 in steps of 0.8 dB, or the values themselves; padding is silence."""
        if self.storage == "uint8":
            return Encoding("uint8", STEP, FLOOR, FLOOR)
        return Encoding(self.storage, 1.0, 0.0, FLOOR)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a frame."""
        return (self.bins,)

    @property
    def decade(self) -> float | None:
        """What ten times the amplitude adds to a value."""
        return 1.0

    @property
    def is_amplitude(self) -> bool:
        """Values are logarithms of amplitudes."""
        return True

    @property
    def units(self) -> str:
        """Unit of the decoded values."""
        return "log10(amplitude)"

    @property
    def cell_frames(self) -> int:
        """A cell of the mask is one frame."""
        return 1

    @property
    def edges(self) -> np.ndarray:
        """One band."""
        return np.array([0, self.bins])

    def count_frames(self, path: Path, samples: int) -> int:
        """Return the number of frames of a recording of so many samples."""
        return count_frames(samples, self.n_fft, self.hop)

    def blocks(self, path: Path) -> Iterator[np.ndarray]:
        """Yield the spectrogram of a recording, float32 [frames, bins]."""
        window = hann(self.n_fft) / FULL_SCALE
        for samples in cut_blocks(read_samples(path, self.sample_rate), BLOCK_FRAMES, self.n_fft, self.hop):
            power = power_spectra(samples, window, self.n_fft, self.hop)[:, : self.bins]
            yield 0.5 * np.log10(np.maximum(power, np.float32(10.0 ** (2 * FLOOR))))

    def new_mask(self) -> SignalNoiseMask:
        """Return the mask of a new recording, to be fed with its blocks."""
        return SignalNoiseMask(self.signal, self.noise, round(self.median_seconds * self.frame_rate))
