"""The augmentations: what they draw, what they change, and that only training is augmented."""

import math

import keras
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from keras import ops

import config as configuration
from config import ConfigError, Part
from preprocess.recipes import Encoding, logmel, pcen, sprengel2016, vggish, waveform
from preprocess.recipes.birdclef2016 import Recipe
from train import augment as augment_module
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
    layers = open_augmentations(
        {"time_mask": {"width": 3}, "mixup": {"alpha": 2}, "frequency_mask": {"count": 1}}, Recipe()
    )
    assert [type(layer) for layer in layers] == [TimeMask, Mixup, FrequencyMask]
    assert (layers[0].width, layers[0].count, layers[1].alpha, layers[2].count) == (3, 2, 2.0, 1)
    assert open_augmentations({}, Recipe()) == []


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
        open_augmentations(chosen, Recipe())


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
        model = build_model(config, Encoding("uint8", 0.05, -4.5), (100,), 6)
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


# The others. `run` gives every item its own random numbers; a layer's source is seeded by `reseed`.

COUNT = 64


def run(layer, values, *extra):
    targets = np.eye(COUNT, 5, dtype=np.float32)
    found, after = layer(values.astype(np.float32), targets, *extra)
    np.testing.assert_array_equal(ops.convert_to_numpy(after), targets)
    assert tuple(found.shape) == values.shape
    return ops.convert_to_numpy(found)


def pictures(seed: int = 0, bins: int = 40, frames: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(COUNT, bins, frames, 1)).astype(np.float32)


def opened(name: str, recipe=None, **options):
    return reseed(open_augmentations({name: options}, recipe or Recipe())[0], 11)


def test_time_roll_swaps_the_two_parts_of_every_item():
    values = np.tile(np.arange(50, dtype=np.float32)[None, :, None], (COUNT, 1, 3)) + np.arange(COUNT)[:, None, None]
    found = run(opened("time_roll"), values)
    shifts = set()
    for item, before in zip(found, values, strict=True):
        shift = int(np.flatnonzero(item[:, 0] == before[0, 0])[0])
        np.testing.assert_array_equal(item, np.roll(before, shift, axis=0))
        shifts.add(shift)
    assert len(shifts) > 15
    sounds = np.random.default_rng(0).normal(size=(COUNT, 200)).astype(np.float32)
    np.testing.assert_array_equal(np.sort(run(opened("time_roll", waveform.Recipe()), sounds)), np.sort(sounds))
    assert opened("time_roll", pcen.Recipe())  # it needs no logarithms


def test_frequency_roll_stays_within_its_share():
    images = pictures(bins=100)
    found = run(opened("frequency_roll", share=0.05), images)
    shifts = []
    for item, before in zip(found, images, strict=True):
        fits = [k for k in range(-50, 50) if np.array_equal(np.roll(before, k, axis=0), item)]
        assert len(fits) == 1
        shifts += fits
    assert max(map(abs, shifts)) == 5
    assert len(set(shifts)) == 11


def test_warp_against_interpolation_by_scipy():
    """Images that hold their own places tell shift and rate; random ones then agree with another interpolation."""
    bins, frames = 12, 40
    rows = np.broadcast_to(np.arange(bins, dtype=np.float32)[None, :, None, None], (COUNT, bins, frames, 1))
    columns = np.broadcast_to(np.arange(frames, dtype=np.float32)[None, None, :, None], (COUNT, bins, frames, 1))
    noise = pictures(bins=bins, frames=frames)
    moved, played, found = (run(opened("warp", time=0.25, bins=1.5), images) for images in (rows, columns, noise))
    shifts, rates = moved[:, 5, 0, 0] - 5, played[:, 0, 1, 0]
    assert -1.5 <= shifts.min() < -1.2 < 1.2 < shifts.max() <= 1.5
    assert 0.75 <= rates.min() < 0.8 < 1.2 < rates.max() <= 1.25
    assert abs(np.corrcoef(shifts, rates)[0, 1]) < 0.4
    for item, before, shift, rate in zip(found, noise, shifts, rates, strict=True):
        row = np.clip(np.arange(bins) + shift, 0, bins - 1)
        column = np.arange(frames) * rate % frames
        around = np.concatenate([before[..., 0], before[:, :1, 0]], axis=1)  # the end goes on with the beginning
        expected = scipy.ndimage.map_coordinates(around, np.meshgrid(row, column, indexing="ij"), order=1)
        np.testing.assert_allclose(item[..., 0], expected, atol=1e-4)


