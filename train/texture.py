"""What a segment sounds like as a whole, wherever in it: statistics of its bands, as of a sound texture.

Rain, engines, surf and choruses of insects have no event that a network could find, but level, spread and rhythm
(McDermott and Simoncelli 2011, doi 10.1016/j.neuron.2011.06.032).
"""

from typing import Any

import numpy as np
from keras import ops

from preprocess.spectrogram import hann

GROUPS = 16  # of bins, for the modulation spectrum
RATES = 16  # ranges of rates whose power is averaged, each wider than the one before
PEAKS = 5  # ranges of rates whose strongest one is compared with the others
SMALLEST = 1e-2  # power of a modulation, in squares of the image's units


def texture(image: Any) -> Any:
    """Return statistics over time of an image [batch, bins, frames, channels], float32 [batch, features].

    Per channel: mean and standard deviation of every bin; and of every group of bins the logarithm of its modulation
    spectrum (periodogram with a Hann window), averaged over ranges of rates, and by how much the strongest rate of
    a wider range stands out from the range's mean, which tells a rotor from the wind.
    """
    bins, frames = image.shape[1:3]
    x = ops.transpose(ops.cast(image, "float32"), (0, 3, 1, 2))
    groups = min(GROUPS, bins)
    member = np.arange(bins) * groups // bins == np.arange(groups)[:, None]
    level = ops.matmul((member / member.sum(axis=1, keepdims=True)).astype(np.float32), x)
    taper = hann(frames)
    moving = (level - ops.mean(level, axis=-1, keepdims=True)) * taper.astype(np.float32)
    rates = np.arange(1, max(2, frames // 2))  # periods in a segment
    angle = 2 * np.pi / frames * np.arange(frames)[:, None] * rates
    scale = 1 / np.sqrt(max(np.sum(taper**2), 1.0))
    waves = [ops.matmul(moving, (wave(angle) * scale).astype(np.float32)) for wave in (np.cos, np.sin)]
    power = ops.log(waves[0] ** 2 + waves[1] ** 2 + SMALLEST)
    parts = [ops.mean(x, axis=-1), ops.sqrt(ops.var(x, axis=-1) + 1e-6)]
    parts += [ops.mean(power[..., low:high], axis=-1) for low, high in ranges(len(rates), RATES)]
    for low, high in ranges(len(rates), PEAKS):
        parts.append(ops.max(power[..., low:high], axis=-1) - ops.mean(power[..., low:high], axis=-1))
    return ops.concatenate([ops.reshape(part, (-1, part.shape[1] * part.shape[2])) for part in parts], axis=-1)


def ranges(count: int, parts: int) -> list[tuple[int, int]]:
    """Return borders of at most so many ranges of 0, 1, ..., count - 1; equally wide in octaves, none empty."""
    edges = np.unique(np.rint(np.geomspace(2, count + 2, parts + 1) - 2).astype(int))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
