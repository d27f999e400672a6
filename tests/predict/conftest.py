"""A corpus with names and background species, and a network that has learned it."""

from pathlib import Path

import pytest
import soundfile

from config import Config
from preprocess.fetchData import fetch
from preprocess.loadData import load
from preprocess.resample import resample
from tests.conftest import small_config, three_species, write_release
from train.run import Run

NAMES = {"aaaaaa": "<script>alert(1)</script>", "bbbbbb": 'Tom & "Jerry"', "cccccc": "Rotkehlchen, gelbes"}
TRUTH = {"112": "aaaaaa", "113": "bbbbbb", "114": "cccccc"}


def release_rows() -> list[dict]:
    """Return the rows of three easy species, with vernacular names and two background species."""
    rows = three_species()
    for row in rows:
        if "ClassId" in row:
            row["VernacularNames"] = NAMES[row["ClassId"]]
    rows[0]["BackgroundSpecies"] = "Genus beta,Genus unknown"
    rows[4]["BackgroundSpecies"] = "Genus gamma"
    return rows


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run on that corpus; its configuration. Read only."""
    from train.trainModel import train

    home = tmp_path_factory.mktemp("trained")
    root = write_release(home / "release", release_rows())
    truth = "".join(
        f'{media_id},{class_id},"{"bbbbbb" if media_id == "112" else ""}"\n' for media_id, class_id in TRUTH.items()
    )
    (root / "test_groundtruth.csv").write_text("MediaId,ClassId,BackgroundClassIds\n" + truth)
    soundfile.write(root / "TrainingSet" / "wav" / "without_xml.wav", [0.0] * 44_100, 44_100)
    config = small_config(
        home,
        root,
        "train.run=birds",
        "train.epochs=4",
        "train.batch_size=4",
        "train.schedule=constant",
        "train.warmup_epochs=0",
        "train.optimizer={name='adamw', learning_rate=1e-3}",
        "train.holdout=0.2",
        "model.dropout=0.1",
        "predict.batch_size=8",
    )
    for stage in (fetch, resample, load):
        stage(config, 2)
    train(config)
    return config


@pytest.fixture(scope="session")
def run_of_birds(trained: Config) -> Run:
    return Run(trained.run_dir)


@pytest.fixture(scope="session")
def test_sounds(trained: Config) -> Path:
    """The original recordings of the test part, 44.1 kHz."""
    return Path(trained.data.options["root"]) / "test" / "wav"
