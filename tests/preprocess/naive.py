"""The front end once more: written from its definition, in float64 and plain loops, to judge the fast one by."""

import math
import wave
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.signal

EDGES = (0, 11, 22, 32, 43, 53, 64, 74, 85, 95, 106, 116, 127, 137, 148, 158, 169, 179, 190, 200)
FLOOR = -4.5


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000, channels: int = 1) -> Path:
    """Write int16 (or uint8) samples with the standard library; [frames, channels] if there are several."""
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(channels)
        stream.setsampwidth(samples.dtype.itemsize)
        stream.setframerate(rate)
        stream.writeframes(samples.tobytes())
    return path


def read_wav(path: Path) -> np.ndarray:
    with wave.open(str(path), "rb") as stream:
        assert (stream.getnchannels(), stream.getsampwidth(), stream.getframerate()) == (1, 2, 16_000)
        return np.frombuffer(stream.readframes(stream.getnframes()), "<i2")


def log_psd(samples: np.ndarray, bins: int = 200, rate: int = 16_000, n_fft: int = 512, hop: int = 256) -> np.ndarray:
    """Return log10 PSD, float64 [frames, bins], with digital silence at the floor."""
    padded = np.pad(samples.astype(np.float64), (0, max(0, n_fft - len(samples))))
    psd = scipy.signal.spectrogram(
        padded,
        fs=rate,
        window=np.hanning(n_fft),
        nperseg=n_fft,
        noverlap=n_fft - hop,
        detrend=False,
        scaling="density",
        mode="psd",
    )[2]
    with np.errstate(divide="ignore"):
        return np.maximum(np.log10(psd.T[:, :bins]), FLOOR)


def cell_facts(frames: np.ndarray, edges=EDGES, cell_frames: int = 30, loudest: int = 10, factor: float = 1.5):
    """Return mean, mean of the loudest values, and threshold of every cell: three lists of lists [cell][band]."""
    means, peaks, thresholds = [], [], []
    for start in range(0, len(frames), cell_frames):
        means.append([])
        peaks.append([])
        thresholds.append([])
        for low, high in pairwise(edges):
            band = [float(value) for value in frames[:, low:high].ravel()]
            band_mean = math.fsum(band) / len(band)
            deviation = math.sqrt(math.fsum((value - band_mean) ** 2 for value in band) / len(band))
            cell = sorted(float(value) for value in frames[start : start + cell_frames, low:high].ravel())
            means[-1].append(math.fsum(cell) / len(cell))
            top = cell[-loudest:]
            peaks[-1].append(math.fsum(top) / len(top))
            thresholds[-1].append(factor * (band_mean + deviation))
    return means, peaks, thresholds


def mask(frames: np.ndarray, edges=EDGES, cell_frames=30, loudest=10, factor=1.5, dilate=True) -> np.ndarray:
    """Return 1 for kept cells, 0 for dropped ones, [cells, bands]."""
    means, peaks, thresholds = cell_facts(frames, edges, cell_frames, loudest, factor)
    rows, columns = len(means), len(edges) - 1
    kept = [
        [not (means[i][j] < 0 or peaks[i][j] < thresholds[i][j]) for j in range(columns)] for i in range(rows)
    ]  # a NaN or an equal value keeps
    if not dilate:
        return np.array(kept, np.uint8)
    out = np.zeros((rows, columns), np.uint8)
    for i in range(rows):
        for j in range(columns):
            for k, m in ((i, j), (i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if 0 <= k < rows and 0 <= m < columns and kept[k][m]:
                    out[i, j] = 1
    return out


def view(frames: np.ndarray, cells: np.ndarray, edges, cell_frames: int, masked: bool, drop: bool) -> np.ndarray:
    """Return a recording as the network gets it, [frames left, bins]."""
    bins = frames.shape[1]
    shown, left = [], []
    for t in range(len(frames)):
        kept = np.zeros(bins, bool)
        for band, (low, high) in enumerate(pairwise(edges)):
            kept[low:high] = cells[t // cell_frames, band] == 1
        shown.append(np.where(kept, frames[t], 0) if masked else frames[t])
        left.append(np.count_nonzero(~kept) * 100 <= 95 * bins)  # more than 95 % empty: removed
    if not drop:
        return np.array(shown)
    if not any(left):
        return np.zeros_like(frames)
    return np.array([column for column, stays in zip(shown, left, strict=True) if stays])


def segments(frames: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut into consecutive windows; the last one ends with the recording, a short recording is zero padded."""
    if len(frames) < size:
        return [np.concatenate([frames, np.zeros((size - len(frames), frames.shape[1]))])]
    cut = [frames[start : start + size] for start in range(0, len(frames) - size + 1, size)]
    return cut if len(frames) % size == 0 else [*cut, frames[-size:]]
