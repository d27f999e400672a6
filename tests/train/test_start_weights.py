"""Starting weights: what is taken and what is new, damaged and hostile files, the VGGish checkpoint, and freezing."""

import dataclasses
import itertools
import os
import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import config as configuration
import train.start_weights
from config import ConfigError, Model, Part, PipelineError
from preprocess.recipes import Encoding
from preprocess.recordings import Species, write_table
from tests.train.conftest import derived
from tests.train.small_networks import SMALL
from train.losses import open_loss
from train.models import open_network, residual
from train.network import build_model, build_trainer
from train.run import Run
from train.start_weights import VGGISH_SCOPES, freeze, prepare, weighted_layers
from train.trainModel import train as train_network

ENCODING = Encoding("uint8", 0.05, -4.5)
CLASSES = ["aaaaaa", "bbbbbb", "cccccc"]


def settings(name: str, *overrides: str, **options) -> configuration.Config:
    """Return a configuration of a small network."""
    _, frames, small = SMALL[name]
    options = [f"model.{key}={configuration.toml_value(value)}" for key, value in (small | options).items()]
    return configuration.load(
        None, [f"model.network={name}", *options, f"features.segment_frames={frames}", *overrides]
    )


def whole(name: str, seed: int, classes: int = 3, **options) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = build_model(settings(name, **options), ENCODING, SMALL[name][:1], classes)
    rng = np.random.default_rng(seed)
    for weight in model.weights:  # biases and statistics too, so that every array tells
        weight.assign(rng.uniform(0.1, 1, weight.shape))
    return model


def section(name: str, start: Path | str, freeze: str | int = 0) -> Model:
    _, options = open_network(settings(name).model)
    return Model(name, start=str(start), freeze=freeze, options=options)


def start(model: keras.Model, name: str, path: Path | str, classes: list[str] = CLASSES) -> dict[str, bool]:
    """Give a model its starting weights and return layer -> whether it has changed."""
    network = model.layers[-1]
    before = [(key, [np.array(w.value) for w in layer.weights], layer) for key, layer in weighted_layers(network)]
    prepare(section(name, path), network, classes, load=True)
    return {
        key: any(not np.array_equal(a, np.array(w.value)) for a, w in zip(old, layer.weights, strict=True))
        for key, old, layer in before
    }


def leave_run(folder: Path, model: keras.Model, classes: list[str] = CLASSES) -> Path:
    """Write what `prepare` reads of a run."""
    folder.mkdir()
    (folder / "config.toml").write_text("[train]\n")
    write_table(folder / "classes.csv", Species, [Species(class_id, class_id) for class_id in classes])
    model.save_weights(folder / "best_val_map.weights.h5")
    return folder


@pytest.fixture(scope="module")
def cnn1(tmp_path_factory) -> tuple[keras.Model, Path]:
    """A small cnn1 and the run that holds it."""
    model = whole("cnn1", 1)
    return model, leave_run(tmp_path_factory.mktemp("runs") / "first", model)


# Weights of an earlier run


@pytest.mark.parametrize("name", SMALL)
def test_every_network_starts_from_a_run_of_its_own(name, tmp_path, capsys):
    """Keras wrote the file; the same layers come back, all of them."""
    source = whole(name, 1)
    run = leave_run(tmp_path / "run", source)
    model = whole(name, 2)
    assert all(start(model, name, run).values())
    for old, new in zip(source.layers[-1].weights, model.layers[-1].weights, strict=True):
        np.testing.assert_array_equal(np.array(old.value), np.array(new.value))
    assert "new layers: none" in capsys.readouterr().out


def test_the_weights_that_the_run_is_used_with(cnn1, tmp_path):
    _, run = cnn1
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "best_val_map.weights.h5").rename(copy / "last.weights.h5")
    (copy / "config.toml").write_text('[train]\nmonitor = "last"\n')
    assert all(start(whole("cnn1", 2), "cnn1", copy).values())


