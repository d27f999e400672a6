"""What a segment sounds like as a whole, wherever in it: statistics of its bands, as of a sound texture.

Rain, engines, surf and choruses of insects have no event that a network could find, but a spectrum, a rhythm, and bands
that move together (McDermott and Simoncelli 2011, doi 10.1016/j.neuron.2011.06.032).
"""

from typing import Any

import numpy as np
import scipy.fft
from keras import ops

from preprocess.spectrogram import hann

TEXTURE_LOGITS = "texture_logits"  # name of the layer that classifies by it
BANDS = 32  # whose correlations are taken
DISTANCES = (1, 2, 4, 8, 16)  # between correlated bands
CEPSTRA = 20
GROUPS = 16  # of bins, for rhythm
RATES = 16  # ranges of rates whose power is averaged, each wider than the one before
PEAKS = 5  # ranges of rates whose strongest one is compared with the others
SPANS = 5  # pieces of short windows whose modulation spectra are averaged
LAGS = 4  # ranges of times after which a group is compared with itself
SMALLEST = 1e-2  # deviation, in the image's units, and power of a modulation, in squares of them


def texture(image: Any, fine: int = 0) -> Any:
    """Return statistics over time of an image [batch, bins, frames, channels], float32 [batch, features].

    They are those of the mean over channels, and do not depend on how loud it is: mean and standard deviation of every
    bin; correlations between bands; how far cepstral coefficients, and their differences from frame to frame, spread;
    and of every group of bins its rhythm, see `rhythm`. With `fine` short windows per frame (preprocess/recipes/
    logmel.py) every other channel is theirs, and has further ones, see `impulses`.
    """
    image = ops.cast(image, "float32")
    further = impulses(ops.mean(image[..., 1::2], axis=-1), fine) if fine else []
    x = ops.mean(image[..., ::2] if fine else image, axis=-1)
    spectrum = ops.mean(x, axis=-1, keepdims=True)
    x = x - spectrum
    bins = x.shape[1]
    bands = group(x, BANDS)
    basis = scipy.fft.dct(np.eye(bins), axis=0, norm="ortho")[1 : CEPSTRA + 1].astype(np.float32)
    cepstra = ops.matmul(basis / np.sqrt(bins).astype(np.float32), x)
    parts = [(spectrum - ops.mean(spectrum, axis=1, keepdims=True))[..., 0], deviation(x)]
    parts += correlations(bands / deviation(bands)[..., None])
    parts += [ops.log(deviation(values)) for values in (cepstra, cepstra[..., 1:] - cepstra[..., :-1])]
    parts += rhythm(group(x, GROUPS))
    return ops.concatenate(parts + further, axis=-1)


def impulses(rows: Any, fine: int) -> list[Any]:
    """Return statistics over time of the bands of short windows, rows [batch, bands * fine, frames]; each [batch, ...].

    Drops and crackling are over within milliseconds, what flows is not: deviation, skewness and kurtosis of the levels;
    deviation and kurtosis of their differences; how far the mean of the energies lies above that of the levels;
    correlations between bands; and the rhythm of pieces of the segment.
    """
    rows = ops.reshape(rows, (-1, rows.shape[1] // fine, fine, rows.shape[2]))
    rows = rows - ops.mean(rows, axis=-1, keepdims=True)
    levels = ops.reshape(ops.transpose(rows, (0, 1, 3, 2)), (-1, rows.shape[1], fine * rows.shape[3]))
    steps = levels[..., 1:] - levels[..., :-1]
    steps = steps - ops.mean(steps, axis=-1, keepdims=True)
    spread, step = deviation(levels), deviation(steps)
    scaled = levels / spread[..., None]
    parts = [spread, ops.mean(scaled**3, axis=-1), ops.log(kurtosis(scaled))]
    frames = levels.shape[-1]
    parts += [ops.log(step), ops.log(kurtosis(steps / step[..., None]))]
    parts.append(ops.logsumexp(levels, axis=-1) - float(np.log(frames)))
    length = frames // SPANS if frames >= 8 * SPANS else frames
    pieces = levels[..., : frames // length * length]
    pieces = ops.reshape(pieces, (-1, levels.shape[1], pieces.shape[-1] // length, length))
    return parts + correlations(scaled) + rhythm(pieces - ops.mean(pieces, axis=-1, keepdims=True))


def kurtosis(scaled: Any) -> Any:
    """Return the mean fourth power over the last axis, a little more where there is none."""
    return ops.mean(scaled**4, axis=-1) + SMALLEST


def correlations(bands: Any) -> list[Any]:
    """Return those between bands of deviation 1, [batch, bands, frames], some distances apart; each [batch, pairs]."""
    return [ops.mean(bands[:, k:] * bands[:, :-k], axis=-1) for k in DISTANCES if k < bands.shape[1]]


def rhythm(levels: Any) -> list[Any]:
    """Return statistics of the modulation spectra of levels with mean 0, [batch, groups, frames], each [batch, groups].

    The spectrum is a periodogram with a Hann window; of levels [batch, groups, pieces, frames] the mean of theirs. Of
    ranges of rates, logarithms: their mean, and by how much the strongest rate of a wider range stands out, which tells
    a rotor from the wind. Of ranges of lags: the largest and smallest autocorrelation, which is the spectrum's inverse
    transform.
    """
    frames = levels.shape[-1]
    taper = hann(frames)
    rates = np.arange(1, max(2, frames // 2))  # periods in a segment
    turns = 2 * np.pi / frames * np.arange(frames)[:, None] * rates
    moving = levels * (taper / np.sqrt(max(np.sum(taper**2), 1.0))).astype(np.float32)
    power = sum(ops.matmul(moving, wave(turns).astype(np.float32)) ** 2 for wave in (np.cos, np.sin))
    if len(power.shape) == 4:
        power = ops.mean(power, axis=2)
    logs = ops.log(power + SMALLEST)
    parts = [ops.mean(logs[..., low:high], axis=-1) for low, high in ranges(len(rates), RATES)]
    for low, high in ranges(len(rates), PEAKS):
        parts.append(ops.max(logs[..., low:high], axis=-1) - ops.mean(logs[..., low:high], axis=-1))
    lags = max(1, frames // 4)
    again = ops.matmul(power, np.cos(turns[1 : lags + 1]).T.astype(np.float32))
    again = again / (ops.sum(power, axis=-1, keepdims=True) + SMALLEST)
    for low, high in ranges(lags, LAGS):
        parts += [ops.max(again[..., low:high], axis=-1), ops.min(again[..., low:high], axis=-1)]
    return parts


def deviation(values: Any) -> Any:
    """Return the standard deviation over the last axis, a little more where there is hardly any."""
    return ops.sqrt(ops.var(values, axis=-1) + SMALLEST**2)


def group(x: Any, groups: int) -> Any:
    """Return the means of groups of neighbouring bins of [batch, bins, frames], [batch, at most `groups`, frames]."""
    bins = x.shape[1]
    groups = min(groups, bins)
    member = np.arange(bins) * groups // bins == np.arange(groups)[:, None]
    return ops.matmul((member / member.sum(axis=1, keepdims=True)).astype(np.float32), x)


def ranges(count: int, parts: int) -> list[tuple[int, int]]:
    """Return borders of at most so many ranges of 0, 1, ..., count - 1; equally wide in octaves, none empty."""
    edges = np.unique(np.rint(np.geomspace(2, count + 2, parts + 1) - 2).astype(int))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
