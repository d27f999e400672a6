"""The networks of the sibling systems: published parameters, shapes worked out by hand, sizes, and that they learn."""

import dataclasses
from typing import get_args

import keras
import numpy as np
import pytest
import scipy.signal

import config as configuration
from config import ConfigError
from preprocess.recipes import Encoding
from tests.train.small_networks import SMALL
from train.losses import open_loss
from train.models import open_network
from train.models.application import Pixels
from train.models.resnet import GroupedConv2D, Pool, convolve, pool_features
from train.network import build_model, build_trainer, embed

ENCODING = Encoding("uint8", 0.05, -4.5)
kinds = keras.layers


def build(name: str, shape: tuple[int, int, int], classes: int, **options) -> keras.Model:
    make, options = open_network(configuration.Model(name, options=options))
    return make(shape, classes, **options)


def small(name: str, channels: int = 1, classes: int = 2, **options) -> keras.Model:
    bins, frames, settings = SMALL[name]
    return build(name, (bins, frames, channels), classes, **settings | options)


def trainable(network: keras.Model) -> int:
    return sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)


def of_kind(network: keras.Model, kind: type) -> list:
    return [layer for layer in network.layers if isinstance(layer, kind)]


def shapes(network: keras.Model, kind: type) -> list[tuple]:
    return [tuple(layer.output.shape[1:]) for layer in of_kind(network, kind)]


# Published parameters


def test_milsed_with_seven_blocks():
    """20,608,512 as published, the four numbers of the input's batch normalisation included."""
    network = build("milsed", (128, 427, 1), 264)
    assert network.count_params() == 20_608_512
    assert type(network.layers[1]) is kinds.BatchNormalization


def test_simplecnn():
    """8.53 M as published: three convolutions, 128 x 16 x 16 into 256, and the classes."""
    network = build("simplecnn", (128, 128, 3), 182)
    by_hand = (27 + 1) * 32 + (288 + 1) * 64 + (576 + 1) * 128 + (128 * 16 * 16 + 1) * 256 + 257 * 182
    assert network.count_params() == by_hand
    assert round(by_hand / 1e6, 2) == 8.53


def test_baseline_cnn_of_the_passau_report():
    """224 x 224, a batch normalisation after each convolution, 128 hidden units; figures by hand."""
    network = build("simplecnn", (224, 224, 3), 182, dense=128, batch_normalisation=True)
    convolutions = 28 * 32 + 289 * 64 + 577 * 128 + 4 * (32 + 64 + 128)
    assert network.count_params() == convolutions + (28 * 28 * 128 + 1) * 128 + 129 * 182
    order = [type(layer).__name__ for layer in network.layers[1:10]]
    assert order == ["Conv2D", "BatchNormalization", "MaxPooling2D"] * 3


@pytest.mark.parametrize(
    ("name", "options", "published"),
    [("resnet", {}, 11_689_512), ("resnet", {"depth": 34}, 21_797_672), ("resnext", {}, 25_028_904)],
)
def test_residual_networks_as_torchvision_counts_them(name, options, published):
    """Torchvision counts what is trained; the running statistics come on top."""
    network = build(name, (32, 32, 3), 1000, **options)
    assert trainable(network) == published
    statistics = sum(2 * layer.gamma.shape[0] for layer in of_kind(network, kinds.BatchNormalization))
    assert network.count_params() == published + statistics
    assert sum(layer.use_bias for layer in of_kind(network, kinds.Conv2D)) == 0


@pytest.mark.parametrize(
    ("name", "options", "published"),
    [
        ("convnext", {"width": 96, "stages": (3, 3, 9, 3)}, 28_589_128),
        ("convnext", {"width": 96, "stages": (3, 3, 27, 3)}, 50_223_688),
        ("efficientnet", {"width": 1.0, "depth": 1.0}, 5_288_548),
        ("efficientnet", {"width": 1.0, "depth": 1.1}, 7_794_184),
        ("efficientnet", {"width": 1.2, "depth": 1.4}, 12_233_232),
    ],
)
def test_scaled_up_small_networks_are_the_published_ones(name, options, published):
    """ConvNeXt-T and -S, EfficientNet-B0, -B1 and -B3, as torchvision counts what is trained."""
    assert trainable(build(name, (64, 64, 3), 1000, **options)) == published


