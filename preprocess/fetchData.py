#!/usr/bin/env python3
"""Stage 1: download, find or synthesise a corpus, verify it, and write the manifest.

python preprocess/fetchData.py                                            # the demo corpus
python preprocess/fetchData.py --config config/birdclef2016.toml --set data.root=/data/BirdCLEF2016

Writes birdclef_data/<corpus>/recordings.csv, classes.csv and rejected.csv.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import csv
import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from config import Config, ConfigError, PipelineError
from config.commandline import add_config_arguments, add_jobs_argument, load_config, log, progress, run
from preprocess import audio
from preprocess.alone import alone
from preprocess.manifest import (
    CLASSES,
    RECORDINGS,
    REJECTED,
    TRUTH,
    digest,
    find_changed,
    read_description,
    write_description,
)
from preprocess.metadata import TRUTH_COLUMNS, fold, read_truth
from preprocess.recordings import (
    Recording,
    Reject,
    Species,
    read_table,
    tally,
    update_rejects,
    write_table,
)
from preprocess.resample import wav_name
from preprocess.selection import find_conflicts, limit_recordings, rules, select
from preprocess.sources import Corpus, Source, expanded, open_source
from preprocess.whole import whole_file


@alone(lambda config: config.corpus_dir)
def fetch(config: Config, jobs: int) -> None:
    """Make or find the corpus of a configuration and write its manifest, unless nothing changed since.

    Raises:
        ConfigError: if the corpus would be made among its own recordings.
        PipelineError: if the corpus cannot be had or holds no usable recording, or if the folder of the
            corpus was made from other data.
    """
    folder = config.corpus_dir
    source = open_source(config.data)
    description = {"source": config.data.source, "limit": config.data.limit, **rules(config.data.select)}
    description |= config.data.options
    known = check_description(folder, description, source)
    root = source.fetch(folder / "raw", config.data.limit, jobs)
    roots = source.roots(root) if hasattr(source, "roots") else [root]
    check_apart(folder, roots)
    others = source.others() if hasattr(source, "others") else []
    fingerprint = "".join([*map(fingerprint_files, roots), *map(digest, others)])
    same_data, changed = known.get("fingerprint") == fingerprint, find_changed(folder, known)
    listed = read_rejects(folder)
    if "rejected" in known and mark(listed) != known["rejected"]:
        changed.append(REJECTED)
    if same_data and changed:
        log(f"made again, as they are not what was written: {', '.join(changed)}")
    elif same_data and "recordings" in known and (folder / RECORDINGS).exists():
        log(f"nothing changed: {tally(known['recordings'], listed)}")
        return
    found = source.read(root)
    if root.is_file():
        root = root.parent
        roots = [root]
    selected = select(found, config.data.select, root)
    corpus = limit_recordings(selected, config.data.limit)
    left_out = {row.media_id for row in found.recordings} - {row.media_id for row in corpus.recordings}
    recordings, rejects = verify(root, corpus, jobs, roots)
    rejects += corpus.rejects
    warn_of_labels(root, corpus.species, [] if config.data.select.drop_copies else recordings)
    write_table(folder / CLASSES, Species, sorted(corpus.species, key=lambda row: row.class_id))
    write_table(folder / RECORDINGS, Recording, recordings)
    update_rejects(folder / REJECTED, ["fetch", "resample", "load"], rejects)
    write_truth(corpus.truth, recordings, left_out, folder / TRUTH)
    parts = Counter(row.part for row in recordings)
    if not parts["train"] and (not recordings or any(row.part == "train" for row in found.recordings)):
        what = "usable recording for training" if recordings else "usable recording"
        raise PipelineError(f"{root} holds no {what}: {tally(len(recordings), rejects)}. See {folder / REJECTED}.")
    made_from = {"root": str(root), "fingerprint": fingerprint, "options": description}
    counted = {"recordings": len(recordings), "rejected": mark(rejects)}
    write_description(folder, description | made_from | counted)
    species = {row.class_id for row in recordings if row.class_id}
    hours = sum(row.duration for row in recordings) / 3600
    uses = f"{parts['train']} for training, {parts['test']} for the test, {len(species)} species, "
    log(f"{tally(len(recordings), rejects)}; {uses if species else ''}{hours:.2f} h")


def check_apart(folder: Path, roots: Iterable[Path]) -> None:
    """Make sure that what is made of a corpus is not taken for recordings of it.

    Raises:
        ConfigError: if the folder of the corpus lies in one of the roots, other than those in its own raw/.
    """
    home = folder.resolve()
    for root in (place.resolve() for place in roots):
        if home.is_relative_to(root) and not root.is_relative_to(home / "raw"):
            raise ConfigError(
                f"Invalid value for data.folder. The corpus would be made in {home}. Expected: a folder outside of its "
                f"recordings in {root}, or recordings in a folder beside it."
            )


def verify(root: Path, corpus: Corpus, jobs: int, roots: Sequence[Path]) -> tuple[list[Recording], list[Reject]]:
    """Check every audio header and return the good recordings in the order of the manifest, and the rest.

    Args:
        root: what the files of the recordings are relative to.
        corpus: as found.
        jobs: threads.
        roots: the folders that a file must lie in, links followed.
    """
    homes = [folder.resolve() for folder in roots]
    rejects, seen, unique = [], set(), []
    outputs: dict[str, Recording] = {}  # of stage 2, and what each is made of
    for row in sorted(corpus.recordings, key=lambda row: (row.part != "train", row.file)):
        if row.media_id in seen:
            rejects.append(Reject(row.file, "fetch", "duplicate_media_id", f"MediaId {row.media_id} came before"))
            continue
        first = outputs.setdefault(wav_name(row.file), row)
        if first.file != row.file:
            detail = f"resampled it would have the same name as {first.file}; give it another one"
            rejects.append(Reject(row.file, "fetch", "duplicate_name", detail))
            continue
        if first is not row:
            reason = "duplicate_recording" if first.class_id == row.class_id else "conflicting_label"
            detail = f"MediaId {row.media_id} is in the file of MediaId {first.media_id}"
            rejects.append(Reject(row.file, "fetch", reason, detail))
            continue
        seen.add(row.media_id)
        unique.append(row)

    def check(row: Recording) -> Recording | Reject:
        try:
            path = (root / row.file).resolve()
            if not any(path.is_relative_to(home) for home in homes):
                return Reject(row.file, "fetch", "outside_root", "the file lies outside the corpus")
            duration, rate = audio.probe(path)
        except audio.AudioError as error:
            return Reject(row.file, "fetch", error.reason, error.detail)
        except (OSError, RuntimeError) as error:  # the second: before Python 3.13, of a link to itself
            return Reject(row.file, "fetch", "unreadable", getattr(error, "strerror", None) or "a link to itself")
        return dataclasses.replace(
            row, duration=round(duration, 6) or row.duration, sample_rate=rate or row.sample_rate
        )

    with ThreadPoolExecutor(jobs) as pool:
        checked = list(progress(pool.map(check, unique), len(unique), "recordings"))
    return [row for row in checked if isinstance(row, Recording)], rejects + [
        r for r in checked if isinstance(r, Reject)
    ]


def warn_of_labels(root: Path, species: Iterable[Species], recordings: Iterable[Recording]) -> None:
    """Say where class ids differ in upper and lower case only, and where one sound has several labels."""
    called: dict[str, list[str]] = {}
    for kind in species:
        called.setdefault(fold(kind.class_id), []).append(kind.class_id)
    for names in called.values():
        if len(names) > 1:
            log(f"warning: {' and '.join(sorted(names))} are taken for different species; they differ in case only")
    conflicts = find_conflicts(root, recordings)
    if conflicts:
        log(
            f"warning: {len(conflicts)} recordings have another label than one with the same bytes, such as "
            f"{conflicts[0].file} ({conflicts[0].detail}); --set data.select.drop_copies=true keeps one of each"
        )


def fingerprint_files(root: Path) -> str:
    """Return a hash over names, sizes and times of a file, or of all files under a folder."""
    digest = hashlib.sha256()
    if root.is_file():
        facts = root.stat()
        return hashlib.sha256(
            f"{root}|{facts.st_size}|{facts.st_mtime_ns}".encode(errors="surrogateescape")
        ).hexdigest()
    for top, folders, files in os.walk(root):
        folders.sort()
        digest.update(f"{os.path.relpath(top, root)}\n".encode(errors="surrogateescape"))
        with os.scandir(top) as entries:
            facts = {entry.name: found for entry in entries if (found := _facts(entry))}
        for name in sorted(files):
            if name in facts:
                digest.update(
                    f"{name}|{facts[name].st_size}|{facts[name].st_mtime_ns}\n".encode(errors="surrogateescape")
                )
    return digest.hexdigest()


def _facts(entry: os.DirEntry) -> os.stat_result | None:
    try:
        return entry.stat() if entry.is_file() else None
    except OSError:  # a link to itself
        return None


def check_description(folder: Path, description: dict[str, Any], source: Source) -> dict[str, Any]:
    """Return what corpus.json says, or nothing where there is none; an option that is not given has its default.

    Raises:
        PipelineError: if the folder was made from another source or with other options.
    """
    known = read_description(folder)
    defaults = {own.name: own.default for own in dataclasses.fields(source)}
    old, new = known.get("options", {}), description

    def meant(table: dict[str, Any], key: str) -> Any:
        return settled(table.get(key, defaults.get(key)), key)

    keys = sorted(key for key in old.keys() | new.keys() if meant(old, key) != meant(new, key))
    if known and keys:
        changes = ", ".join(f"data.{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in keys)
        raise PipelineError(
            f"{folder} was made from other data ({changes}). "
            "Keep both with --set data.corpus=NAME, or remove that folder."
        )
    return known


def settled(value: Any, key: str = "") -> Any:
    """Return an option as it is compared: folders by where they are, and without what changes no recording."""
    if key == "keep_archives":
        return None
    if key == "root" and isinstance(value, str) and value:
        return str(expanded(value).resolve())
    if isinstance(value, dict):
        return {name: settled(item, name) for name, item in value.items()}
    return [settled(item) for item in value] if isinstance(value, list | tuple) else value


def read_rejects(folder: Path) -> list[Reject]:
    """Return the rows that this stage wrote to rejected.csv; a damaged file is removed, and written anew later."""
    try:
        return [row for row in read_table(folder / REJECTED, Reject) if row.stage == "fetch"]
    except PipelineError:
        (folder / REJECTED).unlink(missing_ok=True)
        return []


def mark(rejects: Iterable[Reject]) -> str:
    """Return a hash of what was rejected, in any order."""
    rows = sorted(repr(dataclasses.astuple(row)) for row in rejects)
    return hashlib.sha256("\n".join(rows).encode(errors="surrogateescape")).hexdigest()


def write_truth(
    source: Path | None, recordings: Sequence[Recording], left_out: Collection[str], destination: Path
) -> None:
    """Put the ground truth of the test part beside the manifest: a table that is there, or the labels of its rows.

    Recordings that data.select or data.limit left out are not in it. Damaged ones are in that of a table, and count as
    predicted wrongly; those of rows were left out with their labels.
    """
    labelled = [row for row in recordings if row.part == "test" and row.class_id]
    if source is None and not labelled:
        destination.unlink(missing_ok=True)
        return
    with whole_file(destination) as partial:
        if source is None:
            rows = [(row.media_id, row.class_id, row.background) for row in labelled]
        else:
            truth = read_truth(source).items()
            rows = [(name, main, ",".join(others)) for name, (main, others) in truth if name not in left_out]
        with partial.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows([TRUTH_COLUMNS, *rows])


def main() -> None:
    """Fetch a corpus and write its manifest."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add_config_arguments(parser)
    add_jobs_argument(parser)
    args = parser.parse_args()
    fetch(load_config(args), args.jobs)


if __name__ == "__main__":
    run(main)
