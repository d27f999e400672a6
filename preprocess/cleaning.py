"""Cleaning of waveforms before a spectrogram is made, as system 004 (BirdCLEF 2024 at Passau) did it.

Sound is float32 in LSB of 16 bits, so that every front end can follow.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from config import PipelineError

STRETCH_SECONDS = 300  # cleaned at once; bounds the memory
FULL_SCALE = 32768.0
STEP_SECONDS = 0.01  # of the search for silence


def clean(chunks: Iterable[np.ndarray], sample_rate: int, how: str, cutoff: float) -> Iterator[np.ndarray]:
    """Clean a stream of samples, `STRETCH_SECONDS` at a time, and at its end half as many more or less.

    Args:
        chunks: int16 arrays.
        sample_rate: Hz.
        how: "none", "noisereduce" (spectral gating alone) or "chain" (high-pass, removal of silence, normalisation,
            amplitude filter, spectral gating, compression).
        cutoff: of the chain's high-pass, Hz.

    Yields:
        float32 arrays in LSB.
    """
    waiting: list[np.ndarray] = []
    stretch = STRETCH_SECONDS * sample_rate
    for chunk in chunks:
        waiting.append(chunk)
        if sum(map(len, waiting)) >= 1.5 * stretch:
            samples = np.concatenate(waiting)
            yield _clean(samples[:stretch], sample_rate, how, cutoff)
            waiting = [samples[stretch:]]
    if waiting:
        yield _clean(np.concatenate(waiting), sample_rate, how, cutoff)


def _clean(samples: np.ndarray, sample_rate: int, how: str, cutoff: float) -> np.ndarray:
    sound = samples.astype(np.float32)
    if how == "noisereduce":
        return reduce_noise(sound, sample_rate)
    if how == "chain":
        sound = remove_silence(high_pass(sound, sample_rate, cutoff), sample_rate)
        sound = filter_amplitude(normalise(sound))
        return compress(reduce_noise(sound, sample_rate))
    return sound


def reduce_noise(sound: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return sound after noisereduce's spectral gating with its defaults (Sainburg 2019); silence stays silence.

    Raises:
        PipelineError: if the package is not installed.
    """
    try:
        import noisereduce
    except ImportError:
        raise PipelineError(
            'The package noisereduce is missing. Install it into .venv with: pip install "noisereduce>=3.0.3", '
            "or choose features.clean = none."
        ) from None
    if not sound.any():
        return sound
    return np.nan_to_num(noisereduce.reduce_noise(sound, sample_rate)).astype(np.float32)


def high_pass(sound: np.ndarray, sample_rate: int, cutoff: float, order: int = 5) -> np.ndarray:
    """Return sound after a Butterworth high-pass at cutoff Hz."""
    from scipy.signal import butter, sosfilt

    sections = butter(order, min(cutoff, 0.49 * sample_rate), "highpass", fs=sample_rate, output="sos")
    return sosfilt(sections, sound).astype(np.float32)


def remove_silence(
    sound: np.ndarray, sample_rate: int, below: float = -40.0, longest: float = 1.0, keep: float = 0.1
) -> np.ndarray:
    """Remove stretches of more than `longest` seconds whose level stays under `below` dB relative to the peak.

    `keep` seconds stay at both ends of a removed stretch. Sound that is quiet throughout stays whole.
    """
    step = max(1, round(STEP_SECONDS * sample_rate))
    steps = -(-len(sound) // step)
    padded = np.pad(sound, (0, steps * step - len(sound))).reshape(steps, step)
    level = np.sqrt(np.mean(padded.astype(np.float64) ** 2, axis=1))
    loud = np.flatnonzero(level >= np.abs(sound).max(initial=0) * 10 ** (below / 20))
    if not len(loud) or not sound.any():
        return sound
    kept = np.ones(steps, bool)
    margin = round(keep / STEP_SECONDS)
    for before, after in zip([-margin - 1, *loud], [*loud, steps + margin], strict=True):
        if (min(after, steps) - max(before, -1) - 1) * STEP_SECONDS > longest:
            kept[max(0, before + 1 + margin) : max(0, after - margin)] = False
    return sound[np.repeat(kept, step)[: len(sound)]]


def normalise(sound: np.ndarray) -> np.ndarray:
    """Return sound with its peak at full scale."""
    peak = np.abs(sound).max(initial=0)
    return sound * np.float32((FULL_SCALE - 1) / peak) if peak else sound


def filter_amplitude(sound: np.ndarray, below: float = 0.01) -> np.ndarray:
    """Return sound with samples under a share of full scale set to 0."""
    return np.where(np.abs(sound) < below * FULL_SCALE, np.float32(0), sound)


def compress(sound: np.ndarray, above: float = -20.0, ratio: float = 4.0) -> np.ndarray:
    """Return sound whose level above a threshold in dB of full scale rises by 1 dB per `ratio` dB only."""
    magnitude = np.maximum(np.abs(sound) / FULL_SCALE, 1e-9)
    excess = np.maximum(0, 20 * np.log10(magnitude) - above)
    return (sound * 10 ** (-excess * (1 - 1 / ratio) / 20)).astype(np.float32)
