"""The statistics of a texture against NumPy and SciPy's periodogram, and what a network learns from them."""

import keras
import numpy as np
import pytest
import scipy.fft
import scipy.signal
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from train.models import residual
from train.texture import BANDS, CEPSTRA, DISTANCES, LAGS, PEAKS, RATES, SMALLEST, SPANS, ranges, texture

FRAME_RATE = 50


def expected(image: np.ndarray) -> np.ndarray:
    """Return the statistics of an image [bins, frames, channels] by loops in float64."""
    image = image.mean(axis=2, dtype=float)
    bins = len(image)

    def groups(most: int) -> list[np.ndarray]:
        count = min(most, bins)
        return [np.mean([image[i] for i in range(bins) if i * count // bins == k], axis=0) for k in range(count)]

    parts = [image.mean(axis=1) - image.mean(), image.std(axis=1)]
    bands = groups(BANDS)
    for distance in DISTANCES:
        parts.append([np.corrcoef(low, high)[0, 1] for low, high in zip(bands, bands[distance:], strict=False)])
    cepstra = scipy.fft.dct(image, axis=0, norm="ortho")[1 : CEPSTRA + 1] / np.sqrt(bins)
    parts += [np.log(cepstra.std(axis=1)), np.log(np.diff(cepstra, axis=1).std(axis=1))]
    return np.concatenate(parts + expected_rhythm([[level - level.mean()] for level in groups(16)]))


def expected_rhythm(levels: list[list[np.ndarray]]) -> list[np.ndarray]:
    """Return the statistics of rhythm of groups of pieces, by SciPy and loops."""
    frames = len(levels[0][0])
    spectra = [
        np.mean([scipy.signal.periodogram(piece, window="hann", detrend=False)[1] for piece in pieces], axis=0)
        for pieces in levels
    ]
    logs = np.log(np.array(spectra)[:, 1 : frames // 2] / 2 + SMALLEST)  # SciPy's spectra are one-sided
    parts = [logs[:, low:high].mean(axis=1) for low, high in ranges(logs.shape[1], RATES)]
    parts += [
        np.ptp([logs[:, low:high].mean(axis=1), logs[:, low:high].max(axis=1)], axis=0)
        for low, high in ranges(logs.shape[1], PEAKS)
    ]
    again = []
    for pieces in levels:  # around the end, without what the spectrum leaves out: the mean and the highest rate
        lags = np.zeros(frames // 4 + 1)
        for piece in pieces:
            spectrum = np.fft.rfft(piece * scipy.signal.get_window("hann", frames))
            spectrum[[0, *range(max(2, frames // 2), len(spectrum))]] = 0
            tapered = np.fft.irfft(spectrum, frames)
            lags += [np.dot(tapered, np.roll(tapered, lag)) for lag in range(len(lags))]
        again.append(lags[1:] / lags[0])
    for low, high in ranges(frames // 4, LAGS):
        parts += [np.max(np.array(again)[:, low:high], axis=1), np.min(np.array(again)[:, low:high], axis=1)]
    return parts


def expected_impulses(image: np.ndarray, fine: int) -> np.ndarray:
    """Return the statistics of short windows of [bands * fine, frames] by SciPy and loops in float64."""
    bands = []
    for i in range(0, len(image), fine):
        rows = [row - row.mean() for row in image[i : i + fine].astype(float)]
        bands.append(np.ravel(np.transpose(rows)))
    steps = np.diff(bands, axis=1)
    parts = [np.std(bands, axis=1), scipy.stats.skew(bands, axis=1)]
    parts.append(np.log(scipy.stats.kurtosis(bands, axis=1, fisher=False)))
    parts += [np.log(steps.std(axis=1)), np.log(scipy.stats.kurtosis(steps, axis=1, fisher=False))]
    parts.append(scipy.special.logsumexp(bands, axis=1) - np.log(len(bands[0])))
    for distance in DISTANCES:
        parts.append([np.corrcoef(low, high)[0, 1] for low, high in zip(bands, bands[distance:], strict=False)])
    length = len(bands[0]) // SPANS
    pieces = [[band[k * length :][:length] for k in range(SPANS)] for band in bands]
    return np.concatenate(parts + expected_rhythm([[piece - piece.mean() for piece in own] for own in pieces]))


@pytest.mark.parametrize(("bins", "frames", "channels"), [(64, 250, 2), (16, 31, 1), (37, 40, 1), (5, 6, 3)])
def test_statistics_by_hand(bins, frames, channels):
    images = np.random.default_rng(0).normal(1, 2, (3, bins, frames, channels)).astype(np.float32)
    found = ops.convert_to_numpy(texture(images))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [expected(image) for image in images], rtol=5e-3, atol=1e-2)


@pytest.mark.parametrize(("bins", "frames", "fine", "channels"), [(64, 250, 8, 4), (12, 33, 3, 2), (16, 40, 16, 2)])
def test_statistics_of_short_windows_by_hand(bins, frames, fine, channels):
    """Behind those of the even channels, of which they say nothing."""
    images = np.random.default_rng(0).gamma(2, 1, (3, bins, frames, channels)).astype(np.float32)
    found = ops.convert_to_numpy(texture(images, fine))
    plain = ops.convert_to_numpy(texture(images[..., ::2]))
    np.testing.assert_allclose(found[:, : plain.shape[1]], plain, rtol=1e-4, atol=1e-4)
    short = [expected_impulses(image[..., 1::2].mean(axis=2), fine) for image in images]
    np.testing.assert_allclose(found[:, plain.shape[1] :], short, rtol=5e-3, atol=2e-2)


def test_statistics_do_not_depend_on_the_level():
    images = np.random.default_rng(0).normal(1, 2, (2, 16, 50, 1)).astype(np.float32)
    louder = ops.convert_to_numpy(texture(images + 3))
    np.testing.assert_allclose(louder, ops.convert_to_numpy(texture(images)), atol=1e-3)


@given(count=st.integers(1, 2000), parts=st.integers(1, 20))
def test_ranges_hold_every_rate_once(count, parts):
    found = ranges(count, parts)
    assert [i for low, high in found for i in range(low, high)] == list(range(count))
    assert 1 <= len(found) <= parts
    assert all(low < high for low, high in found)


def test_ranges_are_as_wide_in_octaves_counted_from_2():
    """A network that was trained on others would hear something else: 2 x 51^(k / 4) - 2, rounded."""
    assert ranges(100, 4) == [(0, 3), (3, 12), (12, 36), (36, 100)]


def rotor(rng: np.random.Generator, rate: float, images: int, strength: float = 0.5) -> np.ndarray:
    """Noise of 32 bins and 3 s whose level rises and falls so many times a second, float32 [n, bins, frames, 1]."""
    time = np.arange(3 * FRAME_RATE) / FRAME_RATE
    phase = rng.uniform(0, 2 * np.pi, (images, 1, 1, 1))
    wave = np.sin(2 * np.pi * rate * time[None, None, :, None] + phase)
    return (rng.normal(0, 1, (images, 32, len(time), 1)) + strength * wave).astype(np.float32)


def test_a_rhythm_stands_out_at_its_rate():
    """8 Hz in 3 s are 24 periods, the 24th rate; the peak of its range rises, those of the others do not."""
    borders = ranges(74, PEAKS)
    own = np.array([low <= 23 < high for low, high in borders])
    after = len(ranges(37, LAGS)) * 2 * 16  # of autocorrelations
    peaks = []
    for strength in (0, 1):
        found = ops.convert_to_numpy(texture(rotor(np.random.default_rng(1), 8, 20, strength)))
        peaks.append(found[:, -16 * len(borders) - after : -after].reshape(20, len(borders), 16).mean(axis=(0, 2)))
    assert (peaks[1] - peaks[0])[own] > 2
    np.testing.assert_allclose((peaks[1] - peaks[0])[~own], 0, atol=0.1)


@pytest.mark.parametrize("fine", [0, 4])
@pytest.mark.parametrize("value", [0.0, -3.5, "loud"])
def test_silence_and_extremes_have_finite_statistics_and_gradients(value, fine):
    """So that a front end that learns, before the network, is not spoilt by padding."""
    levels = np.full((1, 16, 20, 2), -120 if value == "loud" else value, np.float32)
    if value == "loud":  # in decibels, as without model.normalise
        levels[:, ::2, 3:5] = 20
    image = keras.Variable(levels)
    statistics = keras.layers.Lambda(lambda image: texture(image, fine))
    model = keras.Sequential([keras.Input((16, 20, 2)), keras.layers.DepthwiseConv2D(1), statistics])
    assert np.isfinite(ops.convert_to_numpy(model(image))).all()
    model.compile("sgd", "mse")
    model.train_on_batch(np.array(image), np.zeros(model.output_shape[1:], np.float32)[None])
    assert all(np.isfinite(np.array(weight)).all() for weight in model.weights)


def learned(network: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """Train on every other image and return the accuracy on those between."""
    network.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=True,
    )
    network.fit(images[::2], labels[::2], batch_size=8, epochs=8, verbose=0)
    return network.evaluate(images[1::2], labels[1::2], verbose=0)[1]


@pytest.mark.slow
def test_a_network_learns_rhythms_by_it():
    """Two rates in noise that hides them from a look at any place; without it, a network finds nothing in that time."""
    rng = np.random.default_rng(2)
    images = np.concatenate([rotor(rng, 5, 40, 0.3), rotor(rng, 9, 40, 0.3)])
    labels = np.repeat([0, 1], 40)
    accuracy = {}
    for with_texture in (False, True):
        keras.utils.set_random_seed(0)
        network = residual.build((32, 150, 1), 2, width=4, stages=(1, 1), texture=with_texture)
        accuracy[with_texture] = learned(network, images, labels)
    assert accuracy[True] > 0.9
    assert accuracy[False] < 0.75


def crackle(rng: np.random.Generator, images: int, clicks: float) -> np.ndarray:
    """Levels whose frames are alike, and which are of single short windows or of all, float32 [n, 16, 50, 2]."""
    loud = rng.random((images, 2, 1, 50)) < 0.1
    first = np.repeat(loud, 8, axis=2).reshape(images, 16, 50) * 3.0
    one = np.arange(8)[None, None, :, None] == rng.integers(0, 8, (images, 2, 1, 50))
    short = (loud & (one | (rng.random((images, 1, 1, 1)) >= clicks))).reshape(images, 16, 50) * 3.0
    noise = rng.normal(0, 0.5, (images, 16, 50, 2))
    return (np.stack([first, short], axis=-1) + noise).astype(np.float32)


@pytest.mark.slow
def test_a_network_learns_what_crackles_by_short_windows():
    """In the frames both classes are alike."""
    rng = np.random.default_rng(3)
    images, labels = np.concatenate([crackle(rng, 40, 1.0), crackle(rng, 40, 0.0)]), np.repeat([0, 1], 40)
    accuracy = {}
    for fine in (0, 8):
        keras.utils.set_random_seed(0)
        seen = images if fine else images[..., :1]
        network = residual.build(seen.shape[1:], 2, width=4, stages=(1, 1), texture=True, fine=fine)
        accuracy[fine] = learned(network, seen, labels)
    assert accuracy[8] > 0.9
    assert accuracy[0] < 0.75
