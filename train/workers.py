"""Training by several workers: processes, on one machine or more, that share every batch (data parallelism on jax).

Keras' own variables tell a process of the others; every worker is started by the same command beside them:

    KERAS_BACKEND=jax KERAS_DISTRIBUTION_JOB_ADDRESSES=10.0.0.1:8476 KERAS_DISTRIBUTION_NUM_PROCESSES=2
    KERAS_DISTRIBUTION_PROCESS_ID=0                         # 0 on the machine of that address, 1 on the other

All workers do the same, step by step, each with its share of the batch; the gradients are exchanged, so that the result
is that of one process but for rounding. The first one writes the run directory and reports; the others begin with a
copy of it and throw theirs away. When a worker goes, the others stop with one line; the same commands go on from the
last epoch. Keras 3 does not support TensorFlow's MultiWorkerMirroredStrategy, and TensorFlow is refused here.
"""

import atexit
import contextlib
import dataclasses
import hashlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from config import Config, ConfigError, PipelineError
from config.commandline import log

PATIENCE = 280.0  # s for the other workers to come; jax would end the process after 300, with a stack trace
VARIABLES = tuple(f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID"))


@dataclasses.dataclass(frozen=True)
class Team:
    """The workers of a training as one of them sees them."""

    count: int = 1
    number: int = 0  # of this one, from 0
    address: str = ""  # host:port of the first

    def __post_init__(self) -> None:
        """Check the variables of the environment.

        Raises:
            ConfigError: for a number out of range or an address without a port.
        """
        port = self.address.split(",")[0].rpartition(":")[2]
        for name, value, good, expected in (
            (VARIABLES[1], self.count, self.count >= 1, "at least 1"),
            (VARIABLES[2], self.number, 0 <= self.number < self.count, f"0 to {self.count - 1}"),
            (VARIABLES[0], self.address, self.count == 1 or port.isdigit(), "host:port of the first worker"),
        ):
            if not good:
                raise ConfigError(
                    f"Invalid value for {name}. Received: {str(value) or 'nothing'}. Expected: {expected}."
                )


def read_team() -> Team:
    """Return the team that the environment describes; without Keras' variables, one worker.

    Raises:
        ConfigError: if they do not fit together.
    """
    if not os.environ.get(VARIABLES[1]):
        return Team()
    numbers = []
    for name in VARIABLES[1:]:
        try:
            numbers.append(int(os.environ.get(name, "")))
        except ValueError:
            raise ConfigError(
                f"Invalid value for {name}. Received: {os.environ.get(name) or 'nothing'}. Expected: a whole number."
            ) from None
    return Team(*numbers, os.environ.get(VARIABLES[0], ""))


@contextmanager
def joined(config: Config) -> Iterator[Config]:
    """Wait for the other workers, if there are any, and give the configuration that this one trains with.

    The first worker keeps its own; the others get one whose runs are a copy in a temporary folder, and are silent.

    Raises:
        ConfigError: if the variables are wrong, or the back end is not jax.
        PipelineError: if another worker does not come or has gone.
    """
    team = read_team()
    if team.count == 1:
        yield config
        return
    import keras

    if keras.backend.backend() != "jax":
        raise ConfigError(
            f"{VARIABLES[1]}={team.count}, but several workers train on the jax back end only: set KERAS_BACKEND=jax."
        )
    import jax
    from jax.experimental.multihost_utils import sync_global_devices

    log(f"worker {team.number + 1} of {team.count} waits for the others at {team.address}")
    try:
        with _patience(team):
            keras.distribution.initialize()
        with contextlib.ExitStack() as while_training:
            if team.number:
                config = while_training.enter_context(_aside(config))
            sync_global_devices("the run is copied")  # the first one must not change it before
            if team.number:
                log(f"worker {team.number + 1} helps; worker 1 reports and writes {config.run_dir.name}")
                nowhere = while_training.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                while_training.enter_context(contextlib.redirect_stdout(nowhere))
            yield config
    except BaseException as error:
        atexit.register(_leave)
        if isinstance(error, jax.errors.JaxRuntimeError | ValueError | RuntimeError) and _is_of_the_team(error):
            raise PipelineError(
                f"Worker {team.number + 1} of {team.count} has lost the others. See what they say, and start the same "
                "commands again on all of them; the training goes on from the last epoch."
            ) from None
        raise


@contextmanager
def _patience(team: Team) -> Iterator[None]:
    """End the process with one line where the other workers do not come; jax cannot be stopped otherwise."""

    def give_up() -> None:
        print(
            f"error: not all {team.count} workers have come to {team.address} within {PATIENCE:.0f} s. Start the "
            f"same command for each {VARIABLES[2]} from 0 to {team.count - 1}, and let them reach that address.",
            file=sys.stderr,
        )
        _leave()

    timer = threading.Timer(PATIENCE, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _is_of_the_team(error: Exception) -> bool:
    """Tell whether an error is one of the exchange between workers; jax has no type of its own for these."""
    signs = ("Gloo", "NCCL", "DEADLINE_EXCEEDED", "UNAVAILABLE", "coordination service", "CoordinationService")
    return any(sign in str(error) for sign in signs)


@contextmanager
def _aside(config: Config) -> Iterator[Config]:
    """Give a configuration whose run is a copy of the real one, in a folder that is removed."""
    with tempfile.TemporaryDirectory(prefix="birdsong-worker-") as folder:
        if config.run_dir.exists():
            shutil.copytree(config.run_dir, Path(folder) / config.run_dir.name, ignore=lambda *_: {"tensorboard"})
        settings = dataclasses.replace(config.train, folder=folder, run=config.run_dir.name, mlflow=False)
        yield dataclasses.replace(config, train=settings)


def _leave() -> None:
    """End the process without jax's farewell, which would wait for workers that are not there any more."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def process_count() -> int:
    """Return how many processes train together."""
    jax = sys.modules.get("jax")  # on another back end, or before the workers have met, there is one
    return jax.process_count() if jax and jax.distributed.is_initialized() else 1


def own_share(batch: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Return this worker's rows of the arrays of a batch, whose length the number of workers divides."""
    import jax

    size = len(batch[0]) // jax.process_count()
    low = jax.process_index() * size
    return tuple(array[low : low + size] for array in batch)


def agree(*facts: Any) -> None:
    """Check that all workers begin with the same.

    Raises:
        PipelineError: if one has other settings, features, sides or another history.
    """
    if process_count() == 1:
        return
    from jax.experimental.multihost_utils import process_allgather

    own = hashlib.sha256(repr(facts).encode()).digest()
    if len({bytes(other) for other in np.asarray(process_allgather(np.frombuffer(own, np.uint8)))}) > 1:
        raise PipelineError(
            "The workers do not begin with the same: settings, features, sides of the recordings or epochs done "
            "differ. All of them need the same files and options; let them share the data and run folders."
        )
