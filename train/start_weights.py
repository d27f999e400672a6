"""Starting weights by model.start, and the part of the network that model.freeze keeps as it started.

model.start = "runs/NAME"                    an earlier run: the weights that its train.monitor names
model.start = "runs/NAME/best_....weights.h5"   ... or a certain file of it
model.start = "vggish_model.ckpt"            network vggish: the AudioSet checkpoint (TensorFlow's, or as .npz)
model.start = "imagenet"                     network application: from Keras, which downloads them once

Paths are relative to the project. Only numbers are read: no pickle, no code, no links to other files.
"""

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras.layers import Normalization

from config import ConfigError, Model, PipelineError, from_project
from config.commandline import log
from preprocess.recordings import Species, read_table
from train.models.application import open_backbone
from train.run import Run

# Layers that are made for the classes, and what only they use.
OUTPUTS = ("logits", "texture_normalisation", "texture_hidden", "texture_logits", "attention")
NAMES_SHOWN = 8  # of the layers without starting weights, in the log

# Scopes of the AudioSet checkpoint in the order of the layers; each holds `weights` and `biases`.
VGGISH_SCOPES = (
    "conv1",
    "conv2",
    "conv3/conv3_1",
    "conv3/conv3_2",
    "conv4/conv4_1",
    "conv4/conv4_2",
    "fc1/fc1_1",
    "fc1/fc1_2",
    "fc2",
)


def prepare(model: Model, network: keras.Model, class_ids: Sequence[str], load: bool) -> None:
    """Give a new network its starting weights and freeze what model.freeze names.

    Args:
        model: the section [model].
        network: from `train.models`; its last layer is called logits.
        class_ids: of the outputs. The logits are taken over only from a run with the same classes.
        load: False where a run resumes: its own state holds all weights.

    Raises:
        PipelineError: if the weights are missing, damaged, or of another network.
    """
    check_start(model, load)
    if model.start and load:
        if model.start == "imagenet":
            new = _load_imagenet(network, model.options["backbone"])
        elif _is_run(path := start_path(model)):
            new = _load_run(network, path, class_ids)
        else:
            new = _load_vggish(network, path)
        total = sum(len(layer.weights) for _, layer in weighted_layers(network))
        taken = total - sum(len(layer.weights) for name, layer in weighted_layers(network) if name in new)
        if not taken:
            raise PipelineError(f"Nothing in model.start={model.start} fits the network {network.name}.")
        names = ", ".join(new[:NAMES_SHOWN]) + (f" and {len(new) - NAMES_SHOWN} more" if len(new) > NAMES_SHOWN else "")
        log(f"starting from {model.start}: {taken} of {total} weights taken; new layers: {names or 'none'}")
    if model.freeze:
        freeze(network, model.freeze)


def check_start(model: Model, load: bool = True) -> None:
    """Check without opening it that model.start fits the network and, where it is to be loaded, exists.

    Raises:
        ConfigError: naming the key.
    """
    if not model.start:
        if model.freeze:
            raise ConfigError(
                f"model.freeze={model.freeze} needs starting weights. Set model.start, or freeze nothing."
            )
        return
    if model.start == "imagenet":
        if model.network != "application":
            raise ConfigError(f"model.start=imagenet is for model.network=application, not {model.network}.")
        return
    if not load:
        return
    path = start_path(model)
    if not path.exists() and not Path(f"{path}.index").exists():
        raise ConfigError(
            f"model.start={model.start} does not exist. Expected: a run directory, a .weights.h5 file of a run, "
            "imagenet (network application), or a VGGish checkpoint (network vggish)."
        )
    if not _is_run(path) and model.network != "vggish":
        raise ConfigError(
            f"model.start={model.start} is neither a run directory nor a .weights.h5 file; "
            f"checkpoints are for model.network=vggish, not {model.network}."
        )


def start_path(model: Model) -> Path:
    """Return the path that model.start names."""
    path = from_project(model.start)
    return path.with_suffix("") if path.suffix == ".index" else path


