"""The networks against the published tables: shapes, kernels and parameters of every layer."""

import keras
import numpy as np
import pytest

import config as configuration
from config import ConfigError
from preprocess.recipes import Encoding
from train.models import open_network
from train.network import build_model

INPUT = (200, 310, 1)  # bins, frames, channels
ENCODING = Encoding("uint8", 0.05, -4.5)

# kind, output without the batch, parameters; batch normalisation follows the activation and is per channel
ALEXNET = [
    ("Conv2D", (31, 50, 96), 24_672),
    ("BatchNormalization", (31, 50, 96), 4 * 96),
    ("MaxPooling2D", (15, 25, 96), 0),
    ("Conv2D", (13, 23, 256), 221_440),
    ("BatchNormalization", (13, 23, 256), 4 * 256),
    ("MaxPooling2D", (6, 11, 256), 0),
    ("Conv2D", (6, 11, 384), 885_120),
    ("Conv2D", (6, 11, 384), 1_327_488),
    ("Conv2D", (6, 11, 256), 884_992),
    ("BatchNormalization", (6, 11, 256), 4 * 256),
    ("MaxPooling2D", (3, 5, 256), 0),
    ("Flatten", (3840,), 0),
    ("Dropout", (3840,), 0),
    ("Dense", (4096,), 15_732_736),
    ("Dropout", (4096,), 0),
    ("Dense", (4096,), 16_781_312),
    ("Dropout", (4096,), 0),
    ("Dense", (999,), 4_092_903),
]
BIRDCLEF = [
    ("Conv2D", (24, 37, 128), 32_896),
    ("MaxPooling2D", (12, 18, 128), 0),
    ("Conv2D", (8, 16, 256), 491_776),
    ("BatchNormalization", (8, 16, 256), 4 * 256),
    ("MaxPooling2D", (4, 8, 256), 0),
    ("Conv2D", (4, 8, 384), 885_120),
    ("Conv2D", (4, 8, 384), 1_327_488),
    ("BatchNormalization", (4, 8, 384), 4 * 384),
    ("MaxPooling2D", (2, 4, 384), 0),
    ("Flatten", (3072,), 0),
    ("Dense", (2048,), 6_293_504),
    ("Dropout", (2048,), 0),
    ("Dense", (2048,), 4_196_352),
    ("Dropout", (2048,), 0),
    ("Dense", (999,), 2_046_951),
]
# kernel (frequency, time), stride, padding, initialiser
CONVOLUTIONS = {
    "alexnet": [
        ((16, 16), 6, "valid", "GlorotNormal"),
        ((3, 3), 1, "valid", "LecunUniform"),
        ((3, 3), 1, "same", "LecunUniform"),
        ((3, 3), 1, "same", "LecunUniform"),
        ((3, 3), 1, "same", "LecunUniform"),
    ],
    "birdclef": [
        ((16, 16), 8, "valid", "LecunUniform"),
        ((5, 3), 1, "valid", "LecunUniform"),
        ((3, 3), 1, "same", "LecunUniform"),
        ((3, 3), 1, "same", "LecunUniform"),
    ],
}
TABLES = {"alexnet": (ALEXNET, 39_953_095), "birdclef": (BIRDCLEF, 15_276_647)}


@pytest.fixture(scope="module")
def networks() -> dict[str, keras.Model]:
    """Both networks in their published size."""
    built = {}
    for name in TABLES:
        build, options = open_network(configuration.Model(name))
        built[name] = build(INPUT, 999, **options)
    return built


def settings(*overrides: str) -> configuration.Config:
    return configuration.load(None, list(overrides))


@pytest.mark.parametrize("name", TABLES)
def test_layers_and_parameters_are_those_of_the_paper(networks, name):
    expected, total = TABLES[name]
    network = networks[name]
    layers = [layer for layer in network.layers if not isinstance(layer, keras.layers.InputLayer)]
    found = [(type(layer).__name__, tuple(layer.output.shape[1:]), layer.count_params()) for layer in layers]
    assert found == expected
    assert network.count_params() == total == sum(parameters for _, _, parameters in expected)
    assert network.input_shape == (None, *INPUT)


@pytest.mark.parametrize("name", TABLES)
def test_convolutions(networks, name):
    layers = [layer for layer in networks[name].layers if isinstance(layer, keras.layers.Conv2D)]
    found = [
        (layer.kernel_size, *set(layer.strides), layer.padding, type(layer.kernel_initializer).__name__)
        for layer in layers
    ]
    assert found == CONVOLUTIONS[name]
    assert all(layer.activation is keras.activations.relu and layer.use_bias for layer in layers)
    channels = [1, *(layer.filters for layer in layers)]
    for layer, before, after in zip(layers, channels, channels[1:], strict=False):
        assert tuple(layer.kernel.shape) == (*layer.kernel_size, before, after)


