"""Augmentations by name: layers that change segments and targets on the device, while training only.

A layer works in one of three places, its `domain`:

    "level"    decoded values [batch, frames, bins(, channels)], logarithms of energies or amplitudes; where the
               store holds sound, samples [batch, samples] instead. Sums of sounds are made here.
    "sound"    samples alone; needs the recipe waveform
    "image"    normalised images [batch, frequency, time, channels] with mean about 0

Targets are float [batch, classes]. Some layers need a further segment per item (`need`): "companion", another
recording of the same species, or "noise", frames that the mask took for noise.
Random crops are train.random_windows; the loader cuts them.
"""

import math
from collections.abc import Collection
from typing import Annotated, Any, Literal

import keras
import numpy as np
import scipy.special
from keras import ops

from config import Between, ConfigError, Positive, Share, bind, check_choice

MIXUP_QUANTILES = 4096  # of the distribution of the weight

LN10 = math.log(10)

FloatAbove0 = Annotated[float, Between(1e-3, 100)]
Decibels = Annotated[float, Between(0, 120)]


class Augmentation(keras.layers.Layer):
    """What all augmentations share: their place, what else they need, and a seeded source of random numbers."""

    domain = "image"
    need = ""

    def __init__(self) -> None:
        super().__init__(dtype="float32")
        self.is_sound = False
        self.is_amplitude = True  # whether values are logarithms of amplitudes, or of energies
        self.decade = self.decibel = 1.0  # what values gain by ten times the energy, and by a level of 1 dB more
        self.bag = 1  # consecutive segments that are of one recording
        self.seed_generator = keras.random.SeedGenerator(0)

    def compute_output_spec(self, values: Any, targets: Any, *further: Any) -> tuple[Any, Any]:
        """Return the shapes, which stay as they are; jax could not tell that of bags."""
        return tuple(keras.KerasTensor(given.shape, self.compute_dtype) for given in (values, targets))

    def uniform(self, *shape: Any, low: float = 0.0, high: float = 1.0) -> Any:
        """Draw float32 numbers."""
        return keras.random.uniform(shape, low, high, seed=self.seed_generator, dtype="float32")

    def per_item(self, drawn: Any, values: Any) -> Any:
        """Return [batch] as [batch, 1, ...], to go with values."""
        return ops.reshape(drawn, (-1, *[1] * (len(values.shape) - 1)))

    def add_sounds(self, values: Any, weight: Any, other: Any, other_weight: Any) -> Any:
        """Return the sum of two sounds: of samples as they are, of logarithms after taking them back."""
        if self.is_sound:
            return weight * values + other_weight * other
        per_unit = LN10 / self.decade
        first = values * per_unit + ops.log(ops.maximum(weight, 1e-6))
        second = other * per_unit + ops.log(ops.maximum(other_weight, 1e-6))
        return ops.logaddexp(first, second) / per_unit