def test_warp_by_nothing_leaves_all():
    np.testing.assert_array_equal(run(opened("warp", time=0, bins=0), pictures()), pictures())


def test_decibel_threshold_by_its_formula():
    images = pictures()
    found = run(opened("decibel_threshold", most=0.5), images)
    cut = []
    for item, before in zip(found, images, strict=True):
        x = (before - before.min()) / np.ptp(before)
        y = (item - before.min()) / np.ptp(before)
        middle = np.argmin(np.where(y > 1e-3, y, 2).ravel())
        t = (x.ravel()[middle] - y.ravel()[middle]) / (1 - y.ravel()[middle])  # y = (x - t) / (1 - t) solved for t
        np.testing.assert_allclose(y, (np.maximum(x, t) - t) / (1 - t), atol=1e-4)
        cut.append(t)
    assert 0 <= min(cut) < 0.1 < 0.4 < max(cut) <= 0.5


def test_gaussian_noise_has_a_deviation_per_item():
    deviations = (run(opened("gaussian_noise", most=0.4), pictures()) - pictures()).std(axis=(1, 2, 3))
    assert deviations.min() < 0.06
    assert 0.33 < deviations.max() < 0.43
    assert abs(deviations.mean() - 0.2) < 0.04


def test_pixel_drop_sets_single_pixels_to_0():
    found, before = run(opened("pixel_drop", most=0.2), pictures()), pictures()
    dropped = found != before
    assert not found[dropped].any()
    shares = dropped.mean(axis=(1, 2, 3))
    assert shares.max() < 0.26
    assert abs(shares.mean() - 0.1) < 0.02


STORES = {
    "birdclef2016": (Recipe(), lambda power: np.log10(power)),
    "logmel": (logmel.Recipe(), lambda power: 10 * np.log10(np.sqrt(power))),
    "logmel-power": (logmel.Recipe(power=2), lambda power: 10 * np.log10(power)),
    "vggish": (vggish.Recipe(), lambda power: np.log(np.sqrt(power))),
    "sprengel2016": (sprengel2016.Recipe(), lambda power: np.log10(np.sqrt(power))),
}


@pytest.mark.parametrize("name", STORES)
def test_gain_in_decibels_of_sound(name):
    recipe, stored = STORES[name]
    power = np.random.default_rng(0).uniform(1, 100, (COUNT, 20, 8))
    found = run(opened("gain", recipe, decibels=6.0), stored(power))
    gains = []
    for item, before in zip(found, power, strict=True):
        decibels = np.array([20 * np.log10(g) for g in np.linspace(0.4, 2.1, 3)])  # the law of the store, by a fit
        slope = np.polyfit(decibels, [np.mean(stored(before * 10 ** (d / 10)) - stored(before)) for d in decibels], 1)
        gains.append(float(np.mean(item - stored(before)) / slope[0]))
        assert np.ptp(item - stored(before)) < 1e-4
    assert -6 <= min(gains) < -5 < 5 < max(gains) <= 6


def test_gain_of_sound():
    sounds = np.random.default_rng(0).normal(size=(COUNT, 100)).astype(np.float32)
    gains = 20 * np.log10(run(opened("gain", waveform.Recipe(), decibels=6.0), sounds) / sounds)
    assert np.ptp(gains, axis=1).max() < 1e-3
    assert -6 <= gains.min() < -5 < 5 < gains.max() <= 6.001


def test_fade_of_sound_is_linear_in_decibels_at_both_ends():
    found = run(opened("fade", waveform.Recipe(), decibels=40.0, longest=0.5), np.ones((COUNT, 400), np.float32))
    level = 20 * np.log10(found)
    np.testing.assert_allclose(level[:, [0, -1]], -40, atol=0.1)
    assert level.max() < 1e-3
    for item in level:
        rising = item[: int(np.argmax(item > -1e-3))]
        np.testing.assert_allclose(np.diff(rising), np.diff(rising)[0] if len(rising) > 1 else 0, atol=1e-3)
        assert len(rising) <= 202
    assert np.argmax(level > -1e-3, axis=1).max() > 150
    rises, falls = (np.argmax(item > -1e-3, axis=1) for item in (level, level[:, ::-1]))
    assert abs(np.corrcoef(rises, falls)[0, 1]) < 0.4  # each of its own length


