"""Mel filter banks, as matrices."""

import numpy as np

_SLANEY_HZ_PER_MEL = 200 / 3  # linear up to 1 kHz, then logarithmic: Slaney, Auditory Toolbox, 1998
_SLANEY_BREAK_MEL = 15.0
_SLANEY_LOG_STEP = np.log(6.4) / 27


def hz_to_mel(hz: np.ndarray | float, scale: str) -> np.ndarray:
    """Convert frequencies to mel: "htk" is 2595 log10(1 + f / 700) (O'Shaughnessy), or "slaney"."""
    hz = np.asarray(hz, np.float64)
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    linear = hz / _SLANEY_HZ_PER_MEL
    return np.where(
        linear < _SLANEY_BREAK_MEL, linear, _SLANEY_BREAK_MEL + np.log(np.maximum(hz, 1) / 1000) / _SLANEY_LOG_STEP
    )


def mel_to_hz(mel: np.ndarray | float, scale: str) -> np.ndarray:
    """Convert mel to frequencies; the inverse of `hz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    above = 1000 * np.exp(_SLANEY_LOG_STEP * (mel - _SLANEY_BREAK_MEL))
    return np.where(mel < _SLANEY_BREAK_MEL, mel * _SLANEY_HZ_PER_MEL, above)


def mel_matrix(sample_rate: int, n_fft: int, bands: int, low: float, high: float, scale: str) -> np.ndarray:
    """Return triangular filters whose corners are equally spaced in mel.

    Args:
        sample_rate: Hz.
        n_fft: length of the transform.
        bands: number of filters.
        low: lower corner of the first filter, Hz.
        high: upper corner of the last filter, Hz.
        scale: "slaney" (triangles in Hz with an area of 1, as librosa and kapre have them) or "htk" (triangles in
            mel with a peak of 1 and without the bin of 0 Hz, as TensorFlow and VGGish have them).

    Returns:
        float32 [n_fft // 2 + 1, bands].
    """
    hz = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    corners = np.linspace(hz_to_mel(low, scale), hz_to_mel(high, scale), bands + 2)
    axis = hz_to_mel(hz, scale) if scale == "htk" else hz
    if scale != "htk":
        corners = mel_to_hz(corners, scale)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (axis[:, None] - left) / (centre - left)
    falling = (right - axis[:, None]) / (right - centre)
    matrix = np.maximum(0, np.minimum(rising, falling))
    if scale == "htk":
        matrix[0] = 0
    else:
        matrix *= 2 / (right - left)
    return matrix.astype(np.float32)
