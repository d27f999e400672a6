"""The run directory: what is best, what may change, what a damaged state does, and the log of all runs."""

import csv
import dataclasses
import gc
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import config as configuration
from config import ConfigError, PipelineError
from preprocess.recipes import Encoding
from preprocess.recordings import Species
from tests.preprocess.disk import small_disk
from train.run import (
    MONITORS,
    FeatureStamp,
    Run,
    best_epoch,
    diverged,
    identity,
    is_best,
    is_over,
    last_run,
    plateau_scale,
    size_of,
    stops_early,
    write_rows,
)

NAN = float("nan")
SPECIES = [Species("aaaaaa", "Avis prima"), Species("bbbbbb", 'Avis "secunda"', "Bird; a second, small")]
STAMP = FeatureStamp('{"recipe": "birdclef2016"}', Encoding("uint8", 0.05, -4.5), (200,), "0123abcd")
SPLIT = {"100": "train", "101": "validation", "a, b.wav": "holdout"}


def settings_of(tmp_path, *overrides: str) -> configuration.Config:
    return configuration.load(None, ["train.run=first", f'train.folder="{tmp_path}"', *overrides])


def history_of(val_map: list[float], val_loss: list[float] | None = None) -> list[dict[str, float]]:
    val_loss = val_loss or [-value for value in val_map]
    return [
        {"epoch": i + 1, "loss": 1.0, "val_map": a, "val_loss": b, "val_acc": 0.5}
        for i, (a, b) in enumerate(zip(val_map, val_loss, strict=True))
    ]


def small_model(units: int, layers: int) -> keras.Model:
    return keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(units) for _ in range(layers))])


def small_trainer(units: int = 3, layers: int = 1) -> keras.Model:
    model = small_model(units, layers)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def variables(trainer: keras.Model) -> list[np.ndarray]:
    return [np.array(variable.numpy()) for variable in [*trainer.weights, *trainer.optimizer.variables]]


@pytest.fixture
def started(tmp_path) -> Run:
    """A run with one epoch."""
    run = Run(tmp_path / "first")
    run.start(settings_of(tmp_path), SPECIES, STAMP, SPLIT)
    trainer = small_trainer()
    run.save_epoch(trainer, trainer, history_of([0.5]))
    return run


# What is best


@pytest.mark.parametrize(
    ("values", "up", "down"),
    [
        ([1.0], [1], [1]),
        ([1.0, 2.0, 1.5, 3.0], [1, 1, 0, 1], [1, 0, 0, 0]),
        ([3.0, 2.0, 2.0, 1.0], [1, 0, 0, 0], [1, 1, 0, 1]),
        ([2.0, 2.0, 2.0], [1, 0, 0], [1, 0, 0]),
        ([NAN, 2.0, 1.0, 2.0], [1, 1, 0, 0], [1, 1, 1, 0]),
        ([2.0, NAN, 2.0, 3.0], [1, 0, 0, 1], [1, 0, 0, 0]),
        ([NAN, NAN], [1, 0], [1, 0]),
        ([math.inf, 1.0, -math.inf], [1, 0, 0], [1, 1, 1]),
    ],
)
def test_is_best_by_hand(values, up, down):
    history = [{"value": value} for value in values]
    for better, expected in ((max, up), (min, down)):
        found = [is_best(history[: i + 1], "value", better) for i in range(len(history))]
        assert found == [bool(flag) for flag in expected]


@pytest.mark.parametrize(
    ("loss", "val_loss", "expected"),
    [(1.0, 1.0, False), (NAN, 1.0, True), (1.0, NAN, True), (math.inf, 1.0, True), (1.0, math.inf, True)],
)
def test_what_has_diverged(loss, val_loss, expected):
    history = history_of([0.5, 0.5], [1.0, val_loss])
    history[-1]["loss"] = loss
    assert diverged(history) == is_over(history, 9, 0) == expected
    assert not diverged(history[:1])
    assert not diverged([])
    assert is_over(history, 2, 0)


