"""Where the work of a stage is done: by processes of this machine, or by the workers of a Dask cluster."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from config import PipelineError

R = TypeVar("R")
CONNECT_SECONDS = 10
_client: Any = None  # of the cluster, while there is one


@contextmanager
def cluster(scheduler: str) -> Iterator[None]:
    """Let `spread` use the workers of a Dask cluster for a while.

    All workers see the files of the project and of the corpus under the same paths.

    Args:
        scheduler: address such as tcp://10.0.0.1:8786; empty: processes of this machine.

    Raises:
        PipelineError: if Dask is not installed or nobody answers there.
    """
    global _client
    if not scheduler:
        yield
        return
    try:
        from distributed import Client
    except ImportError:
        raise PipelineError("--scheduler needs Dask: pip install 'dask[distributed]'") from None
    try:
        _client = Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TimeoutError) as error:
        raise PipelineError(
            f"There is no Dask scheduler at {scheduler}: {str(error) or 'it does not answer'}"
        ) from None
    try:
        yield
    finally:
        _client.close()
        _client = None


def has_cluster() -> bool:
    """Tell whether `spread` uses a cluster."""
    return _client is not None


def spread(function: Callable[..., R], calls: Iterable[tuple], jobs: int) -> Iterator[R]:
    """Yield what a function returns for each tuple of arguments, as soon as it is there, in any order.

    What a worker was doing when it died is done by another one.

    Args:
        function: of a module, so that other processes can import it.
        calls: arguments.
        jobs: processes, where there is no cluster.

    Raises:
        PipelineError: what the function raises; or if the workers of the cluster keep dying.
    """
    if _client is None:
        from joblib import Parallel, delayed  # here, as a stage with nothing to do need not wait for it

        work = Parallel(n_jobs=jobs, return_as="generator_unordered")
        try:
            yield from work(delayed(function)(*call) for call in calls)
        except BrokenExecutor:
            raise PipelineError(
                "A process was killed, such as for want of memory. The same command goes on from here; fewer --jobs "
                "need less memory."
            ) from None
        return
    from distributed import KilledWorker, as_completed

    futures = [_client.submit(function, *call, pure=False) for call in calls]
    try:
        for future, result in as_completed(futures, with_results=True):
            if future.status != "finished":  # cancelled or lost, which is no error to Dask
                raise PipelineError("The scheduler of the cluster has gone. The same command goes on from here.")
            yield result
    except KilledWorker as error:
        raise PipelineError(f"The workers of the cluster keep dying: {error}") from None
    finally:
        with suppress(OSError, RuntimeError):  # where there is no scheduler any more
            _client.cancel(futures)
