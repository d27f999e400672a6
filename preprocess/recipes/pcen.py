"""Per-channel energy normalisation of mel bands (Wang et al. 2017, arXiv 1607.05666, equations 1 and 2)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from config import Between
from preprocess.recipes import Encoding, logmel

SCALE = 2.0**31  # of the energies, so that the bias is small beside them; as librosa's example has it


@dataclass(frozen=True)
class Recipe(logmel.MelBands):
    """Options of the front end; M is the smoothed energy E: (E / (eps + M)^gain + bias)^exponent - bias^exponent."""

    gain: Annotated[float, Between(0, 1)] = 0.98
    bias: Annotated[float, Between(0)] = 2.0
    exponent: Annotated[float, Between(0.01, 1)] = 0.5
    time_constant: Annotated[float, Between(0.001, 60)] = 0.4  # s, of the smoothing
    eps: Annotated[float, Between(1e-12, 1)] = 1e-6
    storage: Literal["uint8", "float16", "float32"] = "float16"  # uint8: steps of 0.02 up to 5.1

    @property
    def encoding(self) -> Encoding:
        """The values themselves, or uint8; padding is 0, silence."""
        return Encoding("uint8", 0.02, 0.0) if self.storage == "uint8" else Encoding(self.storage, 1.0, 0.0)

    @property
    def decade(self) -> float | None:
        """Values are no logarithms."""
        return None

    @property
    def units(self) -> str:
        """Unit of the decoded values."""
        return "1"

    @cached_property
    def smoothing(self) -> float:
        """The share of a new frame in M, from the time constant in frames T: (sqrt(1 + 4 T^2) - 1) / (2 T^2)."""
        frames = self.time_constant * self.frame_rate
        return float((np.sqrt(1 + 4 * frames**2) - 1) / (2 * frames**2))

    def normalise(self, energies: np.ndarray, smooth: np.ndarray) -> np.ndarray:
        """Return PCEN of energies and their smoothed values, both float32 [frames, mels]."""
        gained = energies * np.exp(-self.gain * np.log(self.eps + smooth))
        return ((gained + self.bias) ** self.exponent - self.bias**self.exponent).astype(np.float32)

    def blocks(self, path: Path) -> Iterator[np.ndarray]:
        """Yield the spectrogram of a recording, float32 [frames, mels]; M starts as the first frame."""
        from scipy.signal import lfilter

        share, state = self.smoothing, None
        for energies in self.energies(path):
            energies = energies * np.float32(SCALE)
            if state is None:
                state = (1 - share) * energies[:1].astype(np.float64)
            smooth, state = lfilter([share], [1, share - 1], energies.astype(np.float64), axis=0, zi=state)
            yield self.normalise(energies, smooth)
