"""The whole model: codes from the store -> decoding (-> front end) -> normalisation -> network -> logits."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from config import Config, ConfigError, Part, PipelineError, bind, check_choice
from preprocess.recipes import Encoding, open_recipe
from preprocess.segments import SegmentReader
from train.augment import needs, open_augmentations
from train.devices import has_accelerator
from train.frontend import frontend_options, open_frontend
from train.losses import Loss, needs_attention
from train.models import open_network
from train.start_weights import weighted_layers
from train.texture import TEXTURE_LOGITS

STATISTICS_SEGMENTS = 4096  # segments that the mean and deviation of the bins are estimated from
WORTH_COMPILING = 10  # steps of an epoch
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


class Decode(keras.layers.Layer):
    """Turns codes [batch, frames, bins(, channels)] into values, or those of sound into samples [batch, samples]."""

    def __init__(self, encoding: Encoding, **kwargs: Any) -> None:
        """Keep how values are stored."""
        super().__init__(**kwargs)
        self.encoding = encoding

    def call(self, codes: Any) -> Any:
        """Return float32 values."""
        values = ops.cast(codes, "float32") * self.encoding.scale_factor + self.encoding.add_offset
        return ops.reshape(values, (-1, codes.shape[1] * codes.shape[2])) if self.is_sound else values

    @property
    def is_sound(self) -> bool:
        """Whether the store holds samples."""
        return self.encoding.dtype == "int16"

    def compute_output_shape(self, shape: tuple) -> tuple:
        """Return the shape of the values."""
        return (shape[0], shape[1] * shape[2]) if self.is_sound else shape


class Standardise(keras.layers.Layer):
    """Turns values [batch, frames, bins(, channels)] into normalised images [batch, bins, frames, channels].

    Mean and deviation, float32 [bins(, channels)], are weights and so travel with the network. With "segment" the mean
    of every bin is that in the segment itself, "both" has that mean as further channels, with "item" every segment is
    scaled to -1 ... 1 by its own extremes; they never depend on the other segments of a batch.
    """

    def __init__(self, shape: tuple[int, ...], how: str, dynamic_range: float, **kwargs: Any) -> None:
        """Start with mean 0 and deviation 1; `shape` is that of a frame, `dynamic_range` 0 leaves all values."""
        super().__init__(**kwargs)
        self.how, self.dynamic_range = how, dynamic_range
        self.mean = self.add_weight(shape=shape, initializer="zeros", trainable=False, dtype="float32", name="mean")
        self.deviation = self.add_weight(
            shape=shape, initializer="ones", trainable=False, dtype="float32", name="deviation"
        )

    def prepare(self, values: Any) -> Any:
        """Return values without what depends on the segment alone.

        Those more than the dynamic range below the largest of their segment are raised; with "segment" the mean over
        time of every bin becomes 0.
        """
        if self.dynamic_range:
            top = ops.max(values, axis=tuple(range(1, len(values.shape))), keepdims=True)
            values = ops.maximum(values, top - self.dynamic_range)
        return values - ops.mean(values, axis=1, keepdims=True) if self.how == "segment" else values

    def call(self, values: Any) -> Any:
        """Limit, normalise and turn time into the second axis."""
        image = self.prepare(values)
        if self.how == "both":
            if len(image.shape) == 3:
                image = ops.expand_dims(image, -1)
            mean, deviation = (ops.reshape(own, (*own.shape[:1], -1)) for own in (self.mean, self.deviation))
            level = ops.mean(image, axis=1, keepdims=True)
            steady = ops.broadcast_to((level - mean) / deviation, ops.shape(image))
            image = ops.concatenate([(image - level) / deviation, steady], axis=-1)
        elif self.how == "item":
            axes = tuple(range(1, len(values.shape)))
            low, high = ops.min(image, axis=axes, keepdims=True), ops.max(image, axis=axes, keepdims=True)
            image = (image - low) / ops.maximum(high - low, MIN_DEVIATION) * 2 - 1
        else:
            image = (image - self.mean) / self.deviation
        return ops.transpose(image, (0, 2, 1, 3)) if len(image.shape) == 4 else image_of(image)

    def compute_output_shape(self, shape: tuple) -> tuple:
        """Return [batch, bins, frames, channels]."""
        return shape[0], shape[2], shape[1], (shape[3] if len(shape) == 4 else 1) * (2 if self.how == "both" else 1)


def image_of(values: Any) -> Any:
    """Return [batch, bins, frames, 1] of [batch, frames, bins]."""
    return ops.expand_dims(ops.transpose(values, (0, 2, 1)), -1)


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Build layers under a Keras dtype policy, such as mixed_bfloat16."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def build_model(config: Config, encoding: Encoding, shape: tuple[int, ...], classes: int) -> keras.Model:
    """Return the model from codes [batch, segment_frames, *shape] to logits, float32 [batch, outputs].

    Outputs are the classes, one more with a noise class, and twice as many with attention pooling.

    Raises:
        ConfigError: if the network or an option is unknown, or the segments are too small for the network.
    """
    build, options = open_network(config.model)
    if "fine" in options:
        options["fine"] = fine_windows(config, options["fine"])
    frames = config.features.segment_frames
    with precision(config.train.precision):
        codes = keras.Input((frames, *shape), dtype=encoding.dtype, name="codes")
        decode = Decode(encoding, dtype="float32", name="decode")
        values = decode(codes)
        if decode.is_sound:
            values = open_frontend(config.features, frames * shape[0])(values)
        elif config.features.frontend.name:
            raise ConfigError(
                f"Invalid value for features.frontend. Received: {config.features.frontend.name!r} with "
                f"features.recipe = {config.features.recipe}. Expected: nothing; only the recipe waveform takes one."
            )
        check_dynamic_range(config, encoding)
        image = Standardise(
            values.shape[2:], config.model.normalise, config.model.dynamic_range, dtype="float32", name="standardise"
        )(values)
        try:
            network = build(image.shape[1:], classes, **options)
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            reason = " ".join(re.sub(r"\x1b\[\d+m", "", str(error)).split())[:240]
            raise ConfigError(
                f"The network {config.model.network} does not fit segments of {image.shape[1]} bins x "
                f"{image.shape[2]} frames: {reason}"
            ) from None
        if needs_attention(config.train.loss):
            network = add_attention(network, classes)
        return keras.Model(codes, network(image), name=network.name)


def fine_windows(config: Config, given: int) -> int:
    """Return how many short windows per frame the images hold.

    Raises:
        ConfigError: if model.fine, which need not be given, says something else.
    """
    features = config.features
    options = frontend_options(features) if features.frontend.name else vars(open_recipe(features))
    found = options.get("fine", 0)
    if given not in (0, found):
        raise ConfigError(
            f"Invalid value for model.fine. Received: {given}. Expected: {found}, as features.fine, or nothing."
        )
    return found


def check_dynamic_range(config: Config, encoding: Encoding) -> None:
    """Raise a ConfigError if model.dynamic_range is wider than all values that the recipe can store."""
    limit = config.model.dynamic_range
    if limit and encoding.dtype == "uint8" and limit >= 255 * encoding.scale_factor:
        raise ConfigError(
            f"Invalid value for model.dynamic_range. Received: {limit:g}. Expected: less than "
            f"{255 * encoding.scale_factor:g}, the range of the recipe {config.features.recipe} in its units; 0: all."
        )


def add_attention(network: keras.Model, classes: int) -> keras.Model:
    """Return a network with one more output per class, beside the logits: its weight among a recording's segments."""
    weights = keras.layers.Dense(classes, dtype="float32", name="attention")(network.get_layer("logits").input)
    joined = keras.layers.Concatenate(dtype="float32")([network.output, weights])
    return keras.Model(network.input, joined, name=network.name)


