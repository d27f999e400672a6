"""Faults at random moments: a stage is disturbed, the same command runs again, and all must be as if nothing had been.

BIRDSONG_FAULTS=200 tests/run.sh tests/faults     # how many per stage; without it 10, and 2 of training and prediction
BIRDSONG_FAULT_SEED=17 BIRDSONG_FAULTS=1 tests/run.sh tests/faults -k load     # a certain one again
"""

import contextlib
import operator
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from tests.conftest import PROJECT

FAULTS = int(os.environ.get("BIRDSONG_FAULTS", "10"))
FAULTS_OF_NETWORKS = FAULTS if "BIRDSONG_FAULTS" in os.environ else 2  # they take ten times as long
FIRST_SEED = int(os.environ.get("BIRDSONG_FAULT_SEED", "0"))
SECONDS = 300.0  # that a command may take
PATIENCE = 60.0  # after SIGTERM
LEFTOVERS = ("*.part", "part.*", "*.tmp", ".~*")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    said: str  # on standard error
    seconds: float


@dataclass
class Stage:
    """A command that changes a folder, and what must come out of it.

    home must lie on a file system of its own (see `disk`), so that it can be filled up and made read-only.
    """

    name: str
    home: Path
    command: list[str]
    inputs: Callable[[], list[Path]]  # files that the command reads
    made: Callable[[], list[Path]]  # files that it writes
    result: Callable[[], object]  # what must be the same in the end; compared with ==
    kept: bool = True  # whether files that are finished must be kept by the next run
    same: Callable[[object, object], bool] = operator.eq  # compares results
    recover: Callable[[str], None] | None = None  # does what an error message asks for; default: removes what it names
    template: Path = field(init=False)
    good: object = field(init=False, default=None)
    seconds: float = field(init=False, default=0.0)
    written: int = field(init=False, default=0)  # bytes

    def prepare(self, template: Path) -> None:
        """Keep the folder as it is before the command, run it undisturbed twice, and keep what comes out."""
        self.template = template
        shutil.copytree(self.home, template, dirs_exist_ok=True)
        used = psutil.disk_usage(str(self.home)).used
        ended = self.run()
        assert ended.status == 0, ended.said
        self.written = psutil.disk_usage(str(self.home)).used - used
        self.good, self.seconds = self.result(), ended.seconds
        before = self.stamps()
        assert self.run().status == 0
        assert self.same(self.result(), self.good)
        if self.kept:
            assert self.stamps() == before, "the second run made something again"

    def reset(self) -> None:
        """Bring the folder back to what it was before the command."""
        for path in self.home.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.template, self.home, dirs_exist_ok=True)

    def stamps(self) -> dict[Path, tuple[int, bytes]]:
        """Return time and content of every file that the command has finished."""
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in self.made() if path.is_file()}

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            self.command,
            cwd=PROJECT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
        )

    def run(self) -> Ended:
        started = time.monotonic()
        process = self.start()
        _, said = process.communicate(timeout=SECONDS)
        return Ended(process.returncode, said, time.monotonic() - started)


def signalled(stage: Stage, rng: np.random.Generator, number: signal.Signals) -> Ended:
    """Run a command and send a signal: SIGKILL to all of its processes, SIGTERM to the first of them."""
    started = time.monotonic()
    process = stage.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(rng.uniform(0, 1.05) * stage.seconds)
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    if number == signal.SIGKILL:
        process.kill()
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    elif process.poll() is None:
        process.terminate()
    _, said = process.communicate(timeout=PATIENCE)
    psutil.wait_procs(family, timeout=PATIENCE)
    return Ended(process.returncode, said, time.monotonic() - started)


def killed(stage: Stage, rng: np.random.Generator) -> Ended:
    """SIGKILL at any moment."""
    return signalled(stage, rng, signal.SIGKILL)


def terminated(stage: Stage, rng: np.random.Generator) -> Ended:
    """SIGTERM at any moment."""
    return signalled(stage, rng, signal.SIGTERM)


def disk_full(stage: Stage, rng: np.random.Generator) -> Ended:
    """There is room for some of what is written."""
    used = psutil.disk_usage(str(stage.home)).used
    with remounted(stage.home, f"size={used + int(rng.uniform(0.01, 1) * stage.written)}"):
        return stage.run()


def read_only(stage: Stage, rng: np.random.Generator) -> Ended:
    """Nothing may be written."""
    with remounted(stage.home, "ro"):
        return stage.run()


