"""What environment.py does to a script, and environment.sh to an environment."""

import os
import subprocess
import sys

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


def test_an_environment_without_its_python_is_made_again(tmp_path):
    """As after an upgrade of the system; uv is a stand-in that says what it was asked for."""
    lock = PROJECT / "requirements.lock"
    mark = subprocess.run(["cksum"], stdin=lock.open("rb"), capture_output=True, encoding="utf-8", check=True).stdout
    venv, tools = tmp_path / "venv", tmp_path / "tools"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(tmp_path / "gone")
    (venv / "pyvenv.cfg").touch()
    (venv / ".installed").write_text(f"{mark.strip()}-{lock.name}\n")
    tools.mkdir()
    (tools / "uv").write_text('#!/bin/sh\necho "uv $1" >&2\nexit 1\n')
    (tools / "uv").chmod(0o755)
    env = os.environ | {
        "BIRDSONG_VENV": str(venv),
        "BIRDSONG_LOCK": lock.name,
        "BIRDSONG_PYTHON": sys.executable,
        "PATH": f"{tools}:{os.environ['PATH']}",
    }
    command = ["bash", PROJECT / "environment.sh"]
    done = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert done.stderr == f"uv venv\nerror: uv could not make {venv}\n"
    assert not venv.exists()
    (tmp_path / "own").mkdir()  # a folder that is no environment is not removed
    (tmp_path / "own" / "file").touch()
    env["BIRDSONG_VENV"] = str(tmp_path / "own")
    assert subprocess.run(command, env=env, capture_output=True, check=False).returncode == 1
    assert (tmp_path / "own" / "file").exists()
