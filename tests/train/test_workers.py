"""Several workers: processes that train together, on jax."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import config as configuration
from config import ConfigError
from tests.conftest import PROJECT
from tests.train.conftest import derived
from train.run import Run
from train.workers import VARIABLES, Team, joined, read_team

EPOCHS = 5
# All that is random is drawn alike by one process and by several: windows, dropout, mixed and masked segments.
SETTINGS = (
    "features.segment_frames=80",
    "model.network=simplecnn",
    f"train.epochs={EPOCHS}",
    "train.batch_size=8",
    "train.ema=0.5",
    "train.split={name='per_class', test=0.2, validation=0.2}",
    "train.augment={mixup={alpha=0.4}, time_mask={width=10, count=1}}",
    "train.optimizer={name='adamw', learning_rate=1e-3, weight_decay=0.01}",
)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(settings: Path, workers: int, number: int, port: int, folder: Path) -> subprocess.Popen:
    """Start a worker."""
    values = (f"127.0.0.1:{port}", str(workers), str(number)) if workers > 1 else ("", "", "")
    environment = (
        os.environ | {"KERAS_BACKEND": "jax", "TMPDIR": str(folder)} | dict(zip(VARIABLES, values, strict=True))
    )
    command = [sys.executable, PROJECT / "train" / "trainModel.py", "--config", settings]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, cwd=PROJECT, stdout=pipe, stderr=pipe, text=True)


def start_both(settings: Path, folder: Path) -> list[subprocess.Popen]:
    """Start two workers that train together."""
    port = free_port()
    return [start(settings, 2, number, port, folder) for number in range(2)]


def test_two_workers_learn_what_one_learns_and_go_on_after_a_kill(corpus, tmp_path):
    pytest.importorskip("jax")
    aside = tmp_path / "aside"  # where a worker copies the run to
    aside.mkdir()
    settings = []
    for name in ("alone", "together"):
        settings.append(tmp_path / f"{name}.toml")
        settings[-1].write_text(
            configuration.to_toml(derived(corpus, tmp_path / "runs", *SETTINGS, f"train.run={name}"))
        )
    alone = start(settings[0], 1, 0, 0, aside)
    assert alone.wait() == 0, alone.stderr.read()

    first, second = start_both(settings[1], aside)
    together = tmp_path / "runs" / "together"
    while not (together / "state.h5").exists() and first.poll() is None:
        time.sleep(0.02)
    second.send_signal(signal.SIGKILL)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 1, out + err
    assert err.strip().splitlines()[-1].startswith("error: Worker 1 of 2 has lost the others.")
    assert "Traceback" not in err
    done = len(Run(together).read_history())
    assert 1 <= done < EPOCHS
    second.communicate()

    first, second = start_both(settings[1], aside)
    texts = [process.communicate(timeout=300) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], texts
    assert f"resuming after epoch {done}" in texts[0][0]
    assert "worker 2 helps" in texts[1][0]
    assert "epoch" not in texts[1][0].partition("helps")[2]
    one, two = (Run(tmp_path / "runs" / name) for name in ("alone", "together"))
    for name in ("loss", "val_loss", "val_map", "val_top1"):
        courses = ([row[name] for row in run.read_history()] for run in (one, two))
        np.testing.assert_allclose(*courses, rtol=0.01, err_msg=name)
    assert one.read_history()[-1]["loss"] < one.read_history()[0]["loss"]
    assert one.read_metrics()["holdout"]["holdout_map"] == pytest.approx(
        two.read_metrics()["holdout"]["holdout_map"], rel=0.05
    )
    kept = [path.name for path in aside.iterdir() if path.name.startswith("birdsong-worker")]
    assert len(kept) <= 1  # of the worker that was killed
    log = (tmp_path / "runs" / "log.csv").read_text().splitlines()
    assert len(log) == 3  # the header and a line for each of the two runs


def test_workers_that_begin_differently_stop(corpus, tmp_path):
    pytest.importorskip("jax")
    port, settings = free_port(), []
    for number in range(2):
        settings.append(tmp_path / f"{number}.toml")
        chosen = derived(corpus, tmp_path / "runs", *SETTINGS, "train.run=differ", f"train.seed={number}")
        settings[-1].write_text(configuration.to_toml(chosen))
    both = [start(settings[number], 2, number, port, tmp_path) for number in range(2)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 1, out + err
        assert err.strip().splitlines()[-1].startswith("error: The workers do not begin with the same")


@pytest.mark.parametrize("number", [0, 1])
def test_a_worker_that_does_not_come(number, tmp_path):
    pytest.importorskip("jax")
    script = (
        "import train.workers, config, sys\n"
        "from config.commandline import run\n"
        "train.workers.PATIENCE = 0.5\n"
        "def main():\n"
        "    with train.workers.joined(config.load(None)):\n"
        "        print('joined')\n"
        "run(main)\n"
    )
    values = dict(zip(VARIABLES, (f"127.0.0.1:{free_port()}", "2", str(number)), strict=True))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"KERAS_BACKEND": "jax"} | values,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: not all 2 workers have come to 127.0.0.1:")
    assert "joined" not in done.stdout


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("127.0.0.1:1", "two", "0"), "NUM_PROCESSES. Received: two. Expected: a whole number"),
        (("127.0.0.1:1", "2", ""), "PROCESS_ID. Received: nothing"),
        (("127.0.0.1:1", "2", "2"), "PROCESS_ID. Received: 2. Expected: 0 to 1"),
        (("127.0.0.1:1", "0", "0"), "NUM_PROCESSES. Received: 0. Expected: at least 1"),
        (("127.0.0.1", "2", "0"), "JOB_ADDRESSES. Received: 127.0.0.1. Expected: host:port"),
        (("", "2", "0"), "JOB_ADDRESSES. Received: nothing"),
    ],
)
def test_variables_that_do_not_fit_are_refused(values, words, monkeypatch):
    for name, value in zip(VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        read_team()
    assert words in str(caught.value)


def test_one_worker_is_no_team(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert read_team() == Team()
    config = configuration.load(None)
    with joined(config) as own:
        assert own is config


def test_tensorflow_is_refused(monkeypatch):
    for name, value in zip(VARIABLES, ("127.0.0.1:1", "2", "0"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="set KERAS_BACKEND=jax"), joined(configuration.load(None)):
        pass