def test_options_may_be_written_out_and_the_order_of_augmentations_counts():
    """An option that is given its default changes nothing; augmentations act one after the other."""
    plain = ["train.augment={time_mask={width=40}, mixup={}}", "train.optimizer={name='adamw', weight_decay=0.01}"]
    full = [
        "train.augment={time_mask={width=40, count=2, fill='mean'}, mixup={alpha=0.3}}",
        "train.optimizer={name='AdamW', weight_decay=0.01, beta_1=0.9}",
        "train.loss={name='categorical_crossentropy', label_smoothing=0.0}",
    ]
    one, two = (identity(configuration.load(None, overrides)) for overrides in (plain, full))
    assert one == two
    assert identity(configuration.load(None, [*full, "train.augment.mixup.alpha=0.4"])) != one
    assert identity(configuration.load(None, [*full, "train.optimizer.beta_1=0.8"])) != one
    swapped = ["train.augment={mixup={}, time_mask={width=40}}", plain[1]]
    assert identity(configuration.load(None, swapped)) != one
    with pytest.raises(ConfigError, match=r"train\.augment"):
        identity(configuration.load(None, ["train.augment={nothing={}}"]))


def test_a_run_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert [Run(Path(text)).folder.name for text in (".", "..", "../b")] == ["b", "a", "b"]
    assert Run(Path("runs/x")).folder == Path("runs/x")


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, NAN]), min_size=1, max_size=8))
def test_best_epoch_is_the_first_of_the_best_values(values):
    numbers = [value for value in values if not math.isnan(value)]
    history = history_of(values)
    assert best_epoch(history, "val_map") == (values.index(max(numbers)) if numbers else 0)
    assert best_epoch(history) == best_epoch(history, "val_map") == best_epoch(history, "val_loss")


@pytest.mark.parametrize(
    ("losses", "stops"),
    [
        ([1.0], [False, False, False]),
        ([1.0, 0.9], [False, False, False]),
        ([1.0, 1.1], [True, False, False]),
        ([1.0, 1.0], [True, False, False]),  # not lower
        ([1.0, 1.1, 1.2], [True, True, False]),
        ([1.0, 1.1, 0.9, 1.0], [True, False, False]),
        ([1.0, 0.9, NAN, NAN, NAN], [True, True, True]),
        ([NAN, 1.0, 2.0], [True, False, False]),
        ([NAN, NAN, NAN, NAN], [True, True, True]),
    ],
)
def test_stops_early_by_hand(losses, stops):
    """For the patience of 1, 2 and 3 epochs; 0 never stops."""
    history = history_of([0.5] * len(losses), losses)
    assert [stops_early(history, patience) for patience in (1, 2, 3)] == stops
    assert not stops_early(history, 0)


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, NAN]), max_size=14), st.integers(1, 4))
def test_plateaus_are_those_of_keras(losses, patience):
    """Keras' own callback, driven by hand, with its cooldown and least improvement at 0.

    It takes a NaN in the first epoch for the best value ever, which we do not.
    """
    assume(not losses or not math.isnan(losses[0]))
    trainer = small_trainer()
    trainer.optimizer.learning_rate = 1.0
    callback = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=patience, min_delta=0)
    callback.set_model(trainer)
    callback.on_train_begin()
    for epoch in range(len(losses)):
        callback.on_epoch_end(epoch, {"val_loss": losses[epoch]})
        expected = float(trainer.optimizer.learning_rate.numpy())
        assert plateau_scale(history_of([0.5] * (epoch + 1), losses[: epoch + 1]), 0.5, patience) == expected


def test_plateaus_by_hand():
    """Best 0.9 after two epochs; then every second epoch that is not lower multiplies by 0.2."""
    history = history_of([0.5] * 8, [1.0, 0.9, 0.9, 1.1, 0.95, 0.9, 0.8, NAN])
    scales = [plateau_scale(history[:epochs], 0.2, 2) for epochs in range(9)]
    assert scales == pytest.approx([1, 1, 1, 1, 0.2, 0.2, 0.04, 0.04, 0.04])


def test_an_empty_history_does_not_stop():
    assert not stops_early([], 1)


# Starting