def embed(model: keras.Model) -> keras.Model:
    """Return a model from codes to what the layer `logits` of `model` is a linear function of, float [batch, features].

    Raises:
        PipelineError: if the network has no dense layer named logits.
    """
    network = model.layers[-1]
    logits = [layer for layer in network.layers if layer.name == "logits"]
    if not logits:
        raise PipelineError(f"The network {network.name} has no layer named logits whose input could be written.")
    features = keras.Model(network.input, logits[0].input, name="features")
    return keras.Model(model.input, features(model.get_layer("standardise").output), name="embed")


def build_trainer(config: Config, model: keras.Model, loss: Loss, steps_per_epoch: int) -> keras.Model:
    """Return a compiled model around `model` that augments and learns.

    It takes [codes, targets, *companions] and returns logits and (augmented) targets side by side,
    [batch, outputs + classes], so that the loss sees both; it shares all its weights with `model`. Companions are
    the further segments that augmentations ask for (see `augment.needs`), shaped like the codes. What a network makes
    of the texture learns for itself, from segments as they are, and has as many rows of its own behind the others: with
    one loss for their mean one of the two would leave the work to the other, and masks and mixtures have textures of
    their own.
    """
    decode, standardise, network = model.get_layer("decode"), model.get_layer("standardise"), model.layers[-1]
    outputs, classes = model.output_shape[-1], loss.classes(model.output_shape[-1])
    layers = open_augmentations(config.train.augment, open_recipe(config.features), config.train.bag)
    if "steady_drop" in config.train.augment and config.model.normalise != "both":
        raise ConfigError(
            "train.augment.steady_drop needs model.normalise = both. "
            "Leave it out: --set train.augment.steady_drop=false."
        )
    if loss.attention and config.train.bag == 1:
        raise ConfigError(
            "train.loss.pool = attention weighs the segments of a bag, and learns nothing with one. "
            "Take more: --set train.bag=4."
        )
    if loss.attention and len(learners(network)) > 1:
        raise ConfigError(
            "model.texture = true has no weights of segments, as train.loss.pool = attention needs them. "
            "Leave one of them out: --set model.texture=false, or --set train.loss.pool=log_mean_exp."
        )

    def image_of_values(values: Any) -> Any:
        return standardise(model.get_layer("frontend")(values) if decode.is_sound else values)

    with precision(config.train.precision):
        codes = keras.Input(model.input_shape[1:], dtype=model.input.dtype, name="codes")
        given = keras.Input((classes,), dtype="float32", name="targets")
        others = {
            need: keras.Input(model.input_shape[1:], dtype=model.input.dtype, name=f"{need}_codes")
            for need in needs(config.train.augment)
        }
        plain = values = decode(codes)
        targets = given
        for layer in layers:
            if layer.domain != "image":
                further = [decode(others[layer.need])] if layer.need else []
                values, targets = layer(values, targets, *further)
        image = image_of_values(values)
        for layer in layers:
            if layer.domain == "image":
                image, targets = layer(image, targets)
        learner, *further = learners(network)
        joined = keras.layers.Concatenate(dtype="float32")([learner(image), targets])
        for texture in further:
            own = keras.layers.Concatenate(dtype="float32")([texture(image_of_values(plain)), given])
            joined = keras.layers.Concatenate(axis=0, dtype="float32")([joined, own])
    trainer = keras.Model([codes, given, *others.values()], joined)

    def compute(_: Any, joined: Any) -> Any:
        return loss.over_batch(joined[:, outputs:], joined[:, :outputs], config.train.bag)

    def acc(_: Any, joined: Any) -> Any:
        hits = ops.argmax(joined[:, :classes], axis=-1) == ops.argmax(joined[:, outputs:], axis=-1)
        return ops.cast(hits, "float32")

    optimizer = open_optimizer(config, steps_per_epoch)
    if config.train.precision == "mixed_float16":  # small gradients would become 0
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, name=optimizer.name)
    compiled = compiler(trainer, network, steps_per_epoch)
    mean = keras.metrics.MeanMetricWrapper(acc, name="acc")  # a bare function gets its variables in the first step,
    trainer.compile(optimizer, compute, metrics=[mean], jit_compile=compiled)  # which TensorFlow then traces twice
    return trainer


