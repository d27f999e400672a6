"""predict.sh on a folder of recordings, end to end, as a multiple of real time; start-up measured apart.

python -m tests.benchmarks.predicting --run runs/demo-alexnet [--hours 1] [--repeats 3]
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from statistics import median

import soundfile

from config import PROJECT
from tests.benchmarks.corpora import CORES, run, show, synthesise


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        many = synthesise(home, args.hours) / "TrainingSet" / "wav"
        one = home / "one"
        one.mkdir()
        shutil.copy(next(many.iterdir()), one)
        seconds = sum(soundfile.info(path).duration for path in many.iterdir())

        def predict(folder: Path) -> float:
            for work in (PROJECT / "birdclef_data").glob(f"predict-{folder.name}-*"):
                shutil.rmtree(work)
            command = [PROJECT / "predict.sh", folder, "--run", args.run, "--output", home / "out.csv"]
            return run([str(word) for word in command])

        times = [(predict(many), predict(one)) for _ in range(args.repeats)]
        whole, start = median(a for a, _ in times), median(b for _, b in times)
        show(f"predict.sh, {seconds / 3600:.2f} h on {CORES} cores, times real time", f"{seconds / whole:.0f}", "")
        show(
            "the same without start-up (time of a single recording)", f"{seconds / (whole - start):.0f}", "at least 150"
        )
        show("start-up, seconds", f"{start:.1f}", "")


if __name__ == "__main__":
    main()
