"""Where results are written, and what they are called."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from config import PREDICTIONS, PipelineError
from preprocess.whole import whole_file
from train.run import Run

MOST_NAMED = 3  # runs or inputs in the name of a file
MOST_BYTES = 100  # of an input's name in those of files and folders
MOST_STEM_BYTES = 180  # of the names of runs and inputs together
CLAIMS = ".inputs.json"  # name of a result -> mark of its inputs


def output_path(
    output: Path | None, targets: Sequence[Run], inputs: Sequence[Path], name: str, ending: str, count: int
) -> Path:
    """Return where a format is written.

    Raises:
        PipelineError: if there is a file in the place of the folder, or a folder in that of a file.
    """
    is_folder = ending.endswith("/")
    if output and count > 1 and output.exists() and not output.is_dir():
        raise PipelineError(f"{output} is a file. For several formats --output is a folder.")
    if output and count == 1:
        if output.exists() and output.is_dir() != is_folder:
            kind, other = ("folder", "file") if is_folder else ("file", "folder")
            raise PipelineError(f"{output} is a {other}. For the format {name} --output is a {kind}.")
        return output
    kind = "" if name == "birdclef2016" else f"-{name}"
    return default_path(output, targets, inputs, kind + ending.removesuffix("/"))


def default_path(output: Path | None, targets: Sequence[Run], inputs: Sequence[Path], rest: str) -> Path:
    """Return where what runs make of inputs is written: <runs>[-<inputs>]<rest> in a folder, or in predict.

    In predict the name has the mark of the inputs, too, where others that are called the same were there first.
    """
    stem = joined([target.folder.name for target in targets])
    if inputs:
        stem += "-" + joined([named(path) for path in inputs])
    stem = _cut(stem, MOST_STEM_BYTES)
    path = (output or PREDICTIONS) / f"{stem}{rest}"
    if output or not inputs:
        return path
    mark, book = mark_of(inputs), PREDICTIONS / CLAIMS
    try:
        claims = dict(json.loads(book.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # there is none yet
        claims = {}
    if path.exists() and claims.get(path.name, mark) != mark:
        path = PREDICTIONS / f"{stem}-{mark}{rest}"
    if claims.get(path.name) != mark:
        PREDICTIONS.mkdir(parents=True, exist_ok=True)
        with whole_file(book) as partial:
            partial.write_text(json.dumps(claims | {path.name: mark}, indent=0), encoding="utf-8")
    return path


def mark_of(inputs: Sequence[Path]) -> str:
    """Return what tells inputs from others of the same name."""
    return hashlib.sha256("\0".join(map(str, places(inputs))).encode(errors="surrogateescape")).hexdigest()[:8]


def places(inputs: Sequence[Path]) -> list[Path]:
    """Return inputs in full, each once and sorted."""
    return sorted({expanded(path) for path in inputs})


def named(path: Path) -> str:
    """Return what an input is called: a folder by its name, a file without its ending; long names are cut."""
    path = expanded(path)
    name = path.stem if path.is_file() else path.name
    return _cut(name, MOST_BYTES) or "root"


def _cut(name: str, most: int) -> str:
    return os.fsencode(name)[:most].decode(errors="ignore")


def expanded(path: Path) -> Path:
    """Return a path in full; raises PipelineError for the home of nobody."""
    try:
        return path.expanduser().resolve()
    except RuntimeError as error:  # ~ of nobody
        raise PipelineError(f"There is no {path}: {error}") from None


def joined(names: Sequence[str]) -> str:
    """Return names with + between them, at most three."""
    return "+".join([*names[:MOST_NAMED], *([str(len(names) - MOST_NAMED)] if len(names) > MOST_NAMED else [])])