class Mixup(Augmentation):
    """Mix every segment with that of the recording before it in the batch, by a weight from Beta(alpha, alpha).

    Zhang et al. 2018, arXiv 1710.09412. Targets are mixed alike, or with `targets="max"` both species count in
    full, as suits sounds that are heard together.
    """

    def __init__(self, alpha: FloatAbove0 = 0.3, targets: Literal["linear", "max"] = "linear") -> None:
        """See the class."""
        super().__init__()
        self.alpha, self.targets = alpha, targets
        # Drawn by inverting the distribution, as XLA cannot compile a gamma sampler; weights of a half and more.
        quantiles = np.linspace(0.5, 1, MIXUP_QUANTILES)
        self.quantiles = scipy.special.betaincinv(alpha, alpha, quantiles).astype(np.float32)

    def call(self, images: Any, targets: Any) -> tuple[Any, Any]:
        """Return mixed images and targets."""
        count = ops.shape(images)[0]
        drawn = ops.repeat(self.uniform(count // self.bag), self.bag)
        weight = ops.take(self.quantiles, ops.cast(drawn * (MIXUP_QUANTILES - 1), "int32"))
        on_image = ops.cast(ops.reshape(weight, (-1, 1, 1, 1)), images.dtype)
        images = on_image * images + (1 - on_image) * ops.roll(images, self.bag, axis=0)
        others = ops.roll(targets, self.bag, axis=0)
        if self.targets == "max":
            return images, ops.maximum(targets, others)
        on_target = ops.reshape(weight, (-1, 1))
        return images, on_target * targets + (1 - on_target) * others


class _Mask(Augmentation):
    """Set random stripes to 0, the mean of normalised images (SpecAugment, Park et al. 2019, arXiv 1904.08779)."""

    axis: int

    def __init__(self, width: int, count: int, fill: str) -> None:
        """Draw `count` stripes, each of 0 to `width` rows or columns."""
        super().__init__()
        self.width, self.count, self.fill = width, count, fill

    def call(self, images: Any, targets: Any) -> tuple[Any, Any]:
        """Return masked images and unchanged targets."""
        batch, size = ops.shape(images)[0], images.shape[self.axis]
        keep = ops.ones((batch, size), "float32")
        position = ops.arange(size, dtype="float32")[None]
        for _ in range(self.count):
            drawn = self.uniform(2, batch, 1)
            width = ops.floor(drawn[0] * (min(self.width, size) + 1))
            start = ops.floor(drawn[1] * (size - width + 1))
            keep = keep * ops.cast((position < start) | (position >= start + width), "float32")
        shape = [-1, 1, 1, 1]
        shape[self.axis] = size
        keep = ops.cast(ops.reshape(keep, shape), images.dtype)
        masked = images * keep
        if self.fill == "minimum":
            masked = masked + (1 - keep) * ops.min(images, axis=(1, 2, 3), keepdims=True)
        return masked, targets


class FrequencyMask(_Mask):
    """Mask stripes of frequency bins."""

    axis = 1

    def __init__(self, width: Positive = 24, count: Positive = 2, fill: Literal["mean", "minimum"] = "mean") -> None:
        """See the class."""
        super().__init__(width, count, fill)


class TimeMask(_Mask):
    """Mask stripes of frames."""

    axis = 2

    def __init__(self, width: Positive = 40, count: Positive = 2, fill: Literal["mean", "minimum"] = "mean") -> None:
        """See the class."""
        super().__init__(width, count, fill)


class TimeRoll(Augmentation):
    """Cut at a random time and swap the halves (Sprengel et al. 2016)."""

    domain = "level"

    def __init__(self) -> None:
        """See the class."""
        super().__init__()

    def call(self, values: Any, targets: Any) -> tuple[Any, Any]:
        """Return rolled values and unchanged targets."""
        return roll(values, 1, ops.floor(self.uniform(ops.shape(values)[0]) * values.shape[1])), targets


class SteadyDrop(Augmentation):
    """Hide what sounds all the time, the second half of the channels of model.normalise = "both", in a share of items.

    So the network learns to do without what a microphone colours, and still hears rain.
    """

    def __init__(self, share: Share = 0.5) -> None:
        """See the class."""
        super().__init__()
        self.share = share

    def call(self, images: Any, targets: Any) -> tuple[Any, Any]:
        """Return images whose steady channels are 0, the mean of all recordings, in some, and unchanged targets."""
        moving, steady = ops.split(images, 2, axis=-1)
        kept = ops.cast(self.uniform(ops.shape(images)[0]) >= self.share, images.dtype)
        return ops.concatenate([moving, steady * self.per_item(kept, steady)], axis=-1), targets


class FrequencyRoll(Augmentation):
    """Move the spectrogram up or down by up to a share of its bins, around the edge (Sprengel et al. 2016: 5 %)."""

    def __init__(self, share: Share = 0.05) -> None:
        """See the class."""
        super().__init__()
        self.share = share

    def call(self, images: Any, targets: Any) -> tuple[Any, Any]:
        """Return rolled images and unchanged targets."""
        most = self.share * images.shape[1]
        return roll(images, 1, ops.round(self.uniform(ops.shape(images)[0], low=-most, high=most))), targets


class Warp(Augmentation):
    """Play faster or slower, and move the spectrogram up or down: other individuals, tempi and pitches.

    The rate is drawn from U(1 - time, 1 + time); what is missing at the end begins anew. The shift is from U(-bins,
    bins), in fractions of a bin too; beyond the edges the outermost bin goes on. Linear interpolation both ways.
    """

    def __init__(self, time: Annotated[float, Between(0, 0.5)] = 0.2, bins: Annotated[float, Between(0, 64)] = 2.0):
        """See the class."""
        super().__init__()
        self.time, self.bins = time, bins

    def call(self, images: Any, targets: Any) -> tuple[Any, Any]:
        """Return warped images and unchanged targets."""
        drawn = self.uniform(2, ops.shape(images)[0], 1, low=-1.0)
        bins, frames = images.shape[1:3]
        row = ops.clip(ops.arange(bins, dtype="float32")[None] + self.bins * drawn[0], 0, bins - 1)
        column = ops.mod(ops.arange(frames, dtype="float32")[None] * (1 + self.time * drawn[1]), float(frames))
        return interpolate(interpolate(images, 1, row), 2, column), targets


def interpolate(values: Any, axis: int, position: Any) -> Any:
    """Return every item of [batch, ...] at its own places along an axis, float [batch, places], around the end."""
    size, before = values.shape[axis], ops.floor(position)
    shape = [-1, *[1] * (len(values.shape) - 1)]
    shape[axis] = position.shape[1]
    part = ops.cast(ops.reshape(position - before, shape), values.dtype)
    index = ops.reshape(ops.cast(before, "int32"), shape)
    following = ops.take_along_axis(values, ops.mod(index + 1, size), axis=axis)
    return (1 - part) * ops.take_along_axis(values, index, axis=axis) + part * following


def roll(values: Any, axis: int, shift: Any) -> Any:
    """Roll every item of [batch, ...] along an axis by its own whole number, float [batch]."""
    size = values.shape[axis]
    index = ops.cast(ops.mod(ops.arange(size, dtype="float32")[None] - shift[:, None], float(size)), "int32")
    index = ops.reshape(index, (-1, *[size if i == axis else 1 for i in range(1, len(values.shape))]))
    return ops.take_along_axis(values, index, axis=axis)


class DecibelThreshold(Augmentation):
    """Cut off the quiet: with x scaled to 0 ... 1 and t from U(0, most), (max(x, t) - t) / (1 - t) (system 001)."""

    def __init__(self, most: Share = 0.5) -> None:
        """See the class; `most` 0.5 of a range of 80 dB is up to 40 dB."""
        super().__init__()
        self.most = min(most, 0.99)

    def call(self, images: Any, targets: Any) -> tuple[Any, Any]:
        """Return images in their own range and unchanged targets."""
        low = ops.min(images, axis=(1, 2, 3), keepdims=True)
        span = ops.maximum(ops.max(images, axis=(1, 2, 3), keepdims=True) - low, 1e-6)
        threshold = self.per_item(self.uniform(ops.shape(images)[0], high=self.most), images)
        scaled = (ops.maximum((images - low) / span, threshold) - threshold) / (1 - threshold)
        return scaled * span + low, targets


class GaussianNoise(Augmentation):
    """Add normal noise whose deviation is drawn from U(0, most) for every segment (system 001)."""

    def __init__(self, most: FloatAbove0 = 0.3) -> None:
        """See the class."""
        super().__init__()
        self.most = most

    def call(self, images: Any, targets: Any) -> tuple[Any, Any]:
        """Return noisy images and unchanged targets."""
        deviation = self.per_item(self.uniform(ops.shape(images)[0], high=self.most), images)
        return images + deviation * keras.random.normal(ops.shape(images), seed=self.seed_generator), targets


class PixelDrop(Augmentation):
    """Set single pixels to 0, the mean, with a probability drawn from U(0, most) for every segment (system 001)."""

    def __init__(self, most: Share = 0.1) -> None:
        """See the class."""
        super().__init__()
        self.most = most

    def call(self, images: Any, targets: Any) -> tuple[Any, Any]:
        """Return images with holes and unchanged targets."""
        share = self.per_item(self.uniform(ops.shape(images)[0], high=self.most), images)
        drawn = keras.random.uniform(ops.shape(images), seed=self.seed_generator)
        return ops.where(drawn < share, 0.0, images), targets


class Gain(Augmentation):
    """Make every segment louder or quieter by up to so many decibels."""

    domain = "level"

    def __init__(self, decibels: Decibels = 6.0) -> None:
        """See the class."""
        super().__init__()
        self.decibels = decibels

    def call(self, values: Any, targets: Any) -> tuple[Any, Any]:
        """Return changed values and unchanged targets."""
        drawn = self.uniform(ops.shape(values)[0], low=-self.decibels, high=self.decibels)
        return self.louder(values, self.per_item(drawn, values)), targets

    def louder(self, values: Any, decibels: Any) -> Any:
        """Return values raised by decibels of sound level."""
        return values * ops.exp(decibels * (LN10 / 20)) if self.is_sound else values + decibels * self.decibel


class Fade(Gain):
    """Fade in and out: the level rises over a random part of the segment, and falls over another (system 001)."""

    def __init__(self, decibels: Decibels = 40.0, longest: Share = 0.5) -> None:
        """See the class; `decibels` at the very ends, `longest` as a share of the segment."""
        super().__init__(decibels)
        self.longest = longest

    def call(self, values: Any, targets: Any) -> tuple[Any, Any]:
        """Return faded values and unchanged targets."""
        count, size = ops.shape(values)[0], values.shape[1]
        length = self.uniform(2, count, 1, high=self.longest * size) + 1
        time = ops.arange(size, dtype="float32")[None]
        missing = ops.maximum(0.0, 1 - time / length[0]) + ops.maximum(0.0, 1 - (size - 1 - time) / length[1])
        missing = ops.reshape(missing, (-1, size, *[1] * (len(values.shape) - 2)))
        return self.louder(values, -self.decibels * missing), targets


class SameSpecies(Augmentation):
    """Add a recording of the same species: w x + (1 - w) x', w from U(0.5, 1) (system 001, Sprengel 2016).

    It may be the same recording; of a species with a single one it always is.
    """

    domain, need = "level", "companion"

    def __init__(self, least: Share = 0.5) -> None:
        """See the class; `least` is the smallest w."""
        super().__init__()
        self.least = least

    def call(self, values: Any, targets: Any, companions: Any) -> tuple[Any, Any]:
        """Return sums and unchanged targets."""
        weight = self.per_item(self.uniform(ops.shape(values)[0], low=self.least), values)
        return self.add_sounds(values, weight, companions, 1 - weight), targets


class Overlap(Augmentation):
    """Let some segments be heard together with the recording before them in the batch: sounds add up.

    The other one is 0 to `decibels` quieter, and both species count in full, as in additive mix-up with the larger of
    the labels (BirdCLEF recipes since 2021).
    """

    domain = "level"

    def __init__(self, share: Share = 0.5, decibels: Decibels = 10.0) -> None:
        """See the class; `share` of the segments."""
        super().__init__()
        self.share, self.decibels = share, decibels

    def call(self, values: Any, targets: Any) -> tuple[Any, Any]:
        """Return sums and the larger of both targets."""
        segments = ops.shape(values)[0]
        drawn = ops.repeat(self.uniform(2, segments // self.bag), self.bag, axis=1)
        chosen = ops.cast(drawn[0] < self.share, "float32")
        power = 20 if self.is_sound or self.is_amplitude else 10
        weight = ops.exp(-LN10 / power * self.decibels * drawn[1])
        other = ops.roll(values, self.bag, axis=0)
        both = self.add_sounds(values, 1.0, other, self.per_item(weight, values))
        on_values = self.per_item(chosen, values)
        joined = ops.maximum(targets, ops.roll(targets, self.bag, axis=0) * chosen[:, None])
        return on_values * both + (1 - on_values) * values, joined


class Noise(Augmentation):
    """Add segments of the corpus's own noise, the frames that the mask took for noise (Sprengel et al. 2016)."""

    domain, need = "level", "noise"

    def __init__(self, count: Positive = 3, damping: Share = 0.4) -> None:
        """Add `count` segments, each multiplied by `damping`."""
        super().__init__()
        self.count, self.damping = count, damping

    def call(self, values: Any, targets: Any, noise: Any) -> tuple[Any, Any]:
        """Return noisy values and unchanged targets; the second and further segments are those of other items."""
        one = self.per_item(ops.ones_like(targets[:, 0]), values)
        for k in range(self.count):
            values = self.add_sounds(values, one, ops.roll(noise, k, axis=0), one * self.damping)
        return values, targets


class TimeStretch(Augmentation):
    """Play at another speed without changing the pitch, by a phase vocoder (Flanagan and Golden 1966).

    The rate is drawn from N(1, deviation) for every segment (system 000). The length stays: what is missing at the
    end is silence.
    """

    domain = "sound"
    window, hop = 1024, 256  # samples

    def __init__(self, deviation: Annotated[float, Between(0.001, 0.3)] = 0.1) -> None:
        """See the class."""
        super().__init__()
        self.deviation = deviation

    def call(self, sounds: Any, targets: Any) -> tuple[Any, Any]:
        """Return stretched sounds [batch, samples] and unchanged targets."""
        drawn = keras.random.normal((ops.shape(sounds)[0],), seed=self.seed_generator)
        rate = 1 + self.deviation * ops.clip(drawn, -2.5, 2.5)
        return stretch(sounds, rate, sounds.shape[1], self.window, self.hop), targets


class PitchShift(TimeStretch):
    """Raise or lower the pitch by N(0, semitones) without changing the speed (system 000)."""

    def __init__(self, semitones: Annotated[float, Between(0.01, 4)] = 1.0) -> None:
        """See the class."""
        super().__init__()
        self.semitones = semitones

    def call(self, sounds: Any, targets: Any) -> tuple[Any, Any]:
        """Return shifted sounds [batch, samples] and unchanged targets."""
        drawn = keras.random.normal((ops.shape(sounds)[0],), seed=self.seed_generator)
        factor = ops.exp(self.semitones * ops.clip(drawn, -2.5, 2.5) * (math.log(2) / 12))
        longest = math.ceil(sounds.shape[1] * 2 ** (self.semitones * 2.5 / 12)) + 1
        slow = stretch(sounds, 1 / factor, longest, self.window, self.hop)
        return resample(slow, factor, sounds.shape[1]), targets


def stretch(sounds: Any, rate: Any, length: int, window: int, hop: int) -> Any:
    """Return sounds [batch, samples] played `rate` [batch] times as fast at their pitch, as [batch, length]."""
    taper = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32)
    padded = ops.pad(sounds, [[0, 0], [window // 2, window]])
    real, imaginary = ops.rfft(ops.extract_sequences(padded, window, hop) * taper, fft_length=window)
    magnitude, phase = ops.sqrt(real**2 + imaginary**2 + 1e-20), ops.arctan2(imaginary, real + 1e-20)
    frames, made = magnitude.shape[1], -(-length // hop) + window // hop
    position = ops.arange(made, dtype="float32")[None] * rate[:, None]
    inside = ops.cast(position < frames - 1, "float32")[..., None]
    left = ops.minimum(ops.floor(position), frames - 2)
    part = (position - left)[..., None]
    at = ops.cast(left, "int32")[..., None]
    before, after = ops.take_along_axis(magnitude, at, 1), ops.take_along_axis(magnitude, at + 1, 1)
    advance = ops.take_along_axis(phase, at + 1, 1) - ops.take_along_axis(phase, at, 1)  # but for whole turns
    turned = phase[:, :1] + ops.cumsum(ops.pad(advance[:, :-1], [[0, 0], [1, 0], [0, 0]]), axis=1)
    magnitude = ((1 - part) * before + part * after) * inside
    pieces = ops.irfft((magnitude * ops.cos(turned), magnitude * ops.sin(turned)), fft_length=window) * taper
    overlap = window // hop
    pieces = ops.reshape(pieces, (-1, made, overlap, hop))
    total = sum(ops.pad(pieces[:, :, k], [[0, 0], [k, overlap - 1 - k], [0, 0]]) for k in range(overlap))
    norm = np.sum(taper.reshape(overlap, hop) ** 2, axis=0)  # the same at every hop, once all pieces overlap
    return ops.reshape(total / norm, (-1, (made + overlap - 1) * hop))[:, window // 2 : window // 2 + length]


def resample(sounds: Any, factor: Any, length: int) -> Any:
    """Return sounds [batch, samples] read `factor` [batch] times as fast, by linear interpolation."""
    position = ops.minimum(ops.arange(length, dtype="float32")[None] * factor[:, None], sounds.shape[1] - 1.001)
    left = ops.floor(position)
    at = ops.cast(left, "int32")
    before, after = ops.take_along_axis(sounds, at, 1), ops.take_along_axis(sounds, at + 1, 1)
    return before + (position - left) * (after - before)


AUGMENTATIONS = {
    "mixup": Mixup,
    "frequency_mask": FrequencyMask,
    "time_mask": TimeMask,
    "time_roll": TimeRoll,
    "frequency_roll": FrequencyRoll,
    "warp": Warp,
    "steady_drop": SteadyDrop,
    "decibel_threshold": DecibelThreshold,
    "gaussian_noise": GaussianNoise,
    "pixel_drop": PixelDrop,
    "gain": Gain,
    "fade": Fade,
    "same_species": SameSpecies,
    "overlap": Overlap,
    "noise": Noise,
    "time_stretch": TimeStretch,
    "pitch_shift": PitchShift,
}


def open_augmentations(chosen: dict[str, dict[str, Any]], recipe: Any, bag: int = 1) -> list[Augmentation]:
    """Return the layers that train.augment names, in its order.

    Args:
        chosen: name -> options.
        recipe: of the store.
        bag: consecutive segments that are of one recording.

    Raises:
        ConfigError: for an unknown augmentation or option, or one that the stored features do not allow.
    """
    layers = []
    for name, options in chosen.items():
        check_choice(name, AUGMENTATIONS, f"key train.augment.{name}")
        kind = AUGMENTATIONS[name]
        layer = kind(**bind(kind, options, f"train.augment.{name}"))
        layer.bag, layer.is_sound = bag, recipe.encoding.dtype == "int16" and kind.domain != "image"
        if kind.domain == "sound" and not layer.is_sound:
            raise ConfigError(f"train.augment.{name} changes sound. It needs features.recipe = waveform.")
        if kind.domain == "level" and kind is not TimeRoll and not layer.is_sound:
            if recipe.decade is None:
                raise ConfigError(f"train.augment.{name} needs a recipe with logarithmic values, or waveform.")
            layer.is_amplitude = recipe.is_amplitude
            layer.decade, layer.decibel = recipe.decade, recipe.decade / (20 if recipe.is_amplitude else 10)
        layers.append(layer)
    return layers


def needs(chosen: Collection[str]) -> list[str]:
    """Return what further segments some augmentations need, each once, in a fixed order.

    Raises:
        ConfigError: for an unknown augmentation.
    """
    for name in chosen:
        check_choice(name, AUGMENTATIONS, f"key train.augment.{name}")
    return sorted({AUGMENTATIONS[name].need for name in chosen} - {""})
