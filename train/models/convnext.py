"""A ConvNeXt sized for small corpora (Liu et al. 2022, arXiv 2201.03545)."""

from typing import Any

import keras
import numpy as np
from keras import layers

from config import Count, Positive, Share
from train.models.residual import choose_width
from train.models.resnet import Pool, finish

LAYER_SCALE = 1e-6  # of every branch at the start of training


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    width: Count = 0,
    stages: tuple[Positive, ...] = (1, 1, 3, 1),
    pool: Pool = "mean",
    drop_path: Share = 0.1,
    dropout: Share = 0.0,
) -> keras.Model:
    """Build the network: ConvNeXt-T, 28,589,128 parameters, with width 96 and stages (3, 3, 9, 3) at 1000 classes.

    The original normalises features after they are pooled, here before. Edges are padded where an image cannot be
    divided into patches.

    Args:
        input_shape: frequency bins, frames, channels; any size.
        classes: number of outputs.
        width: filters of the first stage; every stage doubles them. 0: by the number of classes, see
            `residual.choose_width`.
        stages: blocks in each stage; the first divides the image by 4, every further one by 2.
        pool: of the features over the image: see `resnet.pool_features`.
        drop_path: share of segments for which the last block's branch is left out in training, less for those before
            (stochastic depth, Huang et al. 2016, arXiv 1603.09382).
        dropout: before the logits.

    Returns:
        A model from images, float [batch, *input_shape], to logits, float32 [batch, classes].
    """
    width = width or choose_width(classes)
    dropped = iter(np.linspace(0, drop_path, sum(stages)).tolist())
    start = keras.initializers.TruncatedNormal(stddev=0.02)

    def normalise(x: Any) -> Any:
        return layers.LayerNormalization(epsilon=1e-6)(x)

    def patches(x: Any, filters: int, size: int) -> Any:
        return layers.Conv2D(filters, size, strides=size, padding="same", kernel_initializer=start)(x)

    def block(x: Any, filters: int) -> Any:
        inner = layers.DepthwiseConv2D(7, padding="same", depthwise_initializer=start)(x)
        inner = layers.Dense(4 * filters, activation="gelu", kernel_initializer=start)(normalise(inner))
        inner = layers.Dense(filters, kernel_initializer=start)(inner)
        small = keras.initializers.Constant(LAYER_SCALE)
        inner = layers.EinsumDense("bftc,c->bftc", (None, None, filters), kernel_initializer=small)(inner)
        return layers.Add()([x, layers.Dropout(next(dropped), noise_shape=(None, 1, 1, 1))(inner)])

    image = keras.Input(input_shape)
    x = normalise(patches(image, width, 4))
    for stage, blocks in enumerate(stages):
        filters = width << stage
        if stage:
            x = patches(normalise(x), filters, 2)
        for _ in range(blocks):
            x = block(x, filters)
    return finish(image, normalise(x), classes, dropout, "convnext", pool)
