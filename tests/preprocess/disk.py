"""A disk that is soon full: a tmpfs of a few kB."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a tmpfs at folder for a while; skips the test where that is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        pytest.skip(f"no permission to mount a tmpfs: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def small_disk(folder: Path, kilobytes: int) -> contextlib.AbstractContextManager[Path]:
    return mounted(folder, f"size={kilobytes}k")
