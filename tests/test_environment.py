"""What environment.py does to a script, and environment.sh to an environment."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT


@pytest.mark.slow
def test_keras_comes_without_what_is_not_used():
    """Starting is a third faster without them, and who wants them later gets them."""
    script = (
        "import environment, sys, keras\n"
        "assert not {'jax', 'matplotlib', 'pandas', 'sklearn'} & set(sys.modules)\n"
        "import jax, matplotlib.pyplot, pandas, sklearn.metrics\n"
        "print(keras.ops.convert_to_numpy(keras.ops.ones(2)).sum(), sklearn.metrics.accuracy_score([1], [1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, encoding="utf-8", timeout=120
    )
    assert done.stdout == "2.0 1.0\n", done.stderr


def start_without_python(project: Path, venv: Path, tools: Path, finished: bool) -> subprocess.CompletedProcess:
    """Source a project's environment.sh for an environment whose Python has gone; uv says what it was asked for."""
    lock = project / "requirements.lock"
    mark = subprocess.run(["cksum"], stdin=lock.open("rb"), capture_output=True, encoding="utf-8", check=True).stdout
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(tools / "gone")
    (venv / "pyvenv.cfg").touch()
    if finished:
        (venv / ".installed").write_text(f"{mark.strip()}-{lock.name}\n")
    return start(project, venv, tools)


def start(project: Path, venv: Path, tools: Path) -> subprocess.CompletedProcess:
    """Run environment.sh of a project with a uv that only says what it was asked for."""
    tools.mkdir(exist_ok=True)
    (tools / "uv").write_text('#!/bin/sh\necho "uv $1" >&2\nexit 1\n')
    (tools / "uv").chmod(0o755)
    env = os.environ | {
        "BIRDSONG_VENV": str(venv),
        "BIRDSONG_LOCK": "requirements.lock",
        "BIRDSONG_PYTHON": sys.executable,
        "PATH": f"{tools}:{os.environ['PATH']}",
    }
    command = ["bash", project / "environment.sh"]
    return subprocess.run(command, env=env, capture_output=True, encoding="utf-8", check=False)


def copied_project(place: Path) -> Path:
    place.mkdir()
    for name in ("environment.sh", "requirements.lock"):
        shutil.copy(PROJECT / name, place)
    return place


@pytest.mark.parametrize("own", [True, False])
def test_an_environment_without_its_python_is_made_again(tmp_path, own):
    """As after an upgrade of the system for the project's own, and wherever it lies if it was never finished."""
    project = copied_project(tmp_path / "project")
    venv = project / ".venv" if own else tmp_path / "venv"
    done = start_without_python(project, venv, tmp_path / "tools", finished=own)
    assert done.returncode == 1
    assert done.stderr == f"uv venv\nerror: uv could not make {venv}\n"
    assert not venv.exists()


def test_a_finished_environment_of_others_stays(tmp_path):
    """Its Python may be out of reach for this user, or for a while."""
    project, venv = copied_project(tmp_path / "project"), tmp_path / "venv"
    done = start_without_python(project, venv, tmp_path / "tools", finished=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {venv} was finished, but its Python {tmp_path}/tools/gone cannot be reached")
    assert done.stderr.count("\n") == 1
    assert (venv / ".installed").exists()


def test_a_folder_that_is_no_environment_stays(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "file").touch()
    done = start(PROJECT, tmp_path / "own", tmp_path / "tools")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path / 'own'} is no environment")
    assert (tmp_path / "own" / "file").exists()


@pytest.mark.parametrize(("there", "words"), [(False, "there is no environment in"), (True, "Permission denied")])
def test_a_python_that_cannot_be_started_is_one_line(tmp_path, there, words):
    python = tmp_path / "bin" / "python"
    if there:
        python.mkdir(parents=True)
    env = os.environ | {"BIRDSONG_VENV": str(tmp_path)}
    command = [sys.executable, "-c", "import environment"]
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_interrupt_while_a_command_starts_is_one_line():
    taken = (
        "signal.signal(signal.SIGINT, signal.default_int_handler)"  # also where a shell in the background ignores it
    )
    script = f"import environment, signal; {taken}; signal.raise_signal(signal.SIGINT)"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == "error: interrupted\n"
