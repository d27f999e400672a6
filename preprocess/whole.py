"""Files that are there whole or not at all, however often a process is killed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside a file to write to; at the end of the block it takes the file's place.

    After an error the file is what it was before, and the temporary one is left for the next attempt to overwrite.
    """
    partial = path.with_name(path.name + ".part")
    yield partial
    partial.replace(path)
