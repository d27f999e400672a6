"""Exports: the front end with rounding and mask in the model, and every format loaded by its own runtime."""

import dataclasses
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import soundfile

import config as configuration
from config import Features, PipelineError
from predict.exportModel import (
    EXAMPLES,
    FORMATS,
    build,
    check,
    export,
    find_examples,
    segment_samples,
    why_no_waveforms,
    write_format,
)
from predict.predict import predict
from predict.runfile import read_run_file
from predict.scores import load_run
from preprocess.recipes import birdclef2016, logmel, open_recipe, threewindows
from preprocess.recordings import Recording
from preprocess.segments import open_view
from preprocess.shards import open_shard, write_shard
from tests.predict.test_predict import copied
from train.frontend import FrontEnd, StoredView
from train.losses import open_loss
from train.network import build_model
from train.run import Run


def stored(recipe, features, sounds, folder) -> np.ndarray:
    """Return what stage 3 and the reader make of sounds, float [n, frames, bins]."""
    rows = []
    for i, sound in enumerate(sounds):
        soundfile.write(folder / f"{i}.wav", sound, recipe.sample_rate, subtype="PCM_16")
        rows.append((Recording(str(i), f"{i}.wav", part="test"), f"{i}.wav"))
    assert write_shard(folder / "test-00000-of-00001.h5", recipe, "{}", folder, rows, "x") == []
    reader = open_view([open_shard(folder / "test-00000-of-00001.h5")], features)
    codes = reader.read(range(len(sounds)), [0] * len(sounds))
    return codes * reader.encoding.scale_factor + reader.encoding.add_offset


def birds(count: int, samples: int, rate: int) -> np.ndarray:
    """Chirps of other lengths and places over noise; the last sound is silent, the one before only noise."""
    rng = np.random.default_rng(0)
    time = np.arange(samples) / rate
    sounds = rng.normal(0, 0.002, (count, samples))
    for sound in sounds[:-2]:
        for _ in range(rng.integers(1, 4)):
            middle, width, pitch = rng.uniform(0, time[-1]), rng.uniform(0.05, 0.3), rng.uniform(1500, 5000)
            sound += 0.2 * np.exp(-(((time - middle) / width) ** 2)) * np.sin(2 * np.pi * pitch * time)
    sounds[-1] = 0
    return (sounds.clip(-1, 1) * 32767).round().astype(np.int16)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("frames", [150, 130])
def test_mask_and_rounding_are_those_of_the_store(tmp_path, mask, drop, frames):
    """On sounds of exactly the length of a segment; whole cells, and a last one that is shorter."""
    recipe, features = birdclef2016.Recipe(), Features(mask=mask, drop_columns=drop, segment_frames=frames)
    sounds = birds(8, (frames - 1) * 256 + 512, 16_000)
    expected = stored(recipe, features, sounds, tmp_path)
    values = FrontEnd(recipe)(sounds.astype(np.float32) / 32768)
    found = keras.ops.convert_to_numpy(StoredView(recipe, features)(values))
    differ = np.abs(found - expected) > 1e-4
    assert np.abs(found - expected)[differ].max(initial=0) <= 0.0501 or differ.mean() < 1e-3
    assert differ.mean() < 2e-3  # values at the border of two codes may fall to the other side
    if mask:
        assert (expected == 0).mean() > 0.2


def test_rounding_of_mel_bands(tmp_path):
    recipe = logmel.Recipe(sample_rate=32_000, window=1024, n_fft=1024, hop=640, mels=64, power=2, floor=1e-10)
    features = Features(recipe="logmel", segment_frames=50)
    sounds = birds(4, 49 * 640 + 1024, 32_000)
    expected = stored(recipe, features, sounds, tmp_path)
    found = StoredView(recipe, features)(FrontEnd(recipe)(sounds.astype(np.float32) / 32768))
    assert (np.abs(keras.ops.convert_to_numpy(found) - expected) > 1e-3).mean() < 2e-3


