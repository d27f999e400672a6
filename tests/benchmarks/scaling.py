"""Time and memory of the bookkeeping as a corpus grows: recordings of a tenth of a second, all else as it is.

python -m tests.benchmarks.scaling [--sizes 100 1000 10000 100000]

Stage 2 is given what sox would make, so that only its bookkeeping is measured.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import soundfile

from tests.benchmarks.corpora import python, show

STAGES = {"1": "fetchData.py", "2": "resample.py", "3": "loadData.py"}
PAUSE = 0.05  # s between looks at the memory


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds, and the most memory in MB of it with its children."""
    started, most = time.perf_counter(), 0
    process = psutil.Popen(command, stdout=-3)
    while process.poll() is None:
        try:
            used = process.memory_info().rss + sum(one.memory_info().rss for one in process.children(recursive=True))
            most = max(most, used)
        except psutil.Error:
            pass
        time.sleep(PAUSE)
    assert process.returncode == 0
    return time.perf_counter() - started, most / 1e6


def make(home: Path, count: int) -> list[str]:
    """Write a table of recordings and their files; return the arguments of every stage."""
    root, wavs = home / "audio", home / "data" / "scale" / "wav_16khz"
    rng = np.random.default_rng(0)
    soundfile.write(home / "one.wav", rng.normal(0, 0.1, 1600), 16_000, subtype="PCM_16")
    content = (home / "one.wav").read_bytes()
    names = [f"{k // 1000:04d}/{k:07d}.wav" for k in range(count)]
    for folder in (root, wavs):
        for k in range(-(-count // 1000)):
            (folder / f"{k:04d}").mkdir(parents=True)
        for name in names:
            (folder / name).write_bytes(content)
    lines = (f"{name},species {k % 100},{'test' if k % 10 == 0 else 'train'}\n" for k, name in enumerate(names))
    (root / "table.csv").write_text("file,label,split\n" + "".join(lines))
    settings = ["data.source=table", f'data.root="{root}"', "data.table=table.csv", "data.corpus=scale"]
    settings += [f'data.folder="{home / "data"}"', f'train.folder="{home / "runs"}"']
    return [word for setting in settings for word in ("--set", setting)]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    args = parser.parse_args()
    for count in args.sizes:
        home = Path(tempfile.mkdtemp())
        try:
            options = make(home, count)
            for what in ("first run", "nothing to do"):
                total = 0.0
                for stage, script in STAGES.items():
                    seconds, memory = measure(python(f"preprocess/{script}", *options))
                    total += seconds
                    show(f"{count:,} recordings, stage {stage}, {what}", f"{seconds:.1f} s, {memory:.0f} MB", "")
                show(f"{count:,} recordings, stages 1 to 3, {what}", f"{total:.1f} s", "")
        finally:
            shutil.rmtree(home)


if __name__ == "__main__":
    main()
