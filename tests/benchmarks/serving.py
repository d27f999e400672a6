"""The web service under load: many clients at once, the time each waits, and the memory of the process.

python -m tests.benchmarks.serving --run runs/demo-residual [--clients 50] [--rounds 4] [--seconds 5]
"""

import argparse
import io
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import numpy as np
import psutil
import soundfile

from config import PROJECT
from tests.benchmarks.corpora import CORES, show


def noise(seconds: float, rate: int = 44_100) -> bytes:
    """Return a WAV of noise."""
    buffer = io.BytesIO()
    samples = np.random.default_rng(0).normal(0, 0.1, int(seconds * rate))
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    command = [sys.executable, "predict/serveModel.py", "--run", str(args.run.resolve()), "--port", "0"]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--per-minute", "1000000"], cwd=PROJECT, stdout=subprocess.PIPE, encoding="utf-8"
    )
    try:
        address = re.search(r"http://[\d.:]+", process.stdout.readline())[0]
        show(f"ready after, seconds, {CORES} cores", f"{time.perf_counter() - started:.1f}", "under 10")
        sound, ten = noise(args.seconds), noise(10)

        def ask(content: bytes) -> tuple[float, int]:
            begun = time.perf_counter()
            status = httpx.post(f"{address}/api/detect", content=content, timeout=300).status_code
            return time.perf_counter() - begun, status

        alone = np.median([ask(ten)[0] for _ in range(9)])
        show("one client, 10 s of sound, median seconds", f"{alone:.2f}", "under 2")
        waits, failed, memory = [], 0, []
        with ThreadPoolExecutor(args.clients) as clients:
            begun = time.perf_counter()
            for _ in range(args.rounds):
                answers = list(clients.map(ask, [sound] * args.clients))
                waits += [wait for wait, _ in answers]
                failed += sum(status != 200 for _, status in answers)
                memory.append(psutil.Process(process.pid).memory_info().rss / 1e6)
            spent = time.perf_counter() - begun
        show(f"{args.clients} clients at once, {args.seconds:g} s of sound: errors", str(failed), "0")
        show(
            "... seconds that a client waits, median and p95",
            f"{np.median(waits):.1f}, {np.quantile(waits, 0.95):.1f}",
            "",
        )
        show(
            "... sounds per second, times real time",
            f"{len(waits) / spent:.1f}, {len(waits) * args.seconds / spent:.0f}",
            "",
        )
        show("... MB of memory after each round", ", ".join(f"{used:.0f}" for used in memory), "does not grow")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


if __name__ == "__main__":
    main()