@pytest.mark.parametrize("padding", ["silence", "repeat"])
@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("recipe", [
    logmel.Recipe(sample_rate=32_000, window=1024, n_fft=1024, hop=640, mels=64, power=2, floor=1e-10, silence=-70.0),
    threewindows.Recipe(silence=-99.0),
    logmel.Recipe(sample_rate=32_000, window=1024, hop=640, mels=64, power=2, floor=1e-6, silence=-55.0, fine=8),
])  # fmt: skip
def test_silence_is_left_out_as_in_the_store(tmp_path, recipe, drop, padding):
    """Sounds of some seconds between digital silences, one without any and one of nothing else."""
    features = Features(drop_columns=drop, padding=padding, segment_frames=160)
    sounds = birds(6, 159 * recipe.hop + recipe.window, recipe.sample_rate)
    for i, sound in enumerate(sounds[:4]):
        sound[i * 9000 + 4000 :] = 0
        sound[: i * 3000] = 0
    expected = stored(recipe, features, sounds, tmp_path)
    found = StoredView(recipe, features)(FrontEnd(recipe)(sounds.astype(np.float32) / 32768))
    assert (np.abs(keras.ops.convert_to_numpy(found) - expected) > 1e-3).mean() < 2e-3
    if padding == "repeat":
        plain = stored(dataclasses.replace(recipe, silence=0.0), features, sounds, tmp_path)
        changed = (plain != expected).mean(axis=tuple(range(1, plain.ndim)))
        assert (changed > 0.2).tolist() == [drop] * 4 + [False] * 2


