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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from config import Config, PipelineError
from config.commandline import add_config_arguments, add_jobs_argument, load_config, log, progress, run
from preprocess.alone import alone
from preprocess.cluster import cluster, spread
from preprocess.recipes import describe, folder_name, open_recipe
from preprocess.recordings import Recording, Reject, read_table, tally, update_rejects
from preprocess.resample import wav_folder, wav_name
from preprocess.seals import TABLE as SEALS
from preprocess.seals import find_changed, is_intact, look, read_seals, seal, write_seals
from preprocess.shards import read_stamp, write_shard

SHARDS_PER_PART = 32  # aimed at, so that the cores share the work
RECORDINGS_PER_SHARD = (4, 512)  # least and most: a file should be worth opening, and a lost one cheap


@dataclass(frozen=True)
class Plan:
    """One shard to be: which recordings it holds."""

    path: Path
    rows: list[tuple[Recording, str]]  # with the WAV file relative to the folder of the WAVs

    @property
    def inputs(self) -> str:
        """Fingerprint of the recordings in the manifest that go into the shard."""
        facts = "\n".join(f"{row.media_id}|{row.class_id}|{wav}|{row.duration}" for row, wav in self.rows)
        return hashlib.sha256(facts.encode()).hexdigest()


def features_folder(config: Config) -> Path:
    """Return the folder of the shards of a configuration."""
    recipe = open_recipe(config.features)
    return config.corpus_dir / "features" / folder_name(recipe, config.features.recipe)


@alone(lambda config: config.corpus_dir)
def load(config: Config, jobs: int) -> None:
    """Write all shards that are not there or not valid any more.

    Raises:
        PipelineError: if a WAV was changed since stage 2, if no recording could be used, or the disk is full.
    """
    recipe = open_recipe(config.features)
    description = describe(recipe, config.features.recipe)
    wavs = wav_folder(config.corpus_dir, recipe.sample_rate)
    recordings = read_table(config.corpus_dir / "recordings.csv", Recording)
    refused = read_table(wavs / "rejected.csv", Reject) if (wavs / "rejected.csv").exists() else []
    unusable = {reject.file for reject in refused}
    check_wavs(wavs, [wav_name(row.file) for row in recordings])
    folder = features_folder(config)
    sealed = read_seals(folder)
    plans = plan_shards(folder, [row for row in recordings if row.file not in unusable])
    todo, rejects = [], list(refused)
    for plan in plans:
        stamp = read_stamp(plan.path)
        intact = is_intact(plan.path, sealed.get(plan.path.name))
        if stamp and intact and stamp[0] == plan.inputs and is_newer(plan, wavs):
            rejects += stamp[1]
        else:
            todo.append(plan)
    calls = [(plan.path, recipe, description, wavs, plan.rows, plan.inputs) for plan in todo]
    work = spread(write_shard, calls, jobs)
    for found in progress(work, len(todo), "shards"):
        rejects += found
    made, seals = {plan.path for plan in todo}, {}
    for plan in plans:
        known = None if plan.path in made else sealed.get(plan.path.name)
        seals[plan.path.name] = replace(seal(plan.path), crc32=known.crc32) if known else seal(plan.path, content=True)
    if seals != sealed:
        write_seals(folder, seals)
    current = {plan.path for plan in plans}
    for path in folder.glob("*.h5*"):
        if path not in current:
            path.unlink()
    update_rejects(config.corpus_dir / "rejected.csv", ["resample", "load"], rejects)
    taken = len(recordings) - len(rejects)
    size = sum(path.stat().st_size for path in current)
    seconds = sum(row.duration for row in recordings)
    log(
        f"{tally(taken, rejects)}; {len(todo)} shards made, {len(plans) - len(todo)} kept, "
        f"{size / 1e6:.1f} MB, {size / 1000 / max(seconds, 1e-9):.1f} kB per second of audio"
    )
    if taken == 0:
        raise PipelineError(f"Not one recording could be used; {config.corpus_dir / 'rejected.csv'} says why.")


def check_wavs(folder: Path, names: Sequence[str]) -> None:
    """Compare the resampled recordings with what stage 2 wrote.

    Raises:
        PipelineError: naming the first that differs.
    """
    changed = find_changed(look(folder, names), read_seals(folder))
    if changed:
        raise PipelineError(
            f"{folder / changed[0]}{f' and {len(changed) - 1} others' if changed[1:] else ''} changed since stage 2. "
            f"Run stage 2 again, or remove {folder / SEALS} to take them as they are."
        )


def plan_shards(folder: Path, recordings: Sequence[Recording]) -> list[Plan]:
    """Distribute recordings, in the order of the manifest, over shards; depends on nothing but them."""
    plans = []
    for part in ("train", "test"):
        rows = [(row, wav_name(row.file)) for row in recordings if row.part == part]
        least, most = RECORDINGS_PER_SHARD
        size = min(most, max(least, -(-len(rows) // SHARDS_PER_PART)))
        count = -(-len(rows) // size)
        plans += [
            Plan(folder / f"{part}-{k:05d}-of-{count:05d}.h5", rows[k * size : (k + 1) * size]) for k in range(count)
        ]
    return plans


def is_newer(plan: Plan, wavs: Path) -> bool:
    """Tell whether a shard is newer than all of its WAV files."""
    there = look(wavs, (wav for _, wav in plan.rows))
    made = plan.path.stat().st_mtime_ns
    return len(there) == len(plan.rows) and all(own.mtime_ns < made for own in there.values())


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