@pytest.mark.parametrize("name", STORES)
def test_fade_of_spectrograms_is_that_of_their_sound(name):
    """The power at the very ends is 40 dB, a factor of 10,000, below what was stored."""
    recipe, stored = STORES[name]
    power = np.random.default_rng(0).uniform(1, 100, (COUNT, 60, 8))
    found = run(opened("fade", recipe, decibels=40.0, longest=0.4), stored(power))
    np.testing.assert_allclose(found[:, [0, -1]], stored(power[:, [0, -1]] / 1e4), rtol=1e-4, atol=1e-4)
    change = found - stored(power)
    assert np.ptp(change, axis=2).max() < 1e-3  # the same in all bins
    assert (np.diff(change[:, :25], axis=1) > -1e-3).all()
    assert (np.diff(change[:, -25:], axis=1) < 1e-3).all()
    np.testing.assert_allclose(change[:, 25:-25], 0, atol=1e-3)


@pytest.mark.parametrize("name", STORES)
def test_same_species_adds_sounds_before_the_logarithm(name):
    recipe, stored = STORES[name]
    rng = np.random.default_rng(0)
    own, other = (rng.uniform(1, 100, (COUNT, 20, 8)) for _ in range(2))
    kind = np.sqrt if recipe.is_amplitude else (lambda power: power)
    found = run(opened("same_species", recipe), stored(own), stored(other).astype(np.float32))
    weights = []
    for item, x, y in zip(found, kind(own), kind(other), strict=True):
        summed = 10 ** (item / recipe.decade)  # what was stored, without its logarithm
        weight = np.sum((summed - y) * (x - y)) / np.sum((x - y) ** 2)
        np.testing.assert_allclose(summed, weight * x + (1 - weight) * y, rtol=1e-3)
        weights.append(weight)
    assert 0.499 <= min(weights) < 0.6 < 0.9 < max(weights) <= 1.001


@pytest.mark.parametrize("name", STORES)
def test_overlap_adds_the_recording_before_up_to_so_many_decibels_quieter(name):
    recipe, stored = STORES[name]
    power = np.random.default_rng(0).uniform(1, 100, (COUNT, 20, 8))
    kind = np.sqrt if recipe.is_amplitude else (lambda power: power)
    layer = opened("overlap", recipe, share=0.7, decibels=6.0)
    targets = np.eye(COUNT, dtype=np.float32)
    found, joined = (np.array(part) for part in layer(stored(power).astype(np.float32), targets))
    louder = []
    for i, item in enumerate(found):
        x, y = kind(power[i]), kind(power[i - 1])
        added = 10 ** (item / recipe.decade) - x
        weight = np.sum(added * y) / np.sum(y**2)
        np.testing.assert_allclose(added, weight * y, atol=1e-3 * x.max())
        wanted = targets[i] + (targets[i - 1] if weight > 0.01 else 0)
        np.testing.assert_array_equal(joined[i], wanted)
        if weight > 0.01:
            louder.append((20 if recipe.is_amplitude else 10) * np.log10(weight))
    assert len(louder) == pytest.approx(0.7 * COUNT, abs=0.25 * COUNT)
    assert -6.01 <= min(louder) < -3 < max(louder) <= 0.01


def test_overlap_of_samples_and_of_bags():
    sounds = np.random.default_rng(0).normal(size=(8, 50)).astype(np.float32)
    layer = open_augmentations({"overlap": {"share": 1.0, "decibels": 20.0}}, waveform.Recipe(), bag=4)[0]
    found, targets = (np.array(part) for part in layer(sounds, np.eye(8, dtype=np.float32)))
    for low in (0, 4):
        own = slice(low, low + 4)
        weight = np.sum((found[own] - sounds[own]) * sounds[4 - low : 8 - low]) / np.sum(sounds[4 - low : 8 - low] ** 2)
        assert 0.0999 <= weight <= 1
        np.testing.assert_allclose(found[own], sounds[own] + weight * sounds[4 - low : 8 - low], atol=1e-5)
    np.testing.assert_array_equal(targets, np.eye(8) + np.roll(np.eye(8), 4, axis=0))


