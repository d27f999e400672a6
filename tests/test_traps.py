"""Traps that earlier systems of this kind fell into, and the tests that guard against each.

1. Pieces of one recording on both sides of the split, another split after a resume, scores on what was trained on.
   tests/test_traps.py::test_pieces_of_a_recording_are_on_one_side
   tests/preprocess/test_split.py::TestAlways::test_groups_are_never_split
   tests/train/test_run.py::test_a_split_that_has_changed_is_refused
   tests/train/test_train.py::test_a_killed_process_goes_on_to_the_same_result
   tests/predict/test_predict.py::test_recordings_that_were_trained_on_are_announced
   tests/predict/test_evaluate.py::test_recordings_that_were_trained_on_are_counted
2. A mask that depends on whether samples are integers or shares of full scale.
   tests/test_traps.py::test_the_format_of_the_samples_changes_nothing
3. Options that do nothing.
   tests/test_traps.py::test_every_option_of_a_recipe_counts
   tests/test_traps.py::test_every_option_of_a_front_end_counts
   tests/test_traps.py::test_a_front_end_refuses_options_of_the_store
   tests/test_traps.py::test_every_option_of_a_network_counts
   tests/test_traps.py::test_every_option_of_a_loss_counts
   tests/test_traps.py::test_every_option_of_an_augmentation_counts
   tests/train/test_network.py::test_options_reach_the_optimizer
4. One name for different measures.
   tests/test_traps.py::test_three_kinds_of_average_precision
   tests/test_traps.py::test_top1_is_the_accuracy_of_scikit_learn
   tests/train/test_metrics.py::test_class_figures_are_those_of_scikit_learn
5. Recordings decoded in one way for training and in another for prediction.
   tests/predict/test_predict.py::test_a_folder_of_files_gives_the_scores_of_the_test_part
   tests/predict/test_predict.py::test_a_single_file
6. Scores that depend on the other items of a batch.
   tests/test_traps.py::test_images_do_not_depend_on_their_batch
   tests/test_traps.py::test_logits_do_not_depend_on_their_batch
   tests/train/test_frontend.py::test_an_item_does_not_depend_on_its_batch
   tests/predict/test_predict.py::test_neither_batches_nor_blocks_change_the_scores
7. A list of classes that is not kept with the weights, or is a pickle.
   tests/train/test_train.py::test_the_run_directory_is_complete
   tests/train/test_start_weights.py::test_pickles_are_not_opened
   tests/test_traps.py::test_nothing_is_unpickled_or_evaluated
8. Shares of the best three sold as probabilities.
   tests/predict/test_predict.py::test_top
   tests/test_traps.py::test_noise_gets_low_scores_in_the_best_three_too
9. Only a part of a recording is looked at.
   tests/test_traps.py::test_a_song_in_the_last_seconds_is_heard
   tests/preprocess/test_segments.py::TestStarts::test_as_many_as_needed_and_every_frame_is_covered
10. A frequency range that loses species without saying so.
   tests/test_traps.py::test_the_range_is_the_documented_one
   tests/test_traps.py::test_every_recipe_has_a_documented_range
11. Settings that diverge, and best weights that are no numbers.
   tests/test_traps.py::test_experiments_do_not_diverge_by_design
   tests/train/test_training_aids.py::test_a_first_epoch_that_diverges_ends_in_one_line
   tests/train/test_training_aids.py::test_a_later_epoch_that_diverges_ends_the_training
   tests/train/test_run.py::test_what_has_diverged
   tests/predict/test_predict.py::test_a_network_that_diverged
12. Modules that do things, or need variables, when they are imported.
   tests/test_traps.py::test_importing_does_nothing
13. Keys in the source, in logs or in files of a run.
   tests/test_traps.py::test_there_are_no_keys_in_the_source
   tests/preprocess/test_xenocanto.py::TestKey::test_is_in_no_file_and_no_line
   tests/config/test_config.py::test_an_address_with_a_password_is_refused
14. Sources that cannot be had any more.
   tests/test_traps.py::test_a_folder_replaces_the_network
   tests/test_traps.py::test_every_source_that_fetches_takes_a_folder
"""

import ast
import dataclasses
import importlib
import inspect
import json
import os
import pkgutil
import re
import socket
import subprocess
import sys
import typing
from pathlib import Path

import keras
import numpy as np
import pytest
import soundfile
from keras import ops
from sklearn.metrics import accuracy_score, average_precision_score

