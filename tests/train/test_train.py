"""Training as a whole, on three species that any network learns: results, interruption, and every setting."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score

import config as configuration
import train.batches
from config import Config, ConfigError, PipelineError, Train
from predict.scores import load_run
from preprocess.loadData import features_folder
from preprocess.recordings import Recording, Species, read_table, write_table
from preprocess.segments import SegmentReader, open_shards
from tests.conftest import PROJECT
from tests.train.conftest import NETWORKS, derived, open_reader
from train.losses import Loss
from train.metrics import chance_map
from train.run import MONITORS, Run, last_run, resolve
from train.trainModel import Pace, open_dataset
from train.trainModel import train as train_network

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny")]

# Settings with which the fixture is learned within an epoch or two.
BIRDCLEF = (
    "model.network=birdclef",
    "model.dropout=0.1",
    "train.epochs=3",
    "train.batch_size=4",
    "train.schedule=constant",
    "train.warmup_epochs=0",
    "train.optimizer={name='adamw', learning_rate=1e-3}",
    "predict.batch_size=8",
)
TINY = (
    "model.network=tiny",
    "train.epochs=2",
    "train.batch_size=4",
    "train.schedule=constant",
    "train.warmup_epochs=0",
    "train.optimizer={name='adamw', learning_rate=3e-3}",
)
# Everything that draws random numbers, so that nothing of it may be lost by an interruption, in compiled steps.
RANDOM = (
    *TINY,
    "train.epochs=8",
    "train.epoch_segments=40",
    "train.augment={mixup={alpha=0.5}, time_mask={width=60}}",
    "model.dropout=0.3",
)


def assert_same_course(found: list[dict[str, float]], expected: list[dict[str, float]], rel: float = 1e-3) -> None:
    """Compare histories but for the clock."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds", "waiting_share"}:
            assert a[name] == pytest.approx(b[name], rel=rel, abs=1e-5), (name, a["epoch"])


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith(".part") or path.name.startswith("part.")]


