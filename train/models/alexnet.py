"""AlexNet with batch normalisation for 200 x 310 spectrograms (Toth and Czeba 2016, runs 1 and 2)."""

from typing import Any

import keras
from keras import layers

from config import Positive, Share


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    dropout: Share = 0.5,
    dense: Positive = 4096,
    momentum: Share = 0.9,
) -> keras.Model:
    """Build the network: 39,953,095 parameters at 999 classes.

    Args:
        input_shape: frequency bins, frames, channels; 16 x 16 or more (see `fit`).
        classes: number of outputs.
        dropout: before each of the three dense layers.
        dense: units of the two hidden dense layers.
        momentum: of the batch normalisation's running statistics. The published 0.99 lags behind the weights when
            an epoch has few steps.

    Returns:
        A model from images, float [batch, *input_shape], to logits, float32 [batch, classes].
    """

    def convolution(
        filters: int, size: int | tuple[int, int], strides: int = 1, padding: str = "valid", init: str = "lecun_uniform"
    ):
        return layers.Conv2D(
            filters, size, strides=strides, padding=padding, activation="relu", kernel_initializer=init
        )

    image = keras.Input(input_shape)
    x = convolution(96, 16, strides=6, init="glorot_normal")(image)
    x = layers.BatchNormalization(momentum=momentum, epsilon=1e-5)(x)
    x = pool(x)
    x = convolution(256, fit(x, 3, 3))(x)
    x = layers.BatchNormalization(momentum=momentum, epsilon=1e-5)(x)
    x = pool(x)
    x = convolution(384, 3, padding="same")(x)
    x = convolution(384, 3, padding="same")(x)
    x = convolution(256, 3, padding="same")(x)
    x = layers.BatchNormalization(momentum=momentum, epsilon=1e-5)(x)
    x = pool(x)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dropout(dropout)(x)
        x = layers.Dense(dense, activation="relu")(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(image, layers.Dense(classes, dtype="float32", name="logits")(x), name="alexnet")


def fit(x: Any, bins: int, frames: int) -> tuple[int, int]:
    """Return the size of a window on features [batch, frequency, time, features], no larger than these are.

    So networks of 2016 take smaller images than theirs, such as 64 mel bands.
    """
    return min(bins, x.shape[1]), min(frames, x.shape[2])


def pool(x: Any) -> Any:
    """Return the largest of 2 x 2 neighbours, or of those that there are."""
    return layers.MaxPooling2D(fit(x, 2, 2))(x)