import config as configuration
import preprocess.recipes
import preprocess.sources
from config import Features, Part, Predict, Train, bind
from predict.runfile import read_run_file, write_run_file
from preprocess.fetchData import fetch
from preprocess.loadData import features_folder, load
from preprocess.recipes import describe
from preprocess.recordings import Recording, read_table
from preprocess.resample import resample
from preprocess.segments import SegmentReader, list_segments, open_shards
from preprocess.shards import open_shard, write_shard
from tests.conftest import PROJECT, three_species, tone, write_release
from tests.preprocess.naive import write_wav
from tests.train.small_networks import SMALL
from train.augment import AUGMENTATIONS
from train.batches import Batches
from train.frontend import FRONTENDS, STORE_ONLY, FrontEnd, frontend_options
from train.losses import LOSSES, open_loss
from train.metrics import average_precision, class_map, in_top
from train.network import Decode, Standardise
from train.scoring import score_recordings
from train.trainModel import open_dataset

RECIPES = sorted(module.name for module in pkgutil.iter_modules(preprocess.recipes.__path__))
SOURCES = [path for path in PROJECT.rglob("*.py") if path.relative_to(PROJECT).parts[0] in
           ("config", "preprocess", "train", "predict", "environment.py")]  # fmt: skip
LISTED = re.findall(r"(tests/[\w/]+\.py)::([\w:]+)", __doc__)


def test_the_list_is_true():
    """Every trap has a number, every number a test, and every test is there."""
    assert [int(number) for number in re.findall(r"^(\d+)\.", __doc__, re.MULTILINE)] == list(range(1, 15))
    for part in re.split(r"^\d+\.", __doc__, flags=re.MULTILINE)[1:]:
        assert "::test_" in part
    for file, name in LISTED:
        body = ast.parse((PROJECT / file).read_text(encoding="utf-8")).body
        for step in name.split("::"):
            found = [node for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == step]
            assert found, f"{file}::{name}"
            body = found[0].body
    own = {name for name in globals() if name.startswith("test_")} - {"test_the_list_is_true"}
    assert own == {name for file, name in LISTED if file == "tests/test_traps.py"}


# 1


def test_pieces_of_a_recording_are_on_one_side(corpus):
    shards = open_shards(features_folder(corpus), "train")
    data = open_dataset(corpus, shards)
    batches = Batches(data.reader, data.side("train"), data.labels, data.targets(Train()), corpus.train)
    scored, _ = list_segments(data.reader, data.side("validation"))
    assert len(batches.owners) > len(set(batches.owners)) > 1
    assert len(scored) > len(set(scored)) > 1
    assert not set(batches.owners) & set(scored)


# 2


def test_the_format_of_the_samples_changes_nothing(tmp_path):
    root = tmp_path / "sounds"
    root.mkdir()
    samples = np.rint(32767 * tone(3000, 4, level=0.2)).astype(np.int16)
    for name, values in (("PCM_16", samples), ("PCM_24", samples.astype(np.int32) << 16)):
        soundfile.write(root / f"{name}.wav", values, 44_100, subtype=name)
    for name in ("FLOAT", "DOUBLE"):
        soundfile.write(root / f"{name}.wav", samples / 32768, 44_100, subtype=name)
    config = configuration.load(None, ["data.source=folder", f'data.root="{root}"', f'data.folder="{tmp_path}/data"'])
    for stage in (fetch, resample, load):
        stage(config, 1)
    shards = open_shards(features_folder(config), "test")
    masked, plain = (SegmentReader(shards, 200, mask, mask) for mask in (True, False))
    assert len(masked) == 4
    assert len(set(masked.lengths)) == 1
    assert 0.05 < (shards[0].cells == 1).mean() < 0.95  # some is taken for noise
    for reader in (masked, plain):
        first, *others = reader.read(range(4), [0] * 4)
        assert first.std() > 1
        for other in others:
            np.testing.assert_array_equal(other, first)


# 3. A changed option has to change what is computed. Where the next best value does not show, because it is coupled
# with another one or too close to the default, the table says with what.

