"""The front end of Toth and Czeba (BirdCLEF 2016): log power spectral density and the energy mask beside it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from config import Between, ConfigError, Positive
from preprocess.mask import MaskBuilder, band_edges
from preprocess.recipes import Encoding
from preprocess.spectrogram import count_frames, cut_blocks, log_psd, read_samples

FLOOR = -4.5  # log10(LSB^2/Hz): just under the dither of sox; digital silence becomes this
STEP = 0.05  # of the uint8 codes in log10, half a decibel; 255 steps reach 8.25, a full-scale sine has 7.1
BLOCK_CELLS = 8  # cells computed at once: the block's spectra stay in the processor's cache


@dataclass(frozen=True)
class Recipe:
    """Options of the front end; the defaults are those of the paper's code."""

    sample_rate: Annotated[int, Between(4000, 96000)] = 16_000  # Hz
    n_fft: Annotated[int, Between(32, 16384)] = 512  # samples: 32 ms
    hop: Positive = 256  # samples: 16 ms
    bins: Positive = 200  # from DC, 31.25 Hz each: up to 6.25 kHz
    bands: Positive = 19  # of the mask, 10 or 11 bins each
    cell_frames: Positive = 30  # 0.48 s
    loudest: Positive = 10  # values of a cell whose mean decides
    level_factor: Annotated[float, Between(0)] = 1.5
    dilate: bool = True
    storage: Literal["uint8", "float16", "float32"] = "uint8"

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("hop", self.hop, 1, self.n_fft),
            ("bins", self.bins, 1, self.n_fft // 2 + 1),
            ("bands", self.bands, 1, self.bins),
        ):
            if not least <= value <= most:
                raise ConfigError(
                    f"Invalid value for features.{name}. Received: {value}. Expected: from {least} to {most}."
                )

    @property
    def revision(self) -> int:
        """2: an odd window has no Nyquist frequency, so that no bin is halved for it."""
        return 2 if self.n_fft % 2 and self.bins == self.n_fft // 2 + 1 else 1

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop

    @property
    def encoding(self) -> Encoding:
        """uint8 in steps of half a decibel, or the floating-point values themselves."""
        return Encoding("uint8", STEP, FLOOR) if self.storage == "uint8" else Encoding(self.storage, 1.0, 0.0)

    @cached_property
    def edges(self) -> np.ndarray:
        """Borders of the mask's bands in bins."""
        return band_edges(self.bins, self.bands)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a frame."""
        return (self.bins,)

    @property
    def decade(self) -> float:
        """What ten times the energy adds to a value."""
        return 1.0

    @property
    def is_amplitude(self) -> bool:
        """Values are logarithms of power."""
        return False

    @property
    def units(self) -> str:
        """Unit of the decoded values."""
        return "log10(LSB^2 Hz-1)"

    def count_frames(self, path: Path, samples: int) -> int:
        """Return the number of frames of a recording of so many samples."""
        return count_frames(samples, self.n_fft, self.hop)

    def blocks(self, path: Path) -> Iterator[np.ndarray]:
        """Yield the spectrogram of a 16 kHz WAV, float32 [frames, bins], in blocks of whole cells."""
        frames = BLOCK_CELLS * self.cell_frames
        for samples in cut_blocks(read_samples(path, self.sample_rate), frames, self.n_fft, self.hop):
            yield log_psd(samples, self.sample_rate, self.n_fft, self.hop, self.bins, FLOOR)

    def new_mask(self) -> MaskBuilder:
        """Return the mask of a new recording, to be fed with its blocks."""
        return MaskBuilder(self.edges, self.cell_frames, self.loudest, self.level_factor, self.dilate)
