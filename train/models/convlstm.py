"""The convolutional LSTM of JibJib (2018, model B) over patches of 96 frames x 64 mel bands."""

import keras
from keras import layers

from config import NonNegative, Positive, Share


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    patch_frames: Positive = 96,
    filters: Positive = 56,
    lstm: Positive = 96,
    dense: tuple[Positive, ...] = (64, 64, 64),
    dropout: Share = 0.4,
    dense_dropout: Share = 0.1,
    l2: NonNegative = 0.001,
    momentum: Share = 0.9,
) -> keras.Model:
    """Build the network: 1,077,535 parameters for 64 bins x 960 frames (10 patches) x 1 at 7 classes.

    As published, the convolution runs over patches x frames and takes the mel bands as channels; the LSTM steps
    over pairs of patches; the hidden dense layers are linear.

    Args:
        input_shape: frequency bins, frames, channels; the frames are three or more whole patches.
        classes: number of outputs.
        patch_frames: frames of a patch; 96 x 10 ms = 0.96 s.
        filters: of the convolution.
        lstm: units of the LSTM.
        dense: units of the hidden dense layers.
        dropout: before and after the LSTM.
        dense_dropout: before the logits.
        l2: weight decay of convolution and hidden dense layers, part of the loss.
        momentum: of the batch normalisation's running statistics.

    Returns:
        A model from images, float [batch, *input_shape], to logits, float32 [batch, classes].

    Raises:
        ValueError: if the segment is not three or more whole patches.
    """
    bins, frames, channels = input_shape
    if frames % patch_frames or frames < 3 * patch_frames or patch_frames < 3:
        raise ValueError(f"it needs a multiple of patch_frames={patch_frames} frames, {3 * patch_frames} or more")

    def penalty() -> keras.regularizers.Regularizer | None:
        return keras.regularizers.L2(l2) if l2 else None

    image = keras.Input(input_shape)
    x = layers.Permute((2, 1, 3))(image)
    x = layers.Reshape((frames // patch_frames, patch_frames, bins * channels))(x)
    x = layers.Conv2D(filters, 2, kernel_regularizer=penalty())(x)
    x = layers.BatchNormalization(momentum=momentum)(x)
    x = layers.MaxPooling2D()(layers.ReLU()(x))
    x = layers.Dropout(dropout)(x)
    x = layers.Reshape((x.shape[1], x.shape[2] * filters))(x)
    x = layers.LSTM(lstm, use_cudnn=False)(x)  # XLA cannot compile cuDNN's
    x = layers.Dropout(dropout)(x)
    for units in dense:
        x = layers.Dense(units, kernel_regularizer=penalty())(x)
    x = layers.Dropout(dense_dropout)(x)
    return keras.Model(image, layers.Dense(classes, dtype="float32", name="logits")(x), name="convlstm")