def test_attention_belongs_to_the_classes(tmp_path):
    """It is one weight per class, as the logits: new for other classes, and never frozen."""
    pooled = {"loss": Part("pooled", {"pool": "attention"})}

    def attentive(seed: int) -> keras.Model:
        keras.utils.set_random_seed(seed)
        config = settings("cnn1")
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, **pooled))
        model = build_model(config, ENCODING, SMALL["cnn1"][:1], 3)
        rng = np.random.default_rng(seed)
        for weight in model.weights:
            weight.assign(rng.uniform(0.1, 1, weight.shape))
        return model

    run = leave_run(tmp_path / "run", attentive(1))
    model = attentive(2)
    assert all(start(model, "cnn1", run).values())
    model = attentive(2)
    taken = start(model, "cnn1", run, ["x", "y", "z"])
    assert {name for name, changed in taken.items() if not changed} == {"logits", "attention"}
    freeze(model.layers[-1], "backbone")
    assert {weight.path.split("/")[0] for weight in model.trainable_weights} == {"logits", "attention"}


def test_a_certain_file_of_a_run(cnn1, tmp_path):
    _, run = cnn1
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "best_val_map.weights.h5").rename(copy / "best_val_acc.weights.h5")
    model = whole("cnn1", 2)
    assert all(start(model, "cnn1", copy / "best_val_acc.weights.h5").values())
    with pytest.raises(PipelineError, match=r"best_val_map\.weights\.h5 is missing"):
        start(model, "cnn1", copy)


@pytest.mark.parametrize("classes", [["aaaaaa", "bbbbbb"], ["aaaaaa", "bbbbbb", "dddddd"], CLASSES[::-1]])
def test_other_classes_get_a_new_head(cnn1, classes, capsys):
    model = whole("cnn1", 2, classes=len(classes))
    changed = start(model, "cnn1", cnn1[1], classes)
    assert changed.pop("logits") is False
    assert all(changed.values())
    assert "22 of 24 weights taken; new layers: logits" in capsys.readouterr().out


def test_noise_is_an_output_of_the_same_classes(tmp_path):
    """It is none of classes.csv; a run without it has an output less."""
    run = leave_run(tmp_path / "run", whole("cnn1", 1, classes=4))
    assert all(start(whole("cnn1", 2, classes=4), "cnn1", run, [*CLASSES, "noise"]).values())
    assert not start(whole("cnn1", 2), "cnn1", run)["logits"]
    assert not start(whole("cnn1", 2, classes=4), "cnn1", run, [*CLASSES, "dddddd"])["logits"]


def test_a_file_alone_leaves_the_head_new(cnn1, tmp_path):
    """Without classes.csv nobody knows what its outputs meant."""
    shutil.copy(cnn1[1] / "best_val_map.weights.h5", tmp_path / "weights.h5")
    changed = start(whole("cnn1", 2), "cnn1", tmp_path / "weights.h5")
    assert [name for name, new in changed.items() if not new] == ["logits"]


def test_layers_of_another_shape_stay_new_and_are_named(cnn1, capsys):
    model = whole("cnn1", 2, dense=(8, 5))
    changed = start(model, "cnn1", cnn1[1])
    assert [name for name, new in changed.items() if not new] == ["dense_1", "logits"]
    assert "new layers: dense_1, logits" in capsys.readouterr().out


def test_a_hidden_layer_never_takes_the_old_head(tmp_path):
    """With one hidden layer more, the second dense layer sits where the head was, and even has its shape."""
    run = leave_run(tmp_path / "run", whole("cnn1", 1, dense=(8,)))
    changed = start(whole("cnn1", 2, dense=(8, 3)), "cnn1", run)
    assert [name for name, new in changed.items() if not new] == ["dense_1", "logits"]


def test_nothing_that_fits_is_an_error(tmp_path):
    run = leave_run(tmp_path / "run", whole("convlstm", 1, filters=5, lstm=7, dense=(3, 2)))
    with pytest.raises(PipelineError, match=r"Nothing in model\.start=.*run fits the network convlstm"):
        start(whole("convlstm", 2), "convlstm", run, ["x"] * 3)


def test_another_network_is_an_error(cnn1):
    with pytest.raises(PipelineError, match="it holds cnn1, the configuration builds simplecnn"):
        start(whole("simplecnn", 2), "simplecnn", cnn1[1])


# Damaged and hostile files


