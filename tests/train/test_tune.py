"""The search: its space, what it refuses, and studies on a stand-in for training that costs nothing."""

import math
import multiprocessing
import os
import shutil
import tomllib
from types import SimpleNamespace

import pytest

pytest.importorskip("optuna")

import optuna
from hypothesis import given
from hypothesis import strategies as st

import config as configuration
from config import ConfigError, PipelineError, load, to_toml
from tests.conftest import run_script
from train import tuneModel
from train.run import DivergedError, Run, write_rows
from train.tuneModel import Dimension, differences, kept_value, open_search, parse_space, tune

SPACE = {
    "train.optimizer.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "model.dropout": [0.0, 0.3, 0.6],
    "train.loss": [{"name": "categorical_crossentropy"}, {"name": "binary_crossentropy", "label_smoothing": 0.1}],
}
EPOCHS = 9


# The space


def test_dimensions():
    space = parse_space(SPACE | {"train.batch_size": {"low": 8, "high": 64, "step": 8}})
    assert [dimension.key for dimension in space] == sorted([*SPACE, "train.batch_size"])
    batch = next(dimension for dimension in space if dimension.key == "train.batch_size")
    assert (batch.low, batch.high, batch.step, batch.log) == (8, 64, 8, False)


def test_quoted_and_nested_keys_mean_the_same():
    quoted = tomllib.loads('"train.optimizer.learning_rate" = {low = 1e-4, high = 1}\n"model.dropout" = [0.1]')
    nested = tomllib.loads("train.optimizer.learning_rate = {low = 1e-4, high = 1}\nmodel.dropout = [0.1]")
    assert parse_space(quoted) == parse_space(nested)
    assert parse_space(nested)[1] == Dimension("train.optimizer.learning_rate", (), 1e-4, 1.0)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, r"tune\.space is empty"),
        ({"train.epochs": [1, 2]}, r"Unknown key tune\.space\.train\.epochs"),
        ({"train.run": ["a"]}, r"Unknown key tune\.space\.train\.run"),
        ({"data.limit": [1, 2]}, r"Unknown key tune\.space\.data\.limit"),
        ({"features.bands": [10, 19]}, r"Unknown key tune\.space\.features\.bands.*features\.mask"),
        ({"model.dropout": []}, r"tune\.space\.model\.dropout\. Received: \[\]"),
        ({"model.dropout": 0.5}, r"Received: 0\.5"),
        ({"model.dropout": [0.5, 0.5]}, r"choices that differ"),
        ({"model.dropout": {"low": 0.5, "high": 0.1}}, r"low < high"),
        ({"model.dropout": {"low": 0.0, "high": 0.1, "log": True}}, r"Invalid value"),
        ({"model.dropout": {"low": 0.1, "high": 0.5, "log": True, "step": 0.1}}, r"Invalid value"),
        ({"model.dropout": {"low": 0.1, "high": 0.5, "step": 0}}, r"Invalid value"),
        ({"model.dropout": {"low": 0.1, "height": 0.5}}, r"Invalid value"),
        ({"model.dropout": {"low": True, "high": 3}}, r"Invalid value"),
        ({"model.dropout": {"low": 0.0, "high": float("inf")}}, r"Invalid value"),
    ],
)
def test_what_is_no_space(space, words):
    with pytest.raises(ConfigError, match=words):
        parse_space(space)


@given(st.lists(st.sampled_from([0.1, 0.5, 0.9, float("nan")]), min_size=1, max_size=6))
def test_the_value_is_that_of_the_weights_that_are_kept(values):
    history = [{"val_map": value, "val_loss": 1 - value, "loss": 0.0} for value in values]
    numbers = [value for value in values if value == value]
    assert kept_value(history, "val_map", "val_map") == (max(numbers) if numbers else 0)
    assert kept_value(history, "val_loss", "val_loss") == (1 - max(numbers) if numbers else float("inf"))
    assert kept_value(history, "val_loss", "val_map") == (1 - max(numbers) if numbers else float("inf"))
    assert kept_value(history, "val_map", "last") == (numbers[-1] if numbers else 0)  # of those that did not diverge


def test_the_section_survives_a_round_trip(tmp_path):
    path = tmp_path / "tune.toml"
    config = load(None, [f"tune.space={configuration.toml_value(SPACE)}", "tune.trials=7", "tune.study=mine"])
    path.write_text(to_toml(config))
    assert load(path) == config
    assert load(path).tune.space == SPACE


# Studies


@pytest.fixture
def search(tmp_path):
    return make_search(tmp_path)


def make_search(folder, *overrides: str):
    base = [
        f'train.folder="{folder}"',
        "data.corpus=birds",
        f"train.epochs={EPOCHS}",
        "tune.study=study",
        "tune.trials=12",
        f"tune.space={configuration.toml_value(SPACE)}",
        *overrides,
    ]
    return open_search(load(None, base), lambda more: load(None, [*base, *more]))