def test_a_block_left_out():
    """With a share of 1 the last block is its shortcut in training, whatever its weights; never in prediction."""
    network = small("convnext", drop_path=1.0)
    last = of_kind(network, kinds.Add)[-1]
    model = keras.Model(network.input, [last.input[0], last.output])
    bins, frames, _ = SMALL["convnext"]
    image = np.random.default_rng(0).normal(size=(3, bins, frames, 1)).astype(np.float32)
    before, after = (np.array(part) for part in model(image, training=True))
    np.testing.assert_array_equal(before, after)
    before, after = (np.array(part) for part in model(image, training=False))
    assert (before != after).any()


@pytest.mark.parametrize(
    ("name", "options", "shares"),
    [
        ("convnext", {"width": 4, "stages": (1, 2), "drop_path": 0.3}, [0, 0.15, 0.3]),
        # 10 blocks, of which the second of the fourth, fifth and sixth stage have a shortcut
        ("efficientnet", {"width": 1.0, "depth": 0.5, "drop_path": 0.9, "dropout": 0.0}, [0.4, 0.6, 0.8]),
    ],
)
def test_deeper_blocks_are_left_out_more_often(name, options, shares):
    network = build(name, (64, 64, 1), 2, **options)
    assert [layer.rate for layer in of_kind(network, kinds.Dropout)] == pytest.approx(shares)


@pytest.mark.slow
def test_vggish():
    """72.14 M up to the embedding; 100 hidden units and the logits come on top."""
    network = build("vggish", (64, 96, 1), 10)
    assert network.get_layer("backbone").count_params() == 72_141_184
    assert network.count_params() == 72_141_184 + 129 * 100 + 101 * 10
    assert network.get_layer("backbone").input_shape == (None, 96, 64, 1)


def test_convolutional_lstm():
    """1.08 M at 7 classes, and the published (4, 2632) going into the LSTM."""
    network = build("convlstm", (64, 960, 1), 7)
    lstm = 4 * 96 * (2632 + 96 + 1)
    assert network.count_params() == (2 * 2 * 64 + 1) * 56 + 4 * 56 + lstm + 97 * 64 + 2 * 65 * 64 + 65 * 7
    assert round(network.count_params() / 1e6, 2) == 1.08
    assert tuple(of_kind(network, kinds.LSTM)[0].input.shape) == (None, 4, 2632)


def test_inception_v3():
    """21,802,784 without its top, by Keras's own documentation."""
    network = build("application", (75, 80, 1), 264, backbone="InceptionV3")
    assert network.count_params() == 21_802_784 + 2049 * 264


# Layers, by hand


def test_cnn1_layers():
    network = build("cnn1", (128, 427, 1), 264)
    convolutions = [10 * 32, 289 * 64, 577 * 128]
    assert network.count_params() == 4 * (1 + 32 + 64) + sum(convolutions) + 129 * 1028 + 1029 * 512 + 513 * 264
    assert shapes(network, kinds.MaxPooling2D) == [(64, 213, 32), (32, 106, 64), (10, 35, 128)]
    order = [type(layer).__name__ for layer in network.layers[1:]]
    assert order[:9] == ["BatchNormalization", "Conv2D", "MaxPooling2D"] * 3
    assert order[9:] == ["GlobalMaxPooling2D", "Dense", "Dense", "Dense"]


@pytest.mark.parametrize("blocks", range(2, 9))
def test_milsed_has_as_many_blocks_as_asked_for(blocks):
    """The published variants named after 7 blocks with dropout had 5."""
    network = build("milsed", (128, 60, 1), 3, blocks=blocks, filters=2, dropout=0.3)
    filters = [layer.filters for layer in of_kind(network, kinds.Conv2D)]
    assert filters == [2 << k for k in range(blocks) for _ in range(2)]
    assert len(of_kind(network, kinds.MaxPooling2D)) == blocks
    assert len(of_kind(network, kinds.Dropout)) == 2
    assert [layer.units for layer in of_kind(network, kinds.Dense)] == [1028, 512, 3]
    assert {type(layer.kernel_initializer).__name__ for layer in of_kind(network, kinds.Conv2D)} == {"HeNormal"}


