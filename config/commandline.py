"""What every command shares: the configuration arguments, log lines, progress, and errors that end in one line."""

import argparse
import datetime
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from config import PROJECT, Config, ConfigError, PipelineError, load

T = TypeVar("T")

HEARTBEAT_SECONDS = 20  # between progress lines where there is no terminal


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --config, --set and --mini, which every stage takes."""
    parser.add_argument(
        "--config",
        type=Path,
        default=PROJECT / "config" / "demo.toml",
        help="experiment (default: config/demo.toml)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one key; may be repeated",
    )
    parser.add_argument("--mini", action="store_true", help="a handful of recordings and one epoch")


def load_config(args: argparse.Namespace) -> Config:
    """Return the configuration that the arguments of `add_config_arguments` name."""
    return load(args.config, args.set, args.mini)


def job_count(text: str) -> int:
    """Parse --jobs: a number of processes, 0 for one per core."""
    jobs = int(text)
    if jobs < 0:
        raise argparse.ArgumentTypeError("expected 0 (one per core) or a number of processes")
    return jobs or core_count()


def core_count() -> int:
    """Return how many cores this process may use; where a system does not tell, how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def add_jobs_argument(parser: argparse.ArgumentParser, scheduler: bool = False) -> None:
    """Add --jobs, and for work that a cluster can do --scheduler."""
    parser.add_argument("--jobs", type=job_count, default="0", help="processes (default: one per core)")
    if scheduler:
        parser.add_argument(
            "--scheduler",
            default="",
            metavar="ADDRESS",
            help="let the workers of a Dask cluster do it (tcp://HOST:8786); they see the same files",
        )


def log(message: str) -> None:
    """Print a line with the ISO time."""
    print(f"{datetime.datetime.now().isoformat(timespec='seconds')} {message}", flush=True)


def progress(items: Iterable[T], total: int, unit: str) -> Iterator[T]:
    """Yield items and show how many are done, the rate and the time left.

    On a terminal this is a bar, otherwise a plain line every `HEARTBEAT_SECONDS`.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, unit=f" {unit}", leave=False, dynamic_ncols=True)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= HEARTBEAT_SECONDS:
            last, rate = now, done / (now - start)
            left = f" of {total} {unit}, {rate:.3g}/s, {(total - done) / rate:.0f} s left" if total else f" {unit}"
            log(f"  {done}{left}")


def run(main: Callable[[], None]) -> None:
    """Run a command: a PipelineError, a full disk or an interrupt ends in one line on standard error."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names may hold what the terminal cannot show
    try:
        main()
        sys.stdout.flush()
    except ConfigError as error:
        sys.exit(_fail(str(error), 2))
    except PipelineError as error:
        sys.exit(_fail(str(error), 1))
    except BrokenPipeError:  # the reader, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted; the same command goes on from here", 130))
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        sys.exit(_fail(f"{error.strerror}: {error.filename or 'while writing'}", 1))
    finally:  # nothing is left to be told to whoever stops the process while it ends
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)


def _fail(message: str, status: int) -> int:
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr, flush=True)  # names may hold line breaks
    return status
