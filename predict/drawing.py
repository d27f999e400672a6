"""Spectrograms for people to look at, in grey levels, and what a picture can hold."""

import numpy as np

from preprocess.spectrogram import hann, power_spectra

WINDOW, BINS = 1024, 256  # samples; rows of a picture
COLUMNS_PER_SECOND = 100
MAX_MATRIX = 40  # species that can still be read in a confusion matrix
RANGE = 70.0  # dB below the loudest that are black
QUIETEST = -20.0  # dB of what is shown white at most, so that silence is black; a full tone has 48


def draw_sound(samples: np.ndarray, rate: int, most: int = 0) -> np.ndarray:
    """Return a spectrogram as grey levels, uint8 [rows, columns], up to half the rate, low frequencies below.

    Args:
        samples: float32 [samples] in [-1, 1], at least WINDOW of them.
        rate: in Hz.
        most: columns at most (0: as many as there are); longer sounds have fewer columns per second.

    Raises:
        ValueError: if the sound is shorter than a window.
    """
    hop = max(1, rate // COLUMNS_PER_SECOND)
    if most:
        hop = max(hop, -(-len(samples) // most))
    power = power_spectra(samples, hann(WINDOW), WINDOW, hop)[:, : 2 * BINS]
    power = power.reshape(len(power), BINS, -1).mean(axis=2)
    level = 10 * np.log10(np.maximum(power, 1e-12))
    shown = np.clip((level - max(level.max(), QUIETEST)) / RANGE + 1, 0, 1) * 255
    return shown.astype(np.uint8).T[::-1]
