"""Reads mutations of one kind, each in turn, under limits; started by test_mutated_inputs.py.

python -m tests.faults.read_mutations KIND FOLDER FIRST COUNT SECONDS

Prints a line of JSON per mutation before it is read and after; where the process dies, the last line names the seed.
The first is no mutation and must be accepted. The end is accepted, or rejected by one of the errors that users are
shown. Writing outside the folder ends the process.
"""

import io
import json
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from config import PipelineError
from tests.faults.mutations import KINDS, VALID, make

MEMORY = 2 << 30  # bytes of address space above what is taken at the start
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class TooSlow(BaseException):
    """A reader hangs."""


def readers() -> dict:
    """Return the function that reads each kind, as the project does."""
    import config as configuration
    from predict.evaluateDetections import read_table_of_detections
    from predict.runfile import read_run_file
    from predict.service.listener import read_names
    from predict.submission import read_submission
    from predict.thresholds import read_thresholds
    from preprocess import audio
    from preprocess.annotations import read_annotations
    from preprocess.download import unpack, unpack_zip
    from preprocess.metadata import read_truth
    from preprocess.recipes.birdclef2016 import Recipe
    from preprocess.recordings import Recording, Species, read_table
    from preprocess.seals import check_content
    from preprocess.segments import SegmentReader, list_segments
    from preprocess.shards import open_shard, write_shard
    from preprocess.sources.birdclef import read_release
    from preprocess.sources.table import Source as Table

    species = [Species("aaaaaa", "Genus alpha"), Species("bbbbbb", "Genus beta")]

    def stored(path: Path) -> object:
        row = Recording("1", path.name, "aaaaaa", "train", duration=0.0, sample_rate=16_000)
        rejects = write_shard(path.parent / "made.h5", Recipe(), "{}", path.parent, [(row, path.name)], "x")
        assert all(reject.reason and reject.detail for reject in rejects)
        return rejects

    def shard(path: Path) -> object:
        opened = open_shard(path)
        reader = SegmentReader([opened], 100, True, True)
        owners, starts = list_segments(reader, range(len(reader)))
        return reader.read(owners, starts).sum() if len(owners) else 0

    def hdf5(path: Path) -> object:
        import h5py

        try:
            with h5py.File(path, "r") as file:
                check_content(file)
        except (OSError, ValueError, KeyError, RuntimeError) as error:  # as Run.load_best takes them
            raise PipelineError(str(error)) from None
        return None

    def release(path: Path) -> object:
        root = path.parent / "release"
        for part in ("TrainingSet", "test"):
            for kind in ("wav", "xml"):
                (root / part / kind).mkdir(parents=True, exist_ok=True)
        (root / "TrainingSet/wav/RN1.wav").touch()
        shutil.copy(path, root / "TrainingSet/xml/RN1.xml")
        corpus = read_release(root)
        assert len(corpus.recordings) + len(corpus.rejects) >= 1  # nothing is lost without a word
        assert all(reject.reason and reject.detail for reject in corpus.rejects)
        for row in corpus.recordings:
            assert (root / row.file).resolve().is_relative_to(root.resolve())
        return corpus

    def table(path: Path) -> object:
        shutil.copy(path, path.parent / "table.csv")
        corpus = Table(root=str(path.parent), table="table.csv").read(path.parent)
        assert all(reject.reason for reject in corpus.rejects)
        return corpus

    def run_thresholds(path: Path) -> object:
        shutil.copy(path, path.parent / "thresholds.json")
        return read_thresholds(SimpleNamespace(folder=path.parent, read_species=lambda: species))

    def archive(unpacker):
        def read(path: Path) -> object:
            inside = path.parent / "inside"
            shutil.rmtree(inside, ignore_errors=True)
            inside.mkdir()
            unpacker(path, inside)
            return None

        return read

    sounds = dict.fromkeys(("wav", "float_wav", "flac", "ogg", "mp3"), audio.probe)
    return sounds | {
        "stored_wav": stored,
        "shard": shard,
        "weights": hdf5,
        "tar": archive(unpack),
        "zip": archive(unpack_zip),
        "xml": release,
        "table": table,
        "manifest": lambda path: read_table(path, Recording),
        "classes": lambda path: read_table(path, Species),
        "truth": read_truth,
        "run_file": read_run_file,
        "detections": read_table_of_detections,
        "submission": read_submission,
        "soundscapes": read_submission,
        "annotations": read_annotations,
        "raven": lambda path: read_annotations(path.parent / "raven"),
        "names": lambda path: read_names(path, species),
        "thresholds": run_thresholds,
        "toml": lambda path: configuration.load(path),
    }


def guard(home: Path, tell: Callable[..., None]) -> None:
    """End the process when a file outside a folder is opened for writing, removed or renamed."""
    home = home.resolve()

    def outside(path: object, folder: int = -1) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        base = Path(f"/proc/self/fd/{folder}").resolve() if folder >= 0 else Path.cwd()
        found = (base / os.fsdecode(path)).resolve()
        return not (found.is_relative_to(home) or found == Path(os.devnull) or "__pycache__" in found.parts)

    def watch(event: str, arguments: tuple) -> None:
        if event == "open":
            path, mode, flags = arguments
            writing = any(letter in (mode or "") for letter in "wax+") or bool((flags or 0) & WRITING)
            wrong = writing and outside(path)
        else:
            folders = {"os.remove": 1, "os.rmdir": 1, "os.rename": 2, "os.mkdir": 2, "os.symlink": 2}
            wrong = event in folders and outside(arguments[event in ("os.symlink",)], arguments[folders[event]])
        if wrong:
            tell(end=f"failed: {event} outside of the folder: {arguments}")
            os._exit(3)

    sys.addaudithook(watch)


def main() -> None:
    kind, home, first, count, seconds = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6])
    read = readers()[kind]
    sys.stdout.reconfigure(errors="backslashreplace")
    said, sys.stdout = sys.stdout, io.StringIO()  # what the readers log is of no interest

    def tell(**facts: object) -> None:
        print(json.dumps(facts), file=said, flush=True)

    def alarm(*_: object) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, alarm)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    guard(home, tell)
    np.seterr(all="ignore")
    for seed in (VALID, *range(first, first + count)):
        folder = home / "one"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path = make(kind, folder, seed)
        if kind == "raven":
            (folder / "raven").mkdir()
            path = path.rename(folder / "raven" / path.name).parent
            path = folder / "hostile.txt"
        tell(seed=seed, end="")
        signal.alarm(seconds)
        try:
            read(path)
            end = "accepted"
        except PipelineError as error:
            end = f"rejected: {str(error)[:200]}"
            if "\n" in str(error).strip() or not str(error).strip():
                end = f"failed: not one line: {error!r}"
        except TooSlow:
            end = f"failed: more than {seconds} s"
        except Exception:
            end = f"failed: {traceback.format_exc()[-1500:]}"
        finally:
            signal.alarm(0)
        tell(seed=seed, end=end)


if __name__ == "__main__":
    assert sys.argv[1] in KINDS
    main()
