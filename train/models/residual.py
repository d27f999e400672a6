"""A pre-activation residual network sized for small corpora (He et al. 2016b, arXiv 1603.05027)."""

from typing import Any

import keras
from keras import layers

from config import Count, Positive, Share
from train.models.resnet import Pool, finish
from train.texture import TEXTURE_LOGITS
from train.texture import texture as statistics

TEXTURE_DROPOUT = 0.4  # of statistics
TEXTURE_HIDDEN_DROPOUT = 0.6
TEXTURE_UNITS = 64 / 3  # hidden ones per filter: 512 for 24


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    width: Count = 0,
    stages: tuple[Positive, ...] = (1, 1, 1, 1),
    pool: Pool = "mean",
    dropout: Share = 0.2,
    momentum: Share = 0.9,
    texture: bool = False,
    fine: Count = 0,
) -> keras.Model:
    """Build the network.

    Args:
        input_shape: frequency bins, frames, channels; any size.
        classes: number of outputs.
        width: filters of the first stage; every stage doubles them. 0: by the number of classes, see `choose_width`.
        stages: blocks of two convolutions in each stage; every stage halves the image.
        pool: of the features over the image: see `resnet.pool_features`.
        dropout: before the logits.
        momentum: of the batch normalisation's running statistics.
        texture: whether the logits are the mean of those from the image and those that a small network makes of the
            statistics of `train.texture`. Each of the two learns for itself, see `network.build_trainer`.
        fine: short windows per frame that every other channel holds; 0: as many as features.fine says. With `texture`
            its statistics are of them too, and the image is that of the other channels.

    Returns:
        A model from images, float [batch, *input_shape], to logits, float32 [batch, classes].
    """

    width = width or choose_width(classes)

    def activate(x: Any) -> Any:
        return layers.ReLU()(layers.BatchNormalization(momentum=momentum)(x))

    def convolve(x: Any, filters: int, size: int = 3, stride: int = 1) -> Any:
        return layers.Conv2D(
            filters, size, strides=stride, padding="same", use_bias=False, kernel_initializer="he_normal"
        )(x)

    image = keras.Input(input_shape)
    x = convolve(image[..., ::2] if texture and fine else image, width, stride=2)
    for stage, blocks in enumerate(stages):
        for i in range(blocks):
            filters, first = width << stage, not i
            inner = activate(x)
            shortcut = x
            if first:
                shortcut = layers.AveragePooling2D(2, padding="same")(inner)
                if filters != x.shape[-1]:
                    shortcut = convolve(shortcut, filters, 1)
            branch = convolve(inner, filters, stride=2 if first else 1)
            branch = convolve(activate(branch), filters)
            x = layers.Add()([branch, shortcut])
    model = finish(image, activate(x), classes, dropout, "residual", pool)
    if not texture:
        return model
    further = layers.BatchNormalization(momentum=momentum, dtype="float32", name="texture_normalisation")(
        statistics(image, fine)
    )
    further = layers.Dropout(TEXTURE_DROPOUT, dtype="float32")(further)
    units = round(TEXTURE_UNITS * choose_width(classes))
    further = layers.Dense(units, activation="relu", dtype="float32", name="texture_hidden")(further)
    further = layers.Dropout(TEXTURE_HIDDEN_DROPOUT, dtype="float32")(further)
    further = layers.Dense(classes, dtype="float32", name=TEXTURE_LOGITS)(further)
    return keras.Model(image, layers.Average(dtype="float32")([model.output, further]), name=model.name)


def choose_width(classes: int) -> int:
    """Return 24 filters up to 64 classes and more for more, by the fourth root of their number: 48 for 1,000.

    So parameters grow with its square root: 0.7 million for 16 classes, 3.1 for 999.
    """
    return max(24, 8 * round(3 * (classes / 64) ** 0.25))
