"""That only one process at a time changes a folder."""

import fcntl
import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from config import Config, PipelineError

PATIENCE = 3.0  # s; a stage with nothing to do takes less
TURN = 300.0  # s; for a file that several trainings add to, one after the other
P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def alone_in(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Keep other processes from changing a folder, which is made if need be.

    A kill ends that at once, or with the last program that was started with `close_fds=False`, which works on.

    Args:
        folder: the folder itself; those inside it have locks of their own.
        patience: how many seconds to wait for another process.

    Raises:
        PipelineError: if another process is at work there.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    try:
        end = time.monotonic() + patience
        while not _lock(descriptor):
            if time.monotonic() > end:
                raise PipelineError(f"Another process is at work in {folder}. Wait until it has ended, or end it.")
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
        if made:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, such as some network ones
        return True
    return True


def alone(folder_of: Callable[[Config], Path]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function whose first argument is a configuration: it runs `alone_in` a folder of that."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def guarded(config: Any, *args: Any, **options: Any) -> R:
            with alone_in(folder_of(config)):
                return function(config, *args, **options)

        return guarded

    return decorate