def test_start_writes_what_identifies_the_run(started, tmp_path):
    assert started.read_config() == settings_of(tmp_path)
    assert started.read_species() == SPECIES
    assert started.read_stamp() == STAMP
    assert started.read_split() == SPLIT


@pytest.mark.parametrize(
    "override",
    [
        "train.epochs=99",
        "train.patience=3",
        "train.checkpoint_every=3",
        "train.devices=1",
        "train.hardware_log=0",
        "train.histograms=true",
        "train.mlflow=true",
        "tune.trials=3",
        "predict.top=5",
        "predict.batch_size=7",
        "data.root=/elsewhere/dawnchorus",
        "data.folder=elsewhere",
        "train.folder=elsewhere",
    ],
)
def test_these_may_change_when_a_run_goes_on(started, tmp_path, override):
    changed = settings_of(tmp_path, override)
    assert changed != settings_of(tmp_path)
    started.start(changed, SPECIES, STAMP, SPLIT)
    assert started.read_config() == changed


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.ema=0.5", r"train\.ema: 0\.0 -> 0\.5"),
        ("train.schedule=plateau", r"train\.schedule: cosine -> plateau"),
        ("train.seed=4", r"train\.seed: 0 -> 4"),
        ("train.optimizer={name='adamw', learning_rate=0.5}", r"train\.optimizer\.learning_rate: 0\.0003 -> 0\.5"),
        ("train.optimizer={name='sgd'}", r"train\.optimizer\.name: adamw -> sgd"),
        ("train.augment.mixup.alpha=0.4", r"train\.augment\.mixup\.alpha: None -> 0\.4"),
        ("train.validation=0.2", r"train\.validation: 0\.1 -> 0\.2"),
        ("train.schedule=constant", r"train\.schedule: cosine -> constant"),
        ("model.dropout=0.1", r"model\.dropout: 0\.5 -> 0\.1"),
        ("model.network=birdclef", r"model\.network: alexnet -> birdclef"),
        ("features.mask=false", r"features\.mask: True -> False"),
    ],
)
def test_other_settings_are_refused_by_name(started, tmp_path, override, words):
    before = (started.folder / "config.toml").read_bytes()
    with pytest.raises(PipelineError, match=words) as refusal:
        started.start(settings_of(tmp_path, override), SPECIES, STAMP, SPLIT)
    assert str(started.folder) in str(refusal.value)
    assert "train.epochs" not in str(refusal.value)
    assert (started.folder / "config.toml").read_bytes() == before


def test_an_augmentation_without_options_belongs_to_the_run(tmp_path):
    """time_roll = {} is not nothing."""
    without = settings_of(tmp_path)
    assert identity(settings_of(tmp_path, "train.augment.time_roll={}")) != identity(without)
    assert identity(settings_of(tmp_path, "train.augment={time_roll={}, mixup={}}")) != identity(
        settings_of(tmp_path, "train.augment={mixup={}}")
    )
    best = configuration.load(configuration.PROJECT / "config/best.toml", [])
    less = configuration.load(configuration.PROJECT / "config/best.toml", ["train.augment.time_roll=false"])
    assert identity(best) != identity(less)


def test_all_changes_are_named_at_once(started, tmp_path):
    with pytest.raises(PipelineError) as refusal:
        started.check_same(settings_of(tmp_path, "train.seed=1", "train.batch_size=3", "train.epochs=1"))
    assert "train.batch_size: 32 -> 3, train.seed: 0 -> 1" in str(refusal.value)


@pytest.mark.parametrize(
    "change", [{"fingerprint": "other"}, {"shape": (100,)}, {"recipe": "{}"}, {"encoding": Encoding("float32", 1, 0)}]
)
def test_other_features_are_refused(started, tmp_path, change):
    with pytest.raises(PipelineError, match="recordings or features have changed"):
        started.start(settings_of(tmp_path), SPECIES, dataclasses.replace(STAMP, **change), SPLIT)


@pytest.mark.parametrize("change", [{"101": "train"}, {"102": "train"}])
def test_a_split_that_has_changed_is_refused(started, tmp_path, change):
    """Groups and folds are in the manifest, not in the features."""
    started.start(settings_of(tmp_path), SPECIES, STAMP, dict(reversed(SPLIT.items())))
    with pytest.raises(PipelineError, match="sides of the recordings have changed"):
        started.start(settings_of(tmp_path), SPECIES, STAMP, SPLIT | change)
    assert started.read_split() == SPLIT


