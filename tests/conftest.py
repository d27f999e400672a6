"""Fixtures: small corpora, made once per test session, and a configuration that works on them.

Real recordings are used only where BIRDSONG_REAL_BIRDS names a folder in the layout of a BirdCLEF release.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import xmltodict
from hypothesis import settings

import config as configuration
from preprocess.fetchData import fetch
from preprocess.loadData import load
from preprocess.resample import resample

PROJECT = Path(__file__).resolve().parents[1]
settings.register_profile("unhurried", deadline=None)  # a first example may import, and machines may be busy
settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, so that no process is left alone with one at the end."""
    longest = ("networks_under_faults", "stages_under_faults", "doall", "workers", "systems", "service", "train")
    place = {f"test_{name}.py": i for i, name in enumerate(longest)}
    items.sort(key=lambda item: place.get(item.path.name, len(longest)))


def run_script(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """Run a Python file or module of the project as a user would and return the finished process."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", env=os.environ | (env or {}), cwd=PROJECT, timeout=600
    )


def write_release(root: Path, rows: list[dict], rate: int = 44_100) -> Path:
    """Write a BirdCLEF release: each row has part, MediaId and samples (float in [-1, 1]), other keys are XML tags."""
    for part in ("TrainingSet", "test"):
        for kind in ("wav", "xml"):
            (root / part / kind).mkdir(parents=True, exist_ok=True)
    for row in rows:
        tags = {key: value for key, value in row.items() if key not in ("part", "samples")}
        folder = root / ("TrainingSet" if row["part"] == "train" else "test")
        stem = f"RN{row['MediaId']}"
        tags.setdefault("FileName", f"{stem}.wav")
        soundfile.write(folder / "wav" / f"{stem}.wav", row["samples"], rate, subtype="PCM_16")
        (folder / "xml" / f"{stem}.xml").write_text(xmltodict.unparse({"Audio": tags}, pretty=True), encoding="utf-8")
    return root


def tone(frequency: float, seconds: float, rate: int = 44_100, level: float = 0.3, seed: int = 0) -> np.ndarray:
    """Return a tone in faint noise, float64 [samples]."""
    t = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(t))
    return level * np.sin(2 * np.pi * frequency * t) * (np.sin(2 * np.pi * 1.5 * t) > 0) + 0.003 * noise


def three_species(recordings: int = 12, test: int = 3) -> list[dict]:
    """Return rows of a release whose species are three pitches: a strong signal that any network learns."""
    rows = []
    for k in range(recordings + test):
        species = k % 3
        rows.append(
            {
                "part": "train" if k < recordings else "test",
                "MediaId": str(100 + k),
                "ClassId": ("aaaaaa", "bbbbbb", "cccccc")[species],
                "AuthorID": f"R{k}",
                "Author": f"Recordist {k}",
                "Date": "2016-05-01",
                "Genus": "Genus",
                "Species": ("alpha", "beta", "gamma")[species],
                "samples": tone((900, 2400, 4800)[species], 6 + k % 3, seed=k),
            }
        )
        if rows[-1]["part"] == "test":
            del rows[-1]["ClassId"]
    return rows


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> configuration.Config:
    """A corpus of three easy species, through stages 1 to 3; its configuration. Read only."""
    home = tmp_path_factory.mktemp("corpus")
    root = write_release(home / "release", three_species())
    truth = "".join(f"{112 + k},{'abc'[k] * 6},\n" for k in range(3))
    (root / "test_groundtruth.csv").write_text("MediaId,ClassId,BackgroundClassIds\n" + truth)
    config = small_config(home, root)
    for stage in (fetch, resample, load):
        stage(config, 2)
    return config


def small_config(home: Path, root: Path, *overrides: str) -> configuration.Config:
    """Return a configuration for a release under root that keeps everything it makes under home."""
    return configuration.load(
        None,
        [
            "data.source=birdclef",
            f'data.root="{root}"',
            "data.corpus=small",
            f'data.folder="{home / "data"}"',
            f'train.folder="{home / "runs"}"',
            "train.validation=0.25",
            "train.batch_size=8",
            "model.dense=32",
            *overrides,
        ],
    )


@pytest.fixture(scope="session")
def real_birds() -> Path:
    """Folder of real recordings in the layout of a BirdCLEF release."""
    folder = os.environ.get("BIRDSONG_REAL_BIRDS")
    if not folder:
        pytest.skip("BIRDSONG_REAL_BIRDS names no folder of real recordings")
    return Path(folder)
