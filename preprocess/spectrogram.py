"""Power spectral densities of 16-bit sound, in blocks, so that memory does not grow with the recording."""

import math
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from preprocess.audio import AudioError

WAV_HEADER_BYTES = 44  # at least
READ_SAMPLES = 1 << 17  # at once
_DAMAGE = (wave.Error, EOFError, RuntimeError, ValueError)  # what wave raises for headers that contradict themselves
_LOG10_E = np.float32(np.log10(np.e))


def read_samples(path: Path, sample_rate: int) -> Iterator[np.ndarray]:
    """Yield the samples of a 16-bit mono WAV, int16, `READ_SAMPLES` at a time.

    Raises:
        AudioError: reason damaged_wav or truncated, if the file is not what stage 2 writes.
    """
    try:
        with wave.open(str(path), "rb") as stream:
            _check_format(stream, sample_rate)
            left = stream.getnframes()
            while left:
                new = np.frombuffer(stream.readframes(min(left, READ_SAMPLES)), "<i2")
                if not len(new):
                    raise AudioError("truncated", "fewer samples than the header says")
                left -= len(new)
                yield new
    except _DAMAGE as error:
        raise AudioError("damaged_wav", str(error) or "a chunk that leads out of the file") from None


def _check_format(stream: wave.Wave_read, sample_rate: int) -> None:
    if (stream.getsampwidth(), stream.getnchannels(), stream.getframerate()) != (2, 1, sample_rate):
        raise AudioError("damaged_wav", f"not 16-bit mono at {sample_rate} Hz")


def cut_blocks(chunks: Iterable[np.ndarray], block_frames: int, n_fft: int, hop: int) -> Iterator[np.ndarray]:
    """Cut a stream of samples into overlapping blocks that each hold a whole number of STFT frames.

    Args:
        chunks: arrays of samples, one after the other, of any length.
        block_frames: STFT frames per block; the last block may hold fewer.
        n_fft: samples per frame.
        hop: samples between the starts of frames.

    Yields:
        Arrays of ``(frames - 1) * hop + n_fft`` samples. Samples that do not fill a frame at the end are left out;
        a stream shorter than one frame is padded with zeros to one.
    """
    block, step = (block_frames - 1) * hop + n_fft, block_frames * hop
    rest, first = np.empty(0, np.int16), True
    for chunk in chunks:
        rest = np.concatenate([rest, chunk]) if len(rest) else chunk
        while len(rest) >= block:
            yield rest[:block]
            rest, first = rest[step:], False
    if first and len(rest) < n_fft:
        rest = np.concatenate([rest, np.zeros(n_fft - len(rest), rest.dtype)])
    if len(rest) >= n_fft:
        yield rest[: (len(rest) - n_fft) // hop * hop + n_fft]


def count_samples(path: Path, sample_rate: int) -> int:
    """Return the number of samples that the header of a 16-bit mono WAV promises, as far as the file has that size.

    Raises:
        AudioError: reason damaged_wav or truncated.
    """
    try:
        with wave.open(str(path), "rb") as stream:
            _check_format(stream, sample_rate)
            samples, width = stream.getnframes(), stream.getsampwidth()
    except _DAMAGE as error:
        raise AudioError("damaged_wav", str(error) or "a chunk that leads out of the file") from None
    if samples == 0:
        raise AudioError("no_samples", "no samples")
    if WAV_HEADER_BYTES + samples * width > path.stat().st_size:
        raise AudioError("truncated", "fewer samples than the header says")
    return samples


def count_frames(samples: int, n_fft: int, hop: int) -> int:
    """Return how many whole STFT frames fit; 1 for anything shorter than one frame."""
    return max(1, (samples - n_fft + hop) // hop)


def log_psd(samples: np.ndarray, sample_rate: int, n_fft: int, hop: int, bins: int, floor: float) -> np.ndarray:
    """Return log10 of the one-sided power spectral density.

    The definition of matplotlib.mlab.specgram, which the 2016 system used: symmetric Hann window, no detrending,
    divided by the sample rate and the power of the window, positive frequencies doubled except DC and Nyquist.

    Args:
        samples: int16 or float values in LSB, shape [(frames - 1) * hop + n_fft].
        sample_rate: Hz.
        n_fft: samples per frame.
        hop: samples between frames.
        bins: how many of the n_fft / 2 + 1 frequency bins to keep, from DC.
        floor: smallest result; digital silence, whose logarithm is -inf, becomes this.

    Returns:
        float32 [frames, bins], log10(LSB^2 / Hz).
    """
    window = np.hanning(n_fft)
    window *= math.sqrt(2.0 / (sample_rate * np.sum(window**2)))
    power = power_spectra(samples, window, n_fft, hop)[:, :bins]
    power[:, 0] /= 2
    if n_fft % 2 == 0 and bins == n_fft // 2 + 1:
        power[:, -1] /= 2
    np.maximum(power, np.float32(10.0**floor), out=power)
    np.log(power, out=power)
    power *= _LOG10_E
    return power


def power_spectra(samples: np.ndarray, window: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Return squared magnitudes of the short-time Fourier transform, without padding at the ends.

    Args:
        samples: int16 or float, [(frames - 1) * hop + len(window)] or a few more, which are left out.
        window: [at most n_fft]; frames are padded with zeros from its length to n_fft.
        n_fft: length of the transform.
        hop: samples between frames.

    Returns:
        float32 [frames, n_fft // 2 + 1].
    """
    import scipy.fft  # here, as it takes half a second that a stage with nothing to do need not spend

    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float32), len(window))[::hop]
    spectrum = scipy.fft.rfft(frames * window.astype(np.float32), n_fft, axis=1)
    power = spectrum.real**2
    power += spectrum.imag**2
    return power


def hann(length: int) -> np.ndarray:
    """Return the periodic Hann window, float64 [length], that mel front ends use."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
