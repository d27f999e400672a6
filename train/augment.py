"""Augmentations by name: layers that change normalised images and targets on the device, while training only.

Images are float32 [batch, frequency, time, channels] with mean about 0, targets float [batch, classes].
"""

from typing import Annotated, Any, Literal

import keras
import numpy as np
import scipy.stats
from keras import ops

from config import Between, Positive, bind, check_choice

MIXUP_QUANTILES = 4096  # of the distribution of the weight

FloatAbove0 = Annotated[float, Between(1e-3, 100)]


class Mixup(keras.layers.Layer):
    """Mix every segment with the one before it in the batch, by a weight from Beta(alpha, alpha).

    Zhang et al. 2018, arXiv 1710.09412. Targets are mixed alike, or with `targets="max"` both species count in
    full, as suits sounds that are heard together.
    """

    def __init__(self, alpha: FloatAbove0 = 0.3, targets: Literal["linear", "max"] = "linear") -> None:
        """See the class."""
        super().__init__(dtype="float32")
        self.alpha, self.targets = alpha, targets
        # Drawn by inverting the distribution, as XLA cannot compile a gamma sampler; weights of a half and more.
        quantiles = np.linspace(0.5, 1, MIXUP_QUANTILES)
        self.quantiles = scipy.stats.beta.ppf(quantiles, alpha, alpha).astype(np.float32)
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, images: Any, targets: Any) -> tuple[Any, Any]:
        """Return mixed images and targets."""
        count = ops.shape(images)[0]
        drawn = keras.random.uniform((count,), seed=self.seed_generator, dtype="float32")
        weight = ops.take(self.quantiles, ops.cast(drawn * (MIXUP_QUANTILES - 1), "int32"))
        on_image = ops.cast(ops.reshape(weight, (-1, 1, 1, 1)), images.dtype)
        images = on_image * images + (1 - on_image) * ops.roll(images, 1, axis=0)
        others = ops.roll(targets, 1, axis=0)
        if self.targets == "max":
            return images, ops.maximum(targets, others)
        on_target = ops.reshape(weight, (-1, 1))
        return images, on_target * targets + (1 - on_target) * others


class _Mask(keras.layers.Layer):
    """Set random stripes to 0, the mean of normalised images (SpecAugment, Park et al. 2019, arXiv 1904.08779)."""

    axis: int

    def __init__(self, width: int, count: int) -> None:
        """Draw `count` stripes, each of 0 to `width` rows or columns."""
        super().__init__(dtype="float32")
        self.width, self.count = width, count
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, images: Any, targets: Any) -> tuple[Any, Any]:
        """Return masked images and unchanged targets."""
        batch, size = ops.shape(images)[0], images.shape[self.axis]
        keep = ops.ones((batch, size), "float32")
        position = ops.arange(size, dtype="float32")[None]
        for _ in range(self.count):
            drawn = keras.random.uniform((2, batch, 1), seed=self.seed_generator, dtype="float32")
            width = ops.floor(drawn[0] * (min(self.width, size) + 1))
            start = ops.floor(drawn[1] * (size - width + 1))
            keep = keep * ops.cast((position < start) | (position >= start + width), "float32")
        shape = [-1, 1, 1, 1]
        shape[self.axis] = size
        return images * ops.cast(ops.reshape(keep, shape), images.dtype), targets


class FrequencyMask(_Mask):
    """Mask stripes of frequency bins."""

    axis = 1

    def __init__(self, width: Positive = 24, count: Positive = 2) -> None:
        """See the class."""
        super().__init__(width, count)


class TimeMask(_Mask):
    """Mask stripes of frames."""

    axis = 2

    def __init__(self, width: Positive = 40, count: Positive = 2) -> None:
        """See the class."""
        super().__init__(width, count)


AUGMENTATIONS = {"mixup": Mixup, "frequency_mask": FrequencyMask, "time_mask": TimeMask}


def open_augmentations(chosen: dict[str, dict[str, Any]]) -> list[keras.layers.Layer]:
    """Return the layers that train.augment names, in its order.

    Raises:
        ConfigError: for an unknown augmentation or option.
    """
    layers = []
    for name, options in chosen.items():
        check_choice(name, AUGMENTATIONS, f"key train.augment.{name}")
        layers.append(AUGMENTATIONS[name](**bind(AUGMENTATIONS[name], options, f"train.augment.{name}")))
    return layers
