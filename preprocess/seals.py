"""Whether a finished file is still what was written: for files of a folder by a table, for HDF5 by a digest inside.

    <folder>/sealed.csv     name,size,mtime_ns,crc32     of the finished files of a stage; crc32 may be empty

    <folder>/sources.csv    the same of the files that those of a folder were made of

A file without a seal, such as one that was finished just before a kill, is taken as it is.
"""

import csv
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from preprocess.whole import whole_file

TABLE = "sealed.csv"
SOURCES = "sources.csv"
COLUMNS = ["name", "size", "mtime_ns", "crc32"]
BLOCK = 1 << 22  # bytes read at once
LATEST = np.iinfo(np.int64).max  # ns, in the year 2262
SECOND = 1_000_000_000  # ns
DIGEST = "sha256"  # name of the attribute in HDF5


class Seal(NamedTuple):
    """What a finished file looked like."""

    size: int
    mtime_ns: int
    crc32: int | None = None  # of the content; None: not taken


def seal(path: Path, content: bool = False) -> Seal:
    """Return the seal of a file, with the checksum of its content if asked."""
    facts = path.stat()
    return Seal(facts.st_size, facts.st_mtime_ns, checksum(path) if content else None)


def look(folder: Path, names: Sequence[str]) -> np.ndarray:
    """Return size and mtime_ns of files, int64 [names, 2], -1 where there is none; one look at each, for many."""
    facts, base = np.full((len(names), 2), -1, np.int64), f"{folder}/"
    for i, name in enumerate(names):
        try:
            found = os.stat(base + name)  # noqa: PTH116 - a Path for each of 100,000 takes as long again
        except OSError:
            continue
        facts[i] = found.st_size, max(-LATEST, min(found.st_mtime_ns, LATEST))
    return facts


def find_changed(there: np.ndarray, sealed: np.ndarray) -> np.ndarray:
    """Return the indices of files that are there, but not as they were sealed, int [changed].

    Args:
        there: from `look`.
        sealed: from `read_facts`.
    """
    return np.flatnonzero(is_there(there) & is_there(sealed) & ~_alike(there, sealed))


def is_there(facts: np.ndarray) -> np.ndarray:
    """Return which files there are, or have a seal, bool [names], of int64 [names, 2]."""
    return facts[:, 0] >= 0


def _alike(own: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Compare sizes and times, [..., 2]; some programs and disks copy whole seconds only."""
    size, time = own[..., 0] == known[..., 0], own[..., 1]
    return size & ((time == known[..., 1]) | (time == known[..., 1] // SECOND * SECOND))


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    value = 0
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            value = zlib.crc32(block, value)
    return value


def is_intact(path: Path, known: Seal | None) -> bool:
    """Tell whether a file is as it was sealed: by size and time, or else by the checksum, where it was taken."""
    try:
        own = seal(path)
        if known is None or _alike(np.array(own[:2]), np.array(known[:2])):
            return True
        return own.size == known.size and known.crc32 is not None and checksum(path) == known.crc32
    except OSError:
        return False


def read_seals(folder: Path) -> dict[str, Seal]:
    """Return the seals of the files in a folder by name; none where there is no table, or a damaged one."""
    try:
        return {
            name: Seal(int(size), int(time), int(crc) if crc else None)
            for name, size, time, crc in _read(folder / TABLE)
        }
    except (OSError, ValueError, csv.Error):
        return {}


def _read(path: Path) -> Iterator[list[str]]:
    """Yield the lines of a table; none if its head is another one."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = csv.reader(stream)
        if next(rows, None) == COLUMNS:
            yield from rows


def write_seals(folder: Path, seals: Mapping[str, Seal]) -> None:
    """Write the seals of the files in a folder, whole or not at all."""
    _write(folder / TABLE, ((name, *own[:2], "" if own.crc32 is None else own.crc32) for name, own in seals.items()))


def _write(path: Path, rows: Iterable[tuple]) -> None:
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def read_facts(folder: Path, names: Sequence[str], table: str = TABLE) -> np.ndarray:
    """Return size and mtime_ns by the seals of files, int64 [names, 2]; -1 for those without one. For many files."""
    facts = np.full((len(names), 2), -1, np.int64)
    place = {name: i for i, name in enumerate(names)}
    try:
        for name, size, time, _ in _read(folder / table):
            if name in place:
                facts[place[name]] = int(size), int(time)
    except (OSError, ValueError, OverflowError, csv.Error):
        facts[:] = -1
    return facts


def write_facts(folder: Path, names: Sequence[str], facts: np.ndarray, table: str = TABLE) -> None:
    """Write the seals of the files that are there, whole or not at all; facts as from `look`."""
    rows = zip(names, facts.tolist(), strict=True)
    _write(folder / table, ((name, size, time, "") for name, (size, time) in rows if size >= 0))


def seal_content(file: h5py.File) -> None:
    """Note in an HDF5 file, open for writing, what its datasets and the attributes of its root hold: the last step."""
    file.attrs[DIGEST] = _digest(file)


def check_content(file: h5py.File) -> None:
    """Compare the datasets of an HDF5 file with what was noted; files without such a note pass.

    Raises:
        ValueError: if they differ.
    """
    if DIGEST in file.attrs and file.attrs[DIGEST] != _digest(file):
        raise ValueError("its content is not what was written")


def _digest(file: h5py.File) -> str:
    digest = hashlib.sha256()

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            digest.update(f"{name}{item.shape}{item.dtype}".encode())
            if item.dtype.hasobject:
                digest.update(repr(item[()]).encode())
            elif item.ndim and item.size:
                rows = max(1, BLOCK // (item.dtype.itemsize * item.size // len(item)))
                for low in range(0, len(item), rows):
                    digest.update(np.ascontiguousarray(item[low : low + rows]).tobytes())
            else:
                digest.update(np.ascontiguousarray(item[()]).tobytes())

    for name, value in sorted(file.attrs.items()):
        if name != DIGEST:
            digest.update(name.encode() + (bytes(value) if isinstance(value, np.void) else repr(value).encode()))
    file.visititems(add)
    return digest.hexdigest()
