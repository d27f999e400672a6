"""Log-mel spectrograms; with the defaults those of kapre as system 000 (Bogart 2021) used it.

With `fine`, a second channel has fewer and wider bands many times a frame: rows i * fine ... i * fine + fine - 1 are
what band i is in one short window after the other. They tell drops and crackling, which are over within milliseconds,
from noise, and how fast a rotor turns.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from config import Between, ConfigError, Count
from preprocess.mask import KeepAll, SilenceMask
from preprocess.mel import mel_matrix
from preprocess.recipes import USUAL_STEP, Encoding
from preprocess.spectrogram import count_frames, cut_blocks, hann, power_spectra, read_samples

Size = Annotated[int, Between(1, 1 << 16)]  # of a transform or a filter bank
FULL_SCALE = 32768  # of 16-bit sound; amplitudes are shares of it
BLOCK_FRAMES = 240  # computed at once
LOBES = 8  # widths of a bin on either side of a tone
CELL_FRAMES = 30  # of the mask, which keeps everything
SILENT_SECONDS = 0.2  # length of a cell where silence is left out


@dataclass(frozen=True)
class MelBands:
    """Options of every front end of mel bands, and the bands before they are compressed."""

    sample_rate: Annotated[int, Between(4000, 96000)] = 22_050  # Hz
    window: Size = 2048  # samples, Hann
    n_fft: Size = 2048  # samples; at least the window
    hop: Size = 512  # samples between frames
    mels: Size = 128  # bands
    low: Annotated[float, Between(0)] = 0.0  # Hz
    high: Annotated[float, Between(0)] = 0.0  # Hz; 0: half the sample rate
    scale: Literal["slaney", "htk"] = "slaney"
    power: Literal[1, 2] = 1  # 1: magnitudes are summed, 2: squared magnitudes
    storage: Literal["uint8", "float16", "float32"] = "uint8"  # uint8: steps of half a decibel, or a little more

    def __post_init__(self) -> None:
        """Check what depends on several options.

        Raises:
            ConfigError: naming the option.
        """
        nyquist = self.sample_rate / 2
        if self.n_fft < self.window:
            raise ConfigError(
                f"Invalid value for features.n_fft. Received: {self.n_fft}. "
                f"Expected: at least {self.window}, the window."
            )
        if self.hop > self.window:
            raise ConfigError(
                f"Invalid value for features.hop. Received: {self.hop}. Expected: at most {self.window}, the window."
            )
        if not self.low < self.upper <= nyquist:
            raise ConfigError(
                f"Invalid value for features.high. Received: {self.high:g} with low = {self.low:g} Hz. "
                f"Expected: above low, and at most half the sample rate, {nyquist:g} Hz."
            )
        if (self.matrix.max(axis=0) == 0).any():
            raise ConfigError(
                f"Invalid value for features.mels. Received: {self.mels}. Expected: fewer; some bands hold no bin of a "
                f"transform of {self.n_fft} samples."
            )

    @property
    def upper(self) -> float:
        """Upper end of the last band in Hz."""
        return self.high or self.sample_rate / 2

    @cached_property
    def matrix(self) -> np.ndarray:
        """The filter bank, float32 [n_fft // 2 + 1, mels]."""
        return mel_matrix(self.sample_rate, self.n_fft, self.mels, self.low, self.upper, self.scale)

    @property
    def tapers(self) -> list[np.ndarray]:
        """The window of each channel, float64 [window]."""
        return [hann(self.window)]

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a frame."""
        return (self.mels,)

    @property
    def is_amplitude(self) -> bool:
        """Whether values are logarithms of amplitudes, or of power."""
        return self.power == 1

    @property
    def cell_frames(self) -> int:
        """Frames per cell of the mask."""
        return CELL_FRAMES

    @property
    def edges(self) -> np.ndarray:
        """One band."""
        return np.array([0, self.mels])

    def count_frames(self, path: Path, samples: int) -> int:
        """Return the number of frames of a recording of so many samples."""
        return count_frames(samples, self.window, self.hop)

    def sound(self, path: Path) -> Iterator[np.ndarray]:
        """Yield the samples of a recording, int16 or float32 in LSB."""
        return read_samples(path, self.sample_rate)

    def energies(self, path: Path) -> Iterator[np.ndarray]:
        """Yield mel bands of a recording, float32 [frames, mels], before the logarithm."""
        window = hann(self.window) / FULL_SCALE
        for samples in cut_blocks(self.sound(path), BLOCK_FRAMES, self.window, self.hop):
            spectra = power_spectra(samples, window, self.n_fft, self.hop)
            yield self.summed(spectra, self.matrix)

    def summed(self, spectra: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """Return the bands of squared magnitudes by a filter bank, of magnitudes or of their squares."""
        return (np.sqrt(spectra) if self.power == 1 else spectra) @ matrix

    def blocks(self, path: Path) -> Iterator[np.ndarray]:
        """Yield the spectrogram of a recording, float32 [frames, mels]."""
        return map(self.compress, self.energies(path))

    def new_mask(self) -> KeepAll:
        """Return the mask of a new recording."""
        return KeepAll(self.cell_frames)


@dataclass(frozen=True)
class Decibels(MelBands):
    """Options of front ends that are logarithms of mel bands."""

    decibel: Literal[10, 20] = 10  # times log10 of the sum
    floor: Annotated[float, Between(1e-12, 1)] = 1e-5  # smallest sum
    silence: Annotated[float, Between(-300, 0)] = 0.0  # dB; stretches without a louder band are left out; 0: none

    def __post_init__(self) -> None:
        """Check what depends on several options."""
        super().__post_init__()
        if self.silence and self.silence <= self.lowest:
            raise ConfigError(
                f"Invalid value for features.silence. Received: {self.silence:g}. Expected: more than "
                f"{self.lowest:g} dB, to which features.floor raises silence; 0: nothing is left out."
            )

    @property
    def lowest(self) -> float:
        """Decibels of the floor."""
        return self.decibel * math.log10(self.floor)

    @property
    def cell_frames(self) -> int:
        """Frames per cell of the mask."""
        return max(1, round(SILENT_SECONDS * self.frame_rate)) if self.silence else CELL_FRAMES

    def new_mask(self) -> KeepAll:
        """Return the mask of a new recording."""
        if not self.silence:
            return super().new_mask()
        return SilenceMask(self.cell_frames, self.silence, self.lowest + self.step)

    @property
    def encoding(self) -> Encoding:
        """uint8 from the floor up to the loudest tone, or the values themselves; padding is the floor, silence."""
        if self.storage == "uint8":
            return Encoding("uint8", self.step, self.lowest, self.lowest)
        return Encoding(self.storage, 1.0, 0.0, self.lowest)

    @cached_property
    def highest(self) -> float:
        """The largest value that a sine of full scale in the middle of any bin can have, in dB."""
        from scipy.signal import fftconvolve

        bins, loudest = len(self.matrix), 0.0
        for taper in self.tapers:
            spectrum = (np.abs(np.fft.rfft(taper, self.n_fft)) / 2) ** self.power
            reach = min(bins - 1, LOBES * -(-self.n_fft // np.count_nonzero(taper)))  # where a tone can be seen
            lobes = spectrum[np.abs(np.arange(-reach, reach + 1))]
            heard = fftconvolve(self.matrix.astype(np.float64), lobes[:, None], axes=0)[reach : reach + bins]
            loudest = max(loudest, float(heard.max()))
        return float(self.decibel * np.log10(max(loudest, self.floor)))

    @property
    def step(self) -> float:
        """Decibels from one byte to the next; rounded, so that processors that add in another order agree."""
        if self.storage != "uint8":
            return USUAL_STEP
        return max(USUAL_STEP, math.ceil(1000 * (self.highest - self.lowest) / 255) / 1000)

    @property
    def decade(self) -> float | None:
        """What ten times the amplitude or power adds to a value."""
        return float(self.decibel)

    @property
    def units(self) -> str:
        """Unit of the decoded values."""
        return "dB"

    def compress(self, energies: np.ndarray) -> np.ndarray:
        """Return decibels, float32."""
        return np.log10(np.maximum(energies, np.float32(self.floor))) * np.float32(self.decibel)


@dataclass(frozen=True)
class Recipe(Decibels):
    """Options of the front end."""

    fine: Count = 0  # short windows per frame, whose mels / fine bands are a second channel; 0: none

    def __post_init__(self) -> None:
        """Check what depends on several options."""
        super().__post_init__()
        if self.fine:
            self.check_fine()

    def check_fine(self) -> None:
        """Raise a ConfigError if short windows do not fit into a frame."""
        step = self.fine_hop
        for wrong, expected in (
            (self.mels % self.fine, f"a divisor of features.mels = {self.mels}"),
            (self.hop % self.fine, f"a divisor of features.hop = {self.hop}"),
            (self.hop + step > self.window, f"a frame that holds them: features.window of {self.hop + step} samples"),
        ):
            if wrong:
                raise ConfigError(f"Invalid value for features.fine. Received: {self.fine}. Expected: {expected}.")
        if (self.fine_matrix.max(axis=0) == 0).any():
            raise ConfigError(
                f"Invalid value for features.fine. Received: {self.fine}. Expected: 0, or a wider range of Hz; "
                f"some of {self.mels // self.fine} bands hold no bin of a transform of {2 * step} samples."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a frame: bands, and two channels if there are short windows."""
        return (self.mels, 2) if self.fine else (self.mels,)

    @property
    def fine_hop(self) -> int:
        """Samples between short windows, each of twice as many."""
        return self.hop // self.fine

    @property
    def fine_start(self) -> int:
        """First sample of a frame's short windows, which lie in its middle."""
        return (self.window - self.hop - self.fine_hop) // 2

    @cached_property
    def fine_taper(self) -> np.ndarray:
        """The short window, float64 [2 * fine_hop], scaled so that white noise is as loud in both channels."""
        short = hann(2 * self.fine_hop)
        bands = self.matrix.sum(axis=0).mean() / self.fine_matrix.sum(axis=0).mean()
        return short * math.sqrt(np.sum(hann(self.window) ** 2) / np.sum(short**2)) * bands ** (1 / self.power)

    @cached_property
    def fine_matrix(self) -> np.ndarray:
        """The filter bank of the short windows, float32 [fine_hop + 1, mels // fine]."""
        bands = self.mels // self.fine
        return mel_matrix(self.sample_rate, 2 * self.fine_hop, bands, self.low, self.upper, self.scale)

    def energies(self, path: Path) -> Iterator[np.ndarray]:
        """Yield mel bands of a recording, float32 [frames, mels(, 2)], before the logarithm."""
        if not self.fine:
            yield from super().energies(path)
            return
        window, short = hann(self.window) / FULL_SCALE, self.fine_taper / FULL_SCALE
        for samples in cut_blocks(self.sound(path), BLOCK_FRAMES, self.window, self.hop):
            spectra = power_spectra(samples, window, self.n_fft, self.hop)
            frames = len(spectra)
            heard = samples[self.fine_start :][: frames * self.hop + self.fine_hop]
            often = power_spectra(heard, short, len(short), self.fine_hop)
            bands = self.summed(often, self.fine_matrix).reshape(frames, self.fine, -1).swapaxes(1, 2)
            yield np.stack([self.summed(spectra, self.matrix), bands.reshape(frames, self.mels)], axis=-1)