CHANGED = {  # (part, option) -> options of both, options of the second
    ("application", "momentum"): ({"backbone": "MobileNetV3Small"}, {"momentum": 0.5}),
    ("birdclef2016", "n_fft"): ({}, {"n_fft": 640}),
    ("birdclef2016", "loudest"): ({}, {"loudest": 100}),
    ("logmel", "n_fft"): ({}, {"n_fft": 4096}),
    ("logmel", "silence"): ({}, {"silence": -40.0}),
    ("passau", "silence"): ({}, {"silence": -40.0}),
    ("threewindows", "silence"): ({}, {"silence": -40.0}),
    ("logmel", "low"): ({}, {"low": 500.0}),
    ("logmel", "high"): ({}, {"high": 5000.0}),
    ("passau", "n_fft"): ({}, {"n_fft": 4096}),
    ("passau", "high_pass"): ({"clean": "chain"}, {"high_pass": 2500.0}),
    ("pcen", "n_fft"): ({}, {"n_fft": 4096}),
    ("pcen", "low"): ({}, {"low": 500.0}),
    ("pcen", "high"): ({}, {"high": 5000.0}),
    ("pcen", "eps"): ({"storage": "float32"}, {"eps": 1.0}),
    ("sprengel2016", "median_seconds"): ({"median_seconds": 1.0}, {"median_seconds": 2.0}),
    ("sprengel2016", "n_fft"): ({}, {"n_fft": 640}),
    ("threewindows", "n_fft"): ({}, {"n_fft": 4096}),
    ("threewindows", "low"): ({}, {"low": 500.0}),
    ("threewindows", "high"): ({}, {"high": 5000.0}),
    ("threewindows", "window"): ({}, {"window": 2000, "windows": (2000, 330, 82)}),
    ("threewindows", "windows"): ({}, {"windows": (2646, 330, 164)}),
    ("vggish", "n_fft"): ({}, {"n_fft": 1024}),
    ("vggish", "sample_rate"): ({}, {"sample_rate": 20_000}),
    ("vggish", "low"): ({}, {"low": 250.0}),
    ("application", "backbone"): ({}, {"backbone": "VGG19"}),
    ("application", "resize"): ({}, {"resize": (40, 40)}),
    ("milsed", "blocks"): ({}, {"blocks": 2}),
    ("simplecnn", "momentum"): ({"batch_normalisation": True}, {"momentum": 0.5}),
    ("resnext", "groups"): ({}, {"groups": 4}),
    ("efficientnet", "width"): ({}, {"width": 0.3}),
    ("efficientnet", "depth"): ({}, {"depth": 0.6}),
    ("efficientnet", "drop_path"): ({"depth": 0.3}, {"drop_path": 0.5}),  # with a block that can be left out
    ("vggish network", "patch_frames"): ({}, {"patch_frames": 20}),
    ("convlstm", "patch_frames"): ({}, {"patch_frames": 5}),
    ("residual", "fine"): ({"texture": True, "fine": 2}, {"fine": 4}),
    ("pooled", "sharpness"): ({"pool": "log_mean_exp"}, {"sharpness": 2.0}),
}


