"""Mel bands from 2 to 8 kHz of cleaned sound, as system 004 (BirdCLEF 2024 at Passau) stored them as pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from config import Between
from preprocess import cleaning
from preprocess.recipes import logmel
from preprocess.spectrogram import count_frames


@dataclass(frozen=True)
class Recipe(logmel.Recipe):
    """Options of the front end; decibels relative to the loudest value come from model.normalise = "item"."""

    sample_rate: Annotated[int, Between(4000, 96000)] = 32_000  # Hz
    mels: logmel.Size = 128
    low: Annotated[float, Between(0)] = 2000.0  # Hz
    high: Annotated[float, Between(0)] = 8000.0  # Hz
    power: Literal[1, 2] = 2
    floor: Annotated[float, Between(1e-12, 1)] = 1e-10
    clean: Literal["noisereduce", "chain", "none"] = "noisereduce"  # chain: that of the system's first version
    high_pass: Annotated[float, Between(1)] = 1000.0  # Hz, of the chain

    @property
    def revision(self) -> int:
        """2: the end of a recording is cleaned with what comes before it."""
        return 1 if self.clean == "none" else 2

    def sound(self, path: Path) -> Iterator[np.ndarray]:
        """Yield cleaned samples of a recording, float32 in LSB."""
        return cleaning.clean(super().sound(path), self.sample_rate, self.clean, self.high_pass)

    def count_frames(self, path: Path, samples: int) -> int:
        """Return the number of frames; the chain removes silence, so it has to be run for that."""
        if self.clean == "chain":
            samples = sum(map(len, self.sound(path)))
        return count_frames(samples, self.window, self.hop)
