"""Any backbone of keras.applications by name: InceptionV3, MobileNetV3Small, EfficientNetV2B0, ConvNeXtTiny, ...

ImageNet weights: --set model.start=imagenet
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal

import keras
from keras import layers, ops

from config import ConfigError, NonNegative, Positive, Share, check_choice

# Of the pixels of ImageNet, red, green and blue: a standardised spectrogram is given the same mean and deviation.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_DEVIATION = (58.395, 57.12, 57.375)


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    backbone: str = "EfficientNetV2B0",
    resize: tuple[Positive, ...] = (),
    values: Literal["standardised", "unit"] = "standardised",
    dropout: Share = 0.0,
    l2: NonNegative = 0.0,
    momentum: Share = 0.9,
) -> keras.Model:
    """Build backbone, global average pooling and logits.

    Args:
        input_shape: frequency bins, frames, channels; one or three channels, one is repeated to three.
        classes: number of outputs.
        backbone: as keras.applications calls it.
        resize: bins and frames that the image is stretched to (bilinear), such as [299, 299]; empty: left as it is.
        values: of the image: mean 0 and deviation 1 (standardised), or from 0 to 1 (unit). They are brought to the
            pixels that the backbone was made for.
        dropout: before the logits.
        l2: weight decay of the logits, part of the loss.
        momentum: of the running statistics of every batch normalisation. The backbones' own 0.99 and 0.999 are made for
            ImageNet: in a corpus of some hundred recordings they lag behind the weights for tens of epochs.

    Returns:
        A model from images, float [batch, *input_shape], to logits, float32 [batch, classes].

    Raises:
        ConfigError: for an unknown backbone or a resize that is no pair.
        ValueError: for an image smaller than the backbone takes, or of other than one or three channels.
    """
    if input_shape[2] not in (1, 3):
        raise ValueError(f"images have one or three channels, not {input_shape[2]}")
    if resize and len(resize) != 2:
        raise ConfigError(f"Invalid value for model.resize. Received: {list(resize)}. Expected: [bins, frames].")
    make = open_backbone(backbone)
    image = keras.Input(input_shape)
    x = layers.Resizing(*resize, dtype="float32")(image) if resize else image
    x = Pixels(backbone, values)(x)
    body = make(include_top=False, weights=None, input_shape=x.shape[1:])
    for layer in body.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = momentum
    x = body(x)
    x = layers.GlobalAveragePooling2D()(x)
    if dropout:
        x = layers.Dropout(dropout)(x)
    penalty = keras.regularizers.L2(l2) if l2 else None
    logits = layers.Dense(classes, kernel_regularizer=penalty, dtype="float32", name="logits")(x)
    return keras.Model(image, logits, name=backbone.lower())


def open_backbone(name: str) -> Callable[..., keras.Model]:
    """Return the function of keras.applications that builds a backbone.

    Raises:
        ConfigError: for an unknown name.
    """
    known = {key: item for key, item in vars(keras.applications).items() if inspect.isfunction(item)}
    check_choice(name, sorted(known), "model.backbone")
    return known[name]


def _standardise(pixels: Any) -> Any:
    """Return pixels with mean 0 and deviation 255, of which EfficientNet's first layer takes the 255th part."""
    mean, deviation = _statistics()
    return (pixels - mean) / deviation * 255.0


def _statistics() -> tuple[Any, Any]:
    """Return the mean and the deviation of ImageNet's pixels as tensors of the back end, float32 [3]."""
    return ops.convert_to_tensor(PIXEL_MEAN, "float32"), ops.convert_to_tensor(PIXEL_DEVIATION, "float32")


class Pixels(layers.Layer):
    """Turns images of one or three channels into what a backbone expects of a picture, float32, three channels.

    EfficientNetB0 to B7 standardise inside, by numbers that come with ImageNet's weights and that Keras uses only after
    loading them from a file. Here that is done outside, for all weights alike (see `start_weights`).
    """

    def __init__(self, backbone: str, values: str) -> None:
        """See `build` for the values."""
        super().__init__(dtype="float32")
        family = open_backbone(backbone).__module__.rpartition(".")[2]
        known = getattr(keras.applications, family).preprocess_input
        self.preprocess = _standardise if family == "efficientnet" else known
        self.values = values

    def call(self, image: Any) -> Any:
        """Return pixels, 0 to 255, after the backbone's own preprocessing."""
        if image.shape[-1] == 1:
            image = ops.repeat(image, 3, axis=-1)
        if self.values == "unit":
            return self.preprocess(image * 255.0)
        mean, deviation = _statistics()
        return self.preprocess(image * deviation + mean)

    def compute_output_shape(self, shape: tuple) -> tuple:
        """Return [batch, frequency, time, 3]."""
        return (*shape[:-1], 3)
