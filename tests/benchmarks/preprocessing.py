"""Stages 2 and 3 against sox alone, their memory, and the size of the store.

python -m tests.benchmarks.preprocessing [--hours 2] [--repeats 3] [--home FOLDER]
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from tests.benchmarks.corpora import (
    CORES,
    PROJECT,
    python,
    ratios,
    run,
    settings,
    show,
    synthesise,
)


def sox_alone(root: Path, destination: Path) -> float:
    """Resample a release with nothing but xargs and sox on all cores; return seconds."""
    shutil.rmtree(destination, ignore_errors=True)
    destination.mkdir(parents=True)
    names = "\0".join(str(path) for path in sorted(root.glob("*/wav/*.wav")))
    script = f'exec sox -V1 "$1" -r 16000 "{destination}/${{1##*/}}"'
    return run(["xargs", "-0", "-n", "1", "-P", str(CORES), "sh", "-c", script, "sh"], input=names, text=True)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--home", type=Path, help="keep the corpus here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = args.home or Path(temporary)
        root = synthesise(home, args.hours)
        seconds = sum(soundfile.info(path).duration for path in root.glob("*/wav/*.wav"))
        options = settings(home, root)
        run(python("preprocess/fetchData.py", *options), cwd=PROJECT)

        def stages_2_and_3() -> float:
            for name in ("wav_16khz", "features"):
                shutil.rmtree(home / "bench" / name, ignore_errors=True)
            spent = run(python("preprocess/resample.py", *options), cwd=PROJECT)
            return spent + run(python("preprocess/loadData.py", *options), cwd=PROJECT)

        ours, sox, ratio = ratios(stages_2_and_3, lambda: sox_alone(root, home / "sox"), args.repeats)
        show(f"stages 2+3 / sox alone, {seconds / 3600:.2f} h on {CORES} cores", f"{ratio:.2f}", "at most 2.0")
        show("stages 2+3, times real time", f"{seconds / ours:.0f}", "")
        show("sox alone, times real time", f"{seconds / sox:.0f}", "")
        size = sum(path.stat().st_size for path in (home / "bench" / "features").rglob("*.h5"))
        show("HDF5, kB per second of audio", f"{size / 1000 / seconds:.2f}", "at most 13")
        no_op = run(python("preprocess/loadData.py", *options), cwd=PROJECT)
        show("stage 3 again with nothing to do, seconds", f"{no_op:.2f}", "")

        long = home / "long"
        (long / "in").mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(0).integers(-3000, 3000, 44_100 * 60, np.int16)
        with soundfile.SoundFile(long / "in" / "45min.wav", "w", 44_100, 1, "PCM_16") as stream:
            for _ in range(45):
                stream.write(noise)
        subprocess.run(
            [PROJECT / "preprocess/sample_wavs_to_16k.sh", long / "in", long / "out"], check=True, capture_output=True
        )
        worker = (
            "import sys; sys.path.insert(0, '.'); from pathlib import Path; from preprocess.recipes import *;"
            "from preprocess.recipes.birdclef2016 import Recipe; from preprocess.shards import write_shard;"
            "from preprocess.recordings import Recording; r = Recipe(); import resource;"
            f"long = Path(r'{long}'); rows = [(Recording('1', 'a'), '45min.wav')];"
            "x = write_shard(long / 'x.h5', r, '', long / 'out', rows, '');"
            "assert not x, x; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)"
        )
        peak = subprocess.run(python("-c", worker), cwd=PROJECT, check=True, capture_output=True, text=True).stdout
        show("peak memory of a worker, 45-minute recording, MB", f"{float(peak):.0f}", "under 600")


if __name__ == "__main__":
    main()
