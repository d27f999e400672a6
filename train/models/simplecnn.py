"""The SimpleCNN of the Passau system (BirdCLEF 2024) for 128 x 128 images of three channels.

Its report's Baseline-CNN, for 224 x 224, is --set model.dense=128 --set model.batch_normalisation=true.
"""

import keras
from keras import layers

from config import Positive, Share


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    dropout: Share = 0.5,
    dense: Positive = 256,
    batch_normalisation: bool = False,
    momentum: Share = 0.9,
) -> keras.Model:
    """Build the network: 8,528,886 parameters for 128 x 128 x 3 at 182 classes.

    Args:
        input_shape: frequency bins, frames, channels; 8 x 8 or more. The dense layer grows with it.
        classes: number of outputs.
        dropout: before the logits.
        dense: units of the hidden dense layer.
        batch_normalisation: after each convolution.
        momentum: of the batch normalisation's running statistics.

    Returns:
        A model from images, float [batch, *input_shape], to logits, float32 [batch, classes].
    """
    image = keras.Input(input_shape)
    x = image
    for filters in (32, 64, 128):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        if batch_normalisation:
            x = layers.BatchNormalization(momentum=momentum)(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(dense, activation="relu")(layers.Flatten()(x))
    x = layers.Dropout(dropout)(x)
    return keras.Model(image, layers.Dense(classes, dtype="float32", name="logits")(x), name="simplecnn")
