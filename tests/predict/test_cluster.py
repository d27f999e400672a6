"""Stages 2, 3 and prediction on a Dask cluster of this machine: the bytes are those of one process."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import pytest
from distributed import Client, LocalCluster

from config import PipelineError, to_toml
from predict.predict import predict
from preprocess.cluster import cluster, spread
from preprocess.loadData import features_folder
from preprocess.recordings import Reject, read_table
from tests.conftest import PROJECT, run_script

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address():
    """A cluster of three processes."""
    with LocalCluster(
        n_workers=3, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def bare(trained, tmp_path):
    """The corpus of the trained run after stage 1, in another place, and its experiment."""
    shutil.copytree(trained.corpus_dir, tmp_path / trained.corpus_dir.name)
    config = dataclasses.replace(trained, data=dataclasses.replace(trained.data, folder=str(tmp_path)))
    shutil.rmtree(config.corpus_dir / "wav_16khz")
    shutil.rmtree(config.corpus_dir / "features")
    (tmp_path / "experiment.toml").write_text(to_toml(config))
    return config


def contents(folder, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(pattern)}


def run_stages(config, address: str) -> None:
    for script in ("resample", "loadData"):
        done = run_script(
            f"preprocess/{script}.py",
            "--config",
            config.corpus_dir.parent / "experiment.toml",
            "--scheduler",
            address,
        )
        assert done.returncode == 0, done.stderr


def test_the_bytes_are_those_of_one_process(trained, bare, address):
    run_stages(bare, address)
    assert contents(bare.corpus_dir, "*.wav") == contents(trained.corpus_dir, "*.wav")
    own, other = features_folder(bare), features_folder(trained)
    assert contents(own, "*.h5") == contents(other, "*.h5")
    assert read_table(bare.corpus_dir / "rejected.csv", Reject) == read_table(
        trained.corpus_dir / "rejected.csv", Reject
    )
    run_stages(bare, address)  # there is nothing to do


def test_a_worker_dies(trained, bare, address):
    """The first of the three that has something to do in stage 3 is killed: another one does its work."""
    run_stages_until_load = ["preprocess/resample.py", "--config", bare.corpus_dir.parent / "experiment.toml"]
    assert run_script(*run_stages_until_load).returncode == 0
    command = [sys.executable, "preprocess/loadData.py", "--config", bare.corpus_dir.parent / "experiment.toml"]
    process = subprocess.Popen(
        [*map(str, command), "--scheduler", address], cwd=PROJECT, stderr=subprocess.PIPE, encoding="utf-8"
    )
    with Client(address) as client:
        pids = client.run(os.getpid)
        while not (busy := [worker for worker, tasks in client.processing().items() if tasks]):
            assert process.poll() is None, "the stage ended before a worker was seen at work"
            time.sleep(0.01)
        os.kill(pids[busy[0]], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert contents(features_folder(bare), "*.h5") == contents(features_folder(trained), "*.h5")


def test_prediction(run_of_birds, test_sounds, address, tmp_path):
    """The same scores, and nothing left to score for the next command."""
    expected, found = tmp_path / "a.csv", tmp_path / "b.csv"
    for number in ("112", "113", "114"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(test_sounds / f"RN{number}.wav", tmp_path / "in")
    predict([run_of_birds], [tmp_path / "in"], expected, discard=True)
    command = ["predict/predict.py", tmp_path / "in", "--run", run_of_birds.folder, "--output", found]
    done = run_script(*command, "--scheduler", address)
    assert done.returncode == 0, done.stderr
    assert found.read_bytes() == expected.read_bytes()
    assert "everything was scored before" in run_script(*command).stdout


def test_no_scheduler():
    done = run_script("preprocess/loadData.py", "--mini", "--scheduler", "tcp://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: There is no Dask scheduler at tcp://127.0.0.1:9")
    done = run_script("preprocess/loadData.py", "--mini", "--scheduler", "nonsense://x")
    assert done.returncode == 1
    assert "There is no Dask scheduler at nonsense://x" in done.stderr


def test_a_worker_notices_other_weights(run_of_birds, address, tmp_path):
    """A worker lives longer than a command: weights that changed in between are read anew."""
    shutil.copytree(run_of_birds.folder, tmp_path / "birds")
    command = ["predict/predict.py", "--run", tmp_path / "birds", "--scheduler", address, "--output"]
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    assert run_script(*command, first).returncode == 0
    with h5py.File(tmp_path / "birds" / "best_val_map.weights.h5", "r+") as file:
        del file.attrs["sha256"]
        file.visititems(lambda _, item: item.write_direct(item[()] * 0) if isinstance(item, h5py.Dataset) else None)
    assert run_script(*command, second).returncode == 0
    assert first.read_bytes() != second.read_bytes()


def test_a_process_that_is_killed_is_one_line():
    """As by a system that has no memory left."""
    with pytest.raises(PipelineError, match="A process was killed"):
        list(spread(os._exit, [(9,), (9,)], 2))


def test_a_scheduler_that_goes_is_no_success(tmp_path):
    """Dask calls what was lost cancelled, not failed."""
    program = (
        "import time; from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    own = LocalCluster(n_workers=1, processes=False, protocol='tcp://', dashboard_address=None)\n"
        "    print(own.scheduler_address, flush=True); time.sleep(300)\n"
    )
    (tmp_path / "own.py").write_text(program)
    process = subprocess.Popen([sys.executable, tmp_path / "own.py"], stdout=subprocess.PIPE, encoding="utf-8")
    try:
        with cluster(process.stdout.readline().strip()):
            found = spread(time.sleep, [(0.0,), (60.0,)], 1)
            assert next(found) is None
            process.kill()
            with pytest.raises(PipelineError, match="scheduler of the cluster has gone"):
                next(found)
    finally:
        process.kill()
        process.wait()
