"""Training by several workers: processes, on one machine or more, that share every batch (data parallelism on jax).

Keras' own variables tell a process of the others; every worker is started by the same command beside them:

    KERAS_BACKEND=jax KERAS_DISTRIBUTION_JOB_ADDRESSES=10.0.0.1:8476 KERAS_DISTRIBUTION_NUM_PROCESSES=2
    KERAS_DISTRIBUTION_PROCESS_ID=0                         # 0 on the machine of that address, 1 on the other

All workers do the same, step by step, each with its share of the batch; the gradients are exchanged, so that the result
is that of one process but for rounding. The first one writes the run directory and reports; the others begin with a
copy of it and throw theirs away. When a worker goes, the others stop, and the same commands go on from the last epoch;
when the first one goes, it is jax that ends the others, with a report of its own. Keras 3 does not support
TensorFlow's MultiWorkerMirroredStrategy, and TensorFlow is refused here.
"""

import atexit
import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from config import Config, ConfigError, PipelineError
from config.commandline import log

PATIENCE = 280.0  # s for the other workers to come; jax would end the process after 300, with a stack trace
FAREWELL = 3.0  # s that a failing first worker stays, so that the others can say what they have found themselves
PREFIX = "birdsong-worker-"  # of temporary folders, before the number of the process
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
        addresses = self.address.split(",")
        known = all(one.rpartition(":")[2].isdigit() for one in addresses) and len(addresses) in (1, self.count)
        for name, value, good, expected in (
            (VARIABLES[1], self.count, self.count >= 1, "at least 1"),
            (VARIABLES[2], self.number, 0 <= self.number < self.count, f"0 to {self.count - 1}"),
            (VARIABLES[0], self.address, self.count == 1 or known, "host:port of the first worker, or of each"),
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

    if team.number == 0:
        _require_port(team.address)
    log(f"worker {team.number + 1} of {team.count} waits for the others at {team.address}")
    try:
        with _patience(team), without_tensorflow():
            keras.distribution.initialize()
        with contextlib.ExitStack() as while_training:
            if team.number:
                config = while_training.enter_context(aside(config))
            sync_global_devices("the run is copied")  # the first one must not change it before
            if team.number:
                log(f"worker {team.number + 1} helps; worker 1 reports and writes {config.run_dir.name}")
                nowhere = while_training.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                while_training.enter_context(contextlib.redirect_stdout(nowhere))
            yield config
    except BaseException as error:
        atexit.register(_leave, _status(error), FAREWELL if team.number == 0 else 0.0)
        if not isinstance(error, jax.errors.JaxRuntimeError | ValueError | RuntimeError):
            raise
        reason = str(error).splitlines()[0][:300] if str(error) else ""
        if _is_of_the_team(error):
            raise PipelineError(
                f"Worker {team.number + 1} of {team.count} has lost the others. See what they say, and start the same "
                f"commands again on all of them; the training goes on from the last epoch. ({reason})"
            ) from None
        raise


@contextmanager
def without_tensorflow() -> Iterator[None]:
    """Hide TensorFlow from Keras where another back end computes and nobody has imported it yet.

    Keras would import it to seed it, which takes longer than all other imports together, and 0.4 GB.
    """
    import keras

    hidden = keras.backend.backend() != "tensorflow" and "tensorflow" not in sys.modules
    if hidden:
        sys.modules["tensorflow"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["tensorflow"]


def _require_port(address: str) -> None:
    """Raise a PipelineError if the first worker cannot listen there; jax may crash over that."""
    port, dual = int(address.split(",")[0].rpartition(":")[2]), socket.has_dualstack_ipv6()
    try:
        family = socket.AF_INET6 if dual else socket.AF_INET
        socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except (OSError, OverflowError) as error:
        raise PipelineError(
            f"Worker 1 cannot listen at {address}: {getattr(error, 'strerror', None) or error}. Is an earlier one "
            "still there? Wait, or take another port."
        ) from None


@contextmanager
def _patience(team: Team) -> Iterator[None]:
    """End the process with one line where the other workers do not come; jax cannot be stopped otherwise."""

    def give_up() -> None:
        print(
            f"error: not all {team.count} workers have come to {team.address} within {PATIENCE:.0f} s. Start the "
            f"same command for each {VARIABLES[2]} from 0 to {team.count - 1}, and let them reach that address.",
            file=sys.stderr,
        )
        _leave(1)

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
def aside(config: Config) -> Iterator[Config]:
    """Give a configuration whose run is a copy of the real one, in a folder that is removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):  # by a worker that was killed
        owner = left.name.removeprefix(PREFIX).partition("-")[0]
        if re.fullmatch(r"[0-9]{1,9}", owner) and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-") as folder:
        name, skipped = config.run_dir.name, shutil.ignore_patterns("tensorboard", "epoch_*", "*.html", "*.png")
        if config.run_dir.exists():
            shutil.copytree(config.run_dir, Path(folder) / name, ignore=skipped)
        nothing = {"checkpoint_every": 0, "histograms": False, "hardware_log": 0.0, "mlflow": False}
        yield dataclasses.replace(config, train=dataclasses.replace(config.train, folder=folder, run=name, **nothing))


def _status(error: BaseException) -> int:
    """Return the exit status by which `config.commandline.run` ends a command."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 2 if isinstance(error, ConfigError) else 130 if isinstance(error, KeyboardInterrupt) else 1


def _leave(status: int, wait: float = 0.0) -> None:
    """End the process without jax's farewell, which would wait for workers that are not there any more."""
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(wait)
    os._exit(status)


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


def of_the_first(figures: dict[str, float]) -> dict[str, float]:
    """Return the figures that the first worker has, so that rounding lets no two decide differently."""
    if process_count() == 1:
        return figures
    from jax.experimental.multihost_utils import broadcast_one_to_all

    bits = np.array(list(figures.values()), np.float64).view(np.uint32)  # jax would make float32 of them
    return dict(zip(figures, np.asarray(broadcast_one_to_all(bits)).view(np.float64).tolist(), strict=True))


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
