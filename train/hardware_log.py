"""What the machine does while a network is trained: hardware.csv of a run, a line per device every second or so.

time, ISO                        device: cpu, process, gpu0, gpu1, ...
use_percent                      of all cores; the process: 100 is one core; of the GPU's time
memory_mb, memory_total_mb       in use by everybody, resident of the process, in use on the card; 1 MB is 2^20 bytes
temperature_c                    of the card
"""

import csv
import datetime
import itertools
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil

COLUMNS = ("time", "device", "use_percent", "memory_mb", "memory_total_mb", "temperature_c")
MAX_LOG_BYTES = 1 << 30
_NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=index,utilization.gpu,memory.used,memory.total,temperature.gpu",
    "--format=csv,noheader,nounits",
)
_MB = 1 << 20


class HardwareLog:
    """Appends to a CSV from a thread of its own: ``with HardwareLog(path, 1.0): ...``."""

    def __init__(self, path: Path, seconds: float) -> None:
        """Write to a path every so many seconds; 0: never."""
        self.path, self.seconds = path, seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="hardware log")

    def __enter__(self) -> "HardwareLog":
        if self.seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        process, cards = psutil.Process(), shutil.which(_NVIDIA_SMI[0]) is not None
        psutil.cpu_percent()
        process.cpu_percent()  # the first value of either means nothing
        try:
            whole = _ends_in_a_line(self.path)
            with self.path.open("a", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                if stream.tell() == 0:
                    writer.writerow(COLUMNS)
                elif not whole:  # killed in the middle of a line
                    stream.write("\n")
                while not self._stopped.wait(self.seconds):
                    now = datetime.datetime.now().isoformat(timespec="milliseconds")
                    found = sample_gpus() if cards else []
                    cards = bool(found)  # a driver that fails once is not asked again
                    for row in [*sample_machine(process), *found]:
                        writer.writerow((now, *row))
                    stream.flush()
        except OSError:  # a full disk also stops the training, with its own message
            return


def _ends_in_a_line(path: Path) -> bool:
    if not path.exists() or not path.stat().st_size:
        return True
    with path.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read() == b"\n"


def sample_machine(process: psutil.Process) -> list[tuple[Any, ...]]:
    """Return the lines of the machine and of a process, without their time."""
    memory = psutil.virtual_memory()
    used = round((memory.total - memory.available) / _MB)
    own = round(process.memory_info().rss / _MB)
    return [
        ("cpu", psutil.cpu_percent(), used, round(memory.total / _MB), ""),
        ("process", round(process.cpu_percent(), 1), own, round(memory.total / _MB), ""),
    ]


def sample_gpus() -> list[tuple[Any, ...]]:
    """Return the lines of all GPUs that nvidia-smi lists, without their time; nothing where it fails."""
    try:
        answer = subprocess.run(_NVIDIA_SMI, capture_output=True, encoding="utf-8", timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []
    return parse_gpus(answer)


def parse_gpus(answer: str) -> list[tuple[Any, ...]]:
    """Return the lines of the GPUs from the answer of nvidia-smi; what a card does not report, [N/A], is empty."""

    def number(text: str) -> float | str:
        try:
            return float(text)
        except ValueError:
            return ""

    rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines()]
    return [(f"gpu{row[0]}", *map(number, row[1:])) for row in rows if len(row) == 5 and row[0].isdigit()]


def read_hardware_log(path: Path) -> dict[str, list[dict[str, float]]]:
    """Return device -> samples with seconds, use_percent, memory_mb, memory_total_mb, temperature_c.

    Seconds count from the first line; a pause between two starts of a run, a minute and three times as long as is
    usual between samples, counts as a second. Values that a device does not report are NaN; lines cut off by a kill
    are left out.
    """
    devices: dict[str, list[dict[str, float]]] = {}
    if not path.exists() or path.stat().st_size > MAX_LOG_BYTES:
        return devices
    samples = []
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:
        for row in csv.reader(stream):
            try:
                time = datetime.datetime.fromisoformat(row[0])
                values = [float(cell) if cell else float("nan") for cell in row[2:]]
                if len(row) != len(COLUMNS):
                    continue
            except (ValueError, IndexError):  # the header, or half a line
                continue
            samples.append((time, row[1], dict(zip(COLUMNS[2:], values, strict=True))))
    passed = np.array([(b[0] - a[0]).total_seconds() for a, b in itertools.pairwise(samples)])
    usual = np.quantile(passed[passed > 0], 0.5, method="lower") if (passed > 0).any() else 0.0
    pause = max(60.0, 3 * float(usual))
    seconds = np.cumsum([0.0, *np.where((passed >= 0) & (passed < pause), passed, 1.0)])
    for second, (_, device, values) in zip(seconds.tolist(), samples, strict=False):
        devices.setdefault(device, []).append({"seconds": second, **values})
    return devices