def learners(network: keras.Model) -> list[keras.Model]:
    """Return the models from images to logits that learn each for itself: the network, or its image and its texture."""
    layers = {layer.name: layer for layer in network.layers}
    if TEXTURE_LOGITS not in layers:
        return [network]
    return [keras.Model(network.input, layers[name].output) for name in ("logits", TEXTURE_LOGITS)]


def compiler(trainer: keras.Model, network: keras.Model, steps_per_epoch: int) -> str | bool:
    """Return what Keras takes as jit_compile: whether XLA compiles the steps.

    It pays on CPUs too, where Keras would leave it off: 22 instead of 32 ms per segment of alexnet on 2 cores. But its
    depthwise convolutions on CPUs are several times slower than TensorFlow's own (MobileNetV3: 370 instead of 55 ms),
    TensorFlow cannot exchange gradients between devices inside XLA, and compiling takes as long as a hundred steps,
    which epochs of a few do not give back. The number of epochs has no say: random numbers are other ones inside XLA,
    and a run that goes on for longer shall be what it would have been.
    """
    backend, strategy = keras.backend.backend(), getattr(trainer, "distribute_strategy", None)
    if backend == "torch" or (strategy is not None and strategy.num_replicas_in_sync > 1):
        return "auto"
    if backend == "jax" or has_accelerator():
        return True
    slow = keras.layers.DepthwiseConv2D | keras.layers.SeparableConv2D
    return steps_per_epoch >= WORTH_COMPILING and not any(
        isinstance(layer, slow) for _, layer in weighted_layers(network)
    )


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
    defaults = bind(kind, {}, "train.optimizer")
    for key, value in options.items():
        _check_number(f"train.optimizer.{key}", value, defaults[key])
    if rate < 0:
        raise ConfigError(f"Invalid value for train.optimizer.learning_rate. Received: {rate}. Expected: at least 0.")
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