def test_a_quiet_segment_is_not_silence(tmp_path):
    """The level lies above all of the first sound; of the second, as much is heard and the rest left out."""
    recipe = logmel.Recipe(sample_rate=32_000, window=1024, n_fft=1024, hop=640, mels=64, floor=1e-5, silence=-20.0)
    features = Features(segment_frames=160)
    sounds = np.zeros((2, 159 * 640 + 1024), np.int16)
    sounds[:, 20_000:50_000] = 20 * (-1) ** (np.arange(30_000) // 5)
    sounds[1, 80_000:90_000] = 20_000 * (-1) ** (np.arange(10_000) // 5)
    expected = stored(recipe, features, sounds, tmp_path)
    assert ((expected > recipe.lowest).any(axis=2).sum(axis=1) > 10).all()
    found = StoredView(recipe, features)(FrontEnd(recipe)(sounds.astype(np.float32) / 32768))
    assert (np.abs(keras.ops.convert_to_numpy(found) - expected) > 1e-3).mean() < 2e-3


@pytest.mark.parametrize(
    ("recipe", "options", "words"),
    [
        ("sprengel2016", {}, "signal and noise"),
        ("passau", {}, "cleaned before"),
        ("passau", {"clean": "none"}, ""),
        ("waveform", {"trim": True}, "trimmed"),
        ("waveform", {"peak": True}, "scaled as a whole"),
        ("waveform", {}, ""),
        ("birdclef2016", {}, ""),
    ],
)
def test_what_keeps_a_run_from_taking_sound(recipe, options, words):
    config = configuration.Config(features=Features(recipe=recipe, options=options))
    reason = why_no_waveforms(config)
    assert words in reason
    assert bool(words) == bool(reason)


def test_waveforms_are_rounded_as_the_samples_that_a_network_hears():
    """16 bits: quiet sound is told from what is rounded to nothing, loud sound is clipped."""
    options = ["features.sample_rate=16000", "features.segment_frames=40", "features.frontend={name='logmel', mels=64}"]
    config = configuration.load(None, ["features.recipe=waveform", "model.network=simplecnn", *options])
    recipe = open_recipe(config.features)
    model, loss = build_model(config, recipe.encoding, recipe.shape, 3), open_loss(config.train.loss)
    waveforms = build(config, model, loss)["waveforms"]
    rng = np.random.default_rng(0)
    levels = np.array([0.2, 0.4, 2, 4, 3e4, 6e4])[:, None]
    samples = (levels * rng.uniform(-1, 1, (6, segment_samples(config)))).astype(np.float32)
    codes = np.clip(np.round(samples), -32768, 32767).astype(np.int16)
    assert not codes[:2].any()
    logits = model.predict(codes.reshape(6, *model.input_shape[1:]), verbose=0)
    found = waveforms.predict(samples / 32768, verbose=0)
    np.testing.assert_allclose(found, loss.segment_scores(logits), atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # keras of tf2onnx
def test_every_runtime_hears_texture(tmp_path):
    """Silence left out, short windows and statistics, as in best.toml; weights of the beginning, small in the end."""
    keras.utils.set_random_seed(0)
    options = ["model.stages=[1]", "model.width=4", "features.mels=32", "features.segment_frames=60"]
    config = configuration.load(configuration.PROJECT / "config" / "best.toml", options)
    recipe = open_recipe(config.features)
    model = build_model(config, recipe.encoding, recipe.shape, 3)
    for name in ("logits", "texture_logits"):
        kernel = model.layers[-1].get_layer(name).kernel
        kernel.assign(0.05 * kernel)
    forms = build(config, model, open_loss(config.train.loss))
    sounds = birds(4, segment_samples(config), 32_000) / np.float32(32768)
    sounds[0, 20_000:] = 0
    values = StoredView(recipe, config.features)(FrontEnd(recipe)(sounds))
    examples = {"waveforms": sounds.astype(np.float32), "segments": keras.ops.convert_to_numpy(values)}
    expected = {form: forms[form].predict_on_batch(inputs) for form, inputs in examples.items()}
    assert np.ptp(expected["segments"], axis=0).max() > 0.01
    np.testing.assert_allclose(expected["waveforms"], expected["segments"], atol=0.02)
    for name in FORMATS:
        write_format(name, forms, tmp_path)
    differences = check(tmp_path, examples, expected, list(FORMATS))
    assert set(differences) == set(FORMATS)


@pytest.fixture(scope="module")
def exported(run_of_birds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "birds"
    (run_of_birds.folder / "thresholds.json").unlink(missing_ok=True)
    return export(run_of_birds, folder, list(FORMATS)), folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning")  # keras of tf2onnx
class TestExports:
    def test_all_are_there_and_agree(self, exported, run_of_birds):
        facts, folder = exported
        assert set(facts["largest_difference_from_the_run"]) == set(FORMATS)
        for differences in facts["largest_difference_from_the_run"].values():
            assert set(differences) == {"segments", "waveforms"}
            assert max(differences.values()) <= 1e-4
        for form in ("segments", "waveforms"):
            for path in FORMATS.values():
                assert (folder / path.format(form=form)).exists()
        written = json.loads((folder / "export.json").read_text())
        assert written["inputs"] == {"segments": [None, 310, 200], "waveforms": [None, 309 * 256 + 512]}
        assert written["sample_rate"] == 16_000
        assert (folder / "classes.csv").read_bytes() == (run_of_birds.folder / "classes.csv").read_bytes()
        text = (folder / "README.md").read_text()
        assert "ranks 3 species in segments of 4.98 s" in text
        assert "| aaaaaa |" in text

    def test_a_waveform_has_the_scores_of_a_recording(self, exported, run_of_birds, test_sounds, tmp_path):
        """Through stages 2, 3 and 5 and through the ONNX export, which knows nothing of this project."""
        import onnxruntime

        facts, folder = exported
        rng = np.random.default_rng(0)
        time = np.arange(facts["samples"]) / 16_000
        birds = tmp_path / "exact"
        birds.mkdir()
        sounds = {}
        for i, pitch in enumerate((1200, 2500, 4000)):
            sound = 0.3 * np.sin(2 * np.pi * pitch * time) * (np.sin(6 * time) > 0) + rng.normal(0, 0.001, len(time))
            soundfile.write(birds / f"{i}.wav", sound, 16_000, subtype="PCM_16")
            sounds[f"{i}.wav"] = soundfile.read(birds / f"{i}.wav", dtype="float32")[0]
        expected = read_run_file(predict([run_of_birds], [birds], tmp_path / "run.csv")[0])
        session = onnxruntime.InferenceSession(folder / "waveforms.onnx", providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for file, sound in sounds.items():
            (scores,) = session.run(None, {name: sound[None]})[0]
            assert scores == pytest.approx([expected[file][c] for c in ("aaaaaa", "bbbbbb", "cccccc")], abs=2e-3)

    def test_what_differs(self, exported, tmp_path):
        _, folder = exported
        shutil.copy(folder / "segments.onnx", tmp_path)
        inputs = {"segments": np.zeros((2, 310, 200), np.float32)}
        with pytest.raises(PipelineError, match="onnx export differs from the run by"):
            check(tmp_path, inputs, {"segments": np.zeros((2, 3), np.float32)}, ["onnx"])

    def test_one_export_takes_the_place_of_another(self, exported, run_of_birds, tmp_path, monkeypatch):
        """Nothing of an earlier run stays beside the classes of this one, and nothing changes before all is checked."""

        def copies(name, forms, parts):  # of what was converted before, as that takes half a minute
            return [Path(shutil.copy(exported[1] / FORMATS[name].format(form=form), parts)) for form in forms]

        monkeypatch.setattr("predict.exportModel.write_format", copies)
        for name in ("thresholds.json", "segments.tflite", "classes.csv", "export.json"):
            (tmp_path / name).write_text("old")
        (tmp_path / "notes.txt").write_text("of the user")
        (tmp_path / "savedmodel" / "1").mkdir(parents=True)

        def wrong(*_):
            raise PipelineError("The onnx export differs from the run by 1. Nothing was exported.")

        before = sorted(path.name for path in tmp_path.iterdir())
        with monkeypatch.context() as patch:
            patch.setattr("predict.exportModel.check", wrong)
            with pytest.raises(PipelineError, match="Nothing was exported"):
                export(run_of_birds, tmp_path, ["onnx"])
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        assert (tmp_path / "classes.csv").read_text() == "old"
        export(run_of_birds, tmp_path, ["onnx"])
        names = {
            "README.md",
            "classes.csv",
            "export.json",
            "notes.txt",
            "savedmodel",
            "segments.onnx",
            "waveforms.onnx",
        }
        assert {path.name for path in tmp_path.iterdir()} == names
        assert not list((tmp_path / "savedmodel").iterdir())
        assert (tmp_path / "classes.csv").read_bytes() == (run_of_birds.folder / "classes.csv").read_bytes()

    def test_what_cannot_be_loaded(self, tmp_path):
        (tmp_path / "segments.onnx").write_bytes(b"no network")
        inputs = {"segments": np.zeros((1, 2), np.float32)}
        with pytest.raises(PipelineError, match="The onnx export cannot be loaded"):
            check(tmp_path, inputs, inputs, ["onnx"])

    def test_examples_of_recordings_that_are_shorter_than_their_headers_say(self, run_of_birds, tmp_path, monkeypatch):
        """As MP3s are; and the features may have been removed."""
        config, model, loss = load_run(run_of_birds)
        forms = build(config, model, loss)
        samples = segment_samples(config)
        sizes = iter([samples - 1, 0, samples, samples + 1])
        monkeypatch.setattr("predict.exportModel.wav_samples", lambda _: np.full(next(sizes, 0), 7, np.int16))
        monkeypatch.setattr("predict.exportModel.features_folder", lambda _: tmp_path)
        examples = find_examples(config, forms)
        assert examples["waveforms"].shape == (EXAMPLES, samples)
        assert (examples["waveforms"] == np.float32(7 / 32768)).all(axis=1).sum() == 2

    def test_examples_without_the_corpus(self, run_of_birds, tmp_path):
        target = copied(run_of_birds, tmp_path)
        config, model, loss = load_run(target)
        forms = build(config, model, loss)
        with_corpus = find_examples(config, forms)
        import dataclasses

        gone = dataclasses.replace(config, data=dataclasses.replace(config.data, corpus="gone"))
        without = find_examples(gone, forms)
        for form in forms:
            assert with_corpus[form].shape == without[form].shape
            assert not np.array_equal(with_corpus[form], without[form])
        assert segment_samples(config) == 309 * 256 + 512
        assert isinstance(open_recipe(config.features), birdclef2016.Recipe)
        assert Run(target.folder).read_species()
        shutil.rmtree(target.folder)