def spoil(path: Path, how: str) -> None:
    """Damage a weights file in a certain way."""
    kernel = "layers/functional/layers/conv2d/vars/0"
    if how == "cut":
        path.write_bytes(path.read_bytes()[:3000])
    elif how == "random":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif how == "empty":
        path.write_bytes(b"")
    else:
        with h5py.File(path, "r+") as file:
            shape = file[kernel].shape
            if how == "not finite":
                file[kernel][0] = np.nan
                return
            del file[kernel]
            if how == "link":
                file[kernel] = h5py.ExternalLink("/etc/hostname", "/")
            elif how == "soft link":
                file[kernel] = h5py.SoftLink("/layers/functional/layers/conv2d_1/vars/0")
            elif how == "external":
                secret = path.with_name("secret")
                secret.write_bytes(bytes(4 * int(np.prod(shape))))
                file.create_dataset(kernel, shape, "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
            elif how == "virtual":
                file.create_virtual_dataset(kernel, h5py.VirtualLayout(shape, "f4"))
            elif how == "text":
                file[kernel] = np.full(shape, b"x")


@pytest.mark.parametrize(
    "how", ["cut", "random", "empty", "not finite", "link", "soft link", "external", "virtual", "text"]
)
def test_damaged_weights_are_one_plain_line(cnn1, tmp_path, how):
    run = shutil.copytree(cnn1[1], tmp_path / "run")
    spoil(run / "best_val_map.weights.h5", how)
    with pytest.raises(PipelineError, match=r"model\.start cannot use .*best_val_map") as refusal:
        start(whole("cnn1", 2), "cnn1", run)
    assert str(refusal.value).isprintable()


def test_a_shape_bomb_is_not_read(cnn1, tmp_path):
    """An array that claims to be 4 TB is compared with the layer, found not to fit, and left alone."""
    run = shutil.copytree(cnn1[1], tmp_path / "run")
    with h5py.File(run / "best_val_map.weights.h5", "r+") as file:
        del file["layers/functional/layers/conv2d/vars/0"]
        file.create_dataset("layers/functional/layers/conv2d/vars/0", (1_000_000, 1_000_000), "f4", chunks=True)
    changed = start(whole("cnn1", 2), "cnn1", run)
    assert changed["conv2d"] is False
    assert changed["conv2d_1"] is True


@pytest.mark.parametrize(
    ("name", "start", "words"),
    [
        ("cnn1", "runs/never-trained", r"model\.start=runs/never-trained does not exist"),
        ("cnn1", "README.md", "neither a run directory nor"),
        ("cnn1", "imagenet", r"model\.start=imagenet is for model\.network=application, not cnn1"),
    ],
)
def test_starts_that_cannot_be(name, start, words):
    with pytest.raises(ConfigError, match=words):
        train.start_weights.check_start(Model(name, start=start))


# The AudioSet checkpoint


@pytest.fixture(scope="module")
def audioset() -> dict[str, np.ndarray]:
    """Variables as the official checkpoint calls them, in the shapes of the small vggish."""
    _, _, options = SMALL["vggish"]
    channels = (1, 64, 128, 256, 256, 512, 512)
    shapes = [(3, 3, a, b) for a, b in itertools.pairwise(channels)]
    shapes += [(512, options["fully_connected"]), (options["fully_connected"],) * 2]
    shapes += [(options["fully_connected"], options["embedding"])]
    rng = np.random.default_rng(7)
    variables = {}
    for scope, shape in zip(VGGISH_SCOPES, shapes, strict=True):
        scale = np.sqrt(2 / np.prod(shape[:-1]))
        variables[f"vggish/{scope}/weights"] = rng.normal(0, scale, shape).astype(np.float32)
        variables[f"vggish/{scope}/biases"] = rng.normal(0, 0.1, shape[-1]).astype(np.float32)
    return variables


def write_checkpoint(variables: dict[str, np.ndarray], path: Path, kind: str) -> Path:
    """Write variables as TensorFlow 1 did (one file, or index and data), or as .npz."""
    if kind == "npz":
        np.savez(path.with_suffix(".npz"), **variables)
        return path.with_suffix(".npz")
    import tensorflow as tf

    version = tf.compat.v1.train.SaverDef.V1 if kind == "v1" else tf.compat.v1.train.SaverDef.V2
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        made = [tf.compat.v1.get_variable(name, initializer=value) for name, value in variables.items()]
        made.append(tf.compat.v1.get_variable("global_step", initializer=np.int64(3)))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(made, write_version=version).save(session, str(path), write_meta_graph=False)
    return path


def vggish_by_hand(variables: dict[str, np.ndarray], patch: np.ndarray) -> np.ndarray:
    """Return the embedding of one patch, [frames, bands], with loops over the kernel alone."""
    x = patch[:, :, None].astype(np.float64)
    for scope in VGGISH_SCOPES[:6]:
        kernel, bias = variables[f"vggish/{scope}/weights"], variables[f"vggish/{scope}/biases"]
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        height, width = x.shape[:2]
        x = sum(padded[i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)) + bias
        x = np.maximum(x, 0)
        if scope not in ("conv3/conv3_1", "conv4/conv4_1"):
            x = x.reshape(height // 2, 2, width // 2, 2, -1).max(axis=(1, 3))
    x = x.reshape(-1)
    for scope in VGGISH_SCOPES[6:]:
        x = x @ variables[f"vggish/{scope}/weights"] + variables[f"vggish/{scope}/biases"]
        x = x if scope == "fc2" else np.maximum(x, 0)
    return x


@pytest.mark.parametrize("kind", ["v1", "v2", "index", "npz"])
def test_the_vggish_checkpoint_is_converted(audioset, tmp_path, kind, capsys):
    path = write_checkpoint(audioset, tmp_path / "vggish_model.ckpt", kind)
    model = whole("vggish", 2)
    changed = start(model, "vggish", f"{path}.index" if kind == "index" else path)
    assert [name for name, new in changed.items() if not new] == ["dense", "logits"]
    assert "18 of 22 weights taken; new layers: dense, logits" in capsys.readouterr().out
    patch = np.random.default_rng(8).standard_normal((16, 16))
    embedding = np.asarray(model.layers[-1].get_layer("backbone")(patch[None, :, :, None].astype(np.float32)))[0]
    np.testing.assert_allclose(embedding, vggish_by_hand(audioset, patch), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["v2", "npz"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vggish/conv2/weights": None}, "vggish/conv2/weights is missing"),
        (
            {"vggish/fc2/biases": np.zeros(5, np.float32)},
            r"vggish/fc2/biases has the shape \[5\], the network needs \[4\]",
        ),
        ({"vggish/conv1/biases": np.full(64, np.inf, np.float32)}, "conv1/biases holds values that are not finite"),
    ],
)
def test_checkpoints_that_do_not_fit(audioset, tmp_path, kind, change, words):
    variables = {name: value for name, value in (audioset | change).items() if value is not None}
    path = write_checkpoint(variables, tmp_path / "model.ckpt", kind)
    with pytest.raises(PipelineError, match=f"no VGGish checkpoint that fits: .*{words}"):
        start(whole("vggish", 2), "vggish", path)


def test_pickles_are_not_opened(audioset, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.savez(tmp_path / "trap.npz", **audioset | {"vggish/conv1/biases": np.array([Trap()] * 64, object)})
    with pytest.raises(PipelineError, match="vggish/conv1/biases is no array of floating-point numbers"):
        start(whole("vggish", 2), "vggish", tmp_path / "trap.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["model.ckpt", "model.npz"])
@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 cut"])
def test_files_that_are_no_checkpoints(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PipelineError, match="no VGGish checkpoint that fits") as refusal:
        start(whole("vggish", 2), "vggish", tmp_path / name)
    assert str(refusal.value).isprintable()


# ImageNet


def test_imagenet_weights_fill_the_backbone(monkeypatch):
    """A stand-in for the download: the backbone is asked for ImageNet's weights in the shape of the network."""
    asked = []

    def stand_in(name):
        def make(include_top, weights, input_shape):
            asked.append((name, include_top, weights, input_shape))
            model = keras.applications.MobileNetV3Small(include_top=False, weights=None, input_shape=input_shape)
            for weight in model.weights:
                weight.assign(np.full(weight.shape, 0.125, np.float32))
            return model

        return make

    monkeypatch.setattr(train.start_weights, "open_backbone", stand_in)
    model = whole("application", 2)
    changed = start(model, "application", "imagenet")
    assert asked == [("MobileNetV3Small", False, "imagenet", (32, 40, 3))]
    assert [name for name, new in changed.items() if not new] == ["logits"]
    assert {
        float(np.array(w.value).max())
        for _, layer in list(weighted_layers(model.layers[-1]))[:-1]
        for w in layer.weights
    } == {0.125}


def test_efficientnet_from_imagenet_is_the_same_after_it_was_kept(monkeypatch, tmp_path):
    """Its layer of means and deviations would come into force when the weights are read from a file, not before."""

    def stand_in(name):
        def make(include_top, weights, input_shape):
            model = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=input_shape)
            layer = next(layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))
            layer.set_weights([np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]), np.array(0)])
            return model

        return make

    def network():
        config = settings("application", backbone="EfficientNetB0")
        return build_model(config, ENCODING, SMALL["application"][:1], 3), open_network(config.model)[1]

    model, options = network()
    with monkeypatch.context() as patched:
        patched.setattr(train.start_weights, "open_backbone", stand_in)
        prepare(Model("application", start="imagenet", options=options), model.layers[-1], CLASSES, load=True)
    codes = np.random.default_rng(1).integers(0, 255, (2, *model.input_shape[1:])).astype(model.input.dtype)
    expected = model.predict_on_batch(codes)
    path = tmp_path / "best_val_map.weights.h5"
    model.save_weights(path)
    write_table(tmp_path / "classes.csv", Species, [Species(name, name) for name in CLASSES])
    old = network()[0]
    old.set_weights(model.get_weights())
    layer = next(layer for _, layer in weighted_layers(old.layers[-1]) if isinstance(layer, keras.layers.Normalization))
    layer.set_weights([np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]), np.array(0)])
    old.save_weights(tmp_path / "old.weights.h5")  # as runs were before; its means and deviations are not taken
    for load in (
        lambda new: new.load_weights(path),
        lambda new: prepare(
            Model("application", start=str(tmp_path / "old.weights.h5"), options=options),
            new.layers[-1],
            CLASSES,
            load=True,
        ),
        lambda new: prepare(Model("application", start=str(path), options=options), new.layers[-1], CLASSES, load=True),
    ):
        keras.utils.set_random_seed(7)
        new = network()[0]
        load(new)
        np.testing.assert_allclose(new.predict_on_batch(codes), expected, rtol=1e-4, atol=1e-5)
        new.save_weights(tmp_path / "new.weights.h5")
        new.load_weights(tmp_path / "new.weights.h5")
        np.testing.assert_allclose(new.predict_on_batch(codes), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.input_shape. is undefined or non-square:UserWarning")
def test_an_unreachable_network_is_one_clear_line(monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    get_file = keras.utils.get_file
    monkeypatch.setattr(
        "keras.src.utils.file_utils.get_file", lambda *a, **k: get_file(*a, **k | {"cache_dir": str(tmp_path)})
    )
    with pytest.raises(ConfigError, match=r"model\.start=imagenet: the weights of MobileNetV3Small cannot be had") as e:
        start(whole("application", 2), "application", "imagenet")
    assert str(e.value).isprintable()
    assert "URL fetch failure" in str(e.value)


# Freezing


def trained(name: str, what: str | int, steps: int = 2) -> tuple[list[str], list[str]]:
    """Return which layers keep their weights, and which change, when a network is trained with a part frozen."""
    config = settings(name, "train.warmup_epochs=0", "train.optimizer={name='sgd', learning_rate=0.1}")
    model = whole(name, 3)
    network = model.layers[-1]
    freeze(network, what)
    before = [(key, layer, [np.array(w.value) for w in layer.weights]) for key, layer in weighted_layers(network)]
    trainer = build_trainer(config, model, open_loss(config.train.loss), 1)
    codes = np.random.default_rng(4).integers(0, 255, (6, SMALL[name][1], SMALL[name][0])).astype(np.uint8)
    targets = np.eye(3, dtype=np.float32)[[0, 1, 2] * 2]
    for _ in range(steps):
        trainer.train_on_batch([codes, targets], np.zeros((6, 1)))
    kept, changed = [], []
    for key, layer, old in before:
        same = [np.array_equal(a, np.array(w.value)) for a, w in zip(old, layer.weights, strict=True)]
        (kept if all(same) else changed).append(key)
    return kept, changed


def test_a_frozen_backbone_does_not_change():
    """Nor do the running statistics of its batch normalisation."""
    kept, changed = trained("cnn1", "backbone")
    assert changed == ["logits"]
    assert [name for name in kept if name.startswith("batch_normalization")] == [
        "batch_normalization",
        "batch_normalization_1",
        "batch_normalization_2",
    ]


def test_the_first_layers_can_be_frozen():
    kept, changed = trained("cnn1", 4)
    assert kept == ["batch_normalization", "conv2d", "batch_normalization_1", "conv2d_1"]
    assert {"batch_normalization_2", "conv2d_2", "logits"} <= set(changed)


@pytest.mark.slow
def test_the_backbone_of_vggish_leaves_its_classifier():
    _, changed = trained("vggish", "backbone", steps=1)
    assert changed == ["dense", "logits"]


def test_too_many_frozen_layers_are_refused():
    network = whole("cnn1", 1).layers[-1]
    with pytest.raises(ConfigError, match=r"model\.freeze. Received: 9. Expected: at most 8"):
        freeze(network, 9)


def test_freezing_needs_starting_weights():
    with pytest.raises(ConfigError, match=r"model\.freeze=backbone needs starting weights"):
        prepare(Model("cnn1", freeze="backbone"), whole("cnn1", 1).layers[-1], CLASSES, load=True)


def test_what_texture_adds_is_no_backbone():
    """A run without it has no statistics of the texture's statistics: frozen, they would stay as they were made."""
    network = residual.build((24, 30, 1), 3, width=4, texture=True)
    freeze(network, "backbone")
    trained = {layer.name for layer in network.layers if layer.trainable_weights}
    assert trained == {"texture_normalisation", "texture_hidden", "texture_logits", "logits"}
    features = keras.Model(network.input, network.get_layer("logits").input)
    assert features.output_shape == (None, 32)  # of embeddings: 4 filters, doubled by three stages


@pytest.mark.parametrize("value", ["head", "-1", "true"])
def test_freeze_is_backbone_or_a_number(value):
    with pytest.raises(ConfigError, match=r"model\.freeze\. Received: .* Expected: one of: backbone; or "):
        configuration.load(None, [f"model.freeze={value}"])


# Within a training run


@pytest.mark.slow
def test_a_run_starts_from_another_and_resumes_by_itself(corpus, tmp_path, tiny, capsys):
    """The frozen part equals the first run's to the end, although that run is gone when the second resumes."""
    common = ("model.network=tiny", "train.batch_size=4", "train.schedule=constant", "train.warmup_epochs=0")
    first = derived(corpus, tmp_path, *common, "train.epochs=1", "train.run=first")
    train_network(first)
    settings = (*common, f'model.start="{first.run_dir}"', "model.freeze=backbone", "train.run=second")
    train_network(derived(corpus, tmp_path, *settings, "train.epochs=1"))
    assert "new layers: none" in capsys.readouterr().out
    kept = shutil.move(first.run_dir, tmp_path / "moved")
    second = derived(corpus, tmp_path, *settings, "train.epochs=2")
    train_network(second)
    output = capsys.readouterr().out
    assert "resuming after epoch 1" in output
    assert "starting from" not in output
    assert len(Run(second.run_dir).read_history()) == 2
    with h5py.File(Path(kept) / "best_val_map.weights.h5") as a, h5py.File(second.run_dir / "state.h5") as b:
        kernel = a["layers/functional/layers/conv2d/vars/0"][()]
        stored = [item[()] for item in b["weights"].values()]
    assert any(item.shape == kernel.shape and np.array_equal(item, kernel) for item in stored)


def test_recordings_that_the_start_has_learnt_are_announced(corpus, tiny, tmp_path, capsys):
    """Another seed holds back others; their species were told before."""
    common = ("model.network=tiny", "train.epochs=1", "train.holdout=0.3", "train.validation=0.2")
    train_network(derived(corpus, tmp_path, *common, "train.run=first"))
    assert "was TRAINED" not in capsys.readouterr().out
    second = derived(corpus, tmp_path, *common, "train.run=second", "train.seed=1", f"model.start={tmp_path}/first")
    train_network(second)
    said = capsys.readouterr().out
    first = Run(tmp_path / "first").read_split()
    for side in ("validation", "holdout"):
        held = [name for name, own in Run(second.run_dir).read_split().items() if own == side]
        seen = sum(first[name] == "train" for name in held)
        assert (f"was TRAINED on {seen} of the {len(held)} recordings of the {side} side" in said) == (seen > 0)
    assert "was TRAINED" in said
