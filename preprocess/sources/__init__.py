"""Kinds of corpora, one module each.

A source module holds one frozen dataclass named ``Source``. Its fields are the source's options in ``[data]``.
It has two methods:

    fetch(raw, limit, jobs) -> Path     # download or make the corpus under raw, or find it; returns its root
    read(root) -> Corpus                # its recordings and classes, and what had to be rejected

A source whose root holds links to other places has a third, ``roots(root) -> list[Path]``: the folders that the
recordings really lie in.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from config import Data, PipelineError, open_part
from preprocess.recordings import Recording, Reject, Species


@dataclass(frozen=True)
class Corpus:
    """What a source found: rows in any order, without gaps in their meaning."""

    recordings: list[Recording]
    species: list[Species]
    rejects: list[Reject] = field(default_factory=list)
    truth: Path | None = None  # CSV of MediaId, ClassId, BackgroundClassIds for the test part


class Source(Protocol):
    """The interface of a source."""

    def fetch(self, raw: Path, limit: int, jobs: int) -> Path:
        """Return the root folder of the corpus after making sure that it is there."""

    def read(self, root: Path) -> Corpus:
        """Return the recordings under root."""


def open_source(data: Data) -> Source:
    """Return the source that the section [data] chooses, with its options.

    Raises:
        ConfigError: for an unknown source or option.
    """
    source, options = open_part(__name__, "Source", "data.source", data.source, data.options)
    return source(**options)


def find_root(root: str, what: str) -> Path:
    """Return the folder that the option data.root names.

    Raises:
        PipelineError: if there is no such folder; `what` says what it should hold.
    """
    path = Path(root).expanduser().resolve()
    if not root or not path.is_dir():
        raise PipelineError(f"data.root is no folder: {root!r}. Expected: {what}.")
    return path
