"""Several accelerators: every batch is shared among them, and each holds a copy of the weights (data parallelism).

On the tensorflow back end tf.distribute.MirroredStrategy, on jax keras.distribution.DataParallel, which also spans the
devices of several workers (see `workers`); batch_size is that of all devices together. The loss is the mean over the
whole batch as on one device; batch normalisation takes its statistics from each device's share on tensorflow, from the
whole batch on jax.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from config import Config, ConfigError
from config.commandline import log
from train.workers import own_share, process_count


def has_accelerator() -> bool:
    """Tell whether the back end sees anything but CPUs."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    return any(not name.lower().startswith("cpu") for name in keras.distribution.list_devices())


def choose_devices(config: Config, accelerators: list[str], processors: list[str], workers: int = 1) -> list[str]:
    """Return the devices that share the batches; fewer than two: Keras' default.

    Args:
        config: train.devices limits the accelerators; asked for more than there are, the processors' devices count.
        accelerators: names such as "gpu:0".
        processors: names such as "cpu:0"; there is one unless the back end was told to make several.
        workers: processes that train together; several take all their devices.

    Raises:
        ConfigError: if there are not as many as asked for, or the batches cannot be shared equally.
    """
    wanted, size = config.train.devices, config.train.batch_size
    bag = config.train.bag if keras.backend.backend() == "tensorflow" else 1  # there each takes whole bags
    if workers > 1:
        found = accelerators or processors
        if wanted not in (0, len(found)):
            raise ConfigError(
                f"Invalid value for train.devices. Received: {wanted}. Expected: 0, as several workers take all their "
                f"{len(found)} devices."
            )
        import jax

        if jax.local_device_count() * workers != len(found):
            raise ConfigError(
                f"All workers need as many devices as each other: this one has {jax.local_device_count()} of "
                f"{len(found)}, and there are {workers}."
            )
        wanted = len(found)
    if not wanted:
        usable = next((n for n in range(len(accelerators), 0, -1) if size // bag % n == 0), 0)
        return accelerators[:usable]
    found = accelerators or processors
    if wanted > max(1, len(found)):
        raise ConfigError(
            f"Invalid value for train.devices. Received: {wanted}. Expected: at most {len(found)} "
            f"({', '.join(found) or 'this back end uses one'}), or 0 for all accelerators."
        )
    if size % (wanted * bag):
        bags = f" times the {bag} segments of a bag" if bag > 1 else ""
        raise ConfigError(
            f"Invalid value for train.batch_size. Received: {size}. Expected: a multiple of the {wanted} devices{bags}."
        )
    return found[:wanted]


@contextmanager
def data_parallel(config: Config) -> Iterator[None]:
    """Let models that are built and trained inside run on all chosen devices.

    The torch back end uses one.

    Raises:
        ConfigError: as `choose_devices`.
    """
    found = keras.distribution.list_devices() if keras.backend.backend() != "torch" else []
    processors = [name for name in found if name.startswith("cpu")]
    accelerators = [name for name in found if not name.startswith("cpu")]
    chosen = choose_devices(config, accelerators, processors, process_count())
    if len(chosen) < 2:
        yield
        return
    log(f"every batch is shared among {', '.join(chosen)}")
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.distribute.MirroredStrategy([name.upper() for name in chosen]).scope():
            yield
        return
    with keras.distribution.DataParallel(devices=chosen, auto_shard_dataset=False).scope():
        yield


@contextmanager
def whole_batches() -> Iterator[None]:
    """Let every one of several workers predict whole batches, the same ones; with one process nothing changes."""
    if process_count() == 1:
        yield
        return

    class Replicated(keras.distribution.DataParallel):
        def get_data_layout(self, data_shape: tuple[int, ...]) -> Any:
            return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)

    mesh = keras.distribution.distribution().device_mesh
    with Replicated(device_mesh=mesh, auto_shard_dataset=False).scope():
        yield


def release(trainer: keras.Model) -> None:
    """Empty the variables of a model that is not needed any more.

    TensorFlow keeps every function that it has traced, and with it all variables: hundreds of MB per training of a
    large network, in a search or a cross-validation.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    if tf.distribute.has_strategy():
        return
    for variable in {id(own): own for own in (*trainer.variables, *trainer.optimizer.variables)}.values():
        handle = variable.value.handle
        empty = tf.zeros([0], variable.value.dtype)
        tf.raw_ops.AssignVariableOp(resource=handle, value=empty, validate_shape=False)


def restartable(trainer: keras.Model, open_stream: Callable[[], Iterator], batch_size: int) -> Any:
    """Return what `fit` takes: the stream itself, or for several devices of TensorFlow a data set that reopens it.

    Of several workers each takes its rows of the batches. With TensorFlow's data sets `fit` reads ahead once to build
    the model, and begins anew; a generator would lose those batches.

    Args:
        trainer: takes [codes, targets].
        open_stream: returns a new iterator over ((codes, targets), dummy), as of `Batches.stream`.
        batch_size: of all devices together.
    """
    if process_count() > 1:
        return ((own_share(batch), *own_share((dummy,))) for batch, dummy in open_stream())
    strategy = getattr(trainer, "distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return open_stream()
    import tensorflow as tf

    inputs = tuple(tf.TensorSpec((batch_size, *item.shape[1:]), item.dtype) for item in trainer.inputs)
    signature = (inputs, tf.TensorSpec((batch_size,), tf.float32))
    return tf.data.Dataset.from_generator(open_stream, output_signature=signature)
