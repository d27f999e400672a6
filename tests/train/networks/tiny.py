"""A network that compiles and learns in seconds, with all that a run has to keep: dropout and batch normalisation."""

import keras
from keras import layers

from config import Positive, Share


def build(input_shape: tuple[int, int, int], classes: int, dropout: Share = 0.1, dense: Positive = 32) -> keras.Model:
    image = keras.Input(input_shape)
    x = layers.Conv2D(8, 8, strides=8, activation="relu")(image)
    x = layers.BatchNormalization(momentum=0.5)(x)
    x = layers.AveragePooling2D((1, 8))(x)
    x = layers.Dense(dense, activation="relu")(layers.Flatten()(x))
    x = layers.Dropout(dropout)(x)
    return keras.Model(image, layers.Dense(classes, dtype="float32", name="logits")(x), name="tiny")
