"""Residual networks (He et al. 2016, arXiv 1512.03385), in torchvision's layout."""

from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops

from config import Positive, Share
from train.devices import has_accelerator

Pool = Literal["mean", "max", "mean_max", "log_mean_exp", "attention"]
SHARPNESS = 5.0  # of log-mean-exp pooling (BirdNET, Kahl et al. 2021)
STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # blocks of each of the four stages


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    depth: Literal[18, 34] = 18,
    width: Positive = 64,
    dropout: Share = 0.0,
    momentum: Share = 0.9,
) -> keras.Model:
    """Build the network: 11,689,512 trainable parameters with depth 18 at 1000 classes and three channels.

    Args:
        input_shape: frequency bins, frames, channels; any size.
        classes: number of outputs.
        depth: layers with weights.
        width: filters of the first stage; every stage doubles them.
        dropout: before the logits.
        momentum: of the batch normalisation's running statistics.

    Returns:
        A model from images, float [batch, *input_shape], to logits, float32 [batch, classes].
    """

    def block(x: Any, filters: int, stride: int) -> Any:
        inner = convolve(x, filters, 3, stride, momentum=momentum)
        return convolve(inner, filters, 3, relu=False, momentum=momentum)

    image = keras.Input(input_shape)
    x = residual_stages(image, width, STAGES[depth], 1, block, momentum)
    return finish(image, x, classes, dropout, f"resnet{depth}")


def convolve(
    x: Any, filters: int, size: int, stride: int = 1, groups: int = 1, relu: bool = True, momentum: float = 0.9
) -> Any:
    """Return convolution, batch normalisation and ReLU, padded alike on both sides."""
    if size > 1:
        x = layers.ZeroPadding2D(size // 2)(x)
    kind = layers.Conv2D if groups == 1 else GroupedConv2D
    x = kind(filters, size, strides=stride, groups=groups, use_bias=False, kernel_initializer="he_normal")(x)
    x = layers.BatchNormalization(momentum=momentum, epsilon=1e-5)(x)
    return layers.ReLU()(x) if relu else x


class GroupedConv2D(layers.Conv2D):
    """A convolution in groups that is one dense convolution where there is no accelerator.

    On CPUs grouped convolutions are either missing or dozens of times slower than a dense one with zeros between the
    groups. Kernel, weights and result are those of keras.layers.Conv2D; channels are last.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolve with the kernel, [rows, columns, inputs per group, filters]."""
        if has_accelerator():
            return super().convolution_op(inputs, kernel)
        own = np.arange(self.groups)
        same = np.repeat(own, kernel.shape[2])[:, None] == np.repeat(own, self.filters // self.groups)
        dense = ops.tile(kernel, (1, 1, self.groups, 1)) * ops.cast(same, kernel.dtype)
        return ops.conv(inputs, dense, list(self.strides), self.padding, dilation_rate=self.dilation_rate)


def residual_stages(
    image: Any, width: int, stages: tuple[int, ...], expansion: int, block: Any, momentum: float
) -> Any:
    """Return the features of the stem and the stages.

    Args:
        image: float [batch, frequency, time, channels].
        width: filters of the first stage.
        stages: number of blocks of each.
        expansion: output channels of a block per filter.
        block: (x, filters, stride) -> the branch that is added to the shortcut, without the last ReLU.
        momentum: of the batch normalisation.
    """
    x = convolve(image, width, 7, 2, momentum=momentum)
    x = layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(x))  # zeros do no harm after a ReLU
    for stage, blocks in enumerate(stages):
        for i in range(blocks):
            filters, stride = width << stage, 2 if stage and not i else 1
            branch, shortcut = block(x, filters, stride), x
            if stride > 1 or x.shape[-1] != filters * expansion:
                shortcut = convolve(x, filters * expansion, 1, stride, relu=False, momentum=momentum)
            x = layers.ReLU()(layers.Add()([branch, shortcut]))
    return x


def finish(image: Any, x: Any, classes: int, dropout: float, name: str, pool: Pool = "mean") -> keras.Model:
    """Return the model that pools features [batch, frequency, time, features] and classifies them."""
    x = pool_features(x, pool)
    if dropout:
        x = layers.Dropout(dropout)(x)
    return keras.Model(image, layers.Dense(classes, dtype="float32", name="logits")(x), name=name)


def pool_features(x: Any, how: Pool) -> Any:
    """Return one vector of features per image, [batch, features] (mean_max: twice as many).

    Mean and max go over the whole image, mean_max has both side by side. The others take the mean over frequency and
    then pool over time: log_mean_exp is log(mean(exp(r x))) / r with r = 5, between mean and max; attention a mean
    weighted by the soft-max of one learnt score per position (in the way of PANNs, Kong et al. 2020).
    """
    if how == "mean":
        return layers.GlobalAveragePooling2D()(x)
    if how == "max":
        return layers.GlobalMaxPooling2D()(x)
    if how == "mean_max":
        return layers.Concatenate()([pool_features(x, "mean"), pool_features(x, "max")])
    over_time = ops.mean(x, axis=1)
    if how == "log_mean_exp":
        over_time = ops.cast(over_time, "float32")
        return (ops.logsumexp(over_time * SHARPNESS, axis=1) - np.log(over_time.shape[1])) / SHARPNESS
    weights = ops.softmax(layers.Dense(1, dtype="float32", name="time_attention")(over_time), axis=1)
    return ops.sum(weights * ops.cast(over_time, "float32"), axis=1)