def _check_number(key: str, value: Any, default: Any) -> None:
    """Raise a ConfigError if a value is not of the kind of a default: true or false, or a finite number."""
    if value == default or isinstance(default, str):
        return
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ConfigError(f"Invalid value for {key}. Received: {value!r}. Expected: true or false.")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise ConfigError(f"Invalid value for {key}. Received: {value!r}. Expected: a number.")


def set_plateau_scale(trainer: keras.Model, scale: float) -> None:
    """Set what the schedule "plateau" multiplies the learning rate with; other schedules have no such variable."""
    for variable in trainer.optimizer.variables:
        if variable.path.endswith("plateau_scale"):
            variable.assign(scale)


def fit_statistics(
    model: keras.Model, reader: SegmentReader, segments: Sequence[np.ndarray], how: str, seed: int
) -> None:
    """Set mean and deviation of the network's input from segments of the training split.

    Args:
        model: from `build_model`.
        reader: the view.
        segments: recordings and first frames, as from `list_segments`.
        how: "bin", "segment", "both", "global", "item" or "none" (the last two: mean 0, deviation 1).
        seed: of the choice of at most `STATISTICS_SEGMENTS` segments.
    """
    stage = model.get_layer("standardise")
    shape = tuple(stage.mean.shape)
    mean, deviation = np.zeros(shape), np.ones(shape)
    if how in ("bin", "segment", "both", "global"):
        before = model.layers[: model.layers.index(stage)]
        owners, starts = segments
        chosen = np.sort(np.random.default_rng(seed).permutation(len(owners))[:STATISTICS_SEGMENTS])
        total, squares, count = np.zeros(shape), np.zeros(shape), 0
        for low in range(0, len(chosen), 64):
            part = chosen[low : low + 64]
            values = reader.read(owners[part], starts[part])
            for layer in before[1:]:  # without the input
                values = layer(values)
            values = ops.convert_to_numpy(stage.prepare(values)).reshape(-1, *shape).astype(np.float64)
            total += values.sum(axis=0)
            squares += (values**2).sum(axis=0)
            count += len(values)
        if how == "global":
            total, squares = np.full(shape, total.mean()), np.full(shape, squares.mean())
        mean = total / count
        deviation = np.maximum(np.sqrt(np.maximum(squares / count - mean**2, 0)), MIN_DEVIATION)
    stage.mean.assign(mean.astype(np.float32))
    stage.deviation.assign(deviation.astype(np.float32))
