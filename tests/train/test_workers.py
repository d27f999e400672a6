"""Several workers: processes that train together, on jax."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import config as configuration
from config import ConfigError
from tests.conftest import PROJECT, run_script
from tests.train.conftest import derived
from train.run import Run
from train.workers import VARIABLES, Team, aside, joined, read_team

EPOCHS = 5
# All that is random is drawn alike by one process and by several: windows, dropout, mixed and masked segments.
SETTINGS = (
    "features.segment_frames=80",
    "model.network=simplecnn",
    "model.dense=8",
    "model.dropout=0.2",
    f"train.epochs={EPOCHS}",
    "train.batch_size=8",
    "predict.batch_size=8",
    "train.ema=0.5",
    "train.split={name='per_class', test=0.2, validation=0.2}",
    "train.augment={mixup={alpha=0.4}, time_mask={width=10, count=1}}",
    "train.optimizer={name='adamw', learning_rate=1e-3, weight_decay=0.01}",
)


SECONDS = 300.0  # that anything may take
# What one process has compiled the next ones take.
COMPILED = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def begin(tmp_path):
    """Starts workers that train together; ends those that are left."""
    pytest.importorskip("jax")
    started = []

    def begin(*settings: Path, port: int = 0) -> list[subprocess.Popen]:
        address = f"127.0.0.1:{port or free_port()}" if len(settings) > 1 else ""
        (tmp_path / "aside").mkdir(exist_ok=True)  # where the workers copy the run to
        for number, path in enumerate(settings):
            values = (address, str(len(settings)), str(number)) if address else ("", "", "")
            folders = {"TMPDIR": tmp_path / "aside", "JAX_COMPILATION_CACHE_DIR": tmp_path / "compiled"}
            environment = os.environ | COMPILED | folders | {"KERAS_BACKEND": "jax"}
            process = subprocess.Popen(
                [sys.executable, PROJECT / "train" / "trainModel.py", "--config", path],
                env=environment | dict(zip(VARIABLES, values, strict=True)),
                cwd=PROJECT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.append(process)
        return started[-len(settings) :]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def write(corpus, folder: Path, name: str, *overrides: str) -> Path:
    """Write the settings of a training into a file."""
    path = folder / f"{name}.toml"
    path.write_text(configuration.to_toml(derived(corpus, folder / "runs", *SETTINGS, *overrides)))
    return path


def wait_for_epochs(run: Run, more_than: int, process: subprocess.Popen) -> int:
    """Wait until a run has more epochs, and return how many."""
    end = time.monotonic() + SECONDS
    while len(run.read_history()) <= more_than:
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)
    return len(run.read_history())


def test_two_workers_learn_what_one_learns_and_go_on_after_a_kill(corpus, tmp_path, begin):
    one, two = (Run(tmp_path / "runs" / name) for name in ("alone", "together"))
    settings = write(corpus, tmp_path, "together", "train.run=together")

    first, second = begin(settings, settings)
    wait_for_epochs(two, 0, first)
    second.kill()
    second.communicate()
    out, err = first.communicate(timeout=SECONDS)
    assert first.returncode == 1, out + err
    assert err.strip().splitlines()[-1].startswith("error: Worker 1 of 2 has lost the others.")
    assert "Traceback" not in err
    done = len(two.read_history())
    assert 1 <= done < EPOCHS

    first, second = begin(settings, settings)
    wait_for_epochs(two, done, first)
    first.kill()  # jax ends the others
    first.communicate()
    second.communicate(timeout=SECONDS)
    assert second.returncode != 0
    done = len(two.read_history())

    processes = begin(settings, settings)
    texts = [process.communicate(timeout=SECONDS) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    assert f"resuming after epoch {done}" in texts[0][0]
    assert "worker 2 helps" in texts[1][0]
    assert "epoch" not in texts[1][0].partition("helps")[2]
    assert list((tmp_path / "aside").glob("birdsong-worker-*")) == []

    (alone,) = begin(write(corpus, tmp_path, "alone", "train.run=alone"))
    texts = alone.communicate(timeout=SECONDS)
    assert alone.returncode == 0, texts
    for name, tolerance in {"loss": 0.01, "val_loss": 0.01, "val_map": 0.2}.items():
        courses = ([row[name] for row in run.read_history()] for run in (one, two))
        np.testing.assert_allclose(*courses, rtol=tolerance, err_msg=name)
    assert one.read_history()[-1]["loss"] < one.read_history()[0]["loss"]
    assert (two.folder / "holdout.csv").exists()
    log = (tmp_path / "runs" / "log.csv").read_text().splitlines()
    assert len(log) == 3  # the header and a line for each of the two runs


def test_tensorflow_is_not_imported_where_jax_computes():
    script = (
        "import environment, sys, keras\n"
        "from train.workers import without_tensorflow\n"
        "with without_tensorflow():\n"
        "    keras.utils.set_random_seed(1)\n"
        "first = float(keras.random.uniform(()))\n"
        "assert 'tensorflow' not in sys.modules\n"
        "import tensorflow\n"  # who wants it gets it
        "keras.src.utils.module_utils.tensorflow._available = None\n"
        "keras.utils.set_random_seed(1)\n"  # as Keras does it, with TensorFlow
        "assert keras.src.utils.module_utils.tensorflow.available\n"
        "assert float(keras.random.uniform(())) == first\n"
        "print(tensorflow.constant(2).numpy())\n"
    )
    pytest.importorskip("jax")
    done = run_script("-c", script, env={"KERAS_BACKEND": "jax"})
    assert done.stdout == "2\n", done.stderr


@pytest.mark.parametrize("other", ["train.seed=1", "train.epochs=50"])
def test_workers_that_begin_differently_stop(other, corpus, tmp_path, begin):
    settings = [write(corpus, tmp_path, "a", "train.run=r"), write(corpus, tmp_path, "b", "train.run=r", other)]
    for process in begin(*settings):
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 1, out + err
        assert err.strip().splitlines()[-1].startswith("error: The workers do not begin with the same")


def test_a_port_that_is_taken(corpus, tmp_path, begin):
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        settings = write(corpus, tmp_path, "busy", "train.run=busy")
        first, _ = begin(settings, settings, port=taken.getsockname()[1])
        out, err = first.communicate(timeout=SECONDS)
    assert first.returncode == 1, out + err
    assert err.strip().splitlines()[-1].startswith("error: Worker 1 cannot listen at 127.0.0.1:")


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
        (("a:1,b:1,c:1", "2", "0"), "JOB_ADDRESSES. Received: a:1,b:1,c:1. Expected: host:port of the first"),
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


def test_what_a_killed_worker_left_is_removed_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine, foreign, large, dead = (f"birdsong-worker-{who}-x" for who in (os.getpid(), "of-somebody", 10**10, 10**8))
    for name in (mine, foreign, large, dead):
        (tmp_path / name).mkdir()
    with aside(configuration.load(None, [f'train.folder="{tmp_path}/runs"'])) as config:
        assert config.run_dir.parent.parent == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine, foreign, large])