def test_what_a_run_was_trained_on(started, tmp_path):
    """By media id, or by the name of an audio file that holds it; other names only look alike."""
    asked = ["100", "101", "a, b.wav", "sub/100.flac", "100.txt", "x100.wav", "7"]
    assert started.trained_on(asked) == {"100", "sub/100.flac"}
    assert Run(tmp_path / "none").trained_on(asked) == set()


def test_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(PipelineError, match="no run directory"):
        Run(tmp_path).read_config()
    with pytest.raises(PipelineError, match=r"features\.json is missing or damaged"):
        Run(tmp_path).read_stamp()
    (tmp_path / "features.json").write_text('{"recipe": "x"')
    with pytest.raises(PipelineError, match=r"features\.json is missing or damaged"):
        Run(tmp_path).read_stamp()
    assert Run(tmp_path).read_history() == []


# State


def test_a_state_is_restored_exactly(started):
    trainer = small_trainer()
    trainer.train_on_batch(np.ones((2, 4)), np.zeros((2, 3)))
    history = [*history_of([0.5, 0.7], [NAN, 0.25])]
    started.save_epoch(trainer, trainer, history)
    expected = variables(trainer)
    other = small_trainer()
    assert not all(map(np.array_equal, variables(other), expected))
    found = started.restore(other)
    for a, b in zip(variables(other), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert json.dumps(found) == json.dumps(history)
    assert json.dumps(started.read_history()) == json.dumps([{k: float(v) for k, v in row.items()} for row in history])


def test_a_training_of_thousands_of_epochs_is_kept(started):
    """HDF5 takes no more than 64 kB into one attribute unless it is asked to."""
    history = history_of(np.random.default_rng(0).uniform(0, 1, 3000).tolist())
    assert len(json.dumps(history)) > 1 << 16
    trainer = small_trainer()
    started.save_epoch(trainer, trainer, history)
    assert started.restore(small_trainer()) == history


@pytest.mark.parametrize("units, layers", [(3, 1), (3, 40), (500, 3)])
def test_the_room_that_is_asked_for_is_enough_and_not_far_too_much(started, units, layers):
    trainer = small_trainer(units, layers)
    model = small_model(units, layers)  # as in a run, not compiled
    started.save_epoch(model, trainer, history_of([0.5]))
    for name, variables in (
        ("best_val_map.weights.h5", model.weights),
        ("state.h5", trainer.weights + trainer.optimizer.variables),
    ):
        size = (started.folder / name).stat().st_size
        assert size <= size_of(variables) < size + (1 << 17) + 4096 * len(variables), name


def test_a_full_disk_ends_in_one_line_before_anything_is_spoiled(tmp_path, capfd):
    """HDF5 that cannot write would say so in pages."""
    with small_disk(tmp_path / "disk", 640) as folder:
        run, model, trainer = Run(folder), small_model(100, 3), small_trainer(100, 3)
        run.save_epoch(model, trainer, history_of([0.5]))
        (folder / "other").write_bytes(bytes(150_000))
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(OSError, match=r"No space left on device: '.*part.best_val_map.weights.h5'"):
            run.save_epoch(model, trainer, history_of([0.5, 0.6]))
        gc.collect()
        assert {path.name: path.read_bytes() for path in folder.iterdir() if "part" not in path.name} == before
    assert capfd.readouterr().err == ""


def test_without_a_state_there_is_no_history(tmp_path):
    assert Run(tmp_path).restore(small_trainer()) == []


def test_weights_are_kept_when_they_are_best(started):
    """By hand: epoch 2 is best by val_loss only, epoch 3 by val_map and val_acc but its loss is no number."""
    history = history_of([0.5], [1.0])
    kept = dict.fromkeys(MONITORS, 1)
    for epoch, (val_map, val_loss, val_acc) in enumerate([(0.4, 0.9, 0.5), (0.6, NAN, 0.7), (0.6, 0.9, 0.7)], 2):
        trainer = small_trainer()
        for weight in trainer.weights:
            weight.assign(np.full(weight.shape, epoch))
        history.append({"epoch": epoch, "loss": 1, "val_map": val_map, "val_loss": val_loss, "val_acc": val_acc})
        started.save_epoch(trainer, trainer, history)
        kept |= {2: {"val_loss": 2}, 3: {"val_map": 3, "val_acc": 3}, 4: {}}[epoch] | (
            {} if epoch == 3 else {"last": epoch}
        )
        for monitor, best in kept.items():
            if best > 1:
                loaded = small_trainer()
                loaded.load_weights(started.best_weights(monitor))
                assert {float(value) for weight in loaded.weights for value in np.ravel(weight.numpy())} == {best}
    assert kept == {"val_map": 3, "val_loss": 2, "val_acc": 3, "last": 4}
    assert {monitor: best_epoch(history, monitor) + 1 for monitor in MONITORS} == kept


@pytest.mark.parametrize(("units", "layers", "words"), [(4, 1, r"\(4, 4\), .*\(4, 3\)\.$"), (3, 2, "Layer .*")])
def test_weights_of_another_network_say_what_differs(started, units, layers, words):
    """In one line, without the values of the weights."""
    small_model(3, 1).save_weights(started.best_weights())
    with pytest.raises(PipelineError, match="damaged or of another network: .*" + words) as caught:
        started.load_best(small_model(units, layers))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_what_a_killed_process_left_behind_does_no_harm(started):
    for name in ("state.h5.part", "history.csv.part", "part.best_val_map.weights.h5", "part.best_val_acc.weights.h5"):
        (started.folder / name).write_bytes(b"half")
    trainer = small_trainer()
    history = history_of([0.5, 0.6])
    history[1]["val_acc"] = 0.9
    started.save_epoch(trainer, trainer, history)
    assert not [path.name for path in started.folder.iterdir() if "part" in path.name]
    assert started.restore(small_trainer()) == history
    for monitor in MONITORS:
        small_trainer().load_weights(started.best_weights(monitor))


def damage(kind: str, path) -> None:
    whole = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("hello")
    elif kind.startswith("cut"):
        path.write_bytes(whole[: int(len(whole) * float(kind[3:]))])
    else:
        with h5py.File(path, "r+") as file:
            if kind == "incomplete":
                del file.attrs["complete"]
            elif kind == "no history":
                del file.attrs["history"]
            elif kind == "broken history":
                file.attrs["history"] = np.void(b"[{")
            elif kind == "no group":
                del file["optimizer"]
            elif kind == "missing variable":
                del file["weights/0001"]
            elif kind == "other shape":
                del file["weights/0000"]
                file["weights/0000"] = np.zeros((9, 9), np.float32)
            elif kind == "outside":
                shape = file["weights/0000"].shape
                del file["weights/0000"]
                external = [(str(path.with_name("elsewhere.bin")), 0, h5py.h5f.UNLIMITED)]
                file.create_dataset("weights/0000", shape, "f4", external=external)


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "text",
        "cut0.05",
        "cut0.5",
        "cut0.999",
        "incomplete",
        "no history",
        "broken history",
        "no group",
        "missing variable",
        "other shape",
        "outside",
    ],
)
def test_a_damaged_state_gives_one_clear_error(started, kind):
    path = started.folder / "state.h5"
    damage(kind, path)
    with pytest.raises(PipelineError, match=r"cannot be resumed from.*Remove it to train from the start") as error:
        started.restore(small_trainer())
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("other", [{"units": 4}, {"layers": 2}])
def test_the_state_of_another_network_is_refused(started, other):
    with pytest.raises(PipelineError, match="cannot be resumed from"):
        started.restore(small_trainer(**other))


