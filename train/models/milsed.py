"""The VGG-like network of Bogart (2021, `milsed_<k>block_dense`): blocks of two convolutions, dense layers."""

from typing import Annotated

import keras
from keras import layers

from config import Between, NonNegative, Positive, Share
from train.models.cnn1 import classify


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    blocks: Annotated[int, Between(2, 8)] = 7,
    filters: Positive = 16,
    dense: tuple[Positive, ...] = (1028, 512),
    dropout: Share = 0.0,
    l2: NonNegative = 0.0,
    momentum: Share = 0.9,
) -> keras.Model:
    """Build the network: 20,608,512 parameters with 7 blocks at 264 classes and one channel.

    Pools round up, so that 8 blocks work on 128 bands too, and every size of the image does.

    Args:
        input_shape: frequency bins, frames, channels.
        classes: number of outputs.
        blocks: blocks of (convolution, batch normalisation, ReLU) twice and a 2 x 2 pool.
        filters: of the first block; every block doubles them.
        dense: units of the hidden dense layers.
        dropout: after each hidden dense layer.
        l2: weight decay of the hidden dense layers, part of the loss.
        momentum: of the batch normalisation's running statistics.

    Returns:
        A model from images, float [batch, *input_shape], to logits, float32 [batch, classes].
    """
    image = keras.Input(input_shape)
    x = layers.BatchNormalization(momentum=momentum)(image)
    for block in range(blocks):
        for _ in range(2):
            x = layers.Conv2D(filters << block, 3, padding="same", kernel_initializer="he_normal")(x)
            x = layers.BatchNormalization(momentum=momentum)(x)
            x = layers.ReLU()(x)
        x = layers.MaxPooling2D(padding="same")(x)
    x = classify(layers.GlobalMaxPooling2D()(x), classes, dense, dropout, l2)
    return keras.Model(image, x, name="milsed")
