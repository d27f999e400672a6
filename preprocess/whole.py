"""Files that are there whole or not at all, however often a process is killed."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def whole_file(path: Path, owner: str = "") -> Iterator[Path]:
    """Give a temporary name beside a file to write to; at the end of the block it takes the file's place.

    After an error the file is what it was before, and the temporary one is left for the next attempt to overwrite.

    Args:
        path: the file.
        owner: becomes part of the temporary name, where several processes may write the same file.
    """
    partial = path.with_name(path.name + (f".{owner}" if owner else "") + ".part")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.errno in _FULL and not error.filename:  # of writing, which does not know where
            raise OSError(error.errno, error.strerror, str(partial)) from None
        raise


def make_room(path: Path, size: int) -> None:
    """Make a file, or empty it, after seeing that there is room for so many bytes.

    HDF5 that cannot write what it holds crashes the process, or ends in pages of messages: better not to begin.

    Raises:
        OSError: naming the file, if there is no room.
    """
    with path.open("wb") as stream:
        reserve(stream.fileno(), size, path)
        stream.truncate()


def reserve(descriptor: int, size: int, path: Path) -> None:
    """Take disk space for an open file.

    Raises:
        OSError: naming the file, if there is no room.
    """
    if hasattr(os, "posix_fallocate") and size:
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