def test_noise_of_three_segments_with_a_damping():
    rng = np.random.default_rng(0)
    sounds, noise = (rng.normal(size=(COUNT, 100)).astype(np.float32) for _ in range(2))
    found = run(opened("noise", waveform.Recipe(), count=3, damping=0.4), sounds, noise)
    expected = sounds + 0.4 * (noise + np.roll(noise, 1, axis=0) + np.roll(noise, 2, axis=0))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    power = rng.uniform(1, 9, (2, COUNT, 6, 4))
    found = run(opened("noise", Recipe(), count=1, damping=0.4), np.log10(power[0]), np.log10(power[1]).astype("f"))
    np.testing.assert_allclose(10**found, power[0] + 0.4 * power[1], rtol=1e-4)


def strongest(sound: np.ndarray, rate: int = 16_000) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(sound * np.hanning(len(sound))))) * rate / len(sound))


@pytest.mark.parametrize("semitones", [-7.0, -1.0, 0.0, 2.0, 12.0])
def test_pitch_shift_moves_a_tone_by_semitones_and_keeps_its_length(semitones):
    time = np.arange(16_000) / 16_000
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)[None]
    factor = np.array([2 ** (semitones / 12)], np.float32)
    slow = augment_module.stretch(ops.convert_to_tensor(tone), 1 / factor, math.ceil(16_000 * factor[0]) + 1, 1024, 256)
    found = ops.convert_to_numpy(augment_module.resample(slow, factor, 16_000))[0]
    assert strongest(found[2000:14_000]) == pytest.approx(1000 * 2 ** (semitones / 12), rel=0.003)
    assert np.std(found[2000:14_000]) == pytest.approx(np.sqrt(0.5), rel=0.15)  # the vocoder loses up to 1 dB


@pytest.mark.parametrize("rate", [0.8, 1.0, 1.25])
def test_stretch_keeps_the_pitch_and_changes_the_time(rate):
    time = np.arange(16_000) / 16_000
    sound = (np.sin(2 * np.pi * 1000 * time) * (time < 0.5)).astype(np.float32)[None]
    found = ops.convert_to_numpy(
        augment_module.stretch(ops.convert_to_tensor(sound), np.array([rate], np.float32), 16_000, 1024, 256)
    )[0]
    assert found.shape == (16_000,)
    assert strongest(found[1000:6000]) == pytest.approx(1000, rel=0.005)
    end = np.flatnonzero(np.abs(found) > 0.3)[-1]
    assert end / 16_000 == pytest.approx(0.5 / rate, abs=0.04)
    if rate == 1:
        np.testing.assert_allclose(found[600:7400], sound[0, 600:7400], atol=0.02)


def test_stretch_at_the_same_rate_is_the_sound_itself_after_many_seconds_too():
    sound = np.random.default_rng(0).normal(size=(1, 200_000)).astype(np.float32)
    found = ops.convert_to_numpy(
        augment_module.stretch(ops.convert_to_tensor(sound), np.ones(1, "f"), 200_000, 1024, 256)
    )
    np.testing.assert_allclose(found[0, 1024:-1024], sound[0, 1024:-1024], atol=1e-3)


def test_what_is_missing_at_the_end_of_a_stretched_sound_is_silence():
    """Of noise that sounds until the end; windows of before and after reach over it by half their length."""
    sound = np.random.default_rng(0).normal(size=(3, 16_000)).astype(np.float32)
    rates = np.array([1.1, 1.25, 1.6], np.float32)
    found = ops.convert_to_numpy(augment_module.stretch(ops.convert_to_tensor(sound), rates, 16_000, 1024, 256))
    for item, rate in zip(found, rates, strict=True):
        end = round(16_000 / float(rate))
        assert np.std(item[end - 2000 : end - 600]) > 0.5
        np.testing.assert_allclose(item[end + 1024 :], 0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"), [("time_stretch", {"deviation": 0.1}), ("pitch_shift", {"semitones": 2.0})]
)
def test_rates_are_normal_and_cut_at_two_and_a_half_deviations(name, options, monkeypatch):
    rates = []
    monkeypatch.setattr(
        augment_module, "stretch", lambda sounds, rate, length, *_: rates.append(np.array(rate)) or sounds
    )
    augment(opened(name, waveform.Recipe(), **options), np.zeros((5000, 10)), np.ones((5000, 1)))
    drawn = (rates[0] - 1) / 0.1 if name == "time_stretch" else -12 * np.log2(rates[0]) / 2.0
    assert np.abs(drawn).max() == pytest.approx(2.5, abs=1e-4)
    inside = drawn[np.abs(drawn) < 2.499]
    assert scipy.stats.kstest(inside, scipy.stats.truncnorm(-2.5, 2.5).cdf).pvalue > 0.001
    assert 1 - len(inside) / 5000 == pytest.approx(2 * scipy.stats.norm.cdf(-2.5), abs=0.006)