def test_cuberun_layers():
    """Valid 5 x 5 kernels, the first with stride 2 in time: 256 x 512 ends as 5 x 5 x 256."""
    network = build("cuberun", (256, 512, 1), 999)
    assert shapes(network, kinds.Conv2D) == [
        (252, 254, 64),
        (122, 123, 64),
        (57, 57, 128),
        (24, 24, 256),
        (10, 10, 256),
    ]
    assert shapes(network, kinds.Flatten) == [(5 * 5 * 256,)]
    assert {layer.rate for layer in of_kind(network, kinds.Dropout)} == {0.4}
    assert len(of_kind(network, kinds.BatchNormalization)) == 6
    with_input = build("cuberun", (256, 512, 1), 9, input_dropout=0.2, dense=4)
    assert [layer.rate for layer in of_kind(with_input, kinds.Dropout)] == [0.2, 0.4, 0.4]


@pytest.mark.parametrize("stages", [(1, 1, 1, 1), (2, 1, 3)])
@pytest.mark.parametrize("pool", get_args(Pool))
def test_residual_by_hand(stages, pool):
    """Kernels and batch normalisations counted stage by stage; each stage halves the image."""
    width, classes, channels = 8, 5, 3
    expected, before = 9 * channels * width, width
    for stage, blocks in enumerate(stages):
        for _ in range(blocks):
            own = width * 2**stage
            shortcut = before * own if own != before else 0
            expected += 4 * before + 9 * before * own + 4 * own + 9 * own * own + shortcut
            before = own
    features = before * (2 if pool == "mean_max" else 1)
    expected += 4 * before + (features + 1) * classes + (before + 1 if pool == "attention" else 0)
    build, options = open_network(configuration.Model("residual", options={"width": 8, "stages": stages, "pool": pool}))
    network = build((50, 70, channels), classes, **options)
    assert network.count_params() == expected
    last = [layer for layer in network.layers if isinstance(layer, kinds.Add)][-1]
    size = [50, 70]
    for _ in range(len(stages) + 1):
        size = [-(-n // 2) for n in size]
    assert last.output.shape[1:3] == tuple(size)


def test_pooling_of_features():
    """Against NumPy; the weights of attention are learnt, and are set here."""
    features = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    image = keras.Input((3, 5, 4))
    found = {}
    for pool in get_args(Pool):
        model = keras.Model(image, pool_features(image, pool))
        if pool == "attention":
            kernel = np.float32([[1], [-2], [0], [3]])
            model.set_weights([kernel, np.float32([0.5])])
        found[pool] = keras.ops.convert_to_numpy(model(features))
    mean, largest, over_time = features.mean(axis=(1, 2)), features.max(axis=(1, 2)), features.mean(axis=1)
    powers = np.exp(over_time @ kernel)
    expected = {
        "mean": mean,
        "max": largest,
        "mean_max": np.concatenate([mean, largest], axis=1),
        "log_mean_exp": np.log(np.exp(5 * over_time).mean(axis=1)) / 5,
        "attention": (powers / powers.sum(axis=1, keepdims=True) * over_time).sum(axis=1),
    }
    for pool, value in expected.items():
        np.testing.assert_allclose(found[pool], value, rtol=1e-5, atol=1e-6, err_msg=pool)


@pytest.mark.parametrize(("classes", "width"), [(2, 24), (64, 24), (205, 32), (1024, 48), (16_384, 96)])
def test_residual_width_follows_the_classes(classes, width):
    """By hand: 24 (classes / 64) ** 0.25, in eights."""
    build, options = open_network(configuration.Model("residual"))
    assert options["width"] == 0
    assert build((16, 16, 1), classes, **options).layers[1].filters == width


def test_residual_stages_halve_the_image():
    network = build("resnet", (64, 96, 1), 5)
    added = shapes(network, kinds.Add)
    assert added == [(16, 24, 64)] * 2 + [(8, 12, 128)] * 2 + [(4, 6, 256)] * 2 + [(2, 3, 512)] * 2
    wide = small("resnext", width=8)
    grouped = {layer.groups for layer in of_kind(wide, kinds.Conv2D) if layer.kernel_size == (3, 3)}
    assert grouped == {2}
    assert len(of_kind(wide, kinds.Add)) == 3 + 4 + 6 + 3


def test_convolutional_lstm_takes_the_bands_as_channels():
    """Its first kernel sees 2 patches x 2 frames of all bands."""
    kernel = of_kind(build("convlstm", (64, 288, 3), 7), kinds.Conv2D)[0].kernel
    assert tuple(kernel.shape) == (2, 2, 64 * 3, 56)


# Sizes and channels


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_one_and_three_channels(name, channels):
    network = small(name, channels, classes=5)
    image = np.random.default_rng(0).standard_normal((2, *network.input_shape[1:])).astype(np.float32)
    logits = np.asarray(network(image))
    assert logits.shape == (2, 5)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert network.layers[-1].name == "logits"


@pytest.mark.parametrize("name", SMALL)
def test_embeddings_make_the_logits(name):
    """What `embed` gives, times the last layer's weights, are the logits."""
    bins, frames, options = SMALL[name]
    config = configuration.load(None, [f"model.network={name}", f"features.segment_frames={frames}"])
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, options=options))
    model = build_model(config, ENCODING, (bins,), 5)
    codes = np.random.default_rng(0).integers(0, 256, (2, frames, bins), dtype=np.uint8)
    kernel, bias = (np.asarray(weight) for weight in model.layers[-1].layers[-1].get_weights())
    vectors = np.asarray(embed(model)(codes))
    assert vectors.shape == (2, len(kernel))
    np.testing.assert_allclose(vectors @ kernel + bias, np.asarray(model(codes)), rtol=1e-3, atol=1e-4)