def other_value(default, hint):
    """Return a value of the type that is not the default."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return next(value for value in typing.get_args(hint) if value != default)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default * 3 // 4 if default > 2 else default + 1
    if isinstance(default, float):
        return default * 0.75 or 0.25
    if isinstance(default, tuple) and default:
        return tuple(other_value(value, type(value)) for value in default)
    raise AssertionError(f"CHANGED needs a value beside {default!r}")


def both_options(part, option: str, name: str, given: dict | None = None) -> tuple[dict, dict]:
    """Return the options of a part without and with a change of one of them."""
    parameters = bind(part, given or {}, "test")
    hint = typing.get_type_hints(part if inspect.isfunction(part) else part.__init__, include_extras=True)[option]
    common, second = CHANGED.get((name, option)) or ({}, {option: other_value(parameters[option], hint)})
    first = {**(given or {}), **common}
    assert bind(part, first, "test")[option] != second[option]
    return first, bind(part, {**first, **second}, "test")  # which also checks the range


def options_of(part) -> list[str]:
    return list(bind(part, {}, "test"))


def busy_sound(rate: int, seconds: float = 3.0) -> np.ndarray:
    """Silence, then notes of many pitches and levels in noise, and silence again, int16."""
    rng = np.random.default_rng(1)
    time = np.arange(int(rate * seconds)) / rate
    sound = rng.normal(0, 150, len(time)) * (1 + np.sin(2 * np.pi * 0.7 * time))
    for k, pitch in enumerate(rng.uniform(200, 7500, 12)):
        start = seconds * (0.1 + 0.065 * k)
        gate = np.clip(np.minimum(time - start, start + 0.15 - time) / 0.02, 0, 1)
        sound += gate * np.sin(2 * np.pi * pitch * time) * 300 * 2.0 ** (k % 5)
    sound[(time < 0.2) | (time > seconds - 0.2)] = 0
    return np.rint(np.clip(sound, -32768, 32767)).astype(np.int16)


def stored(recipe, folder: Path) -> list:
    """Return all that a shard says of the busy sound."""
    wav = write_wav(folder / "a.wav", busy_sound(recipe.sample_rate), recipe.sample_rate)
    rows = [(Recording("a", wav.name, class_id="x"), wav.name)]
    assert write_shard(folder / "a.h5", recipe, "{}", folder, rows, "") == []
    shard = open_shard(folder / "a.h5")
    decoded = shard.frames.astype(np.float64) * shard.scale_factor + shard.add_offset
    return [shard.frames.dtype.name, decoded, shard.cells.copy(), shard.cell_frames, shard.edges]


def equal(first: list, second: list) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("name", RECIPES)
def test_every_option_of_a_recipe_counts(name, tmp_path):
    kind = importlib.import_module(f"preprocess.recipes.{name}").Recipe
    made: dict[str, list] = {}

    def result(options: dict) -> list:
        recipe = kind(**options)
        text = describe(recipe, name)
        if text not in made:
            made[text] = stored(recipe, tmp_path)
        return made[text]

    assert equal(result({}), stored(kind(), tmp_path))
    for option in options_of(kind):
        first, second = both_options(kind, option, name)
        assert not equal(result(first), result(second)), option


def chosen_frontend(name: str, **options) -> Features:
    rate = FRONTENDS[name]().sample_rate
    return Features("waveform", frontend=Part(name, options), options={"sample_rate": rate})


@pytest.mark.parametrize("name", FRONTENDS)
def test_every_option_of_a_front_end_counts(name):
    kind = FRONTENDS[name]
    sounds = busy_sound(kind().sample_rate, 1.5)[None].astype(np.float32) / 32768

    def result(**options) -> np.ndarray:
        return ops.convert_to_numpy(FrontEnd(kind(**frontend_options(chosen_frontend(name, **options))))(sounds))

    for option in frontend_options(chosen_frontend(name)):
        if option == "sample_rate":  # that of the store, whatever is configured
            continue
        first, second = both_options(kind, option, name)
        first, second = ({k: v for k, v in options.items() if k not in STORE_ONLY} for options in (first, second))
        assert not np.array_equal(result(**first), result(**second)), option


@pytest.mark.parametrize("name", FRONTENDS)
def test_a_front_end_refuses_options_of_the_store(name):
    kept = set(options_of(FRONTENDS[name])) & STORE_ONLY
    assert "storage" in kept
    for option in kept:
        value = getattr(FRONTENDS[name](), option)
        with pytest.raises(configuration.ConfigError, match=rf"features\.frontend\.{option}\. It belongs to"):
            frontend_options(chosen_frontend(name, **{option: value}))


# Valid padding needs the larger image; the backbone builds fast.
NETWORKS = SMALL | {"cuberun": (124, 243, {"dense": 8}), "application": (32, 40, {"backbone": "VGG16"})}


@pytest.fixture
def few_blocks(monkeypatch):
    """Residual networks with a block or two per stage."""
    monkeypatch.setattr("train.models.resnet.STAGES", {18: (1, 1, 1, 1), 34: (1, 2, 1, 1)})
    monkeypatch.setattr("train.models.resnext.STAGES", (1, 1, 1, 1))


def small_network(name: str, options: dict) -> keras.Model:
    """Build a network with the names of a fresh start, so that two of them can be compared."""
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    bins, frames, _ = NETWORKS[name]
    channels = 2 if options.get("fine") else 1  # the second one is of short windows
    return importlib.import_module(f"train.models.{name}").build((bins, frames, channels), 3, **options)


def anatomy(model: keras.Model) -> list[str]:
    """Return all layers with their settings and the shapes of their weights."""
    parts = []
    for layer in model._flatten_layers(include_self=False):
        settings = {key: value for key, value in vars(layer).items() if isinstance(value, int | float | str | tuple)}
        described = layer.get_config() if not isinstance(layer, keras.Model) else {}
        shapes = [tuple(weight.shape) for weight in layer.weights]
        parts.append(repr((type(layer).__name__, described, sorted(settings.items()), shapes)))
    return [re.sub(r" at 0x[0-9a-f]+", "", part) for part in parts]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_option_of_a_network_counts(name, few_blocks):
    """Compares layers, their settings and weights; there is no training."""
    build, small = importlib.import_module(f"train.models.{name}").build, NETWORKS[name][2]
    standard = anatomy(small_network(name, small))
    assert anatomy(small_network(name, small)) == standard
    for option in options_of(build):
        first, second = both_options(build, option, "vggish network" if name == "vggish" else name, small)
        base = standard if first == small else anatomy(small_network(name, first))
        assert anatomy(small_network(name, second)) != base, option


@pytest.mark.parametrize("name", LOSSES)
def test_every_option_of_a_loss_counts(name):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4, 3 if name in ("best_frame", "pooled") else 1, 6)).astype(np.float32)

    def result(**options) -> np.ndarray:
        loss = open_loss(Part(name, options))
        targets = np.eye(loss.classes(6), dtype=np.float32)[[0, 1, 2, 0]]
        scores = loss.recording_scores(logits[0])
        return np.concatenate([ops.convert_to_numpy(loss.compute(targets, logits)), scores])

    for option in options_of(LOSSES[name]):
        first, second = both_options(LOSSES[name], option, name)
        assert np.array_equal(result(**first), result(**first))
        assert not np.array_equal(result(**first), result(**second)), option


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_option_of_an_augmentation_counts(name):
    kind = AUGMENTATIONS[name]
    rng = np.random.default_rng(0)
    shape = {"level": (12, 60, 80), "image": (12, 80, 60, 2), "sound": (12, 6000)}[kind.domain]
    values, targets = rng.normal(0, 1, shape).astype(np.float32), np.eye(12, dtype=np.float32)
    further = [rng.normal(0, 1, shape).astype(np.float32)] if kind.need else []

    def result(**options) -> list:
        layer = kind(**options)
        layer.is_sound = kind.domain == "sound"
        changed = [ops.convert_to_numpy(item) for item in layer(values, targets, *further)]
        assert not np.array_equal(changed[0], values)
        return changed

    assert equal(result(), result())
    for option in options_of(kind):
        first, second = both_options(kind, option, name)
        assert not equal(result(**first), result(**second)), option


# 4

SCORES = np.array([[0.9, 0.8, 0.1], [0.7, 0.2, 0.6], [0.4, 0.5, 0.3], [0.1, 0.3, 0.25]])
LABELS = np.array([0, 2, 0, 1])


def test_three_kinds_of_average_precision():
    """Over recordings (the task's), over classes, and over all pairs at once, by hand and by scikit-learn."""
    relevant = np.eye(3, dtype=bool)[LABELS]
    official = np.mean([1, 1 / 2, 1 / 2, 1])  # one over the rank of the right species
    assert float(np.mean(average_precision(SCORES, relevant))) == pytest.approx(official)
    macro = np.mean([(1 / 1 + 2 / 3) / 2, 1 / 3, 1])  # recordings ranked within each class
    assert class_map(SCORES, relevant) == pytest.approx(macro)
    assert average_precision_score(relevant, SCORES, average="macro") == pytest.approx(macro)
    micro = average_precision_score(relevant, SCORES, average="micro")
    assert len({round(float(value), 6) for value in (official, macro, micro)}) == 3


def test_top1_is_the_accuracy_of_scikit_learn():
    rng = np.random.default_rng(0)
    for scores, labels in ((SCORES, LABELS), (rng.random((200, 7)), rng.integers(0, 7, 200))):
        assert in_top(scores, labels, 1).mean() == accuracy_score(labels, scores.argmax(axis=1))


# 6


@pytest.mark.parametrize("name", [*FRONTENDS, *(f"waveform+{name}" for name in FRONTENDS)])
def test_images_do_not_depend_on_their_batch(name):
    """From codes of the store to images, beside louder and quieter segments, for every way to normalise."""
    recipe_name, _, frontend = name.partition("+")
    recipe = importlib.import_module(f"preprocess.recipes.{recipe_name}").Recipe()
    rng = np.random.default_rng(0)
    frames = 25 if recipe_name == "waveform" else 12
    codes = rng.normal(0, 1, (3, frames, *recipe.shape)) * np.array([1.0, 5.0, 25.0]).reshape(
        3, 1, *[1] * len(recipe.shape)
    )
    if recipe.encoding.dtype == "uint8":
        codes = np.clip(codes + 128, 0, 255)
    elif recipe.encoding.dtype == "int16":
        codes *= 300
    codes = codes.astype(recipe.encoding.dtype)
    decode = Decode(recipe.encoding)
    layer = FrontEnd(FRONTENDS[frontend]()) if frontend else None

    def values(part: np.ndarray):
        return layer(decode(part)) if layer else decode(part)

    together, alone = values(codes), values(codes[:1])
    span = float(np.ptp(ops.convert_to_numpy(alone)))
    for how in ("bin", "segment", "both", "global", "item", "none"):
        for dynamic_range in (0.0, 0.3 * span):
            stage = Standardise(tuple(together.shape[2:]), how, dynamic_range)
            both, single = (ops.convert_to_numpy(stage(part)) for part in (together, alone))
            np.testing.assert_allclose(both[:1], single, atol=1e-4 * max(1.0, span), rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_do_not_depend_on_their_batch(name, few_blocks):
    bins, frames, options = NETWORKS[name]
    model = small_network(name, options)
    images = np.random.default_rng(0).normal(0, 1, (3, bins, frames, 1)).astype(np.float32)
    images[1:] *= 20
    both, alone = (ops.convert_to_numpy(model(part, training=False)) for part in (images, images[:1]))
    np.testing.assert_allclose(both[:1], alone, atol=1e-4 + 1e-3 * np.abs(alone).max())


# 7


def test_nothing_is_unpickled_or_evaluated():
    assert len(SOURCES) > 70
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            names = []
            if isinstance(node, ast.Import):
                names = [item.name for item in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{item.name}" for item in node.names]
            for name in names:
                assert name.partition(".")[0] not in ("pickle", "dill", "cloudpickle", "shelve", "marshal"), where
                # joblib runs processes here; joblib.load would unpickle
                assert not name.startswith("joblib") or name in ("joblib.Parallel", "joblib.delayed"), where
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), where
            given = {item.arg: item.value for item in node.keywords}
            for risk in {"allow_pickle", "shell"} & set(given):
                assert isinstance(given[risk], ast.Constant), where
                assert given[risk].value is False, where
            if ast.unparse(node.func) in ("np.load", "numpy.load"):
                assert "allow_pickle" in given, where


# 8


@pytest.mark.parametrize("loss", ["binary_crossentropy", "categorical_crossentropy"])
def test_noise_gets_low_scores_in_the_best_three_too(loss, tmp_path):
    """Logits of a network that finds no species: none of them near, or all alike."""
    classes = [f"c{k:03d}" for k in range(100)]
    logits = np.random.default_rng(0).normal(-6 if loss == "binary_crossentropy" else 0, 0.1, (5, 100))
    scores = open_loss(Part(loss)).recording_scores(logits.astype(np.float32))[None].astype(np.float64)
    write_run_file(tmp_path / "run.csv", [(["noise"], scores)], classes, top=3)
    own = read_run_file(tmp_path / "run.csv")["noise"]
    assert len(own) == 3
    assert sum(own.values()) < 0.05
    for name, value in own.items():
        assert value == pytest.approx(scores[0, classes.index(name)], rel=1e-6)


# 9


class Listener:
    """Stands for a network: the first logit is how loud the loudest value of a segment's band is."""

    output_shape = (None, 2)

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def predict_on_batch(self, codes: np.ndarray) -> np.ndarray:
        loudest = codes[:, :, self.low : self.high].max(axis=(1, 2)).astype(np.float32)
        return np.stack([(loudest - 128) / 16, np.zeros(len(codes), np.float32)], axis=1)


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "best_frame", "pooled"])
@pytest.mark.parametrize(("name", "band"), [("birdclef2016", (90, 110)), ("vggish", (38, 48))])
def test_a_song_in_the_last_seconds_is_heard(name, band, loss, tmp_path):
    """Two minutes, in which a song begins 3 s before the end, or does not."""
    recipe = importlib.import_module(f"preprocess.recipes.{name}").Recipe()
    noise = np.random.default_rng(0).normal(0, 30, 120 * 16_000)
    song = noise.copy()
    song[-48_000:] += 8000 * np.sin(2 * np.pi * 3125 * np.arange(48_000) / 16_000)
    rows = []
    for media_id, sound in (("noise", noise), ("song", song)):
        wav = write_wav(tmp_path / f"{media_id}.wav", np.rint(sound).astype(np.int16))
        rows.append((Recording(media_id, wav.name, duration=120.0), wav.name))
    assert write_shard(tmp_path / "a.h5", recipe, "{}", tmp_path, rows, "") == []
    reader = SegmentReader([open_shard(tmp_path / "a.h5")], 310, False, False)
    scores = score_recordings(Listener(*band), open_loss(Part(loss)), reader, [0, 1], Predict())
    assert scores[1, 0] > scores[0, 0] + 0.01
    if loss == "best_frame":
        assert scores.argmax(axis=1).tolist() == [1, 0]


