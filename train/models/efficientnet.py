"""An EfficientNet sized for small corpora (Tan and Le 2019, arXiv 1905.11946)."""

import math
from typing import Annotated, Any

import keras
import numpy as np
from keras import layers

from config import Between, Share
from train.models.resnet import Pool, finish

# Of B0: filters, blocks, stride, kernel size and expansion of each stage.
STAGES = (
    (16, 1, 1, 3, 1),
    (24, 2, 2, 3, 6),
    (40, 2, 2, 5, 6),
    (80, 3, 2, 3, 6),
    (112, 3, 1, 5, 6),
    (192, 4, 2, 5, 6),
    (320, 1, 1, 3, 6),
)
STEM, HEAD = 32, 1280  # filters of B0
SQUEEZED = 0.25  # share of a block's inputs that its gate is computed from


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    width: Annotated[float, Between(0.1)] = 0.5,
    depth: Annotated[float, Between(0.1)] = 0.5,
    pool: Pool = "mean",
    drop_path: Share = 0.1,
    dropout: Share = 0.2,
    momentum: Share = 0.9,
) -> keras.Model:
    """Build the network: EfficientNet-B0, 5,288,548 trainable parameters, with width 1 and depth 1 at 1000 classes.

    Args:
        input_shape: frequency bins, frames, channels; any size.
        classes: number of outputs.
        width: filters, of those of B0; rounded to multiples of 8 as in the paper's code.
        depth: blocks, of those of B0; rounded up.
        pool: of the features over the image: see `resnet.pool_features`.
        drop_path: share of segments for which the last block's branch is left out in training, less for those before
            (stochastic depth, Huang et al. 2016, arXiv 1603.09382).
        dropout: before the logits.
        momentum: of the batch normalisation's running statistics.

    Returns:
        A model from images, float [batch, *input_shape], to logits, float32 [batch, classes].
    """
    blocks = [math.ceil(depth * stage[1]) for stage in STAGES]
    dropped = iter(np.linspace(0, drop_path, sum(blocks)).tolist())

    def normalise(x: Any, activation: str = "silu") -> Any:
        return layers.Activation(activation)(layers.BatchNormalization(momentum=momentum, epsilon=1e-3)(x))

    def convolve(x: Any, filters: int, size: int = 1, stride: int = 1) -> Any:
        return layers.Conv2D(
            filters, size, strides=stride, padding="same", use_bias=False, kernel_initializer="he_normal"
        )(x)

    def gate(x: Any, inputs: int) -> Any:
        """Return the features weighted by what they are on average (squeeze and excitation, arXiv 1709.01507)."""
        mean = layers.GlobalAveragePooling2D(keepdims=True)(x)
        mean = layers.Dense(max(1, int(inputs * SQUEEZED)), activation="silu")(mean)
        return layers.Multiply()([x, layers.Dense(x.shape[-1], activation="sigmoid")(mean)])

    def block(x: Any, filters: int, stride: int, size: int, expansion: int) -> Any:
        inputs, rate = x.shape[-1], next(dropped)
        inner = normalise(convolve(x, inputs * expansion)) if expansion > 1 else x
        inner = layers.DepthwiseConv2D(
            size, strides=stride, padding="same", use_bias=False, depthwise_initializer="he_normal"
        )(inner)
        inner = normalise(convolve(gate(normalise(inner), inputs), filters), "linear")
        if stride > 1 or inputs != filters:
            return inner
        return layers.Add()([x, layers.Dropout(rate, noise_shape=(None, 1, 1, 1))(inner)])

    image = keras.Input(input_shape)
    x = normalise(convolve(image, scale_filters(STEM, width), 3, 2))
    for (filters, _, stride, size, expansion), count in zip(STAGES, blocks, strict=True):
        for i in range(count):
            x = block(x, scale_filters(filters, width), 1 if i else stride, size, expansion)
    x = normalise(convolve(x, scale_filters(HEAD, width)))
    return finish(image, x, classes, dropout, "efficientnet", pool)


def scale_filters(filters: int, width: float) -> int:
    """Return the filters of a narrower or wider network: a multiple of 8 that is at least 9 tenths of the product."""
    wanted = filters * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded
