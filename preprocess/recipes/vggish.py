"""Log-mel patches of VGGish (Hershey et al. 2017), as system 003 (JibJib) used them: 96 frames are 0.96 s."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from config import Between
from preprocess.recipes import Encoding, logmel


@dataclass(frozen=True)
class Recipe(logmel.MelBands):
    """Options of the front end."""

    sample_rate: Annotated[int, Between(4000, 96000)] = 16_000  # Hz
    window: logmel.Size = 400  # samples, 25 ms, periodic Hann
    n_fft: logmel.Size = 512
    hop: logmel.Size = 160  # samples, 10 ms
    mels: logmel.Size = 64
    low: Annotated[float, Between(0)] = 125.0  # Hz
    high: Annotated[float, Between(0)] = 7500.0  # Hz
    scale: Literal["slaney", "htk"] = "htk"
    floor: Annotated[float, Between(1e-12, 1)] = 0.01  # added before the natural logarithm

    @property
    def encoding(self) -> Encoding:
        """uint8 in steps of 0.05, or the values themselves; padding is silence."""
        lowest = float(np.log(self.floor))
        if self.storage == "uint8":
            return Encoding("uint8", 0.05, lowest, lowest)
        return Encoding(self.storage, 1.0, 0.0, lowest)

    @property
    def decade(self) -> float | None:
        """What ten times the amplitude adds to a value."""
        return float(np.log(10))

    @property
    def units(self) -> str:
        """Unit of the decoded values."""
        return "ln(amplitude)"

    def compress(self, energies: np.ndarray) -> np.ndarray:
        """Return ln(x + floor), float32."""
        return np.log(energies + np.float32(self.floor))
