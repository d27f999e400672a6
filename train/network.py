"""The whole model: codes from the store -> decoding and normalisation -> network -> logits."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from config import Config, ConfigError, Part, bind, check_choice
from preprocess.recipes import Encoding
from preprocess.segments import SegmentReader
from train.augment import open_augmentations
from train.losses import Loss
from train.models import open_network

STATISTICS_SEGMENTS = 4096  # segments that the mean and deviation of the bins are estimated from
MIN_DEVIATION = 0.05  # log10 units; keeps bins that hardly vary from being blown up

OPTIMIZERS = {
    name.lower(): getattr(keras.optimizers, name)
    for name in (
        "Adadelta",
        "Adafactor",
        "Adagrad",
        "Adam",
        "Adamax",
        "AdamW",
        "Ftrl",
        "Lion",
        "Nadam",
        "RMSprop",
        "SGD",
    )
}


class Standardise(keras.layers.Layer):
    """Turns codes [batch, frames, bins] into images [batch, bins, frames, 1]: decoded, then (x - mean) / deviation.

    Mean and deviation, float32 [bins], are weights and so travel with the network.
    """

    def __init__(self, encoding: Encoding, bins: int, **kwargs: Any) -> None:
        """Start with mean 0 and deviation 1."""
        super().__init__(**kwargs)
        self.encoding, self.bins = encoding, bins
        self.mean = self.add_weight(shape=(bins,), initializer="zeros", trainable=False, dtype="float32", name="mean")
        self.deviation = self.add_weight(
            shape=(bins,), initializer="ones", trainable=False, dtype="float32", name="deviation"
        )

    def call(self, codes: Any) -> Any:
        """Decode, normalise and turn time into the second axis."""
        gain = self.encoding.scale_factor / self.deviation
        offset = (self.encoding.add_offset - self.mean) / self.deviation
        image = ops.cast(codes, "float32") * gain + offset
        return ops.expand_dims(ops.transpose(image, (0, 2, 1)), -1)

    def compute_output_shape(self, shape: tuple) -> tuple:
        """Return [batch, bins, frames, 1]."""
        return shape[0], shape[2], shape[1], 1


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Build layers under a Keras dtype policy, such as mixed_bfloat16."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def build_model(config: Config, encoding: Encoding, bins: int, classes: int) -> keras.Model:
    """Return the model from codes [batch, segment_frames, bins] to logits, float32 [batch, classes].

    Raises:
        ConfigError: if the network or an option is unknown, or the segments are too small for the network.
    """
    build, options = open_network(config.model)
    frames = config.features.segment_frames
    with precision(config.train.precision):
        codes = keras.Input((frames, bins), dtype=encoding.dtype, name="codes")
        try:
            network = build((bins, frames, 1), classes, **options)
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            reason = " ".join(re.sub(r"\x1b\[\d+m", "", str(error)).split())[:240]
            raise ConfigError(
                f"The network {config.model.network} does not fit segments of {bins} bins x {frames} frames: {reason}"
            ) from None
        return keras.Model(
            codes, network(Standardise(encoding, bins, dtype="float32", name="standardise")(codes)), name=network.name
        )


def build_trainer(config: Config, model: keras.Model, loss: Loss, steps_per_epoch: int) -> keras.Model:
    """Return a compiled model around `model` that augments and learns.

    It takes [codes, targets] and returns logits and (augmented) targets side by side, [batch, 2 * classes], so
    that the loss sees both; it shares all its weights with `model`.
    """
    standardise, network = model.layers[-2], model.layers[-1]
    classes = model.output_shape[-1]
    with precision(config.train.precision):
        codes = keras.Input(model.input_shape[1:], dtype=model.input.dtype, name="codes")
        given = keras.Input((classes,), dtype="float32", name="targets")
        image, targets = standardise(codes), given
        for layer in open_augmentations(config.train.augment):
            image, targets = layer(image, targets)
        joined = keras.layers.Concatenate(dtype="float32")([network(image), targets])
    trainer = keras.Model([codes, given], joined)

    def compute(_: Any, outputs: Any) -> Any:
        return loss.compute(outputs[:, classes:], outputs[:, :classes])

    def acc(_: Any, outputs: Any) -> Any:
        hits = ops.argmax(outputs[:, :classes], axis=-1) == ops.argmax(outputs[:, classes:], axis=-1)
        return ops.cast(hits, "float32")

    # XLA also pays on the CPU: 22 instead of 32 ms per segment (alexnet, 2 cores); Keras leaves it off there.
    # TensorFlow cannot exchange gradients between devices inside XLA.
    strategy = getattr(trainer, "distribute_strategy", None)
    shared = strategy is not None and strategy.num_replicas_in_sync > 1
    jit = "auto" if shared or keras.backend.backend() == "torch" else True
    trainer.compile(open_optimizer(config, steps_per_epoch), compute, metrics=[acc], jit_compile=jit)
    return trainer


class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then constant or half a cosine to 0 (Loshchilov and Hutter 2017, arXiv 1608.03983).

    With the shape "plateau" it is constant too, times `scale`, a variable of the optimizer that is set between epochs.
    """

    def __init__(self, peak: float, warmup_steps: float, total_steps: int, shape: str) -> None:
        """Rise to `peak` within `warmup_steps` steps, then follow `shape` until `total_steps`."""
        self.peak, self.warmup_steps, self.total_steps, self.shape = peak, warmup_steps, total_steps, shape
        self.scale: Any = 1.0

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of a step, counted from 0."""
        step = ops.cast(step, "float32")
        rise = ops.minimum(1.0, (step + 1) / max(self.warmup_steps, 1.0))
        if self.shape != "cosine":
            return self.peak * rise * self.scale
        share = ops.clip((step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1.0), 0.0, 1.0)
        return self.peak * rise * 0.5 * (1 + ops.cos(np.pi * share))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
            "shape": self.shape,
        }


def open_optimizer(config: Config, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Return the optimizer that train.optimizer chooses, with the schedule of the learning rate.

    Raises:
        ConfigError: for an unknown optimizer or option.
    """
    part: Part = config.train.optimizer
    check_choice(part.name.lower(), OPTIMIZERS, "train.optimizer.name")
    kind = OPTIMIZERS[part.name.lower()]
    options = bind(kind, part.options, "train.optimizer")
    rate = options["learning_rate"]
    if not isinstance(rate, int | float) or isinstance(rate, bool):
        raise ConfigError(f"Invalid value for train.optimizer.learning_rate. Received: {rate!r}. Expected: a number.")
    if options["use_ema"]:
        raise ConfigError("Unknown key train.optimizer.use_ema. Set train.ema=0.999 to average the weights.")
    if config.train.ema:
        options |= {"use_ema": True, "ema_momentum": config.train.ema}
    options["learning_rate"] = schedule = WarmupSchedule(
        float(rate),
        config.train.warmup_epochs * steps_per_epoch,
        config.train.epochs * steps_per_epoch,
        config.train.schedule,
    )
    options["name"] = part.name.lower()
    try:
        optimizer = kind(**options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"Invalid value in train.optimizer: {error}") from None
    if schedule.shape == "plateau":
        schedule.scale = optimizer.add_variable((), "ones", "float32", name="plateau_scale")
    return optimizer


