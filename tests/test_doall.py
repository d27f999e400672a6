"""The shell entries: every stage in its short form, options, resuming, failures."""

import csv
import os
import subprocess
from pathlib import Path

import pytest

import config as configuration
from config import ConfigError, PipelineError
from tests.conftest import PROJECT
from train.checkSetup import check

RUN = "pytest-mini"


def shell(*command: object, **env: str) -> subprocess.CompletedProcess:
    """Run a command from another folder than the project and return the finished process."""
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        encoding="utf-8",
        cwd="/",
        env=os.environ | env,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose name holds a space and a quote, for everything that the runs make."""
    return tmp_path_factory.mktemp("it's a home")


def options(home: Path) -> list[str]:
    pairs = [f'data.folder="{home}/data"', f'train.folder="{home}/runs"', "data.corpus=c", f"train.run={RUN[:-5]}"]
    return [word for pair in pairs for word in ("--set", pair)]


@pytest.fixture(scope="module")
def mini(home: Path):
    """The process of a whole --mini run, and the run folder."""
    done = shell(PROJECT / "doall.sh", "--mini", *options(home))
    yield done, home / "runs" / RUN
    for path in (PROJECT / "predict").glob(f"{RUN}*.csv"):
        path.unlink()


@pytest.mark.slow
def test_mini_goes_through_every_stage(mini, home):
    done, run = mini
    assert done.returncode == 0, done.stdout + done.stderr
    for number in range(7):
        assert f"stage {number}: done in" in done.stdout
    assert "training on" in done.stdout  # the hardware
    assert (run / "report.html").stat().st_size > 50_000
    assert (run / "best_val_map.weights.h5").exists()
    assert list((home / "data" / "c-mini" / "images").rglob("*.png"))
    with (PROJECT / "predict" / f"{RUN}.csv").open(newline="") as stream:
        rows = list(csv.reader(stream, delimiter=";"))
    assert len(rows) == 8 * 6  # test recordings x species
    assert not list(home.rglob("*.part"))


@pytest.mark.slow
def test_a_second_run_does_nothing_again(mini, home):
    _, run = mini
    before = {path: path.stat().st_mtime_ns for path in [*home.rglob("*.wav"), *home.rglob("*.h5")]}
    done = shell(PROJECT / "doall.sh", "--mini", "--stage", "1", "--stop-stage", "4", *options(home))
    assert done.returncode == 0, done.stderr
    assert "nothing changed" in done.stdout
    assert "is finished" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len((run / "history.csv").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_failing_stage_ends_in_one_line_and_the_command_to_go_on(home):
    done = shell(PROJECT / "doall.sh", "--stage", "2", "--set", "data.corpus=nowhere", *options(home)[:4])
    assert done.returncode == 1
    assert "recordings.csv is missing. Run stages 1 to 3" in done.stderr
    assert "--set data.corpus=nowhere" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].count("--stage ") == 1
    assert done.stderr.splitlines()[-1].endswith("--stage 2")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("stages", [("--stage", "7"), ("--stage", "5", "--stop-stage", "3"), ("--stop-stage", "9")])
def test_stages_that_are_none(stages):
    done = shell(PROJECT / "doall.sh", *stages)
    assert done.returncode == 2
    assert "--stage is at most --stop-stage, and that at most 6" in done.stderr
    assert not done.stdout


def test_stage_5_without_the_stages_before_it(home):
    done = shell(
        PROJECT / "doall.sh", "--stage", "5", "--stop-stage", "5", "--set", "data.corpus=nowhere", *options(home)[:4]
    )
    assert done.returncode == 1
    assert "there are no features in" in done.stderr


@pytest.mark.slow
def test_stage_0_ends_in_one_line(home):
    done = shell(PROJECT / "doall.sh", "--stop-stage", "0", *options(home), "--set", "train.optimizer.name=foo")
    assert done.returncode == 2, done.stdout
    assert "Unknown train.optimizer.name. Received: 'foo'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("key", "value"), [("features.bins", "9999"), ("train.augment.blur.width", "3"), ("train.loss.name", "foo")]
)
def test_stage_0_names_the_key_that_is_wrong(key, value):
    with pytest.raises(ConfigError, match=key.removesuffix(".width").replace(".", r"\.")):
        check(configuration.load(None, [f"{key}={value}"]))


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        ("train.bag", ["train.bag=5", "train.batch_size=8"]),
        ("train.noise_class", ["train.noise_class=0.001"]),
        ("train.devices", ["train.devices=7"]),
        ("train.teacher: .*nowhere holds no scores.csv", ["train.teacher=nowhere"]),
        ("predict.hop. Received: 60", ["predict.hop=60"]),
        ("model.dynamic_range. Received: 80. Expected: less than 12.75", ["model.dynamic_range=80"]),
        ("train.seed", ["train.seed=4294967296"]),
    ],
)
def test_stage_0_finds_what_would_fail_after_hours(words, overrides):
    with pytest.raises(PipelineError, match=words):
        check(configuration.load(None, overrides))


def test_options_of_doall():
    usage = shell(PROJECT / "doall.sh", "--help")
    assert usage.returncode == 0
    assert "config/demo.toml" in usage.stdout  # the live default
    for arguments, expected in (
        (["--bogus"], "unknown option --bogus"),
        (["--stage"], "--stage needs a value"),
        (["--stage", "x"], "expected a number"),
        (["--stage", "9" * 20], "expected a number"),
        (["--stage", "05", "--set", "predict.pool=max"], "use --stage 4 with predict.pool=max"),
        (["--config", "/nope.toml"], "there is no configuration"),
        (["--stage", "5", "--set", "predict.pool=max"], "use --stage 4 with predict.pool=max"),
    ):
        done = shell(PROJECT / "doall.sh", *arguments)
        assert done.returncode == 2
        assert expected in done.stderr


@pytest.mark.slow
def test_predict_sh_on_a_folder(mini, home, tmp_path):
    _, run = mini
    recordings = sorted((home / "data" / "c-mini" / "raw").rglob("test/wav/*.wav"))[:2]
    for i, path in enumerate(recordings):
        (tmp_path / f"in {i}").mkdir()
        (tmp_path / f"in {i}" / "song.WAV").write_bytes(path.read_bytes())
    output = tmp_path / "out.csv"
    done = shell(PROJECT / "predict.sh", tmp_path, "--run", run, "--top", "2", "--output", output)
    assert done.returncode == 0, done.stderr
    rows = [line.split(";") for line in output.read_text().splitlines()]
    assert [row[0] for row in rows] == ["in 0/song.WAV"] * 2 + ["in 1/song.WAV"] * 2
    with (PROJECT / "predict" / f"{RUN}.csv").open(newline="") as stream:
        whole = list(csv.reader(stream, delimiter=";"))
    assert [row[1] for row in rows[:2]] == [row[1] for row in whole[:2]]  # the same recording, the same species


def test_predict_sh_without_anything_says_what_to_do(tmp_path):
    done = shell(PROJECT / "predict.sh", "--run", tmp_path / "none")
    assert done.returncode == 1
    assert "is no run directory. Train first: ./doall.sh" in done.stderr


@pytest.mark.slow
def test_a_setting_of_the_prediction_goes_on_with_stage_4(mini, home):
    """Stages 5 and 6 take a run's own settings, which stage 4 gives it; they refuse others."""
    command = (PROJECT / "doall.sh", "--mini", "--stage", "4", "--set", "predict.minimum=0.4", *options(home))
    done = shell(*command, BIRDSONG_PREDICTIONS="/dev/null/nowhere")
    assert done.returncode == 1
    assert "stage 5 (predict and evaluate) stopped" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("--stage 4")
