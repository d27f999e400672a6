"""predict.sh on a folder of recordings, end to end, as a multiple of real time; start-up and memory measured apart.

python -m tests.benchmarks.predicting --run runs/dawnchorus-alexnet [--hours 1] [--repeats 3]
python -m tests.benchmarks.predicting --run runs/dawnchorus-alexnet --hours 3 --length 3600   # of an hour each
"""

import argparse
import contextlib
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import soundfile

from config import PROJECT
from tests.benchmarks.corpora import CORES, show, synthesise

PAUSE = 0.2  # s between looks at the memory


def run(command: list[str]) -> tuple[float, float]:
    """Run a command; return its wall time in seconds and the most memory, in MB, that it and its children had."""
    started, most = time.perf_counter(), 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    own = psutil.Process(process.pid)
    while process.poll() is None:
        used = 0
        for one in (own, *own.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                used += one.memory_full_info().pss
        most = max(most, used / 1e6)
        time.sleep(PAUSE)
    if process.returncode:
        raise RuntimeError(f"{command[0]} failed")
    return time.perf_counter() - started, most


def lengthen(folder: Path, home: Path, seconds: float, hours: float) -> Path:
    """Make recordings of a length out of those in a folder, one after the other."""
    parts, rate = [], 0
    for path in sorted(folder.iterdir()):
        samples, rate = soundfile.read(path, dtype="int16")
        parts.append(samples)
    sound = np.resize(np.concatenate(parts), int(seconds * rate))
    made = home / "long"
    made.mkdir()
    for number in range(max(1, round(hours * 3600 / seconds))):
        soundfile.write(made / f"{number}.wav", np.roll(sound, 1000 * number), rate)
    return made


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--length", type=float, default=0.0, help="of a recording in s (default: about 34)")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        many = synthesise(home, min(args.hours, 0.25) if args.length else args.hours) / "TrainingSet" / "wav"
        one = home / "one"
        one.mkdir()
        shutil.copy(next(many.iterdir()), one)
        if args.length:
            many = lengthen(many, home, args.length, args.hours)
        seconds = sum(soundfile.info(path).duration for path in many.iterdir())

        def predict(folder: Path) -> tuple[float, float]:
            for work in (PROJECT / "birdclef_data").glob(f"predict-{folder.name}-*"):
                shutil.rmtree(work)
            command = [PROJECT / "predict.sh", folder, "--run", args.run, "--output", home / "out.csv"]
            return run([str(word) for word in command])

        times = [(predict(many), predict(one)) for _ in range(args.repeats)]
        whole, start = median(a[0] for a, _ in times), median(b[0] for _, b in times)
        show(
            f"predict.sh, {seconds / 3600:.2f} h on {CORES} cores, times real time",
            f"{seconds / whole:.0f}",
            "at least 300",
        )
        show(
            "the same without start-up (time of a single recording)", f"{seconds / (whole - start):.0f}", "at least 150"
        )
        show("start-up, seconds", f"{start:.1f}", "under 10")
        show("most memory of all processes, MB", f"{max(a[1] for a, _ in times):.0f}", "under 2,000")


if __name__ == "__main__":
    main()
