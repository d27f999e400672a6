"""Kinds of corpora, one module each.

A source module holds one frozen dataclass named ``Source``. Its fields are the source's options in ``[data]``.
It has two methods:

    fetch(raw, limit, jobs) -> Path     # download or make the corpus under raw, or find it; returns its root
    read(root) -> Corpus                # its recordings and classes, and what had to be rejected

A source whose root holds links to other places has a third, ``roots(root) -> list[Path]``: the folders that the
recordings really lie in; one that reads files beside its root has ``others() -> list[Path]``.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from config import ConfigError, Data, PipelineError, open_part
from preprocess import audio
from preprocess.recordings import Recording, Reject, Species, shown


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


def find_audio(place: Path, root: Path) -> tuple[list[Path], list[Reject]]:
    """Return the audio files below a folder in order, and the folders that were not looked into.

    Args:
        place: the folder.
        root: what the names of the rejects are relative to.
    """
    files, rejects = [], []

    def name_of(folder: Path) -> str:
        return shown(folder.relative_to(root).as_posix())

    def unreadable(error: OSError) -> None:
        rejects.append(Reject(name_of(Path(error.filename)), "fetch", "unreadable", error.strerror or str(error)))

    for top, folders, names in os.walk(place, onerror=unreadable):
        folders.sort()
        for name in folders:
            if (Path(top) / name).is_symlink():
                detail = "a link to a folder is not followed; name the folder itself"
                rejects.append(Reject(name_of(Path(top) / name), "fetch", "linked_folder", detail))
        files += [path for path in (Path(top) / name for name in sorted(names)) if audio.is_audio(path)]
    return files, rejects


def find_root(root: str, what: str) -> Path:
    """Return the folder that the option data.root names.

    Raises:
        PipelineError: if there is no such folder; `what` says what it should hold.
    """
    path = expanded(root).resolve()
    if not root or not path.is_dir():
        raise PipelineError(f"data.root is no folder: {root!r}. Expected: {what}.")
    return path


def expanded(text: str) -> Path:
    """Return a path with the home folder for ~, or as it is where there is no such home."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def open_pattern(option: str, text: str, groups: int = 1) -> re.Pattern | None:
    """Return the regular expression that an option of [data] gives, with so many groups; None if it is empty.

    Raises:
        ConfigError: if it is none.
    """
    if not text:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ConfigError(f"Invalid value for data.{option}. Received: {text!r}: {error}.") from None
    if pattern.groups < groups:
        raise ConfigError(f"Invalid value for data.{option}. Received: {text!r}. Expected: a (group).")
    return pattern
