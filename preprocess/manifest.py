"""corpus.json of a corpus folder: what its tables were made from, and what they looked like.

recordings.csv, classes.csv, truth.csv      written by stage 1
corpus.json                                 options, root and fingerprint of the data; digests of the tables
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from config import PipelineError
from preprocess.whole import whole_file

RECORDINGS, CLASSES, TRUTH, REJECTED = "recordings.csv", "classes.csv", "truth.csv", "rejected.csv"


def read_description(folder: Path) -> dict[str, Any]:
    """Return corpus.json of a corpus folder: the options and the root that it was made from."""
    path = folder / "corpus.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if not isinstance(known, dict):
            raise ValueError("no table of facts")
        return known
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"{path} is damaged: {error}. Remove it and run stage 1 again.") from None


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write corpus.json with the digests of the tables, whole or not at all."""
    found = {name: digest(folder / name) for name in (RECORDINGS, CLASSES, TRUTH) if (folder / name).exists()}
    with whole_file(folder / "corpus.json") as partial:
        partial.write_text(json.dumps(description | {"digests": found}, indent=1, sort_keys=True), encoding="utf-8")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_changed(folder: Path, description: dict[str, Any]) -> list[str]:
    """Return the tables that are not there or not as stage 1 wrote them."""
    known = description.get("digests", {})
    return [name for name in known if not (folder / name).exists() or digest(folder / name) != known[name]]