# Log


def finish(tmp_path, name: str, val_map: float, **more: object) -> Run:
    run = Run(tmp_path / name)
    run.folder.mkdir(exist_ok=True)
    run.finish({"best": val_map}, {"finished": "now", "run": name, "val_map": val_map, **more})
    return run


def read_log(tmp_path) -> list[dict[str, str]]:
    with (tmp_path / "log.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_log_has_one_line_per_run_the_last_finished_last(tmp_path):
    finish(tmp_path, "a", 0.1)
    finish(tmp_path, "b", 0.2, hardware='CPU, "2" cores')
    assert last_run(tmp_path).folder == tmp_path / "b"
    assert finish(tmp_path, "a", 0.3).read_metrics() == {"best": 0.3}
    assert [(row["run"], row["val_map"]) for row in read_log(tmp_path)] == [("b", "0.2"), ("a", "0.3")]
    assert [row["hardware"] for row in read_log(tmp_path)] == ['CPU, "2" cores', ""]
    assert last_run(tmp_path).folder == tmp_path / "a"


def test_runs_that_finish_at_once_are_all_in_the_log(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: finish(tmp_path, f"run{k}", k / 40), range(40)))
    assert sorted(row["run"] for row in read_log(tmp_path)) == sorted(f"run{k}" for k in range(40))
    assert not list(tmp_path.glob("*.part"))