def weights_of(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays of a file of weights by their name."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return found


def copied(run: Run, name: str) -> Run:
    """Return a copy of a run under another folder of runs, so that its name stays."""
    folder = run.folder.parent / name / run.folder.name
    shutil.copytree(run.folder, folder)
    return Run(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def learned(corpus, home, tiny) -> Config:
    """The network of the paper's best runs, with small dense layers, after three epochs."""
    config = derived(corpus, home, *BIRDCLEF, "train.run=learned")
    train_network(config)
    return config


@pytest.fixture(scope="module")
def uninterrupted(corpus, home, tiny) -> Config:
    """The small network after all its epochs in one go."""
    config = derived(corpus, home, *RANDOM, "train.run=uninterrupted")
    train_network(config)
    return config


# What a run leaves behind


def test_it_learns(learned):
    """A random ranking of three species would have a MAP of (1 + 1/2 + 1/3) / 3."""
    assert chance_map(np.array([1]), 3) == pytest.approx(11 / 18)
    history = Run(learned.run_dir).read_history()
    assert max(row["val_map"] for row in history) > 0.9
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert min(row["val_loss"] for row in history) < 0.8 * np.log(3)


def test_the_run_directory_is_complete(learned):
    run = Run(learned.run_dir)
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "best_val_acc.weights.h5",
        "best_val_loss.weights.h5",
        "best_val_map.weights.h5",
        "classes.csv",
        "config.toml",
        "features.json",
        "hardware.csv",
        "history.csv",
        "last.weights.h5",
        "metrics.json",
        "per_class.csv",
        "sealed.csv",
        "split.csv",
        "state.h5",
        "tensorboard",
    ]
    assert list((run.folder / "tensorboard").glob("events.out.tfevents.*"))
    assert [kind.class_id for kind in run.read_species()] == ["aaaaaa", "bbbbbb", "cccccc"]
    assert run.read_stamp().shape == (200,)
    assert run.read_stamp().encoding.scale_factor == 0.05


def test_the_configuration_is_resolved(learned):
    with (learned.run_dir / "config.toml").open("rb") as stream:
        written = tomllib.load(stream)
    assert written["features"]["n_fft"] == 512
    chosen = {"network": "birdclef", "normalise": "bin", "dynamic_range": 0.0, "start": "", "freeze": 0}
    assert written["model"] == chosen | {"dropout": 0.1, "dense": 32, "momentum": 0.9}
    assert (written["data"]["corpus"], written["train"]["run"]) == ("small", "learned")
    assert Run(learned.run_dir).read_config() == resolve(learned)


def test_history_has_a_row_per_epoch(learned):
    with (learned.run_dir / "history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = "epoch loss acc val_loss val_acc val_map val_map_background val_auc val_top1 val_top3 val_top5"
    assert {*rows[0]} == {*names.split(), "learning_rate", "seconds", "waiting_share"}
    assert next(iter(rows[0])) == "epoch"
    assert [float(row["epoch"]) for row in rows] == [1, 2, 3]
    for row in rows:
        assert float(row["learning_rate"]) == pytest.approx(1e-3)
        assert float(row["seconds"]) > 0
        assert 0 <= float(row["waiting_share"]) <= 1
        assert float(row["val_map"]) == float(row["val_map_background"])  # no background species here
        assert float(row["val_top5"]) == 1  # of three classes


def test_the_final_figures_are_those_of_the_best_weights(learned):
    run = Run(learned.run_dir)
    history, metrics = run.read_history(), run.read_metrics()
    maps = [row["val_map"] for row in history]
    assert metrics["best_epoch"] == maps.index(max(maps)) + 1
    assert metrics["epochs"] == 3
    assert metrics["seconds"] == pytest.approx(sum(row["seconds"] for row in history))
    assert metrics["validation"]["recordings"] == 3
    best = history[metrics["best_epoch"] - 1]
    for name in ("val_map", "val_loss", "val_acc", "val_top1"):
        assert metrics["validation"][name] == pytest.approx(best[name], rel=1e-3)


def test_log_and_last_run(learned, home):
    with (home / "log.csv").open(newline="") as stream:
        rows = {row["run"]: row for row in csv.DictReader(stream)}
    row = rows["learned"]
    expected = {"corpus": "small", "network": "birdclef", "species": "3", "recordings": "9", "epochs": "3"}
    assert {name: row[name] for name in expected} == expected
    assert float(row["val_map"]) == round(Run(learned.run_dir).read_metrics()["validation"]["val_map"], 5)
    assert last_run(home).folder.name in rows


def test_a_step_is_traced_once_and_none_is_waited_for(corpus, home, monkeypatch):
    """Tracing takes seconds; a callback that hears of the end of a step lets a GPU stand idle until it is back."""
    steps, callbacks = [], []
    over_batch, fit = Loss.over_batch, keras.Model.fit
    monkeypatch.setattr(Loss, "over_batch", lambda *given: steps.append(1) or over_batch(*given))
    monkeypatch.setattr(
        keras.Model, "fit", lambda *given, **more: callbacks.extend(more["callbacks"]) or fit(*given, **more)
    )
    train_network(derived(corpus, home, *TINY, "train.epochs=1", "train.run=traced"))
    assert len(steps) == 1
    assert len(callbacks) == 2
    for callback in callbacks:
        assert type(callback).on_train_batch_end is keras.callbacks.Callback.on_train_batch_end
        assert type(callback).on_batch_end is keras.callbacks.Callback.on_batch_end


def test_what_is_left_is_told_without_what_was_compiled():
    """Steps of 1 s after a first one of 31 s."""
    pace = Pace(47)
    pace.begin(100.0)
    said = {done: rate for done in range(47) if (rate := pace.step(done, 100 + (30 + done if done else 0)))}
    assert said == {2: 1.0, 22: 1.0, 42: 1.0}
    assert pace.epoch(177.0) == pytest.approx(47)
    pace.begin(200.0)
    assert not any(pace.step(done, 200 + done / 3) for done in range(47))
    assert pace.epoch(216.0) == 16
    pace = Pace(1)
    pace.begin(0.0)
    assert not pace.step(0, 30.0)
    assert pace.epoch(31.0) == 31


def test_split_keeps_a_quarter_of_each_species(learned, corpus):
    sides = Run(learned.run_dir).read_split()
    class_of = {row.media_id: row.class_id for row in read_table(corpus.corpus_dir / "recordings.csv", Recording)}
    held = [class_of[media_id] for media_id, side in sides.items() if side == "validation"]
    assert sorted(held) == ["aaaaaa", "bbbbbb", "cccccc"]
    assert sum(side == "train" for side in sides.values()) == 9


# Running the same command again


def test_a_finished_run_is_skipped(learned, capsys, monkeypatch):
    """Without a network being built."""
    before = {path: path.stat().st_mtime_ns for path in learned.run_dir.iterdir()}
    monkeypatch.setattr("train.network.build_model", lambda *_: pytest.fail("a network was built"))
    train_network(learned)
    assert "is finished: val_map" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in learned.run_dir.iterdir()} == before


def test_a_finished_run_of_recordings_elsewhere(learned, monkeypatch, capsys):
    """They may have moved, or their features be gone; others under the same names are not taken for them."""
    data = dataclasses.replace(learned.data, options=learned.data.options | {"root": "/elsewhere"})
    moved = dataclasses.replace(learned, data=data)
    train_network(moved)
    assert "is finished: val_map" in capsys.readouterr().out
    stamp = Run(learned.run_dir).read_stamp()
    monkeypatch.setattr(
        "train.trainModel.stamp_features", lambda *_: dataclasses.replace(stamp, fingerprint="of others")
    )
    for config in (moved, learned):
        with pytest.raises(PipelineError, match="recordings or features have changed since"):
            train_network(config)
    monkeypatch.setattr("train.trainModel.features_folder", lambda _: learned.run_dir)  # where there are none any more
    train_network(learned)


def test_a_finished_run_refuses_other_settings_and_names_only_those(learned, corpus, home):
    other = derived(corpus, home, *BIRDCLEF, "train.run=learned", "train.seed=7", "model.dense=64")
    with pytest.raises(PipelineError) as refusal:
        train_network(other)
    assert "(model.dense: 32 -> 64, train.seed: 0 -> 7)" in str(refusal.value)


def test_a_finished_run_goes_on_and_is_equal_to_an_uninterrupted_one(uninterrupted, corpus, home):
    """Three epochs and 5 more, with all that draws random numbers, equal 8."""
    for epochs in (3, 8):
        train_network(derived(corpus, home, *RANDOM, f"train.epochs={epochs}", "train.run=continued"))
        assert len(Run(home / "continued").read_history()) == epochs
    found, expected = Run(home / "continued"), Run(uninterrupted.run_dir)
    assert_same_course(found.read_history(), expected.read_history())
    assert found.read_metrics()["epochs"] == 8
    assert found.read_metrics()["validation"] == pytest.approx(expected.read_metrics()["validation"], rel=1e-3)
    for monitor in MONITORS:
        a, b = (weights_of(run.best_weights(monitor)) for run in (found, expected))
        assert a.keys() == b.keys() != set()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-2, atol=1e-4, err_msg=name)


