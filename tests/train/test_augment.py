"""The augmentations: what they draw, what they change, and that only training is augmented."""

import keras
import numpy as np
import pytest
import scipy.stats
from keras import ops

import config as configuration
from config import ConfigError, Part
from preprocess.recipes import Encoding
from train.augment import FrequencyMask, Mixup, TimeMask, open_augmentations
from train.losses import open_loss
from train.network import build_model, build_trainer, precision

IMAGE = (32, 24, 1)


def reseed(layer: keras.layers.Layer, seed: int) -> keras.layers.Layer:
    layer.seed_generator.state.assign(np.array([seed, 0], np.uint32))
    return layer


def augment(layer: keras.layers.Layer, images: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return tuple(ops.convert_to_numpy(value) for value in layer(images.astype(np.float32), targets.astype(np.float32)))


def random_batch(count: int, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, *IMAGE)).astype(np.float32), np.eye(classes)[rng.integers(classes, size=count)]


def mixup_weights(alpha: float, count: int = 3000) -> np.ndarray:
    """Targets that tell all segments apart show each one's weight."""
    _, mixed = augment(reseed(Mixup(alpha), 7), np.zeros((count, 1, 1, 1)), np.eye(count))
    return np.diag(mixed)


# Mixup


@pytest.mark.parametrize("alpha", [0.2, 0.3, 1.0, 4.0])
def test_mixup_draws_from_the_folded_beta_distribution(alpha):
    """The larger of w and 1 - w, for w from Beta(alpha, alpha), has the distribution function 2 F(w) - 1."""
    weights = mixup_weights(alpha)
    assert weights.min() >= 0.5
    assert weights.max() <= 1
    points = np.linspace(0.5, 0.999, 400)  # nearer to 1 the weights are rounded to it
    found = (weights[:, None] <= points).mean(axis=0)

    def distance(alpha: float) -> float:
        return np.abs(found - (2 * scipy.stats.beta(alpha, alpha).cdf(points) - 1)).max()

    limit = 1.63 / np.sqrt(len(weights))  # 99 % of the Kolmogorov distribution
    assert distance(alpha) < limit
    assert distance(2 * alpha) > 2 * limit  # the test would notice another alpha


def test_mixup_draws_anew_for_every_segment_and_call():
    layer = reseed(Mixup(1.0), 3)
    first, second = (np.diag(augment(layer, np.zeros((50, 1, 1, 1)), np.eye(50))[1]) for _ in range(2))
    assert len(np.unique(first)) > 40
    assert not np.array_equal(first, second)


def test_mixup_mixes_images_and_targets_by_the_same_weight_with_the_segment_before():
    images, targets = random_batch(16)
    weights = np.diag(augment(reseed(Mixup(1.0), 5), images, np.eye(16))[1])
    mixed, mixed_targets = augment(reseed(Mixup(1.0), 5), images, targets)
    w = weights[:, None]
    np.testing.assert_allclose(mixed_targets, w * targets + (1 - w) * np.roll(targets, 1, axis=0), atol=1e-6)
    w = weights[:, None, None, None]
    np.testing.assert_allclose(mixed, w * images + (1 - w) * np.roll(images, 1, axis=0), atol=1e-6)
    np.testing.assert_allclose(mixed_targets.sum(axis=1), 1, atol=1e-6)


def test_mixup_max_counts_both_species_in_full():
    images, targets = random_batch(16)
    targets[3] = [1, 0.5, 0, 0]
    linear, _ = augment(reseed(Mixup(0.4), 9), images, targets)
    mixed, found = augment(reseed(Mixup(0.4, targets="max"), 9), images, targets)
    np.testing.assert_array_equal(mixed, linear)
    np.testing.assert_array_equal(found, np.maximum(targets, np.roll(targets, 1, axis=0)))


def test_mixup_of_a_single_segment_changes_nothing():
    images, targets = random_batch(1)
    mixed, found = augment(Mixup(), images, targets)
    np.testing.assert_allclose(mixed, images, atol=1e-6)
    np.testing.assert_allclose(found, targets, atol=1e-6)


# Masks


def stripes(masked: np.ndarray, axis: int) -> np.ndarray:
    """Return which rows (axis 1) or columns (axis 2) of images of ones are 0, bool [images, size]."""
    other = 3 - axis
    assert ((masked == 0) | (masked == 1)).all()
    empty = (masked == 0)[..., 0]
    np.testing.assert_array_equal(empty.all(axis=other), empty.any(axis=other))  # whole stripes
    return empty.all(axis=other)


@pytest.mark.parametrize(("kind", "axis"), [(FrequencyMask, 1), (TimeMask, 2)])
def test_a_mask_is_one_stripe_of_at_most_its_width(kind, axis):
    images, targets = np.ones((4000, *IMAGE)), np.ones((4000, 2))
    masked, found = augment(reseed(kind(width=5, count=1), 1), images, targets)
    np.testing.assert_array_equal(found, targets)
    gone = stripes(masked, axis)
    widths = gone.sum(axis=1)
    edges = np.abs(np.diff(np.pad(gone.astype(int), ((0, 0), (1, 1))), axis=1)).sum(axis=1)
    assert set(edges[widths > 0]) == {2}  # in one piece
    counts = np.bincount(widths, minlength=6)
    assert len(counts) == 6
    assert scipy.stats.chisquare(counts).pvalue > 0.001  # 0 to 5, all alike
    size = gone.shape[1]
    for width in (1, 5):  # anywhere, all places alike
        first = gone[widths == width].argmax(axis=1)
        assert set(first) == set(range(size - width + 1))
        assert scipy.stats.chisquare(np.bincount(first, minlength=size - width + 1)).pvalue > 0.001