# 10

RANGES = {
    name: (float(low) * 1000, float(high) * 1000)
    for name, low, high in re.findall(
        r"^\| `(\w+)` \|[^|]*\| ([\d.]+) - ([\d.]+) \|", (PROJECT / "docs" / "training.md").read_text(), re.MULTILINE
    )
}


def test_every_recipe_has_a_documented_range():
    assert sorted(RANGES) == RECIPES
    text = " ".join((PROJECT / "docs" / "training.md").read_text().split())
    assert "owls" in text
    assert re.search(r"For corpora that hold these take `logmel`", text)


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"waveform"}))
def test_the_range_is_the_documented_one(name, tmp_path):
    """A tone that begins in the middle raises the second half, if it is inside."""
    kind = importlib.import_module(f"preprocess.recipes.{name}").Recipe
    recipe = kind(clean="none") if name == "passau" else kind()
    rate, (low, high) = recipe.sample_rate, RANGES[name]
    time = np.arange(2 * rate) / rate
    begins = np.clip((time - 1) / 0.05, 0, 1)

    def rise(frequency: float, level: float = 3000) -> float:
        sound = np.random.default_rng(0).normal(0, 3, len(time)) + level * begins * np.sin(2 * np.pi * frequency * time)
        wav = write_wav(tmp_path / "a.wav", np.rint(sound).astype(np.int16), rate)
        values = np.concatenate(list(recipe.blocks(wav)))
        values = values.reshape(len(values), len(values[0]), -1)[..., 0]  # of three windows the longest
        first, second = values[: int(0.4 * len(values))], values[int(0.6 * len(values)) :]
        return float((second.mean(axis=0) - first.mean(axis=0)).max())

    inside = [rise(max(1.1 * low, 150.0)), rise((low + high) / 2), rise(0.95 * high)]
    assert min(inside) > 0.5 * max(inside)
    assert min(inside) > 2 * abs(rise(1000, level=0))
    leak = 6 * rate / getattr(recipe, "window", recipe.n_fft)  # beyond the main lobe of the window
    outside = [frequency for frequency in (low - leak, high + leak) if 10 < frequency < 0.98 * rate / 2]
    assert outside or (low, high) == (0, rate / 2)
    for frequency in outside:
        assert rise(frequency) < 0.4 * min(inside), frequency


