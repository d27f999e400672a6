"""VGGish (Hershey et al. 2017, arXiv 1609.09430) with a classifier, as fine-tuned by JibJib (2018, model A).

The published front end is a log-mel spectrogram of 64 bands, 10 ms per frame. The AudioSet checkpoint fits:
--set model.start=vggish_model.ckpt
"""

import keras
import numpy as np
from keras import layers, ops

from config import NonNegative, Positive, Share


def build(
    input_shape: tuple[int, int, int],
    classes: int,
    patch_frames: Positive = 96,
    fully_connected: Positive = 4096,
    embedding: Positive = 128,
    dense: Positive = 100,
    dropout: Share = 0.0,
    l2: NonNegative = 0.0,
) -> keras.Model:
    """Build the network: 72,141,184 parameters up to the embedding of one 64 x 96 patch, 72.14 M in all.

    A longer segment is seen as several patches by the same weights: as few as cover every frame, spread evenly,
    which is without overlap where the segment is a multiple of patch_frames. Their hidden features are averaged
    before the logits, and so are the logits.

    Args:
        input_shape: frequency bins, frames, channels. The checkpoint wants 64 bins and one channel; the frames must
            be patch_frames or more.
        classes: number of outputs.
        patch_frames: frames of a patch; 96 x 10 ms = 0.96 s.
        fully_connected: units of the two layers before the embedding.
        embedding: units of the embedding, which has no activation.
        dense: units of the hidden layer between embedding and logits.
        dropout: before the logits.
        l2: weight decay of the hidden layer, part of the loss.

    Returns:
        A model from images, float [batch, *input_shape], to logits, float32 [batch, classes].

    Raises:
        ValueError: for fewer frames than a patch has, or too small a patch for four pools.
    """
    bins, frames, channels = input_shape
    if frames < patch_frames or min(bins, patch_frames) < 16:
        raise ValueError(f"it needs at least {max(16, patch_frames)} frames, 16 bins and patch_frames of 16 or more")
    patch = keras.Input((patch_frames, bins, channels))  # time comes first, as in the checkpoint
    x = patch
    for filters in ((64,), (128,), (256, 256), (512, 512)):
        for count in filters:
            x = layers.Conv2D(count, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(fully_connected, activation="relu")(x)
    x = layers.Dense(fully_connected, activation="relu")(x)
    backbone = keras.Model(patch, layers.Dense(embedding)(x), name="backbone")

    count = -(-frames // patch_frames)
    starts = np.linspace(0, frames - patch_frames, count).round().astype(int).tolist()
    image = keras.Input(input_shape)
    x = layers.Permute((2, 1, 3))(image)
    if count > 1:
        x = ops.stack([x[:, start : start + patch_frames] for start in starts], axis=1)
    x = backbone(ops.reshape(x, (-1, patch_frames, bins, channels)))
    penalty = keras.regularizers.L2(l2) if l2 else None
    x = layers.Dense(dense, activation="relu", kernel_regularizer=penalty)(x)
    x = ops.mean(ops.reshape(x, (-1, count, dense)), axis=1)
    if dropout:
        x = layers.Dropout(dropout)(x)
    return keras.Model(image, layers.Dense(classes, dtype="float32", name="logits")(x), name="vggish")
