"""ResNeXt-50 32x4d (Xie et al. 2017, arXiv 1611.05431), in torchvision's layout."""

from typing import Any

import keras

from config import Positive, Share
from train.models.resnet import convolve, finish, residual_stages

STAGES = (3, 4, 6, 3)  # blocks of each of the four stages


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    width: Positive = 64,
    groups: Positive = 32,
    group_width: Positive = 4,
    dropout: Share = 0.0,
    momentum: Share = 0.9,
) -> keras.Model:
    """Build the network: 25,028,904 trainable parameters at 1000 classes and three channels.

    Args:
        input_shape: frequency bins, frames, channels; any size.
        classes: number of outputs.
        width: filters of the stem; the stages put out 4, 8, 16 and 32 times as many.
        groups: of the 3 x 3 convolutions.
        group_width: channels of a group in the first stage; every stage doubles them.
        dropout: before the logits.
        momentum: of the batch normalisation's running statistics.

    Returns:
        A model from images, float [batch, *input_shape], to logits, float32 [batch, classes].
    """

    def block(x: Any, filters: int, stride: int) -> Any:
        inside = filters // width * groups * group_width
        inner = convolve(x, inside, 1, momentum=momentum)
        inner = convolve(inner, inside, 3, stride, groups, momentum=momentum)
        return convolve(inner, 4 * filters, 1, relu=False, momentum=momentum)

    image = keras.Input(input_shape)
    x = residual_stages(image, width, STAGES, 4, block, momentum)
    return finish(image, x, classes, dropout, "resnext50")