# 11


def test_experiments_do_not_diverge_by_design():
    """RMSprop at 0.001 on log spectra that are not normalised is the published setting, and that of no other file."""
    assert configuration.Model().normalise == "bin"
    assert configuration.Train().optimizer.name == "adamw"
    files = sorted((PROJECT / "config").glob("*.toml"))
    assert len(files) > 8
    for path in files:
        config = configuration.load(path)
        unsafe = config.train.optimizer.name == "rmsprop"
        assert unsafe == path.stem.endswith("-published"), path
        if config.model.normalise == "none" and not unsafe:  # what the AudioSet weights were trained with
            assert config.features.recipe == "vggish", path


# 12

IMPORT_ALL = """
import builtins, importlib, json, os, pathlib, pkgutil, sys
home, project = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
sys.path.insert(0, str(project))
done = []

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        mode, flags = arguments[1], arguments[2] or 0
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if writes and not path.startswith(("/dev/", "/proc/", str(home))):
            done.append(f"open {path}")
    elif event in ("os.mkdir", "os.remove", "os.rename", "socket.connect", "os.system", "os.fork"):
        if not str(arguments[0]).startswith(str(home)):
            done.append(f"{event} {arguments}")
    elif event == "subprocess.Popen" and not str(arguments[0]).endswith(("fc-list", "uname")):  # of matplotlib
        done.append(f"{event} {arguments}")

sys.addaudithook(watch)
names = []
heavy = None
for room in ("config", "preprocess", "train", "predict"):
    if room == "train":
        heavy = sorted({name.partition(".")[0] for name in sys.modules} & {"tensorflow", "keras", "torch", "jax"})
    package = importlib.import_module(room)
    for module in pkgutil.walk_packages(package.__path__, room + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            names.append(module.name)
print(json.dumps({"names": names, "heavy": heavy, "done": done}))
"""