def set_plateau_scale(trainer: keras.Model, scale: float) -> None:
    """Set what the schedule "plateau" multiplies the learning rate with; other schedules have no such variable."""
    for variable in trainer.optimizer.variables:
        if variable.path.endswith("plateau_scale"):
            variable.assign(scale)


def fit_statistics(
    model: keras.Model, reader: SegmentReader, segments: Sequence[np.ndarray], how: str, seed: int
) -> None:
    """Set mean and deviation of the model's input from segments of the training split.

    Args:
        model: from `build_model`.
        reader: the view.
        segments: recordings and first frames, as from `list_segments`.
        how: "bin", "global" or "none" (mean 0, deviation 1: the values as they are stored).
        seed: of the choice of at most `STATISTICS_SEGMENTS` segments.
    """
    bins = reader.bins
    mean, deviation = np.zeros(bins), np.ones(bins)
    if how != "none":
        owners, starts = segments
        chosen = np.sort(np.random.default_rng(seed).permutation(len(owners))[:STATISTICS_SEGMENTS])
        total, squares, count = np.zeros(bins), np.zeros(bins), 0
        for low in range(0, len(chosen), 64):
            part = chosen[low : low + 64]
            values = reader.read(owners[part], starts[part]).reshape(-1, bins).astype(np.float64)
            values = values * reader.encoding.scale_factor + reader.encoding.add_offset
            total += values.sum(axis=0)
            squares += (values**2).sum(axis=0)
            count += len(values)
        if how == "global":
            total, squares = np.full(bins, total.mean()), np.full(bins, squares.mean())
        mean = total / count
        deviation = np.maximum(np.sqrt(np.maximum(squares / count - mean**2, 0)), MIN_DEVIATION)
    stage = model.get_layer("standardise")
    stage.mean.assign(mean.astype(np.float32))
    stage.deviation.assign(deviation.astype(np.float32))