def test_a_study_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_search("~/runs").folder == tmp_path / "runs" / "study"


def quality(config) -> float:
    """The best learning rate is 1e-2 and the best dropout 0.3."""
    distance = abs(math.log10(config.train.optimizer.options["learning_rate"]) + 2)
    return 1 / (1 + distance + abs(config.model.options["dropout"] - 0.3))


def pretended(config, stops) -> None:
    """Training that writes what a run leaves, resumes, and gets better with every epoch."""
    run = Run(config.run_dir)
    run.folder.mkdir(parents=True, exist_ok=True)
    if (run.folder / "config.toml").exists():
        run.check_same(config)
    (run.folder / "config.toml").write_text(to_toml(config))
    history = run.read_history()
    while len(history) < config.train.epochs:
        history.append({"epoch": len(history) + 1, "val_map": quality(config) * (1 - 0.5 ** (len(history) + 1))})
        write_rows(run.folder / "history.csv", history)
        if stops(history):
            return


@pytest.fixture
def pretend(monkeypatch):
    monkeypatch.setattr(tuneModel, "train", pretended)


def trials_of(search) -> list:
    storage = f"sqlite:///{search.folder / 'study.sqlite3'}"
    return optuna.load_study(study_name=search.name, storage=storage).trials


def test_a_search(search, pretend):
    path = tune(search)
    trials = trials_of(search)
    assert len(trials) == 12
    finished = [trial for trial in trials if trial.state.name == "COMPLETE"]
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert pruned
    assert len(finished) + len(pruned) == 12
    for trial in trials:
        run = Run(search.folder.parent / f"study-{trial.number:04d}")
        config = run.read_config()
        history = run.read_history()
        assert config.train.optimizer.options["learning_rate"] == trial.params["train.optimizer.learning_rate"]
        assert config.model.options["dropout"] == trial.params["model.dropout"]
        assert config.tune == configuration.Tune()
        assert sorted(trial.intermediate_values) == [row["epoch"] for row in history]
        assert len(history) < EPOCHS if trial in pruned else len(history) == EPOCHS
    best = load(path)
    winner = max(finished, key=lambda trial: trial.value)
    assert quality(best) * (1 - 0.5**EPOCHS) == pytest.approx(winner.value)
    assert (best.train.run, best.train.epochs) == ("study-best", EPOCHS)
    assert best.train.loss.name in ("categorical_crossentropy", "binary_crossentropy")
    assert (
        configuration.toml_value({"name": best.train.loss.name, **best.train.loss.options})
        == (winner.params["train.loss"])
    )
    rows = (search.folder / "trials.csv").read_text().splitlines()
    assert len(rows) == 13


def test_a_finished_search_goes_on(search, pretend, tmp_path):
    tune(search)
    before = trials_of(search)
    tune(search)
    assert len(trials_of(search)) == 12
    tune(make_search(tmp_path, "tune.trials=14"))
    after = trials_of(search)
    assert len(after) == 14
    assert [trial.params for trial in after[:12]] == [trial.params for trial in before]


def test_the_same_search_chooses_the_same(search, pretend, tmp_path):
    tune(search)
    again = make_search(tmp_path / "again")
    tune(again)
    assert [trial.params for trial in trials_of(again)] == [trial.params for trial in trials_of(search)]


def killed(folder) -> None:
    def dies(config, stops):
        def counted(history):
            if config.train.run == "study-0002" and len(history) == 2:
                os._exit(9)
            return stops(history)

        pretended(config, counted)

    tuneModel.train = dies
    tune(make_search(folder))


def test_a_killed_search_goes_on_with_the_trial_in_flight(search, pretend, tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=killed, args=(tmp_path,))
    process.start()
    process.join(120)
    assert process.exitcode == 9
    interrupted = trials_of(search)[-1]
    assert (interrupted.number, interrupted.state.name) == (2, "RUNNING")
    tune(search)
    trials = trials_of(search)
    assert trials[2].state.name == "FAIL"
    assert trials[3].params == interrupted.params
    assert trials[3].user_attrs["run"] == "study-0002"
    assert sorted(trials[3].intermediate_values)[:2] == [1, 2]  # also the epochs before the kill
    assert not (search.folder.parent / "study-0003").exists()
    assert sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in trials) == 12


def test_a_search_whose_study_was_removed(search, pretend):
    """Runs of its trials are left, and the new ones get names of their own."""
    tune(search)
    shutil.rmtree(search.folder)
    tune(search)
    names = {trial.user_attrs["run"] for trial in trials_of(search)}
    assert {"study-0000-2", "study-0001-2"} <= names
    assert {trial.state.name for trial in trials_of(search)} <= {"COMPLETE", "PRUNED"}


