#!/usr/bin/env python3
"""Stage 3: spectrograms and masks of all resampled recordings into HDF5 shards, one worker per shard.

python preprocess/loadData.py --config config/birdclef2016.toml --jobs 8

Writes birdclef_data/<corpus>/features/<recipe>-<hash>/{train,test}-00000-of-00012.h5. Shards whose inputs and
recipe are unchanged are kept; the number of workers changes nothing in the files.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from config import Config, PipelineError
from config.commandline import add_config_arguments, add_jobs_argument, load_config, log, progress, run
from preprocess.alone import alone
from preprocess.cluster import cluster, spread
from preprocess.recipes import describe, folder_name, open_recipe
from preprocess.recordings import Recording, Reject, read_columns, read_table, tally, update_rejects
from preprocess.resample import wav_folder, wav_name
from preprocess.seals import SECOND, find_changed, is_intact, is_there, look, read_facts, read_seals, seal, write_seals
from preprocess.seals import TABLE as SEALS
from preprocess.shards import read_stamp, write_shard

SHARDS_PER_PART = 32  # aimed at, so that the cores share the work
RECORDINGS_PER_SHARD = (4, 512)  # least and most: a file should be worth opening, and a lost one cheap


@dataclass(frozen=True)
class Manifest:
    """What the shards need of the recordings, column by column."""

    media_id: list[str]
    file: list[str]
    class_id: list[str]
    part: list[str]
    duration: list[float]

    def rows(self, places: np.ndarray) -> list[tuple[Recording, str]]:
        """Return some recordings, each with its WAV file relative to the folder of the WAVs."""
        return [
            (
                Recording(self.media_id[i], self.file[i], self.class_id[i], duration=self.duration[i]),
                wav_name(self.file[i]),
            )
            for i in places
        ]

    def fingerprint(self, places: np.ndarray) -> str:
        """Return what identifies those recordings as the input of a shard."""
        facts = "\n".join(
            f"{self.media_id[i]}|{self.class_id[i]}|{wav_name(self.file[i])}|{self.duration[i]}" for i in places
        )
        return hashlib.sha256(facts.encode()).hexdigest()


@dataclass(frozen=True)
class Plan:
    """One shard to be: which recordings it holds."""

    path: Path
    places: np.ndarray  # in the manifest, int [recordings]
    inputs: str  # their fingerprint


def features_folder(config: Config) -> Path:
    """Return the folder of the shards of a configuration."""
    recipe = open_recipe(config.features)
    return config.corpus_dir / "features" / folder_name(recipe, config.features.recipe)


@alone(lambda config: config.corpus_dir)
def load(config: Config, jobs: int) -> None:
    """Write all shards that are not there or not valid any more.

    Raises:
        PipelineError: if a WAV was changed since stage 2, if all are gone and there is something to make of them, if no
            recording could be used, or the disk is full.
    """
    recipe = open_recipe(config.features)
    description = describe(recipe, config.features.recipe)
    wavs = wav_folder(config.corpus_dir, recipe.sample_rate)
    manifest = Manifest(
        *read_columns(config.corpus_dir / "recordings.csv", Recording, *(own.name for own in fields(Manifest)))
    )
    refused = read_refused(config, wavs)
    unusable = {reject.file for reject in refused}
    names = [wav_name(file) for file in manifest.file]
    wav_facts = check_wavs(wavs, names)
    folder = features_folder(config)
    sealed = read_seals(folder)
    plans = plan_shards(folder, manifest, [file not in unusable for file in manifest.file])
    removed = not is_there(wav_facts).any()  # such as to save space
    if removed:
        wav_facts = read_facts(wavs, names)  # what is known of them
    todo, rejects = [], list(refused)
    for plan in plans:
        stamp = read_stamp(plan.path)
        intact = is_intact(plan.path, sealed.get(plan.path.name)) and not has_come_back(stamp, wavs)
        if stamp and intact and stamp[0] == plan.inputs and is_newer(plan.path, wav_facts[plan.places], removed):
            rejects += stamp[1]
        else:
            todo.append(plan)
    if todo and removed:
        raise PipelineError(f"The resampled recordings are not in {wavs}. Run stage 2 first.")
    for path in (*folder.glob("*.part"), *(plan.path for plan in todo)):  # what a kill left, and what is not valid
        path.unlink(missing_ok=True)
    kept = sealed.keys() - {plan.path.name for plan in todo}
    if len(kept) < len(sealed):  # so that a kill leaves no seals of shards that are made anew
        sealed = {name: sealed[name] for name in kept}
        write_seals(folder, sealed)
    calls = ((plan.path, recipe, description, wavs, manifest.rows(plan.places), plan.inputs) for plan in todo)
    work = spread(write_shard, calls, min(jobs, max(1, len(todo))))
    for found in progress(work, len(todo), "shards"):
        rejects += found
    for plan in todo:
        newest = int(wav_facts[plan.places, 1].max(initial=0))
        if plan.path.stat().st_mtime_ns <= newest:  # recordings of a clock that was ahead
            os.utime(plan.path, ns=(newest + SECOND, newest + SECOND))
    made, seals = {plan.path for plan in todo}, {}
    for plan in plans:
        known = None if plan.path in made else sealed.get(plan.path.name)
        seals[plan.path.name] = seal(plan.path)._replace(crc32=known.crc32) if known else seal(plan.path, content=True)
    if seals != sealed:
        write_seals(folder, seals)
    current = {plan.path for plan in plans}
    for path in folder.glob("*.h5*"):
        if path not in current:
            path.unlink()
    update_rejects(config.corpus_dir / "rejected.csv", ["resample", "load"], rejects)
    taken = len(manifest.file) - len(rejects)
    size = sum(path.stat().st_size for path in current)
    seconds = sum(manifest.duration)  # 0 where no header says it
    log(
        f"{tally(taken, rejects)}; {len(todo)} shards made, {len(plans) - len(todo)} kept, "
        f"{size / 1e6:.1f} MB" + (f", {size / 1000 / seconds:.1f} kB per second of audio" if seconds else "")
    )
    if taken == 0:
        raise PipelineError(f"Not one recording could be used; {config.corpus_dir / 'rejected.csv'} says why.")


def check_wavs(folder: Path, names: Sequence[str]) -> np.ndarray:
    """Compare the resampled recordings with what stage 2 wrote, and return their facts as `look` does.

    Raises:
        PipelineError: naming the first that differs.
    """
    there = look(folder, names)
    changed = find_changed(there, read_facts(folder, names))
    if len(changed):
        others = f" and {len(changed) - 1} others" if len(changed) > 1 else ""
        raise PipelineError(
            f"{folder / names[changed[0]]}{others} changed since stage 2. "
            f"Run stage 2 again, or remove {folder / SEALS} to take them as they are."
        )
    return there


def plan_shards(folder: Path, manifest: Manifest, usable: Sequence[bool]) -> list[Plan]:
    """Distribute recordings, in the order of the manifest, over shards; depends on nothing but them."""
    plans, parts = [], np.array(manifest.part)
    for part in ("train", "test"):
        places = np.flatnonzero((parts == part) & np.asarray(usable, bool))
        least, most = RECORDINGS_PER_SHARD
        size = min(most, max(least, -(-len(places) // SHARDS_PER_PART)))
        count = -(-len(places) // size)
        for k in range(count):
            own = places[k * size : (k + 1) * size]
            plans.append(Plan(folder / f"{part}-{k:05d}-of-{count:05d}.h5", own, manifest.fingerprint(own)))
    return plans


def is_newer(shard: Path, wavs: np.ndarray, removed: bool) -> bool:
    """Tell whether a shard is newer than its WAV files, by facts as from `look`; removed ones may be unknown."""
    return bool(np.where(is_there(wavs), wavs[:, 1] < shard.stat().st_mtime_ns, removed).all())


def has_come_back(stamp: tuple[str, list[Reject]] | None, wavs: Path) -> bool:
    """Tell whether a WAV is there that a shard with this stamp was made without; its time may be of before."""
    rejects = stamp[1] if stamp else []
    return any((wavs / wav_name(reject.file)).is_file() for reject in rejects if reject.reason == "no_wav")


def read_refused(config: Config, wavs: Path) -> list[Reject]:
    """Return what stage 2 could not use, also where the resampled recordings were removed with its list of them."""
    if (wavs / "rejected.csv").exists():
        return read_table(wavs / "rejected.csv", Reject)
    known = config.corpus_dir / "rejected.csv"
    return [row for row in read_table(known, Reject) if row.stage == "resample"] if known.exists() else []


def main() -> None:
    """Write the spectrograms of a corpus into HDF5."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add_config_arguments(parser)
    add_jobs_argument(parser, scheduler=True)
    args = parser.parse_args()
    with cluster(args.scheduler):
        load(load_config(args), args.jobs)


if __name__ == "__main__":
    run(main)