def test_last_run_passes_over_runs_that_are_gone_or_unfinished(tmp_path):
    finish(tmp_path, "a", 0.1)
    (finish(tmp_path, "b", 0.2).folder / "metrics.json").unlink()
    assert last_run(tmp_path).folder == tmp_path / "a"


def test_last_run_does_not_leave_its_folder(tmp_path):
    inside = tmp_path / "runs"
    inside.mkdir()
    finish(tmp_path, "outside", 0.1)
    (inside / "log.csv").write_text("run\n../outside\n")
    with pytest.raises(PipelineError, match="no finished run"):
        last_run(inside)


def test_without_a_finished_run_there_is_an_error(tmp_path):
    with pytest.raises(PipelineError, match=r"no finished run in .*doall\.sh"):
        last_run(tmp_path)


def test_a_history_that_gained_a_column_can_be_read(tmp_path):
    """As of a run that was begun before a figure was known."""
    rows = [{"epoch": 1.0, "val_map": 0.5}, {"epoch": 2.0, "val_map": 0.25, "val_auc": 0.75}]
    write_rows(tmp_path / "history.csv", rows)
    assert Run(tmp_path).read_history() == rows


@pytest.mark.parametrize(("every", "expected"), [(0, []), (1, [1, 2, 3, 4, 5]), (2, [2, 4]), (6, [])])
def test_checkpoints_every_so_many_epochs(tmp_path, every, expected):
    trainer = small_trainer()
    values = [0.5, 0.4, 0.3, 0.2, 0.1]
    kept = {}
    for epochs in range(1, 6):
        for weight in trainer.trainable_weights:
            weight.assign(np.full(weight.shape, epochs))
        Run(tmp_path).save_epoch(trainer, trainer, history_of(values[:epochs]), every)
    for path in tmp_path.glob("epoch_*"):
        trainer.load_weights(path)
        kept[path.name] = trainer.layers[0].kernel.numpy().mean()
    assert kept == {f"epoch_{epochs:04d}.weights.h5": epochs for epochs in expected}


def test_a_finished_run_takes_other_settings_of_prediction(tmp_path):
    """Those and no others: the rest of its configuration is what it was trained with."""
    folder = [f'train.folder="{tmp_path}"', "train.run=r", "train.epochs=3"]
    before = configuration.load(None, folder)
    target = Run(tmp_path / "r")
    target.folder.mkdir()
    (target.folder / "config.toml").write_text(configuration.to_toml(before))
    target.take_prediction(configuration.load(None, [*folder[:2], "predict.pool=max", "predict.minimum=0.9"]))
    found = target.read_config()
    assert (found.predict.pool, found.predict.minimum, found.train.epochs) == ("max", 0.9, 3)


@pytest.mark.parametrize("text", ["epoch,loss\n1,0.5,7\n", "epoch,loss\n1,half\n", "epoch,loss\n1,\ud83d\n"])
def test_a_damaged_history_is_named(tmp_path, text):
    (tmp_path / "history.csv").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(PipelineError, match=r"history\.csv is damaged. Remove it"):
        Run(tmp_path).read_history()
