"""The BirdCLEF network of Toth and Czeba (2016, runs 3 and 4) for 200 x 310 spectrograms."""

import keras
from keras import layers

from config import Positive, Share
from train.models.alexnet import fit, pool


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    dropout: Share = 0.5,
    dense: Positive = 2048,
    momentum: Share = 0.9,
) -> keras.Model:
    """Build the network: 15,276,647 parameters at 999 classes.

    Args:
        input_shape: frequency bins, frames, channels; 16 x 16 or more (see `alexnet.fit`).
        classes: number of outputs.
        dropout: after each of the two hidden dense layers.
        dense: units of the two hidden dense layers.
        momentum: of the batch normalisation's running statistics. The published 0.99 lags behind the weights when
            an epoch has few steps.

    Returns:
        A model from images, float [batch, *input_shape], to logits, float32 [batch, classes].
    """

    def convolution(filters: int, size: int | tuple[int, int], strides: int = 1, padding: str = "valid"):
        return layers.Conv2D(
            filters,
            size,
            strides=strides,
            padding=padding,
            activation="relu",
            kernel_initializer="lecun_uniform",
        )

    image = keras.Input(input_shape)
    x = convolution(128, 16, strides=8)(image)
    x = pool(x)
    x = convolution(256, fit(x, 5, 3))(x)  # 5 bins, 3 frames
    x = layers.BatchNormalization(momentum=momentum, epsilon=1e-5)(x)
    x = pool(x)
    x = convolution(384, 3, padding="same")(x)
    x = convolution(384, 3, padding="same")(x)
    x = layers.BatchNormalization(momentum=momentum, epsilon=1e-5)(x)
    x = pool(x)
    x = layers.Flatten()(x)
    for _ in range(2):
        x = layers.Dense(dense, activation="relu")(x)
        x = layers.Dropout(dropout)(x)
    return keras.Model(image, layers.Dense(classes, dtype="float32", name="logits")(x), name="birdclef")
