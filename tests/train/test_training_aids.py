"""Averaged weights, plateau, checkpoints, histograms, tracking and the files that a run leaves, on a tiny network."""

import csv
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from sklearn.metrics import classification_report

import config as configuration
from config import Config, ConfigError
from predict.scores import load_run
from preprocess.loadData import features_folder
from preprocess.segments import open_shards
from tests.conftest import PROJECT
from tests.train.conftest import NETWORKS, derived
from tests.train.test_train import TINY, assert_same_course, weights_of
from train.hardware_log import COLUMNS, read_hardware_log
from train.mlflow_log import Tracking, parameters
from train.run import MONITORS, DivergedError, Run
from train.scoring import score_recordings
from train.trainModel import open_dataset
from train.trainModel import train as train_network
from train.tuneModel import open_search, tune

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny", "uncompiled")]

PUBLISHED = (
    *TINY,
    "model.normalise=none",
    "train.schedule=constant",
    "train.warmup_epochs=0",
    "train.epochs=4",
)

# A learning rate so high that val_loss rises and the plateau is reached at once.
AIDS = (
    *TINY,
    "train.epochs=6",
    "train.validation=0.5",
    "train.schedule=plateau",
    "train.plateau_patience=1",
    "train.plateau_factor=0.5",
    "train.optimizer={name='adamw', learning_rate=5e-2}",
    "train.ema=0.9",
    "train.checkpoint_every=2",
    "train.hardware_log=0.05",
    "train.histograms=true",
    "train.mlflow=true",
    "model.dropout=0.3",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("aids")


@pytest.fixture(scope="module")
def whole(corpus, home, tiny) -> Config:
    config = derived(corpus, home, *AIDS, "train.run=whole")
    train_network(config)
    return config


@pytest.fixture(scope="module")
def resumed(corpus, home, tiny) -> Config:
    """The same run in two parts: the state after three epochs, and the rest."""
    config = derived(corpus, home, *AIDS, "train.run=resumed")
    train_network(config, lambda history: len(history) == 3)
    run = Run(config.run_dir)
    assert len(run.read_history()) == 3
    train_network(config)
    return config


def test_a_first_epoch_that_diverges_ends_in_one_line(corpus, tmp_path):
    """RMSprop on input that is not normalised, at a rate at which nothing survives; no weights are kept."""
    config = derived(corpus, tmp_path, *PUBLISHED, "train.optimizer={name='rmsprop', learning_rate=1e30}")
    with pytest.raises(DivergedError, match="diverged in its first epoch: its loss or its weights are no") as e:
        train_network(config)
    assert str(e.value).isprintable()
    assert not list(config.run_dir.glob("*.weights.h5"))
    assert not (config.run_dir / "metrics.json").exists()


def test_a_later_epoch_that_diverges_ends_the_training(corpus, tmp_path, monkeypatch, capsys):
    """The weights are spoiled at the beginning of the third epoch; the best ones are those before.

    On some processors the rectifier makes 0 of what is no number, so that the loss is finite, and must not deceive.
    """

    def spoil(trainer, seed, epoch):
        if epoch == 2:
            trainer.trainable_variables[0].assign(np.full(trainer.trainable_variables[0].shape, np.nan))

    monkeypatch.setattr("train.trainModel.reseed", spoil)
    config = derived(corpus, tmp_path, *PUBLISHED, "train.optimizer={name='adamw', learning_rate=1e-3}")
    train_network(config)
    assert (
        "warning: the training diverged in epoch 3: its loss or its weights are no numbers." in capsys.readouterr().out
    )
    run = Run(config.run_dir)
    assert len(run.read_history()) == 3
    metrics = run.read_metrics()
    assert metrics["best_epoch"] in (1, 2)
    assert metrics["validation"]["val_loss"] == pytest.approx(run.read_history()[metrics["best_epoch"] - 1]["val_loss"])
    for monitor in MONITORS:
        assert all(np.isfinite(weight).all() for weight in weights_of(run.best_weights(monitor)).values())
    train_network(config)  # it is over, and does not go on
    assert "is finished: val_map" in capsys.readouterr().out


def test_the_learning_rate_follows_the_plateaus(whole):
    """Counted by hand: with a patience of 1, every epoch that does not lower val_loss halves what comes after."""
    history = Run(whole.run_dir).read_history()
    rate, best = 5e-2, np.inf
    for row in history:
        assert row["learning_rate"] == pytest.approx(rate, rel=1e-5)
        rate, best = (rate if row["val_loss"] < best else rate / 2), min(best, row["val_loss"])
    assert len({row["learning_rate"] for row in history}) > 1


def test_a_resumed_run_is_an_uninterrupted_one(whole, resumed):
    a, b = Run(whole.run_dir), Run(resumed.run_dir)
    assert_same_course(b.read_history(), a.read_history())
    for monitor in ("val_map", "val_loss"):
        ours, theirs = (weights_of(run.best_weights(monitor)) for run in (a, b))
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-2, atol=1e-4, err_msg=name)


