"""The small CNN of Bogart (2021, `cnn1`): three convolutions, global max pooling, dense layers."""

from typing import Any

import keras
from keras import layers

from config import NonNegative, Positive, Share


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    dense: tuple[Positive, ...] = (1028, 512),
    dropout: Share = 0.0,
    l2: NonNegative = 0.0,
    momentum: Share = 0.9,
) -> keras.Model:
    """Build the network: 887,952 parameters at 264 classes and one channel, whatever the size of the image.

    The kernels are 3 x 3; their published size is not known.

    Args:
        input_shape: frequency bins, frames, channels; 12 x 12 or more.
        classes: number of outputs.
        dense: units of the hidden dense layers (published: 1028 and 512).
        dropout: after each hidden dense layer (published variants: 0.2 to 0.5).
        l2: weight decay of the hidden dense layers, part of the loss (published variants: 1e-4 to 1e-1).
        momentum: of the batch normalisation's running statistics.

    Returns:
        A model from images, float [batch, *input_shape], to logits, float32 [batch, classes].
    """
    image = keras.Input(input_shape)
    x = image
    for filters, pool in ((32, 2), (64, 2), (128, 3)):
        x = layers.BatchNormalization(momentum=momentum)(x)
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(pool)(x)
    x = classify(layers.GlobalMaxPooling2D()(x), classes, dense, dropout, l2)
    return keras.Model(image, x, name="cnn1")


def classify(x: Any, classes: int, dense: tuple[int, ...], dropout: float, l2: float) -> Any:
    """Return the logits that hidden dense layers make of features, float [batch, features]."""
    for units in dense:
        penalty = keras.regularizers.L2(l2) if l2 else None
        x = layers.Dense(units, activation="relu", kernel_regularizer=penalty)(x)
        if dropout:
            x = layers.Dropout(dropout)(x)
    return layers.Dense(classes, dtype="float32", name="logits")(x)
