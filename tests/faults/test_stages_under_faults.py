"""Fetching, resampling and loading under kills, full disks and damaged files."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import small_config, three_species, write_release
from tests.faults.harness import FAULTS, Stage, python, survive
from tests.preprocess.disk import mounted

pytestmark = pytest.mark.slow
SCRIPTS = {"fetch": "fetchData.py", "resample": "resample.py", "load": "loadData.py"}


def contents(paths: list[Path], home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in paths}


@pytest.fixture
def stage(request, tmp_path) -> Stage:
    """A stage of a small corpus, prepared up to there."""
    name = request.param
    with mounted(tmp_path / "home", "size=400m") as home:
        config = small_config(home, write_release(home / "release", three_species(9)))
        (home / "experiment.toml").write_text(_as_toml(config))
        corpus = config.corpus_dir
        wavs, shards = corpus / "wav_16khz", corpus / "features"
        made = {
            "fetch": lambda: [corpus / f"{table}.csv" for table in ("recordings", "classes")]
            + [corpus / "corpus.json"],
            "resample": lambda: sorted(wavs.rglob("*.wav")),
            "load": lambda: sorted(shards.rglob("*.h5")),
        }
        inputs = {
            "fetch": lambda: sorted((home / "release").rglob("*.wav")),
            "resample": list,
            "load": list,
        }
        tables = {
            "fetch": lambda: [corpus / "rejected.csv"],
            "resample": lambda: [wavs / "rejected.csv"],
            "load": lambda: [corpus / "rejected.csv"],
        }
        stages = [
            Stage(
                own,
                home,
                python(f"preprocess/{script}", "--config", home / "experiment.toml", "--jobs", 2),
                inputs[own],
                made[own],
                lambda own=own: contents(
                    [path for path in made[own]() + tables[own]() if path.suffix != ".json"], home
                ),
                kept=own != "fetch",
            )
            for own, script in SCRIPTS.items()
        ]
        for before in stages:
            if before.name == name:
                break
            assert before.run().status == 0
        before.prepare(tmp_path / "template")
        yield before
        shutil.rmtree(tmp_path / "template")


def _as_toml(config) -> str:
    from config import to_toml

    return to_toml(config)


@pytest.mark.parametrize("stage", SCRIPTS, indirect=True)
def test_a_stage_survives(stage):
    ends = survive(stage, FAULTS)
    if FAULTS >= 10:  # the disturbances disturb
        assert sum(count for (_, status), count in ends.items() if status) > FAULTS / 5


@pytest.mark.parametrize("stage", ["load"], indirect=True)
def test_two_at_once(stage):
    """The second stops with a clear message, or finds that the first has ended; the result is the same."""
    stage.reset()
    first, second = stage.start(), stage.start()
    ends = [(*process.communicate(timeout=120), process.returncode) for process in (first, second)]
    assert min(status for _, _, status in ends) == 0
    for _, said, status in ends:
        assert status == 0 or "Another process is at work in" in said
    assert stage.result() == stage.good
