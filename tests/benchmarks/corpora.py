"""Corpora to measure on, made by the demo's synthesiser, and the tools to measure with."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
CORES = len(os.sched_getaffinity(0))


def synthesise(home: Path, hours: float, seconds: float = 34.0) -> Path:
    """Make a release of so many hours whose recordings have a median length; BirdCLEF 2016 has a mean of 34 s."""
    from preprocess.sources.dawnchorus import Source

    count = int(hours * 3600 / (seconds * 1.1))  # the mean is a tenth above the median
    return Source(recordings=count, test_recordings=6, seconds=seconds).fetch(home / "raw", 0, CORES)


def settings(home: Path, root: Path, *more: str) -> list[str]:
    """Return the arguments that make every stage work on a release and keep its results under home."""
    pairs = [
        "data.source=birdclef",
        f'data.root="{root}"',
        "data.corpus=bench",
        f'data.folder="{home}"',
        f'train.folder="{home}/runs"',
        *more,
    ]
    return [word for pair in pairs for word in ("--set", pair)]


def run(command: list[str], **options: object) -> float:
    """Run a command and return its wall time in seconds, process start included."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)
    return time.perf_counter() - started


def python(*arguments: str) -> list[str]:
    """Return the command that runs a file of the project."""
    return [sys.executable, *arguments]


def ratios(first: Callable[[], float], second: Callable[[], float], repeats: int) -> tuple[float, float, float]:
    """Time two things in turn and return the median of each and the median of their ratios, pair by pair."""
    pairs = [(first(), second()) for _ in range(repeats)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def show(name: str, value: str, bar: str) -> None:
    """Print one line of the result."""
    print(f"{name:64}{value:>22}   {bar}", flush=True)
