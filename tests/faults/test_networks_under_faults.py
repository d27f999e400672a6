"""Training and prediction under kills, full disks and damaged files."""

import csv
import json
import shutil
import subprocess

import numpy as np
import pytest

from config import to_toml
from preprocess.fetchData import fetch
from preprocess.loadData import load
from preprocess.resample import resample
from tests.conftest import PROJECT, small_config, three_species, write_release
from tests.faults.harness import FAULTS_OF_NETWORKS, Stage, python, survive
from tests.preprocess.disk import mounted

pytestmark = pytest.mark.slow
TIMES = ("seconds", "waiting", "rate", "share")  # parts of the names of columns that differ from run to run


def figures(folder) -> list[float]:
    """Return history and final figures of a run, without times."""
    with (folder / "history.csv").open() as stream:
        rows = [
            [float(value) for name, value in row.items() if value and not any(word in name for word in TIMES)]
            for row in csv.DictReader(stream)
        ]
    validation = json.loads((folder / "metrics.json").read_text())["validation"]
    return [value for row in rows for value in row] + list(validation.values())


def alike(first: list[float], second: list[float]) -> bool:
    return len(first) == len(second) and np.allclose(first, second, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A corpus, loaded, with its configuration."""
    with mounted(tmp_path_factory.mktemp("networks") / "home", "size=400m") as home:
        config = small_config(
            home,
            write_release(home / "release", three_species(9)),
            "train.run=birds",
            "features.segment_frames=80",
            "model.network=cnn1",
            "model.dense=[8]",
            "train.epochs=3",
            "train.holdout=0",
            "predict.batch_size=8",
        )
        for stage in (fetch, resample, load):
            stage(config, 2)
        (home / "experiment.toml").write_text(to_toml(config))
        yield home, config


def test_training_survives(home, tmp_path):
    """History and figures are those of an undisturbed training."""
    folder, config = home
    stage = Stage(
        "train",
        folder,
        python("train/trainModel.py", "--config", folder / "experiment.toml"),
        lambda: sorted((config.corpus_dir / "features").rglob("train-*.h5")),
        lambda: [path for path in config.run_dir.glob("*") if path.suffix in (".h5", ".toml", ".json", ".csv")],
        lambda: figures(config.run_dir),
        kept=False,
        same=alike,
        recover=lambda _: shutil.rmtree(config.run_dir),
    )
    stage.prepare(tmp_path / "template")
    survive(stage, FAULTS_OF_NETWORKS)


def test_prediction_survives(home, tmp_path):
    """The CSV has the same bytes; scores that were kept are kept."""
    folder, config = home
    subprocess.run(python("train/trainModel.py", "--config", folder / "experiment.toml"), cwd=PROJECT, check=True)
    output = folder / "predicted.csv"
    stage = Stage(
        "predict",
        folder,
        python("predict/predict.py", "--run", config.run_dir, "--output", output, "--jobs", 2),
        lambda: sorted((config.corpus_dir / "features").rglob("test-*.h5")),
        lambda: sorted((config.corpus_dir / "scores").rglob("*.h5")),
        output.read_bytes,
    )
    stage.prepare(tmp_path / "template")
    survive(stage, FAULTS_OF_NETWORKS)