def test_epochs_differ_in_what_they_draw(uninterrupted):
    """Were the random numbers of the epochs alike, the previous test could not notice their loss."""
    losses = [row["loss"] for row in Run(uninterrupted.run_dir).read_history()]
    assert len(set(losses)) == 8


def test_a_run_killed_before_its_final_figures_gets_them(uninterrupted, corpus, home):
    run = copied(Run(uninterrupted.run_dir), "without_metrics")
    expected, history = run.read_metrics(), (run.folder / "history.csv").read_bytes()
    (run.folder / "metrics.json").unlink()
    train_network(derived(corpus, run.folder.parent, *RANDOM, "train.run=uninterrupted"))
    found = run.read_metrics()
    assert found["validation"] == pytest.approx(expected["validation"], rel=1e-5)
    assert found["best_epoch"] == expected["best_epoch"]
    assert (run.folder / "history.csv").read_bytes() == history


def test_a_longer_run_killed_before_its_final_figures_gets_them(uninterrupted, corpus, monkeypatch):
    """Those of the shorter run are not taken for its own."""
    run = copied(Run(uninterrupted.run_dir), "longer")
    config = derived(corpus, run.folder.parent, *RANDOM, "train.epochs=18", "train.run=uninterrupted")
    with monkeypatch.context() as patch:
        patch.setattr("train.trainModel.final_metrics", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_network(config)
    assert not run.is_finished(resolve(config))
    train_network(config)
    assert (run.read_metrics()["epochs"], len(run.read_history())) == (18, 18)
    assert run.is_finished(resolve(config))


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_history_is_mended_from_the_state(uninterrupted, corpus, damage):
    run = copied(Run(uninterrupted.run_dir), f"history_{damage}")
    path = run.folder / "history.csv"
    whole = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(b"\n".join(whole.split(b"\n")[:2]))
    config = derived(corpus, run.folder.parent, *RANDOM, "train.run=uninterrupted")
    train_network(config)
    assert path.read_bytes() == whole
    assert run.is_finished(resolve(config))


@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_damaged_best_weights_give_one_clear_error(uninterrupted, corpus, damage):
    run = copied(Run(uninterrupted.run_dir), f"weights_{damage}")
    weights = run.best_weights()
    whole = weights.read_bytes()
    weights.unlink()
    if damage == "cut":
        weights.write_bytes(whole[: len(whole) // 2])
    (run.folder / "metrics.json").unlink()
    with pytest.raises(PipelineError, match=r"best_val_map\.weights\.h5"):
        train_network(derived(corpus, run.folder.parent, *RANDOM, "train.run=uninterrupted"))


def test_a_damaged_state_gives_one_clear_error(uninterrupted, corpus):
    run = copied(Run(uninterrupted.run_dir), "state")
    state = run.folder / "state.h5"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(PipelineError, match=r"state\.h5 cannot be resumed from"):
        train_network(derived(corpus, run.folder.parent, *RANDOM, "train.epochs=17", "train.run=uninterrupted"))
    train_network(derived(corpus, run.folder.parent, *RANDOM, "train.run=uninterrupted"))  # finished as it was
    assert run.read_metrics()["epochs"] == 8


def test_a_killed_process_goes_on_to_the_same_result(uninterrupted, corpus, home, tmp_path, capsys):
    config = derived(corpus, home, *RANDOM, "train.run=killed")
    run, script = Run(config.run_dir), str(PROJECT / "train" / "trainModel.py")
    file = tmp_path / "experiment.toml"
    file.write_text(configuration.to_toml(config))
    # The script itself, in a Python that knows the small network.
    start = (
        f"import runpy, sys; sys.path.insert(0, {str(PROJECT)!r}); import train.models; "
        f"train.models.__path__.append({str(NETWORKS)!r}); sys.argv = {[script, '--config', str(file)]!r}; "
        f"runpy.run_path({script!r}, run_name='__main__')"
    )
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", start], stdout=log, stderr=log, start_new_session=True)
        try:
            limit = time.monotonic() + 300
            while not (run.folder / "history.csv").exists():
                assert process.poll() is None, (tmp_path / "log.txt").read_text()
                assert time.monotonic() < limit
                time.sleep(0.005)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert 1 <= len(run.read_history()) < 8
    assert not (run.folder / "metrics.json").exists()
    train_network(config)
    assert "resuming after epoch" in capsys.readouterr().out
    assert_same_course(run.read_history(), Run(uninterrupted.run_dir).read_history())
    expected = Run(uninterrupted.run_dir).read_metrics()
    assert run.read_metrics()["best_epoch"] == expected["best_epoch"]
    assert run.read_metrics()["validation"] == pytest.approx(expected["validation"], rel=1e-3, abs=1e-5)
    assert leftovers(run.folder) == []


# Settings


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        (
            "none",
            (
                "model.normalise=none",
                "train.loss={name='binary_crossentropy', label_smoothing=0.05}",
                "train.random_windows=false",
            ),
        ),
        (
            "global",
            (
                "model.normalise=global",
                "features.mask=false",
                "features.drop_columns=false",
                "train.precision=mixed_float16",
            ),
        ),
        ("bfloat16", ("train.precision=mixed_bfloat16", "train.augment.mixup={}", "train.augment.frequency_mask={}")),
    ],
)
def test_other_settings_learn_too(corpus, home, name, overrides):
    config = derived(corpus, home, *TINY, "train.epochs=4", f"train.run={name}", *overrides)
    train_network(config)
    history = Run(config.run_dir).read_history()
    assert max(row["val_map"] for row in history) > 0.9
    assert min(row["val_loss"] for row in history) < history[0]["loss"]
    reader = open_reader(config)
    _, model, _ = load_run(Run(config.run_dir))
    stage = model.get_layer("standardise")
    deviations = len(np.unique(stage.deviation.numpy()))
    assert deviations == 1 if name in ("none", "global") else deviations > 100
    assert (set(stage.mean.numpy()) == {0}) == (name == "none")
    assert model.predict_on_batch(reader.read([0], [0])).dtype == np.float32


def test_early_stopping(corpus, home, capsys):
    """With a far too high learning rate the loss soon rises."""
    rate = "train.optimizer={name='sgd', learning_rate=0.5}"
    overrides = (*TINY, rate, "train.epochs=40", "train.run=stopped")
    config = derived(corpus, home, *overrides, "train.patience=2")
    train_network(config)
    run = Run(config.run_dir)
    losses = [row["val_loss"] for row in run.read_history()]
    assert 3 <= len(losses) < 40
    numbers = [value if np.isfinite(value) else np.inf for value in losses]
    assert len(losses) - 1 - int(np.argmin(numbers)) == 2
    assert "val_loss has not become lower for 2 epochs: stopping" in capsys.readouterr().out
    train_network(config)
    assert "is finished" in capsys.readouterr().out
    assert not run.is_finished(resolve(derived(corpus, home, *overrides, "train.patience=0")))
    assert not run.is_finished(resolve(derived(corpus, home, *overrides, "train.patience=3")))
    assert run.is_finished(resolve(derived(corpus, home, *overrides, "train.patience=1")))


@pytest.fixture(scope="module")
def with_background(corpus, tmp_path_factory) -> Config:
    """The same corpus, in which some recordings have background species, one of them unknown."""
    home = tmp_path_factory.mktemp("background")
    folder = home / "data" / "small"
    shutil.copytree(corpus.corpus_dir, folder)
    background = {"100": "bbbbbb,cccccc", "101": "bbbbbb", "102": "zzzzzz,aaaaaa", "104": "aaaaaa"}
    rows = read_table(folder / "recordings.csv", Recording)
    for row in rows:
        object.__setattr__(row, "background", background.get(row.media_id, ""))
    write_table(folder / "recordings.csv", Recording, rows)
    return derived(corpus, home / "runs", f'data.folder="{home / "data"}"')


def test_background_species_are_read(with_background):
    """Not the main species itself, nor what is no class."""
    config = with_background
    data = open_dataset(config, open_shards(features_folder(config), "train"))
    row = {media_id: i for i, media_id in enumerate(data.reader.media_id)}
    expected = np.zeros((12, 3), bool)
    expected[row["100"], [1, 2]] = expected[row["102"], 0] = expected[row["104"], 0] = True
    np.testing.assert_array_equal(data.background.toarray(), expected)
    labels = {media_id: (int(media_id) - 100) % 3 for media_id in row}
    assert data.labels.tolist() == [labels[media_id] for media_id in data.reader.media_id]
    weighted = Train(background_weight=0.25)
    np.testing.assert_array_equal(data.targets(Train()).toarray(), np.eye(3)[data.labels])
    np.testing.assert_allclose(data.targets(weighted).toarray(), np.eye(3)[data.labels] + 0.25 * expected)
    assert data.targets(weighted).dtype == np.float32


def test_background_weight_holdout_and_what_training_reads(with_background, monkeypatch):
    """One run: the targets carry the weight, the holdout is reported, and only the training side is trained on."""
    config = configuration.load(
        None,
        [
            *(f"{section}.{key}={json.dumps(value)}" for section, key, value in flat(with_background)),
            *TINY,
            "train.background_weight=0.3",
            "train.holdout=0.25",
            "train.validation=0.34",
            "train.run=background",
        ],
    )
    trained: list[tuple[int, np.ndarray]] = []

    class Spy(train.batches.Batches):
        def epoch(self, number):
            for codes, targets in super().epoch(number):
                trained.append((number, targets))
                yield codes, targets

        def stream(self, first_epoch):
            spied.append(self)
            return super().stream(first_epoch)

    spied: list[train.batches.Batches] = []
    monkeypatch.setattr(train.batches, "Batches", Spy)
    read: set[int] = set()
    monkeypatch.setattr(SegmentReader, "read", noting(SegmentReader.read, read))
    train_network(config)
    run = Run(config.run_dir)
    sides = run.read_split()
    assert {side: list(sides.values()).count(side) for side in set(sides.values())} == {
        "train": 6,
        "validation": 3,
        "holdout": 3,
    }
    reader = open_reader(config)
    assert {sides[reader.media_id[i]] for i in read} == {"train"}
    assert {reader.media_id[i] for i in read} == {media_id for media_id, side in sides.items() if side == "train"}
    assert {sides[reader.media_id[i]] for i in spied[0].owners} == {"train"}
    weights = {round(float(value), 4) for _, targets in trained for value in np.unique(targets)}
    in_training = {"100", "102", "104"} & {media_id for media_id, side in sides.items() if side == "train"}
    assert weights == ({0, 0.3, 1} if in_training else {0, 1})
    assert in_training
    metrics = run.read_metrics()
    for side, prefix in (("validation", "val"), ("holdout", "holdout")):
        figures = {"loss", "acc", "map", "map_background", "top1", "top3", "top5", "auc"}
        assert metrics[side].keys() == {f"{prefix}_{name}" for name in figures} | {"recordings"}
        scores, relevant, labels = score_by_hand(run, config, side)
        main = np.eye(3, dtype=bool)[labels]
        assert metrics[side]["recordings"] == 3
        assert metrics[side][f"{prefix}_map"] == pytest.approx(label_ranking_average_precision_score(main, scores))
        assert metrics[side][f"{prefix}_map_background"] == pytest.approx(
            label_ranking_average_precision_score(main | relevant, scores)
        )
        assert metrics[side][f"{prefix}_top1"] == pytest.approx((scores.argmax(axis=1) == labels).mean())


def flat(config: Config) -> list[tuple[str, str, object]]:
    """Return the keys of a configuration that say which recordings it is about."""
    tree = configuration.to_dict(config)
    select = {f"select.{key}": value for key, value in tree["data"].pop("select").items()}
    chosen = {"data": tree["data"] | select, "train": {"folder": tree["train"]["folder"]}}
    return [(section, key, value) for section, table in chosen.items() for key, value in table.items()]


def noting(read, found: set[int]):
    """Return SegmentReader.read that notes the recordings which the thread of the batches asks for."""

    def wrapped(self, recordings, starts):
        if threading.current_thread().name == "batches":
            found.update(int(i) for i in recordings)
        return read(self, recordings, starts)

    return wrapped


def score_by_hand(run: Run, config: Config, side: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean soft-max, background and labels of a side, from predictions of single segments."""
    _, model, _ = load_run(run)
    data = open_dataset(config, open_shards(features_folder(config), "train"))
    sides, scores = run.read_split(), []
    chosen = [i for i, media_id in enumerate(data.reader.media_id) if sides[media_id] == side]
    for i in chosen:
        logits = [model.predict_on_batch(data.reader.read([i], [s]))[0] for s in data.reader.segment_starts(i)]
        powers = np.exp(np.array(logits, np.float64))
        scores.append((powers / powers.sum(axis=1, keepdims=True)).mean(axis=0))
    return np.array(scores), data.background[chosen].toarray(), data.labels[chosen]


# Recordings as classes


def test_recordings_of_one_folder_can_be_told_apart(corpus, home, tmp_path):
    """Without labels there is one class, and nothing is to be held back."""
    config = derived(corpus, home, *TINY, "train.target=recording", "train.validation=0")
    rows = read_table(config.corpus_dir / "recordings.csv", Recording)
    folder = tmp_path / config.corpus_dir.name
    folder.mkdir()
    write_table(folder / "recordings.csv", Recording, [dataclasses.replace(row, class_id="all") for row in rows])
    write_table(folder / "classes.csv", Species, [Species("all")])
    shards = open_shards(features_folder(config), "train")
    moved = dataclasses.replace(config, data=dataclasses.replace(config.data, folder=str(tmp_path)))
    data = open_dataset(moved, shards)
    assert data.labels.tolist() == list(range(len(data.species)))
    with pytest.raises(PipelineError, match="at least two species"):
        open_dataset(dataclasses.replace(moved, train=dataclasses.replace(moved.train, target="species")), shards)


def test_recordings_can_be_told_apart_without_labels(corpus, home, monkeypatch):
    """Every recording but those of the holdout is a class; another training starts from what was learnt."""
    options = ("train.holdout=0.3", "train.monitor=last", "train.epochs=12", "train.patience=0")
    config = derived(corpus, home, *TINY, *options, "train.run=apart", "train.target=recording")
    train_network(config)
    run = Run(config.run_dir)
    sides = run.read_split()
    known = [kind.class_id for kind in run.read_species()]
    assert known == [media_id for media_id, side in sides.items() if side == "train"]
    assert set(sides.values()) == {"train", "unused"}
    assert len(known) >= 6
    history = run.read_history()
    assert history[-1]["val_acc"] > 3 / len(known)
    assert history[-1]["val_loss"] < history[0]["val_loss"]

    few = derived(corpus, home, *TINY, "train.validation=0", "train.target=recording")
    monkeypatch.setattr("train.trainModel.MOST_TOLD_APART", 4)  # a square of scores for many recordings is too large
    data = open_dataset(few, open_shards(features_folder(few), "train"))
    assert len(data.side("train")) == len(data.species) > 4
    assert data.side("validation").tolist() == [0, *data.side("validation")[1:3], len(data.species) - 1]

    after = derived(corpus, home, *TINY, "train.run=after", f'model.start="{run.folder}"')
    train_network(after)
    assert Run(after.run_dir).read_metrics()["validation"]["val_map"] > 0.5


# What cannot be trained


def test_missing_features_are_named(corpus, home):
    config = derived(corpus, home, *TINY, "features.bands=10", "train.run=nothing")
    with pytest.raises(PipelineError, match=r"holds 0 train shards.*stage 3"):
        train_network(config)
    assert not config.run_dir.exists()


def test_no_validation_is_refused(corpus, home):
    config = derived(corpus, home, *TINY, "train.validation=0", "train.run=nothing")
    with pytest.raises(PipelineError, match="leaves none to choose the best epoch by"):
        train_network(config)
    assert not config.run_dir.exists()


def test_the_split_is_the_one_that_was_chosen(corpus, home, capsys):
    """Four recordings of each species, a quarter of 4 and of the 3 that are left: 1, 1 and 2."""
    split = "train.split={name='per_class', test=0.25, validation=0.25}"
    config = derived(corpus, home, *TINY, split)
    data = open_dataset(config, open_shards(features_folder(config), "train"))
    for label in range(3):
        sides = sorted(data.sides[data.labels == label].tolist())
        assert sides == ["holdout", "train", "train", "validation"]
    assert "warning" not in capsys.readouterr().out  # every recording of the fixture has a recordist of its own


def test_a_single_species_is_refused(corpus, tmp_path):
    folder = tmp_path / "small"
    shutil.copytree(corpus.corpus_dir, folder)
    write_table(folder / "classes.csv", Species, [Species("aaaaaa")])
    rows = read_table(folder / "recordings.csv", Recording)
    for row in rows:
        object.__setattr__(row, "class_id", "aaaaaa" if row.part == "train" else "")
    write_table(folder / "recordings.csv", Recording, rows)
    with pytest.raises(PipelineError, match=r"at least two species.*found 1"):
        train_network(derived(corpus, tmp_path / "runs", *TINY, f'data.folder="{tmp_path}"'))


def test_a_manifest_that_lacks_recordings_is_refused(corpus, tmp_path):
    folder = tmp_path / "small"
    shutil.copytree(corpus.corpus_dir, folder)
    rows = read_table(folder / "recordings.csv", Recording)
    write_table(folder / "recordings.csv", Recording, rows[1:])
    with pytest.raises(PipelineError, match=f"hold recording '{rows[0].media_id}', the manifest does not"):
        train_network(derived(corpus, tmp_path / "runs", *TINY, f'data.folder="{tmp_path}"'))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.augment.cutmix={}", r"train\.augment\.cutmix"),
        ("train.loss={name='hinge'}", r"train\.loss\.name"),
        ("train.optimizer={name='best'}", r"train\.optimizer\.name"),
        ("model.network=vgg", r"model\.network"),
        ("features.segment_frames=5", r"does not fit segments"),
    ],
)
def test_bad_settings_leave_no_run_behind(corpus, home, override, words):
    """So that the corrected command can use the same name."""
    config = derived(corpus, home, "train.run=bad", override)
    with pytest.raises(ConfigError, match=words):
        train_network(config)
    assert not config.run_dir.exists()