def unreadable(stage: Stage, rng: np.random.Generator) -> Ended:
    """One file cannot be opened for a while."""
    path = choose(stage.inputs(), rng)
    aside = stage.home.parent / "aside"
    shutil.move(path, aside)
    path.symlink_to(stage.home / "nowhere")
    try:
        return stage.run()
    finally:
        path.unlink(missing_ok=True)
        shutil.move(aside, path)


def after_a_run(damage: Callable[[Path, np.random.Generator], None]) -> Callable[[Stage, np.random.Generator], Ended]:
    """Return a fault that damages one of the files that a finished command has written."""

    def fault(stage: Stage, rng: np.random.Generator) -> Ended:
        ended = stage.run()
        damage(choose(stage.made(), rng), rng)
        return ended

    fault.__name__ = damage.__name__
    fault.__doc__ = damage.__doc__
    return fault


def cut(path: Path, rng: np.random.Generator) -> None:
    """A file is shorter than it was."""
    os.truncate(path, int(rng.uniform(0, 1) * path.stat().st_size))


def flip(path: Path, rng: np.random.Generator) -> None:
    """A byte of a file is another."""
    content = bytearray(path.read_bytes())
    if content:
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def delete(path: Path, rng: np.random.Generator) -> None:
    """A file has gone."""
    path.unlink()


FAULT_KINDS = [killed, terminated, disk_full, read_only, unreadable, *map(after_a_run, (cut, flip, delete))]
WEIGHTS = np.array([5, 2, 3, 1, 2, 2, 3, 2], float)  # kills are what happens


def choose(paths: list[Path], rng: np.random.Generator) -> Path:
    return sorted(paths)[rng.integers(len(paths))]


@contextlib.contextmanager
def remounted(folder: Path, options: str) -> Iterator[None]:
    """Change the options of a mount for a while."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw,size=400m", str(folder)], check=True)


def disturb(stage: Stage, seed: int) -> tuple[str, int]:
    """Disturb a stage once; the message of a failure names the seed.

    Returns:
        The fault, and the status that the command ended with.
    """
    rng = np.random.default_rng([seed, sum(map(ord, stage.name))])
    kinds = [kind for kind in FAULT_KINDS if kind is not unreadable or stage.inputs()]
    weights = np.array([WEIGHTS[FAULT_KINDS.index(kind)] for kind in kinds])
    fault = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
    label = f"{stage.name}, seed {seed}: {fault.__name__}"
    stage.reset()
    ended = fault(stage, rng)
    check_words(ended, label)
    good = stage.good
    finished = stage.stamps() if fault in FAULT_KINDS[:5] else {}
    again = stage.run()
    check_words(again, label)
    if again.status:  # one clear error may name the file instead; removing it must be enough
        named = [path for path in stage.made() if str(path) in again.said or f"{path.parent} " in again.said]
        assert named, f"{label}: {again.said}"
        if stage.recover:
            stage.recover(again.said)
        else:
            for path in named:
                path.unlink()
        again = stage.run()
        assert again.status == 0, f"{label}: after doing as told: {again.said}"
    assert stage.same(stage.result(), good), f"{label}: another result"
    left = [path for pattern in LEFTOVERS for path in stage.home.rglob(pattern)]
    assert not left, f"{label}: left over {left}"
    if stage.kept:
        now = stage.stamps()
        remade = [
            path for path, (stamp, content) in finished.items() if now[path][1] == content and now[path][0] != stamp
        ]
        assert not remade, f"{label}: made again although it was finished: {remade}"
    return fault.__name__, ended.status


def survive(stage: Stage, faults: int) -> Counter[tuple[str, int]]:
    """Disturb a stage so many times; return how often each fault ended with each status, or fail with all failures."""
    ends: Counter[tuple[str, int]] = Counter()
    failures = []
    for seed in range(FIRST_SEED, FIRST_SEED + faults):
        try:
            end = disturb(stage, seed)
            ends[end] += 1
            print(f"{stage.name}, seed {seed}: {end[0]}, status {end[1]}", flush=True)  # pytest -s shows how it goes on
        except AssertionError as failure:
            print(failure, flush=True)
            failures.append(str(failure))
    assert not failures, "\n".join(failures)
    return ends


def check_words(ended: Ended, label: str) -> None:
    """An end is silent or has one clear line, never a traceback."""
    assert "Traceback" not in ended.said, f"{label}: {ended.said}"
    if ended.status > 0 and ended.status != 143:
        assert "error: " in ended.said, f"{label}: status {ended.status}, {ended.said!r}"


def python(*arguments: object) -> list[str]:
    return [sys.executable, *map(str, arguments)]