def weighted_layers(network: keras.Model, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield the layers that have weights, in order, with the name under which Keras stores them in a weights file.

    A layer is called after its class and its number among the layers of that class, as in functional/conv2d_1;
    the output layer is called logits.
    """
    seen: dict[str, int] = {}
    for layer in network.layers:
        name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)
        name = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
        seen[name] = seen.get(name, -1) + 1
        name = f"{prefix}{name}_{seen[name]}" if seen[name] else f"{prefix}{name}"
        if isinstance(layer, keras.Model):
            yield from weighted_layers(layer, f"{name}/")
        elif layer.weights:
            yield (layer.name if layer.name in OUTPUTS else name), layer


def freeze(network: keras.Model, what: str | int) -> None:
    """Keep weights as they are: those of the backbone, or of so many of the first layers that have weights.

    The backbone is the model inside the network where there is one (vggish, application), else everything but the
    outputs. A frozen batch normalisation uses its running statistics while training, too.

    Raises:
        ConfigError: if nothing would be left to train.
    """
    if what == "backbone":
        inner = [layer for layer in network.layers if isinstance(layer, keras.Model)]
        frozen = inner or [layer for layer in network.layers if layer.name not in OUTPUTS]
    else:
        layers = [layer for _, layer in weighted_layers(network)]
        if what >= len(layers):
            raise ConfigError(
                f"Invalid value for model.freeze. Received: {what}. Expected: at most {len(layers) - 1}, as the "
                f"network {network.name} has {len(layers)} layers with weights."
            )
        frozen = layers[:what]
    for layer in frozen:
        layer.trainable = False
    count = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
    log(f"{count:,} of {network.count_params():,} parameters are trained; frozen: {what}")


def _is_run(path: Path) -> bool:
    return path.is_dir() or path.suffix == ".h5"


def _load_run(network: keras.Model, path: Path, class_ids: Sequence[str]) -> list[str]:
    """Take the layers that fit from a run; return the names of the others."""
    if path.is_dir():
        run = Run(path)
        path = run.best_weights(run.read_config().train.monitor)
    if not path.exists():
        raise PipelineError(f"{path} is missing; that run has not finished an epoch, or this is no run directory.")
    table = path.with_name("classes.csv")
    known = [kind.class_id for kind in read_table(table, Species)] if table.exists() else []
    same = list(class_ids) in (known, [*known, "noise"])  # noise is an output, but no species
    new = []
    try:
        with h5py.File(path, "r") as file:
            stored = _stored_layers(file, network.name)
            for name, layer in weighted_layers(network):
                if isinstance(layer, Normalization):  # done before the backbone: see `application.Pixels`
                    continue
                arrays = stored.get(name, [])
                fits = [array.shape for array in arrays] == [tuple(weight.shape) for weight in layer.weights]
                if not fits or (name in OUTPUTS and not same):
                    new.append(name)
                    continue
                for weight, array in zip(layer.weights, arrays, strict=True):
                    _assign(weight, array[()], name)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).strip("'\"").splitlines()[0]
        raise PipelineError(f"model.start cannot use {path}: {reason}") from None
    return new


def _stored_layers(file: h5py.File, network: str) -> dict[str, list[h5py.Dataset]]:
    """Return layer -> its arrays, of the network with a certain name in a weights file."""
    names = {}
    layers = _child(file, "layers")
    for key in layers if isinstance(layers, h5py.Group) else ():
        if re.fullmatch(r"functional(_\d+)?", key):
            names[_stored_name(_child(layers, key))] = key
    if network not in names:
        found = ", ".join(names) or "no network of this pipeline"
        raise ValueError(f"it holds {found}, the configuration builds {network}")

    stored: dict[str, list[h5py.Dataset]] = {}

    def collect(group: h5py.Group, name: str) -> None:
        inner = _child(group, "layers") if "layers" in group else None
        for key in inner if inner is not None else ():
            item = _child(inner, key)
            own = _stored_name(item)
            label = own if own in OUTPUTS else f"{name}{key}"
            if "layers" in item:
                collect(item, f"{label}/")
            else:
                stored[label] = list(_arrays(item))

    collect(_child(layers, names[network]), "")
    return stored


def _arrays(group: h5py.Group) -> Iterator[h5py.Dataset]:
    """Yield the arrays of a layer and of what is inside it, such as an LSTM's cell, but for random generators."""
    for key in sorted(group, key=lambda name: (name != "vars", len(name), name)):
        item = _child(group, key)
        if isinstance(item, h5py.Dataset):
            yield item
        elif key != "seed_generator":
            yield from _arrays(item)


def _stored_name(group: h5py.Group) -> str:
    """Return what a layer was called in Python."""
    return str(_child(group, "vars").attrs.get("name"))


def _child(group: h5py.Group, key: str) -> Any:
    """Return a member that lies in this very file."""
    if not isinstance(group.get(key, getlink=True), h5py.HardLink):
        raise KeyError(f"{key} is missing or a link")
    item = group[key]
    if isinstance(item, h5py.Dataset) and (item.is_virtual or item.external or item.dtype.kind not in "fiu"):
        raise ValueError(f"{item.name} is no plain array of numbers")
    return item


def _load_vggish(network: keras.Model, path: Path) -> list[str]:
    """Fill the backbone from the AudioSet checkpoint; return the names of the other layers."""
    layers = [layer for _, layer in weighted_layers(network.get_layer("backbone"))]
    targets = {}
    for scope, layer in zip(VGGISH_SCOPES, layers, strict=True):
        targets[f"vggish/{scope}/weights"], targets[f"vggish/{scope}/biases"] = layer.weights
    read = _read_npz if path.suffix == ".npz" else _read_checkpoint
    try:
        for name, array in read(path, {name: tuple(weight.shape) for name, weight in targets.items()}):
            _assign(targets[name], array, name)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).strip("'\"").splitlines()[0]
        raise PipelineError(f"{path} is no VGGish checkpoint that fits: {reason}") from None
    return [name for name, layer in weighted_layers(network) if not any(layer is known for known in layers)]


