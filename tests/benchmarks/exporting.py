"""The ONNX export against the same network in Keras, on the CPU, segment by segment in turn.

python -m tests.benchmarks.exporting --run runs/dawnchorus-alexnet [--batch 32] [--repeats 9]
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from predict.exportModel import build, export
from predict.scores import load_run
from tests.benchmarks.corpora import CORES, ratios, show
from train.run import Run


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    import onnxruntime

    target = Run(args.run)
    config, model, loss = load_run(target)
    with tempfile.TemporaryDirectory() as home:
        export(target, Path(home), ("onnx",))
        session = onnxruntime.InferenceSession(Path(home) / "segments.onnx", providers=["CPUExecutionProvider"])
    network = build(config, model, loss)["segments"]
    shape = (args.batch, *network.input_shape[1:])
    segments = np.random.default_rng(0).uniform(-4.5, 4, shape).astype(np.float32)
    name = session.get_inputs()[0].name
    difference = np.abs(session.run(None, {name: segments})[0] - network.predict_on_batch(segments)).max()

    def seconds(score: object) -> float:
        begun = time.perf_counter()
        score()
        return time.perf_counter() - begun

    onnx, keras, ratio = ratios(
        lambda: seconds(lambda: session.run(None, {name: segments})),
        lambda: seconds(lambda: network.predict_on_batch(segments)),
        args.repeats,
    )
    show(f"{target.folder.name}: segments per second in Keras, {CORES} cores", f"{args.batch / keras:.0f}", "")
    show("... in ONNX Runtime", f"{args.batch / onnx:.0f}", "")
    show("ONNX over Keras, time", f"{ratio:.2f}", "at most 1")
    show("largest difference of a score", f"{difference:.1e}", "at most 1e-4")


if __name__ == "__main__":
    main()
