"""The network of Sprengel et al. (2016, winner of BirdCLEF 2016) as known from its re-implementation `cuberun`."""

from typing import Literal

import keras
from keras import layers

from config import Positive, Share


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    input_dropout: Share = 0.0,
    dropout: Share = 0.4,
    dense: Positive = 1024,
    padding: Literal["valid", "same"] = "valid",
    momentum: Share = 0.9,
) -> keras.Model:
    """Build the network for chunks of 256 bins x 512 frames.

    Args:
        input_shape: frequency bins, frames, channels; 124 x 243 or more with valid padding.
        classes: number of outputs.
        input_dropout: of the image; the re-implementation holds one of 0.2, switched off.
        dropout: before the hidden dense layer and before the logits.
        dense: units of the hidden dense layer.
        padding: of the convolutions; the published value is not known. "same" takes smaller images.
        momentum: of the batch normalisation's running statistics.

    Returns:
        A model from images, float [batch, *input_shape], to logits, float32 [batch, classes].
    """
    image = keras.Input(input_shape)
    x = layers.Dropout(input_dropout)(image) if input_dropout else image
    x = layers.BatchNormalization(momentum=momentum)(x)
    for filters, size, strides in ((64, 5, (1, 2)), (64, 5, 1), (128, 5, 1), (256, 5, 1), (256, 3, 1)):
        x = layers.Conv2D(
            filters, size, strides=strides, padding=padding, activation="relu", kernel_initializer="he_normal"
        )(x)
        x = layers.MaxPooling2D()(x)
        x = layers.BatchNormalization(momentum=momentum)(x)
    x = layers.Dropout(dropout)(layers.Flatten()(x))
    x = layers.Dense(dense, activation="relu", kernel_initializer="he_normal")(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(image, layers.Dense(classes, dtype="float32", name="logits")(x), name="cuberun")