def test_importing_does_nothing(tmp_path):
    """In one process without any variable: no file, no folder, no process, no connection, no output."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    variables = {"HOME": str(home), "TMPDIR": str(home), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, str(home), str(PROJECT)],
        capture_output=True,
        encoding="utf-8",
        env=variables,
        cwd=elsewhere,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert len(found["names"]) > 60
    assert found["heavy"] == []  # the preprocessing does not wait for TensorFlow
    assert found["done"] == []
    assert list(elsewhere.iterdir()) == []


# 13

SECRETS = (
    r"(?i)(api_?key|token|secret|passw(or)?d)\w*[\"']?\s*[=:]\s*[\"'][^\"'\s{}<>$]{8,}[\"']",
    r"-----BEGIN [A-Z ]*PRIVATE KEY",
    r"\b(AKIA[0-9A-Z]{16}|gh[pousr]_\w{30,}|hf_\w{30,}|xox[bp]-\w{10,}|sk-\w{20,})",
    r"://[^/@\s:\"'{]+:[^/@\s\"'{]+@",
)


def test_there_are_no_keys_in_the_source():
    for sample in ("API_KEY = 'abcdefgh12'", "https://me:word@host", "AKIAABCDEFGHIJKLMNOP"):
        assert any(re.search(pattern, sample) for pattern in SECRETS)
    texts = [path for path in SOURCES if path.is_file()]
    texts += [path for suffix in ("*.sh", "*.md", "*.toml", "*.json") for path in PROJECT.glob(suffix)]
    texts += [path for folder in ("config", "docs", "preprocess") for path in (PROJECT / folder).glob("*.*")]
    for path in set(texts):
        if path.suffix in (".py", ".sh", ".md", ".toml", ".json"):
            text = path.read_text(encoding="utf-8")
            for pattern in SECRETS:
                assert not (match := re.search(pattern, text)), f"{path}: {match[0]}"


# 14


def make_birdclef(root: Path) -> None:
    write_release(root, [{**row, "samples": row["samples"][:8000]} for row in three_species(3, 1)])


def make_kaggle(root: Path) -> None:
    (root / "train_audio" / "tit").mkdir(parents=True)
    soundfile.write(root / "train_audio" / "tit" / "XC1.ogg", np.zeros(8000), 16_000)
    (root / "train_metadata.csv").write_text("primary_label,filename\ntit,tit/XC1.ogg\n")


def make_xenocanto(root: Path) -> None:
    (root / "pages" / "by hand").mkdir(parents=True)
    (root / "audio" / "Parus_major").mkdir(parents=True)
    rows = [
        {"id": str(k), "gen": "Parus", "sp": "major", "rec": "x", "file": "https://xeno-canto.org/x"} for k in (7, 8)
    ]
    answer = {"numRecordings": "2", "numPages": 1, "recordings": rows}
    (root / "pages" / "by hand" / "1.json").write_text(json.dumps(answer))
    soundfile.write(root / "audio" / "Parus_major" / "XC7.mp3", np.zeros(8000), 16_000, format="MP3")


BY_HAND = {"birdclef": make_birdclef, "kaggle": make_kaggle, "xenocanto": make_xenocanto}


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a connection was tried")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(subprocess, "run", refuse)  # the kaggle command


@pytest.mark.parametrize("name", BY_HAND)
def test_a_folder_replaces_the_network(name, no_network, tmp_path, monkeypatch):
    monkeypatch.delenv("XENO_CANTO_KEY", raising=False)
    BY_HAND[name](tmp_path / "copy")
    overrides = [f"data.source={name}", f'data.root="{tmp_path / "copy"}"', f'data.folder="{tmp_path / "data"}"']
    config = configuration.load(None, overrides)
    before = sorted(path for path in (tmp_path / "copy").rglob("*"))
    fetch(config, 1)
    assert read_table(config.corpus_dir / "recordings.csv", Recording)
    assert sorted(path for path in (tmp_path / "copy").rglob("*")) == before


def test_every_source_that_fetches_takes_a_folder():
    """Whatever can reach a network or start a program, and no other source, is in the table of this test."""
    reaching = set()
    for module in pkgutil.iter_modules(preprocess.sources.__path__):
        part = importlib.import_module(f"preprocess.sources.{module.name}")
        names = {field.name for field in dataclasses.fields(part.Source)}
        if {"download", "urllib", "subprocess"} & set(vars(part)):
            assert "root" in names, module.name
            reaching.add(module.name)
    assert reaching == set(BY_HAND)