@pytest.mark.parametrize(("kind", "axis"), [(FrequencyMask, 1), (TimeMask, 2)])
def test_several_masks(kind, axis):
    masked, _ = augment(reseed(kind(width=3, count=4), 2), np.ones((3000, *IMAGE)), np.ones((3000, 2)))
    gone = stripes(masked, axis)
    assert gone.sum(axis=1).max() <= 12
    assert gone.sum(axis=1).max() > 6
    pieces = (np.diff(np.pad(gone.astype(int), ((0, 0), (1, 0))), axis=1) == 1).sum(axis=1)
    assert pieces.max() == 4


@pytest.mark.parametrize(("kind", "axis"), [(FrequencyMask, 1), (TimeMask, 2)])
def test_a_mask_wider_than_the_image_can_take_all_of_it(kind, axis):
    masked, _ = augment(reseed(kind(width=10_000, count=1), 3), np.ones((2000, *IMAGE)), np.ones((2000, 2)))
    widths = stripes(masked, axis).sum(axis=1)
    assert set(widths) == set(range(IMAGE[axis - 1] + 1))


def test_masks_leave_the_rest_as_it_is():
    images, targets = random_batch(40)
    masked, _ = augment(reseed(TimeMask(), 4), images, targets)
    kept = masked != 0
    assert 0.1 < kept.mean() < 1
    np.testing.assert_array_equal(masked[kept], images[kept])


# All of them

ALL = [Mixup, FrequencyMask, TimeMask]


@pytest.mark.parametrize("kind", ALL)
def test_the_same_seed_state_gives_the_same_result(kind):
    images, targets = random_batch(8)
    layer = kind()
    first = augment(reseed(layer, 11), images, targets)
    other = augment(layer, images, targets)
    again = augment(reseed(layer, 11), images, targets)
    fresh = augment(reseed(kind(), 11), images, targets)
    for a, b, c in zip(first, again, fresh, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("kind", ALL)
def test_augmentation_stays_in_float32_under_mixed_precision(kind):
    images, targets = random_batch(8)
    with precision("mixed_bfloat16"):
        layer = kind()
    found, mixed = layer(ops.cast(images, "bfloat16"), targets.astype(np.float32))
    assert tuple(found.shape) == images.shape
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    assert tuple(mixed.shape) == targets.shape
    np.testing.assert_allclose(ops.convert_to_numpy(mixed).sum(axis=1), 1, atol=1e-5)


def test_the_order_is_that_of_the_configuration():
    layers = open_augmentations({"time_mask": {"width": 3}, "mixup": {"alpha": 2}, "frequency_mask": {"count": 1}})
    assert [type(layer) for layer in layers] == [TimeMask, Mixup, FrequencyMask]
    assert (layers[0].width, layers[0].count, layers[1].alpha, layers[2].count) == (3, 2, 2.0, 1)
    assert open_augmentations({}) == []


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"cutmix": {}}, r"Unknown key train\.augment\.cutmix.*mixup, frequency_mask, time_mask"),
        ({"mixup": {"beta": 1}}, r"Unknown key train\.augment\.mixup\.beta.*alpha, targets"),
        ({"mixup": {"alpha": 0}}, r"train\.augment\.mixup\.alpha"),
        ({"mixup": {"targets": "sum"}}, r"train\.augment\.mixup\.targets.*linear, max"),
        ({"time_mask": {"width": 0}}, r"train\.augment\.time_mask\.width.*at least 1"),
    ],
)
def test_bad_settings_are_named(chosen, words):
    with pytest.raises(ConfigError, match=words):
        open_augmentations(chosen)


def test_only_the_trainer_augments():
    """The model that predicts is the same with augmentations and without; the trainer's images and targets differ."""
    overrides = ["model.dense=8", "features.segment_frames=90"]
    plain = configuration.load(None, overrides)
    augmented = configuration.load(
        None, [*overrides, "train.augment.mixup.alpha=1", "train.augment.time_mask.width=60"]
    )
    rng = np.random.default_rng(0)
    codes, targets = rng.integers(0, 255, (6, 90, 100), np.uint8), np.eye(6, dtype=np.float32)
    loss = open_loss(Part("categorical_crossentropy"))
    outputs = {}
    for name, config in (("plain", plain), ("augmented", augmented)):
        keras.utils.set_random_seed(1)
        model = build_model(config, Encoding("uint8", 0.05, -4.5), 100, 6)
        trainer = build_trainer(config, model, loss, 1)
        outputs[name] = model.predict_on_batch(codes), ops.convert_to_numpy(trainer([codes, targets]))
    np.testing.assert_array_equal(outputs["plain"][0], outputs["augmented"][0])
    logits, joined = outputs["plain"]
    np.testing.assert_allclose(joined[:, :6], logits, atol=1e-5)
    np.testing.assert_array_equal(joined[:, 6:], targets)
    joined = outputs["augmented"][1]
    assert not np.allclose(joined[:, :6], logits, atol=1e-5)
    assert np.count_nonzero(joined[:, 6:]) > 6
    np.testing.assert_allclose(joined[:, 6:].sum(axis=1), 1, atol=1e-6)
