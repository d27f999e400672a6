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
from pathlib import Path

from config import Config, PipelineError
from config.commandline import add_config_arguments, add_jobs_argument, load_config, log, run
from preprocess.alone import alone
from preprocess.manifest import read_description
from preprocess.recipes import open_recipe
from preprocess.recordings import Recording, read_table
from preprocess.seals import is_intact, read_seals, seal, write_seals

SCRIPT = Path(__file__).with_name("sample_wavs_to_16k.sh")


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
        PipelineError: if sox is missing, the disk is full, or not one recording could be used.
    """
    rate = open_recipe(config.features).sample_rate
    recordings = read_table(config.corpus_dir / "recordings.csv", Recording)
    root = read_description(config.corpus_dir).get("root")
    if not root:
        raise PipelineError(f"{config.corpus_dir / 'corpus.json'} is missing. Run stage 1 first.")
    folder = wav_folder(config.corpus_dir, rate)
    sealed, names = read_seals(folder), [wav_name(row.file) for row in recordings]
    changed = [name for name in names if (folder / name).exists() and not is_intact(folder / name, sealed.get(name))]
    for name in changed:
        (folder / name).unlink()
    if changed:
        log(f"made again, as they are not what was written: {len(changed)} files such as {folder / changed[0]}")
    command = [str(SCRIPT), "--rate", str(rate), "--jobs", str(jobs), "--files-from", "-", "--"]
    files = "".join(f"{row.file}\n" for row in recordings)
    process = subprocess.run([*command, root, str(folder)], input=files, encoding="utf-8", check=False)
    if process.returncode:
        raise PipelineError("The recordings were not resampled; the line above says why.")
    write_seals(folder, {name: seal(folder / name) for name in names if (folder / name).exists()})


def main() -> None:
    """Resample the recordings of the manifest."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add_config_arguments(parser)
    add_jobs_argument(parser)
    args = parser.parse_args()
    resample(load_config(args), args.jobs)


if __name__ == "__main__":
    run(main)