def test_two_searches_that_find_the_same_dead_trial(search, pretend, monkeypatch):
    search.folder.mkdir()
    study = tuneModel.open_study(search, f"sqlite:///{search.folder / 'study.sqlite3'}")
    trial = study.ask()
    host, pid, started = tuneModel._owner()
    trial.set_user_attr("run", "study-0000")
    trial.set_user_attr("owner", [host, pid, started - 100])
    seen = study.get_trials(states=[optuna.trial.TrialState.RUNNING])
    tuneModel.resume_interrupted(study)
    late = SimpleNamespace(
        get_trials=lambda states: seen if optuna.trial.TrialState.RUNNING in states else [],
        tell=study.tell,
        enqueue_trial=lambda *_, **__: pytest.fail("put into the queue twice"),
    )
    tuneModel.resume_interrupted(late)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]


def test_a_trial_of_a_living_process_is_left_alone(search, pretend, monkeypatch):
    storage = f"sqlite:///{search.folder / 'study.sqlite3'}"
    search.folder.mkdir()
    study = tuneModel.open_study(search, storage)
    trial = study.ask()
    trial.set_user_attr("run", "study-0000")
    trial.set_user_attr("owner", tuneModel._owner())
    tuneModel.resume_interrupted(study)
    assert study.trials[0].state.name == "RUNNING"
    host, pid, started = tuneModel._owner()
    trial.set_user_attr("owner", ["another-host", pid, started - 100])
    tuneModel.resume_interrupted(study)
    assert study.trials[0].state.name == "RUNNING"
    trial.set_user_attr("owner", [host, pid, started - 100])  # the number was given to another process
    tuneModel.resume_interrupted(study)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]


def test_settings_that_came_later_are_no_difference(search):
    """Had this study begun before they existed, it would have been with their defaults."""
    now = search.identity()
    before = "".join(line for line in now.splitlines(keepends=True) if not line.startswith("padding"))
    assert before != now
    assert differences(before, now) == []
    assert differences(before, now.replace('"silence"', '"repeat"')) == ["features.padding: silence -> repeat"]
    assert differences(now, now.replace("hardware_log = 1.0", "hardware_log = 0.0")) == []  # changes no figure
    assert "hardware_log = 1.0" in now


def test_other_settings_are_another_study(search, pretend, tmp_path):
    tune(search)
    with pytest.raises(PipelineError, match=r"study was started with other settings.*train\.seed: 0 -> "):
        tune(make_search(tmp_path, "train.seed=5"))


def test_failing_trials(search, monkeypatch, capsys):
    """One that fails is passed over; three in a row end the search."""
    calls = []

    def fails(config, stops):
        calls.append(config.train.run)
        if len(calls) == 2 or len(calls) > 4:
            raise MemoryError("too large")
        pretended(config, stops)

    monkeypatch.setattr(tuneModel, "train", fails)
    with pytest.raises(PipelineError, match="3 trials failed one after the other"):
        tune(search)
    assert calls == [f"study-{i:04d}" for i in range(7)]
    assert "trial 1 failed: MemoryError: too large" in capsys.readouterr().out


def test_trials_that_diverge_are_pruned(search, monkeypatch):
    """They are results, so that many in a row do not end the search."""
    calls = []

    def diverges(config, stops):
        calls.append(config.train.run)
        if len(calls) <= 4:
            raise DivergedError("The training diverged in its first epoch.")
        pretended(config, stops)

    monkeypatch.setattr(tuneModel, "train", diverges)
    tune(search)
    assert len(calls) == search.config.tune.trials > 4
    assert [trial.state.name for trial in trials_of(search)[:4]] == ["PRUNED"] * 4


def test_a_damaged_study_gives_one_line(search, pretend):
    search.folder.mkdir()
    (search.folder / "study.sqlite3").write_text("this is no database " * 100)
    with pytest.raises(PipelineError, match=r"study\.sqlite3 cannot be used"):
        tune(search)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tune.space={'model.nonsense'=[1]}", "nonsense"),
        ("tune.min_epochs=10", r"tune\.min_epochs.*at most the 9 epochs"),
        ("tune.study=a/b", r"tune\.study"),
        ("tune.metric=val_f1", r"tune\.metric"),
        ("tune.reduction_factor=1", r"tune\.reduction_factor"),
    ],
)
def test_bad_settings_are_found_before_the_start(tmp_path, override, words):
    with pytest.raises(ConfigError, match=words):
        make_search(tmp_path, override)
    assert list(tmp_path.iterdir()) == []


def test_defaults_of_the_names():
    config = load(None, ["data.corpus=birds", "model.network=birdclef", "tune.space={'train.seed'=[1]}"])
    assert open_search(config, lambda more: config).name == "tune-birds-birdclef"


def test_a_search_needs_the_features(tmp_path):
    folders = ("--set", f'data.folder="{tmp_path}"', "--set", f'train.folder="{tmp_path}"')
    done = run_script("train/tuneModel.py", "--config", "config/demo-tune.toml", *folders)
    assert done.returncode == 1
    assert "holds 0 train shards" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
