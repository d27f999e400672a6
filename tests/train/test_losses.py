"""The losses against their formulas in NumPy, float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops

from config import ConfigError, Part
from train.losses import open_loss


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def compute(name: str, targets: np.ndarray, logits: np.ndarray, **options: float) -> np.ndarray:
    loss = open_loss(Part(name, options))
    return ops.convert_to_numpy(loss.compute(targets.astype(np.float32), logits.astype(np.float32)))


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    """Return one-hot targets with some background weights, logits, and a smoothing."""
    rows, classes = draw(st.integers(1, 5)), draw(st.integers(2, 7))
    targets = draw(hnp.arrays(np.float64, (rows, classes), elements=st.sampled_from([0, 0, 0, 0.25, 0.5])))
    targets[np.arange(rows), draw(hnp.arrays(np.int64, rows, elements=st.integers(0, classes - 1)))] = 1
    logits = draw(hnp.arrays(np.float64, (rows, classes), elements=st.floats(-12, 12, width=32)))
    return targets, logits, draw(st.sampled_from([0.0, 0.1, 0.5]))


@settings(deadline=None)
@given(batches())
def test_categorical_crossentropy(batch):
    targets, logits, smoothing = batch
    wanted = targets / targets.sum(axis=1, keepdims=True)
    wanted = (1 - smoothing) * wanted + smoothing / logits.shape[1]
    np.testing.assert_allclose(wanted.sum(axis=1), 1)
    expected = -(wanted * np.log(softmax(logits))).sum(axis=1)
    found = compute("categorical_crossentropy", targets, logits, label_smoothing=smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None)
@given(batches())
def test_binary_crossentropy(batch):
    targets, logits, smoothing = batch
    wanted = (1 - smoothing) * targets + smoothing * 0.5
    chance = sigmoid(logits)
    expected = -(wanted * np.log(chance) + (1 - wanted) * np.log(1 - chance)).mean(axis=1)
    found = compute("binary_crossentropy", targets, logits, label_smoothing=smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_by_hand():
    """Equal logits: log 4 whatever the targets; one logit of log 3 among 4 classes: half of the probability."""
    targets = np.array([[1, 0, 0, 0], [1, 0, 0.5, 0]])
    np.testing.assert_allclose(
        compute("categorical_crossentropy", targets, np.zeros((2, 4))), np.log([4, 4]), rtol=1e-6
    )
    logits = np.array([[np.log(3), 0, 0, 0]] * 2)
    expected = [np.log(2), (2 * np.log(2) + np.log(6)) / 3]  # the weights 1 and 0.5 count 2/3 and 1/3
    np.testing.assert_allclose(compute("categorical_crossentropy", targets, logits), expected, rtol=1e-6)
    np.testing.assert_allclose(compute("binary_crossentropy", targets, np.zeros((2, 4))), np.log([2, 2]), rtol=1e-6)


@pytest.mark.parametrize("factor", [0.5, 3])
def test_only_the_ratio_of_background_weights_counts(factor):
    rng = np.random.default_rng(0)
    targets, logits = rng.random((6, 5)), rng.normal(size=(6, 5))
    found = compute("categorical_crossentropy", factor * targets, logits)
    np.testing.assert_allclose(found, compute("categorical_crossentropy", targets, logits), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"), [("categorical_crossentropy", softmax), ("binary_crossentropy", sigmoid)]
)
def test_scores_are_probabilities(name, expected):
    logits = np.random.default_rng(1).normal(scale=4, size=(9, 6)).astype(np.float32)
    scores = ops.convert_to_numpy(open_loss(Part(name)).scores(logits))
    np.testing.assert_allclose(scores, expected(logits.astype(np.float64)), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["categorical_crossentropy", "binary_crossentropy"])
def test_large_logits_stay_finite(name):
    logits = np.array([[1e4, -1e4, 0]])
    for label in range(3):
        assert np.isfinite(compute(name, np.eye(3)[[label]], logits)).all()
    scores = ops.convert_to_numpy(open_loss(Part(name)).scores(logits.astype(np.float32)))
    assert scores[0, 0] == 1
    assert scores[0, 1] == 0


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Part("hinge"), r"train\.loss\.name.*'hinge'.*categorical_crossentropy, binary_crossentropy"),
        (Part("binary_crossentropy", {"gamma": 2}), r"Unknown key train\.loss\.gamma.*label_smoothing"),
        (Part("categorical_crossentropy", {"label_smoothing": 1.1}), r"train\.loss\.label_smoothing.*from 0 to 1"),
    ],
)
def test_bad_settings_are_named(part, words):
    with pytest.raises(ConfigError, match=words):
        open_loss(part)