@pytest.mark.parametrize("name", TABLES)
def test_pools_dropout_dense_and_normalisation(networks, name):
    layers = networks[name].layers
    dense = [layer for layer in layers if isinstance(layer, keras.layers.Dense)]
    assert [layer.activation.__name__ for layer in dense] == ["relu", "relu", "linear"]
    assert {type(layer.kernel_initializer).__name__ for layer in dense} == {"GlorotUniform"}
    assert {layer.rate for layer in layers if isinstance(layer, keras.layers.Dropout)} == {0.5}
    for layer in layers:
        if isinstance(layer, keras.layers.MaxPooling2D):
            assert (layer.pool_size, layer.strides, layer.padding) == ((2, 2), (2, 2), "valid")
        if isinstance(layer, keras.layers.BatchNormalization):
            assert (layer.axis, layer.epsilon, layer.momentum) == (-1, 1e-5, 0.9)


def test_first_axis_is_frequency(networks):
    """The second convolution of birdclef sees 5 bins and 3 frames: with one weight set, a dot becomes that shape."""
    layer = [layer for layer in networks["birdclef"].layers if isinstance(layer, keras.layers.Conv2D)][1]
    single = keras.layers.Conv2D(1, layer.kernel_size, kernel_initializer="ones")
    image = np.zeros((1, 12, 18, 1), np.float32)
    image[0, 6, 9] = 1
    touched = np.argwhere(np.asarray(single(image))[0, :, :, 0] > 0)
    assert np.ptp(touched[:, 0]) + 1 == 5
    assert np.ptp(touched[:, 1]) + 1 == 3


def test_options_reach_the_layers():
    build, options = open_network(
        configuration.Model("alexnet", options={"dropout": 0.25, "dense": 7, "momentum": 0.5})
    )
    network = build(INPUT, 4, **options)
    kinds = keras.layers
    assert {layer.rate for layer in network.layers if isinstance(layer, kinds.Dropout)} == {0.25}
    assert [layer.units for layer in network.layers if isinstance(layer, kinds.Dense)] == [7, 7, 4]
    assert {layer.momentum for layer in network.layers if isinstance(layer, kinds.BatchNormalization)} == {0.5}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_logits_and_weights_are_float32_under_every_precision(name, policy):
    before = keras.config.dtype_policy().name
    config = settings(f"model.network={name}", "model.dense=8", f"train.precision={policy}")
    model = build_model(config, ENCODING, (200,), 5)
    assert keras.config.dtype_policy().name == before
    assert {str(weight.dtype) for weight in model.weights} == {"float32"}
    convolution = next(layer for layer in model.layers[-1].layers if isinstance(layer, keras.layers.Conv2D))
    assert convolution.compute_dtype == policy.removeprefix("mixed_")
    logits = model.predict_on_batch(np.full((2, 310, 200), 120, np.uint8))
    assert logits.shape == (2, 5)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()


def test_unknown_network_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"model\.network.*'vgg'.*alexnet, application, birdclef, cnn1"):
        open_network(configuration.Model("vgg"))


@pytest.mark.parametrize("name", ["__init__", "../alexnet", "alexnet.build", ""])
def test_only_modules_of_the_folder_are_networks(name):
    with pytest.raises(ConfigError, match=r"Unknown model\.network"):
        open_network(configuration.Model(name))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("depth", 3, r"Unknown key model\.depth.*dense, dropout, momentum"),
        ("dropout", 1.5, r"model\.dropout.*from 0 to 1"),
        ("dense", 0, r"model\.dense.*at least 1"),
        ("dense", "many", r"model\.dense.*int"),
        ("classes", 3, r"Unknown key model\.classes"),
    ],
)
def test_bad_options_are_named(option, value, words):
    with pytest.raises(ConfigError, match=words):
        open_network(configuration.Model("alexnet", options={option: value}))


SMALLEST = [("alexnet", 16, 16), ("birdclef", 16, 16)]  # the first kernel; what follows it shrinks to what is left


def build_for(name: str, bins: int, frames: int) -> keras.Model:
    config = settings(f"model.network={name}", "model.dense=4", f"features.segment_frames={frames}")
    return build_model(config, ENCODING, (bins,), 3)


@pytest.mark.parametrize(("name", "bins", "frames"), SMALLEST)
def test_too_small_segments_are_refused(name, bins, frames):
    assert build_for(name, bins, frames).output_shape == (None, 3)
    for small in ((bins - 1, frames), (bins, frames - 1), (3, 3)):
        words = f"{name} does not fit segments of {small[0]} bins x {small[1]} frames"
        with pytest.raises(ConfigError, match=words):
            build_for(name, *small)


@pytest.mark.parametrize(("name", "bins", "frames"), SMALLEST)
def test_the_refusal_is_one_plain_line(name, bins, frames):
    with pytest.raises(ConfigError) as refusal:
        build_for(name, bins, frames - 1)
    assert str(refusal.value).isprintable()