def test_best_weights_are_averages_and_the_state_is_not(whole):
    """The last checkpoint is made in the epoch of the state, and its weights are the optimizer's averages."""
    run = Run(whole.run_dir)
    with h5py.File(run.folder / "state.h5") as file:
        raw = [item[()] for item in file["weights"].values()]
        of_optimizer = [item[()] for item in file["optimizer"].values()]
    _, model, _ = load_run(run)
    model.load_weights(run.folder / "epoch_0006.weights.h5")
    for weight in model.trainable_weights:
        value = weight.numpy()
        assert not any(value.shape == item.shape and np.array_equal(value, item) for item in raw)
        assert any(value.shape == item.shape and np.array_equal(value, item) for item in of_optimizer)


def test_checkpoints(whole):
    names = sorted(path.name for path in Run(whole.run_dir).folder.glob("epoch_*"))
    assert names == ["epoch_0002.weights.h5", "epoch_0004.weights.h5", "epoch_0006.weights.h5"]


def test_figures_per_class_are_those_of_sklearn(whole):
    run = Run(whole.run_dir)
    config, model, loss = load_run(run)
    data = open_dataset(config, open_shards(features_folder(config), "train"))
    chosen = data.side("validation")
    best = score_recordings(model, loss, data.reader, chosen, config.predict).argmax(axis=1)
    names = [kind.class_id for kind in data.species]
    report = classification_report(
        data.labels[chosen], best, labels=range(3), target_names=names, output_dict=True, zero_division=np.nan
    )
    with (run.folder / "per_class.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["side"], row["class_id"]) for row in rows] == [("validation", name) for name in names]
    for c, row in enumerate(rows):
        expected = report[row["class_id"]]
        assert int(row["recordings"]) == expected["support"]
        assert int(row["predicted"]) == (best == c).sum()
        assert int(row["trained_on"]) == (data.labels[data.side("train")] == c).sum()
        for name, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            found = float(row[name]) if row[name] else np.nan
            assert found == pytest.approx(expected[key], abs=1e-5, nan_ok=True)


def test_intervals_hold_their_figures(whole):
    metrics = Run(whole.run_dir).read_metrics()
    for name in ("val_map", "val_top1"):
        low, high = metrics["intervals"][name]
        assert 0 <= low <= metrics["validation"][name] <= high <= 1


def test_the_machine_was_watched(whole):
    run = Run(whole.run_dir)
    assert (run.folder / "hardware.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    found = read_hardware_log(run.folder / "hardware.csv")
    assert {"cpu", "process"} <= found.keys()
    assert all(0 <= row["use_percent"] <= 100 for row in found["cpu"])
    assert found["process"][-1]["memory_mb"] > 100


def tensorboard_values(folder) -> dict[str, dict[int, np.ndarray]]:
    """Return what TensorBoard reads from a folder: by name and epoch."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    found: dict[str, dict[int, np.ndarray]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = tensor_util.make_ndarray(value.tensor)
    return found


def test_tensorboard_has_the_curves(whole, resumed):
    """Those of a run that was interrupted too."""
    for config in (whole, resumed):
        run = Run(config.run_dir)
        found = tensorboard_values(run.folder / "tensorboard")
        history = run.read_history()
        for name in history[0]:
            expected = {int(row["epoch"]): np.float32(row[name]) for row in history}
            assert {epoch: value.item() for epoch, value in found[name].items()} == pytest.approx(expected), name


def test_histograms_count_every_weight(whole):
    run = Run(whole.run_dir)
    found = [values[6] for name, values in tensorboard_values(run.folder / "tensorboard").items() if "/" in name]
    with h5py.File(run.folder / "state.h5") as file:  # the weights that are trained, not the averages
        weights = [item[()] for item in file["weights"].values()]
    expected = {(values.size, values.min(), values.max()) for values in weights if values.dtype == np.float32}
    assert len(found) == 8
    assert {(rows[:, 2].sum(), np.float32(rows[0, 0]), np.float32(rows[-1, 1])) for rows in found} <= expected


def test_mlflow_has_figures_parameters_and_files(whole, resumed):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(whole.run_dir.parent / "mlruns").as_uri())
    experiment = client.get_experiment_by_name(whole.corpus_dir.name)
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {"whole", "resumed"}  # the interrupted one is not twice there
    for name, config in (("whole", whole), ("resumed", resumed)):
        history, tracked = Run(config.run_dir).read_history(), runs[name]
        points = client.get_metric_history(tracked.info.run_id, "val_map")
        found = sorted((point.step, point.value) for point in points)
        assert found == [(row["epoch"], pytest.approx(row["val_map"])) for row in history]
        assert tracked.info.status == "FINISHED"
        assert tracked.data.params["train.ema"] == "0.9"
        assert tracked.data.params["features.bands"] == "19"
        files = {item.path for item in client.list_artifacts(tracked.info.run_id)}
        assert {"config.toml", "metrics.json", "history.csv", "per_class.csv"} <= files
        assert Run(config.run_dir).best_weights(config.train.monitor).name in files


class Server:
    """Stands in for a client of MLflow, and fails after so many parameters."""

    def __init__(self) -> None:
        self.params, self.most, self.runs = {}, 3, 0

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id="1")

    def create_run(self, *_, **__):
        self.runs += 1
        return SimpleNamespace(info=SimpleNamespace(run_id="r"))

    def get_run(self, run_id):
        return SimpleNamespace(data=SimpleNamespace(params=dict(self.params)))

    def get_metric_history(self, *_):
        return []

    def update_run(self, *_, **__):
        pass

    def log_param(self, run_id, key, value):
        if len(self.params) == self.most:
            raise ConnectionError("gone")
        assert key not in self.params
        self.params[key] = value


def test_parameters_that_were_cut_off_are_sent_by_the_next_start(corpus, tmp_path):
    config, server = derived(corpus, tmp_path, *TINY), Server()
    with pytest.raises(ConnectionError):
        Tracking(server, "here", config, tmp_path)
    server.most = None
    Tracking(server, "here", config, tmp_path)
    assert server.params == parameters(config)
    assert server.runs == 1


def test_a_training_from_the_start_is_another_run_of_the_server(corpus, tmp_path, monkeypatch):
    """Its curve is not put behind that of one whose state was removed."""
    config, server = derived(corpus, tmp_path, *TINY), Server()
    server.most = None
    Tracking(server, "here", config, tmp_path)
    monkeypatch.setattr(server, "get_metric_history", lambda *_: [SimpleNamespace(step=1), SimpleNamespace(step=2)])
    (tmp_path / "state.h5").touch()
    assert Tracking(server, "here", config, tmp_path).sent == 2
    assert server.runs == 1
    (tmp_path / "state.h5").unlink()
    server.params = {}
    assert Tracking(server, "here", config, tmp_path).sent == 0
    assert server.runs == 2
    assert server.params == parameters(config)


def test_a_server_that_is_not_there_gives_one_line(corpus, home):
    from config import PipelineError

    config = derived(corpus, home, *TINY, "train.mlflow=nonsense://nowhere", "train.run=unreachable")
    with pytest.raises(PipelineError, match=r"train\.mlflow: nonsense://nowhere cannot be used"):
        train_network(config)


def test_without_mlflow_the_package_is_named(corpus, home, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = derived(corpus, home, *TINY, "train.mlflow=true", "train.run=without")
    with pytest.raises(ConfigError, match=r"train\.mlflow=true needs the mlflow package"):
        train_network(config)
    assert not config.run_dir.exists()


def test_the_optimizers_own_averaging_is_refused(corpus, home):
    config = derived(corpus, home, *TINY, "train.optimizer={name='sgd', use_ema=true}", "train.run=own")
    with pytest.raises(ConfigError, match=r"Set train\.ema"):
        train_network(config)


# Several devices

TWO = """
import sys
import tensorflow as tf
cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, {project!r})
import train.models
train.models.__path__.append({networks!r})
import config
from train.trainModel import train as train_network
from train.tuneModel import open_search, tune
train_network(config.load({file!r}))
"""


def test_two_devices_learn_what_one_learns(corpus, home, tmp_path):
    """The same global batches, the same mean loss, so the same weights but for the order of sums.

    With plain SGD, as Adam's first steps turn differences of rounding in tiny gradients into whole steps.
    """
    plain = (
        *TINY,
        "model.network=plain",
        "train.epochs=3",
        "train.ema=0.5",
        "train.schedule=plateau",
        "train.hardware_log=0",
        "train.optimizer={name='sgd', learning_rate=0.02}",
    )
    one = derived(corpus, home, *plain, "train.run=one")
    train_network(one)
    two = derived(corpus, home, *plain, "train.run=two", "train.devices=2")
    file = tmp_path / "two.toml"
    file.write_text(configuration.to_toml(two))
    code = TWO.format(project=str(PROJECT), networks=str(NETWORKS), file=str(file))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "every batch is shared among cpu:0, cpu:1" in done.stdout
    # Sums in another order, whose difference training magnifies.
    assert_same_course(Run(two.run_dir).read_history(), Run(one.run_dir).read_history(), rel=1e-2)
    ours, theirs = (weights_of(Run(config.run_dir).best_weights()) for config in (one, two))
    for name in ours:
        # Where a cell is masked the input is 0 up to rounding, and so the ReLU's slope; that moves the first biases.
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-2, atol=5e-3, err_msg=name)


# The search, on real trainings


def test_a_search_gives_runs_and_a_configuration_that_trains(corpus, home, tiny):
    pytest.importorskip("optuna")
    base = (
        *TINY,
        "train.epochs=2",
        "tune.study=search",
        "tune.trials=2",
        "tune.metric=val_loss",
        "tune.space={'train.optimizer.learning_rate' = {low = 1e-4, high = 1e-1, log = true}, 'model.dense' = [4, 16]}",
    )
    path = tune(open_search(derived(corpus, home, *base), lambda more: derived(corpus, home, *base, *more)))
    runs = [Run(home / f"search-{number:04d}") for number in range(2)]
    losses = [min(row["val_loss"] for row in run.read_history()) for run in runs]
    whole = [loss for run, loss in zip(runs, losses, strict=True) if len(run.read_history()) == 2]
    assert all((run.folder / "metrics.json").exists() for run in runs)
    assert len({run.read_config().train.optimizer.options["learning_rate"] for run in runs}) == 2
    best = configuration.load(path)
    train_network(best)
    history = Run(home / "search-best").read_history()
    assert len(history) == 2
    assert min(row["val_loss"] for row in history) == pytest.approx(min(whole), rel=1e-3)  # the same seed