def test_a_sound_at_a_higher_pitch_does_not_end_sooner():
    time = np.arange(8000) / 16_000
    sounds = np.tile(np.sin(2 * np.pi * 500 * time), (COUNT, 1))
    found = run(opened("pitch_shift", waveform.Recipe(), semitones=4.0), sounds)
    assert max(strongest(item) for item in found) > 700
    levels = np.std(found.reshape(COUNT, 16, 500), axis=2)
    assert levels[:, 1:-1].min() > 0.5


@pytest.mark.parametrize("name", ["time_stretch", "pitch_shift"])
def test_sound_layers_change_every_item_differently(name):
    time = np.arange(8000) / 16_000
    sounds = np.tile(np.sin(2 * np.pi * 2000 * time).astype(np.float32), (COUNT, 1))
    found = run(opened(name, waveform.Recipe()), sounds)
    assert np.isfinite(found).all()
    pitches = np.array([strongest(item[1000:6000]) for item in found])
    if name == "time_stretch":
        np.testing.assert_allclose(pitches, 2000, rtol=0.01)
        assert len({int(np.flatnonzero(np.abs(item) > 0.1)[-1]) // 50 for item in found}) > 5
    else:
        semitones = 12 * np.log2(pitches / 2000)
        assert 0.6 < semitones.std() < 1.4
        assert np.abs(semitones).max() <= 2.6


@pytest.mark.parametrize(("name", "recipe"), [
    ("pitch_shift", Recipe()), ("time_stretch", logmel.Recipe()), ("gain", pcen.Recipe()), ("noise", pcen.Recipe()),
])  # fmt: skip
def test_what_the_store_does_not_allow_is_refused(name, recipe):
    with pytest.raises(ConfigError, match=f"train.augment.{name}"):
        open_augmentations({name: {}}, recipe)


def test_mixup_of_bags_mixes_whole_recordings():
    layer = open_augmentations({"mixup": {}}, Recipe(), bag=4)[0]
    images = np.repeat(np.arange(16, dtype=np.float32), 4).reshape(-1, 1, 1, 1)
    mixed, targets = layer(images, np.repeat(np.eye(16, dtype=np.float32), 4, axis=0))
    mixed, targets = ops.convert_to_numpy(mixed).reshape(16, 4), ops.convert_to_numpy(targets).reshape(16, 4, 16)
    assert (np.ptp(mixed, axis=1) < 1e-6).all()
    assert (np.ptp(targets, axis=1) < 1e-6).all()
    weight = targets[np.arange(16), 0, np.arange(16)]
    np.testing.assert_allclose(
        mixed[:, 0], weight * np.arange(16) + (1 - weight) * np.roll(np.arange(16), 1), rtol=1e-5
    )


def test_stripes_may_be_filled_with_the_minimum():
    """Of all channels, which are values of the same kind."""
    images = np.concatenate([pictures(), pictures(1) + 2], axis=-1)
    found = run(opened("time_mask", width=10, count=1, fill="minimum"), images)
    for item, before in zip(found, images, strict=True):
        changed = (item != before).any(axis=(0, 2))
        np.testing.assert_allclose(item[:, changed], before.min(), atol=1e-6)


def test_steady_drop_hides_the_second_half_of_the_channels_in_a_share_of_items():
    images = np.random.default_rng(0).normal(1, 1, (2000, 3, 4, 6)).astype(np.float32)
    layer = reseed(open_augmentations({"steady_drop": {"share": 0.3}}, Recipe())[0], 5)
    found, targets = augment(layer, images, np.ones((2000, 2)))
    np.testing.assert_array_equal(found[..., :3], images[..., :3])
    hidden = (found[..., 3:] == 0).all(axis=(1, 2, 3))
    assert hidden.mean() == pytest.approx(0.3, abs=0.04)
    np.testing.assert_array_equal(found[~hidden], images[~hidden])
    assert (targets == 1).all()


def test_steady_drop_needs_both(tmp_path):
    config = configuration.load(None, ["train.augment={steady_drop={}}", "model.network=cnn1"])
    model = build_model(config, Recipe().encoding, (200,), 3)
    with pytest.raises(ConfigError, match=r"steady_drop needs model\.normalise = both"):
        build_trainer(config, model, open_loss(Part("categorical_crossentropy")), 10)
