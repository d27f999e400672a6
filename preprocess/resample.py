#!/usr/bin/env python3
"""Stage 2: resample the recordings of the manifest to the recipe's rate, with sample_wavs_to_16k.sh.

python preprocess/resample.py --config config/birdclef2016.toml --jobs 8
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from config import Config, PipelineError
from config.commandline import add_config_arguments, add_jobs_argument, load_config, log, progress, run
from preprocess.alone import alone
from preprocess.cluster import cluster, has_cluster, spread
from preprocess.manifest import read_description
from preprocess.recipes import open_recipe
from preprocess.recordings import Recording, Reject, read_columns, read_table, write_table
from preprocess.seals import SOURCES, find_changed, is_there, look, read_facts, write_facts

SCRIPT = Path(__file__).with_name("sample_wavs_to_16k.sh")
FILES_AT_ONCE = 64  # of a worker of a cluster


def wav_folder(corpus_dir: Path, sample_rate: int) -> Path:
    """Return the folder of the resampled recordings: wav_16khz for 16,000 Hz."""
    return corpus_dir / f"wav_{sample_rate / 1000:g}khz"


def wav_name(file: str) -> str:
    """Return what the script calls the output of a file: a.wav -> a.wav, a.mp3 -> a.mp3.wav."""
    return file if file.lower().endswith(".wav") else file + ".wav"


@alone(lambda config: config.corpus_dir)
def resample(config: Config, jobs: int) -> None:
    """Resample every recording of the manifest that is not resampled yet, or whose WAV is not what was written.

    Raises:
        PipelineError: if the recordings or sox are missing, the disk is full, or not one recording could be used.
    """
    rate = open_recipe(config.features).sample_rate
    files = list(dict.fromkeys(read_columns(config.corpus_dir / "recordings.csv", Recording, "file")[0]))
    root = read_description(config.corpus_dir).get("root")
    if not root:
        raise PipelineError(f"{config.corpus_dir / 'corpus.json'} is missing. Run stage 1 first.")
    if not Path(root).is_dir():
        raise PipelineError(f"There is no folder {root} with the recordings, such as on a disk that is not mounted.")
    folder, names = wav_folder(config.corpus_dir, rate), [wav_name(file) for file in files]
    sealed, made, sources = read_facts(folder, names), look(folder, names), look(Path(root), files)
    before = read_facts(folder, files, SOURCES)
    for why, changed in (
        ("they are not what was written", find_changed(made, sealed)),
        ("their recordings are other ones", find_changed(sources, before)),  # with an older time too
    ):
        again = changed[is_there(sources[changed]) & is_there(made[changed])]  # others could not be made again
        for i in again:
            (folder / names[i]).unlink()
            made[i] = -1
        if len(again):
            log(f"made again, as {why}: {len(again)} files such as {folder / names[again[0]]}")
    newer = is_there(made) & is_there(sources) & (made[:, 1] > sources[:, 1])  # as the script sees it
    missing = np.flatnonzero(~newer)
    todo = [files[i] for i in missing]
    anew = missing[is_there(sources[missing])]
    if is_there(sealed[anew]).any():  # so that a kill leaves no facts of files that are made anew
        sealed[anew] = before[anew] = -1
        write_facts(folder, names, sealed)
        write_facts(folder, files, before, SOURCES)
    if not todo:
        write_table(folder / "rejected.csv", Reject, [])
        log(f"0 files resampled to {rate} Hz, {len(names)} kept, 0 rejected")
    elif has_cluster():
        spread_script(root, folder, rate, todo)
    else:
        run_script(root, folder, rate, files, jobs)
    made[missing] = look(folder, [names[i] for i in missing])
    if not is_there(made).any():
        raise PipelineError(f"not one file of {root} could be used")
    if (made != sealed).any():
        write_facts(folder, names, made)
    made_of = np.where(is_there(made)[:, None] & is_there(sources)[:, None], sources, before)
    if (made_of != before).any():
        write_facts(folder, files, made_of, SOURCES)


def run_script(root: str, folder: Path, rate: int, files: Sequence[str], jobs: int, *more: str) -> None:
    """Resample some files of a folder into another.

    Raises:
        PipelineError: if the script fails; it has said why.
    """
    options = ["--rate", str(rate), "--jobs", str(jobs), "--files-from", "-", *more]
    command = [str(SCRIPT), *options, "--", root, str(folder)]
    listed = "".join(f"{file}\n" for file in files)
    process = subprocess.run(command, input=listed, encoding="utf-8", check=False, close_fds=False)  # see `alone_in`
    if process.returncode:
        raise PipelineError("The recordings were not resampled; the line above says why.")


def spread_script(root: str, folder: Path, rate: int, files: Sequence[str]) -> None:
    """Resample the files in parts on the workers of a cluster, and list what all of them rejected.

    Raises:
        PipelineError: if a part fails.
    """
    parts = [files[low : low + FILES_AT_ONCE] for low in range(0, len(files), FILES_AT_ONCE)]
    work = spread(resample_part, [(root, folder, rate, part) for part in parts], 1)
    rejects = [reject for found in progress(work, len(parts), f"x {FILES_AT_ONCE} files") for reject in found]
    write_table(folder / "rejected.csv", Reject, sorted(rejects, key=lambda row: row.file))
    log(f"{len(files) - len(rejects)} files resampled to {rate} Hz, {len(rejects)} rejected")


def resample_part(root: str, folder: Path, rate: int, files: Sequence[str]) -> list[Reject]:
    """Resample some files, on one core, and return what was rejected."""
    with tempfile.TemporaryDirectory() as home:
        rejected = Path(home) / "rejected.csv"
        run_script(root, folder, rate, files, 1, "--rejected", str(rejected))
        return read_table(rejected, Reject)


def main() -> None:
    """Resample the recordings of the manifest."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add_config_arguments(parser)
    add_jobs_argument(parser, scheduler=True)
    args = parser.parse_args()
    with cluster(args.scheduler):
        resample(load_config(args), args.jobs)


if __name__ == "__main__":
    run(main)