def _read_checkpoint(path: Path, expected: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the expected variables of a TensorFlow checkpoint."""
    try:
        import tensorflow
    except ImportError:
        raise PipelineError(f"Reading {path} needs TensorFlow. Install it, or convert the file to .npz.") from None
    try:
        reader = tensorflow.train.load_checkpoint(str(path))
        shapes = reader.get_variable_to_shape_map()
        for name, shape in expected.items():
            _check_shape(name, tuple(shapes[name]) if name in shapes else None, shape)
            yield name, reader.get_tensor(name)
    except (tensorflow.errors.OpError, RuntimeError) as error:
        raise ValueError(str(error)) from None


def _read_npz(path: Path, expected: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the expected arrays of an .npz file; a shape is checked before the array is read."""
    with zipfile.ZipFile(path) as archive:
        members = set(archive.namelist())
        for name, shape in expected.items():
            found = None
            if f"{name}.npy" in members:
                with archive.open(f"{name}.npy") as stream:
                    if np.lib.format.read_magic(stream) != (1, 0):
                        raise ValueError(f"{name} is no plain array")
                    found, _, dtype = np.lib.format.read_array_header_1_0(stream)
                    if dtype.kind != "f":
                        raise ValueError(f"{name} is no array of floating-point numbers")
            _check_shape(name, found, shape)
            with archive.open(f"{name}.npy") as stream:
                yield name, np.lib.format.read_array(stream, allow_pickle=False)


def _check_shape(name: str, found: tuple[int, ...] | None, expected: tuple[int, ...]) -> None:
    if found is None:
        raise ValueError(f"{name} is missing")
    if found != expected:
        raise ValueError(f"{name} has the shape {list(found)}, the network needs {list(expected)}")


def _load_imagenet(network: keras.Model, backbone: str) -> list[str]:
    """Fill the backbone with Keras's ImageNet weights; return the names of the other layers."""
    target = next(layer for layer in network.layers if isinstance(layer, keras.Model))
    try:
        source = open_backbone(backbone)(include_top=False, weights="imagenet", input_shape=target.input_shape[1:])
    except Exception as error:  # Keras raises a plain Exception where a download fails
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"model.start=imagenet: the weights of {backbone} cannot be had ({reason}). "
            "They are downloaded once, into ~/.keras: connect to the network, or set model.start to a run."
        ) from None
    standardising = {layer: layer.get_weights() for layer in target.layers if isinstance(layer, Normalization)}
    target.set_weights(source.get_weights())
    for layer, nothing in standardising.items():  # done before the backbone: see `application.Pixels`
        layer.set_weights(nothing)
    return [name for name, layer in weighted_layers(network) if "/" not in name]


def _assign(weight: Any, array: np.ndarray, name: str) -> None:
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite numbers")
    weight.assign(array)