def refused(network: str, bins: int, frames: int, *overrides: str) -> str:
    settings = [f"model.network={network}", f"features.segment_frames={frames}", *overrides]
    with pytest.raises(ConfigError) as refusal:
        build_model(configuration.load(None, settings), ENCODING, (bins,), 3)
    assert str(refusal.value).isprintable()
    return str(refusal.value)


@pytest.mark.parametrize(
    ("network", "bins", "frames", "words"),
    [
        ("cnn1", 11, 40, "does not fit segments of 11 bins x 40 frames"),
        ("simplecnn", 40, 7, "does not fit segments of 40 bins x 7 frames"),
        ("cuberun", 123, 512, "does not fit segments of 123 bins x 512 frames"),
        ("cuberun", 256, 242, "does not fit segments of 256 bins x 242 frames"),
        ("vggish", 64, 95, "at least 96 frames"),
        ("vggish", 15, 96, "16 bins"),
        ("convlstm", 64, 310, "multiple of patch_frames=96"),
        ("convlstm", 64, 192, "288 or more"),
        ("application", 31, 64, "at least 32"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(network, bins, frames, words):
    assert words in refused(network, bins, frames)


@pytest.mark.parametrize(
    ("name", "bins", "frames"), [("cnn1", 12, 12), ("simplecnn", 8, 8), ("cuberun", 124, 243), ("resnet", 1, 1)]
)
def test_the_smallest_sizes_that_fit(name, bins, frames):
    options = {"resnet": {"width": 4}, "cnn1": {}}.get(name, {"dense": 4})
    assert build(name, (bins, frames, 1), 3, **options).output_shape == (None, 3)


# VGGish over several patches


@pytest.mark.parametrize(("frames", "starts"), [(32, (0, 16)), (40, (0, 12, 24)), (16, (0,))])
def test_vggish_averages_patches_that_cover_the_segment(frames, starts):
    """A longer segment scores as the mean of its patches, by the same weights."""
    options = SMALL["vggish"][2]
    one, several = build("vggish", (16, 16, 1), 3, **options), build("vggish", (16, frames, 1), 3, **options)
    several.set_weights(one.get_weights())
    image = np.random.default_rng(1).standard_normal((4, 16, frames, 1)).astype(np.float32)
    patches = [np.asarray(one(image[:, :, start : start + 16])) for start in starts]
    np.testing.assert_allclose(np.asarray(several(image)), np.mean(patches, axis=0), atol=1e-5)


# keras.applications


@pytest.mark.parametrize(
    ("backbone", "black", "white"),
    [
        ("InceptionV3", [-1, -1, -1], [1, 1, 1]),
        ("MobileNetV3Small", [0, 0, 0], [255, 255, 255]),
        ("EfficientNetV2B0", [0, 0, 0], [255, 255, 255]),
        ("ConvNeXtTiny", [0, 0, 0], [255, 255, 255]),
        (
            "EfficientNetB0",  # standardised, and times what its first layer divides by
            [-255 * 0.485 / 0.229, -255 * 0.456 / 0.224, -255 * 0.406 / 0.225],
            [255 * 0.515 / 0.229, 255 * 0.544 / 0.224, 255 * 0.594 / 0.225],
        ),
        ("ResNet50", [-103.939, -116.779, -123.68], [255 - 103.939, 255 - 116.779, 255 - 123.68]),
        (
            "DenseNet121",
            [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225],
            [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225],
        ),
    ],
)
def test_images_come_in_the_range_of_the_backbone(backbone, black, white):
    """The documented modes: -1 to 1; 0 to 255; blue, green, red less their mean; standardised."""
    image = np.stack([np.zeros((2, 2, 1)), np.ones((2, 2, 1))]).astype(np.float32)
    pixels = np.asarray(Pixels(backbone, "unit")(image))
    assert pixels.shape == (2, 2, 2, 3)
    np.testing.assert_allclose(pixels[0, 0, 0], black, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(pixels[1, 1, 1], white, rtol=1e-4, atol=1e-4)


def test_standardised_images_get_the_statistics_of_imagenet():
    """The mode "torch" takes them away again: mean 0 and deviation 1 come out as they went in."""
    image = np.random.default_rng(2).standard_normal((1, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(np.asarray(Pixels("DenseNet121", "standardised")(image)), image, atol=1e-4)


def test_application_stretches_only_when_asked():
    def size(**options):
        network = build("application", (40, 64, 1), 2, backbone="MobileNetV3Small", **options)
        return next(layer for layer in network.layers if isinstance(layer, keras.Model)).input_shape

    assert size() == (None, 40, 64, 3)
    assert size(resize=[96, 128]) == (None, 96, 128, 3)


def test_application_options():
    network = small("application", dropout=0.2, l2=0.1)
    assert of_kind(network, kinds.Dropout)[0].rate == 0.2
    kernel = np.asarray(network.layers[-1].kernel)
    assert float(sum(network.losses)) == pytest.approx(0.1 * np.square(kernel).sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.backbone=VGG99", r"Unknown model.backbone. Received: 'VGG99'"),
        ("model.backbone=keras", "InceptionV3"),
        ("model.resize=[299]", r"model.resize. Received: \[299\]"),
        ("model.resize=[0, 299]", r"model.resize\[0\]"),
        ("model.values=decibel", "standardised, unit"),
    ],
)
def test_bad_application_options_are_named(override, words):
    with pytest.raises(ConfigError, match=words):
        build_model(configuration.load(None, ["model.network=application", override]), ENCODING, (64,), 3)


def test_running_statistics_of_a_backbone_follow_at_once():
    """MobileNetV3 has a momentum of 0.999: 100 steps would leave 90 % of the first value, 0.9 leaves 0.00003 of it."""
    network = small("application", momentum=0.8)
    backbone = next(layer for layer in network.layers if isinstance(layer, keras.Model))
    first = next(layer for layer in backbone.layers if isinstance(layer, kinds.BatchNormalization))
    assert {layer.momentum for layer in of_kind(backbone, kinds.BatchNormalization)} == {0.8}
    image = np.random.default_rng(4).standard_normal((4, *network.input_shape[1:])).astype(np.float32)
    before = np.asarray(first.moving_variance)
    inside = keras.Model(backbone.input, first.input)(network.layers[1](image), training=True)
    network(image, training=True)
    expected = 0.8 * before + 0.2 * np.asarray(inside).var(axis=(0, 1, 2))
    np.testing.assert_allclose(np.asarray(first.moving_variance), expected, rtol=1e-3)


def test_application_takes_one_or_three_channels():
    with pytest.raises(ValueError, match="one or three channels, not 2"):
        small("application", channels=2)


# Options and learning


@pytest.mark.parametrize("name", ["cnn1", "milsed", "vggish"])
def test_weight_decay_is_part_of_the_loss(name):
    network = small(name, l2=0.01)
    hidden = of_kind(network, kinds.Dense)[:-1]
    expected = 0.01 * sum(np.square(np.asarray(layer.kernel)).sum() for layer in hidden)
    assert float(sum(network.losses)) == pytest.approx(expected, rel=1e-5)
    assert small(name).losses == []


def test_weight_decay_reaches_the_trainer():
    """With a rate of 0, the reported loss is the penalty and the mean cross-entropy."""
    config = configuration.load(
        None,
        [
            "model.network=cnn1",
            "model.dense=[6]",
            "model.l2=0.5",
            "features.segment_frames=16",
            "train.optimizer={name='sgd', learning_rate=0.0}",
        ],
    )
    loss = open_loss(config.train.loss)
    model = build_model(config, ENCODING, (16,), 2)
    trainer = build_trainer(config, model, loss, 1)
    codes = np.random.default_rng(3).integers(0, 255, (4, 16, 16)).astype(np.uint8)
    targets = np.eye(2, dtype=np.float32)[[0, 1, 0, 1]]
    reported = trainer.evaluate([codes, targets], np.zeros((4, 1)), verbose=0)[0]
    plain = float(np.mean(np.asarray(loss.over_batch(targets, model(codes), 1))))
    hidden = of_kind(model.layers[-1], kinds.Dense)[0]
    assert reported == pytest.approx(plain + 0.5 * np.square(np.asarray(hidden.kernel)).sum(), rel=1e-3)


def bright_half(bins: int, frames: int, count: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Return noise images whose lower or upper half of the bins is raised, float32, and which it is."""
    rng = np.random.default_rng(4)
    labels = np.arange(count) % 2
    image = 0.3 * rng.standard_normal((count, bins, frames, 1))
    for i, label in enumerate(labels):
        image[i, : bins // 2] += 1.0 if label else -1.0
        image[i, bins // 2 :] -= 1.0 if label else -1.0
    return image.astype(np.float32), labels


@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_convolutions_are_those_of_each_group(stride):
    """Against SciPy's correlation of every group's channels with its own kernels."""
    layer = GroupedConv2D(6, 3, strides=stride, groups=3, use_bias=False)
    image = np.random.default_rng(7).standard_normal((2, 9, 8, 12)).astype(np.float32)
    found = np.array(layer(image))
    kernel = np.array(layer.kernel)
    assert kernel.shape == (3, 3, 4, 6)
    for group in range(3):
        for k in range(2 * group, 2 * group + 2):
            sums = sum(
                scipy.signal.correlate(image[..., 4 * group + c], kernel[None, ..., c, k], mode="valid")
                for c in range(4)
            )
            np.testing.assert_allclose(found[..., k], sums[:, ::stride, ::stride], atol=1e-4)


@pytest.mark.parametrize("jit", [True, False])
def test_grouped_convolutions_learn(jit):
    """A kernel in groups gets a gradient on every device: each output follows the channels of its own group alone."""
    keras.utils.set_random_seed(6)
    image = keras.Input((4, 4, 4))
    network = keras.Model(image, convolve(image, 2, 3, groups=2, relu=False))
    network.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit)
    kernel = of_kind(network, kinds.Conv2D)[0].kernel
    assert tuple(kernel.shape) == (3, 3, 2, 2)
    before = np.array(kernel.value)
    given = np.random.default_rng(6).standard_normal((8, 4, 4, 4)).astype(np.float32)
    given[..., :2] = 0
    network.train_on_batch(given, np.ones((8, 4, 4, 2), np.float32))
    changed = np.abs(np.array(kernel.value) - before).max(axis=(0, 1, 2))
    assert changed[0] == 0
    assert changed[1] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL if name not in ("alexnet", "birdclef")])
def test_every_network_learns(name, monkeypatch):
    """Two classes that a threshold on one bin separates: the loss falls far below that of guessing, log 2."""
    monkeypatch.setattr("train.models.resnext.STAGES", (1, 1, 1, 1))
    keras.utils.set_random_seed(5)
    bins, frames, _ = SMALL[name]
    wide = {
        "resnext": {"width": 8},
        "convlstm": {"lstm": 12, "dense": (8, 8)},
        "vggish": {"fully_connected": 32},
    }
    network = small(name, **wide.get(name, {}))
    image, labels = bright_half(bins, frames)
    low = 0.25 * np.log(2)

    class Enough(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            self.model.stop_training = logs["entropy"] < low

    def entropy(labels, logits):
        return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)

    network.compile(keras.optimizers.Adam(3e-3), entropy, metrics=[entropy], run_eagerly=True)  # no time to compile
    course = network.fit(image, labels, batch_size=8, epochs=25, verbose=0, callbacks=[Enough()]).history["entropy"]
    assert len(course) > 1
    assert course[-1] < low
