"""The losses against their formulas in NumPy, float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops

from config import ConfigError, Part
from train.losses import class_weights, open_loss


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def compute(name: str, targets: np.ndarray, logits: np.ndarray, **options: float) -> np.ndarray:
    loss = open_loss(Part(name, options))
    return ops.convert_to_numpy(loss.compute(targets.astype(np.float32), logits[:, None].astype(np.float32)))


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    """Return one-hot targets with some background weights, logits, and a smoothing."""
    rows, classes = draw(st.integers(1, 5)), draw(st.integers(2, 7))
    targets = draw(hnp.arrays(np.float64, (rows, classes), elements=st.sampled_from([0, 0, 0, 0.25, 0.5])))
    targets[np.arange(rows), draw(hnp.arrays(np.int64, rows, elements=st.integers(0, classes - 1)))] = 1
    logits = draw(hnp.arrays(np.float64, (rows, classes), elements=st.floats(-12, 12, width=32)))
    return targets, logits, draw(st.sampled_from([0.0, 0.1, 0.5]))


@given(batches())
def test_categorical_crossentropy(batch):
    targets, logits, smoothing = batch
    wanted = targets / targets.sum(axis=1, keepdims=True)
    wanted = (1 - smoothing) * wanted + smoothing / logits.shape[1]
    np.testing.assert_allclose(wanted.sum(axis=1), 1)
    expected = -(wanted * np.log(softmax(logits))).sum(axis=1)
    found = compute("categorical_crossentropy", targets, logits, label_smoothing=smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


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


# Whole recordings: brute force over bags, in float64


@pytest.fixture(scope="module")
def bags() -> tuple[np.ndarray, np.ndarray]:
    """Targets [6, 4] and logits [6, 5, 4]."""
    rng = np.random.default_rng(5)
    return np.eye(4)[rng.integers(0, 4, 6)], rng.normal(0, 2, (6, 5, 4))


def losses_of(part: Part, targets: np.ndarray, logits: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(open_loss(part).compute(targets.astype("f"), logits.astype("f")))


def test_best_frame_by_loops(bags):
    targets, logits = bags
    expected = []
    for target, frames in zip(targets, logits, strict=True):
        label = target.argmax()
        best = max(range(5), key=lambda k: frames[k][label])
        expected.append(-np.log(np.exp(frames[best][label]) / np.exp(frames[best]).sum()))
    np.testing.assert_allclose(losses_of(Part("best_frame"), targets, logits), expected, rtol=1e-5)
    scores = open_loss(Part("best_frame")).recording_scores(logits[0].astype("f"))
    np.testing.assert_allclose(scores, softmax(logits[0].max(axis=0, keepdims=True))[0], rtol=1e-5)


def test_best_frame_learns_from_the_best_frame_alone(bags):
    import tensorflow as tf

    targets, logits = (tf.constant(array, tf.float32) for array in bags)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = tf.reduce_sum(open_loss(Part("best_frame")).compute(targets, logits))
    gradient = tape.gradient(loss, logits).numpy()
    learnt = np.abs(gradient).sum(axis=2) > 0
    assert (learnt.sum(axis=1) == 1).all()
    own = np.einsum("bkc,bc->bk", *bags[::-1])
    np.testing.assert_array_equal(learnt.argmax(axis=1), own.argmax(axis=1))


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("pool", ["mean", "max", "log_mean_exp", "attention"])
def test_pooled_by_loops(bags, pool, activation):
    targets, logits = bags
    if pool == "attention":
        logits = np.concatenate([logits, np.random.default_rng(1).normal(size=logits.shape)], axis=2)
    expected, pooled = [], []
    for target, frames in zip(targets, logits, strict=True):
        chance = sigmoid(frames[:, :4]) if activation == "sigmoid" else softmax(frames[:, :4])
        values = []
        for c in range(4):
            own = [float(p) for p in chance[:, c]]
            weight = np.exp(frames[:, 4 + c]) if pool == "attention" else None
            values.append({
                "mean": lambda: sum(own) / 5,  # noqa: B023
                "max": lambda: max(own),  # noqa: B023
                "log_mean_exp": lambda: np.log(sum(np.exp(5 * p) for p in own) / 5) / 5,  # noqa: B023
                "attention": lambda: sum(w * p for w, p in zip(weight / weight.sum(), own, strict=True)),  # noqa: B023
            }[pool]())  # fmt: skip
        values = np.array(values)
        pooled.append(values)
        if activation == "sigmoid":
            expected.append(-np.mean(target * np.log(values) + (1 - target) * np.log(1 - values)))
        else:
            expected.append(-np.log(values[target.argmax()]))
    part = Part("pooled", {"pool": pool, "activation": activation})
    np.testing.assert_allclose(losses_of(part, targets, logits), expected, rtol=1e-4)
    found = [open_loss(part).recording_scores(frames.astype("f")) for frames in logits]
    np.testing.assert_allclose(found, pooled, rtol=1e-4)


def test_log_mean_exp_lies_between_mean_and_max(bags):
    scores = {
        pool: open_loss(Part("pooled", {"pool": pool})).recording_scores(bags[1][0].astype("f"))
        for pool in ("mean", "log_mean_exp", "max")
    }
    assert (scores["mean"] < scores["log_mean_exp"]).all()
    assert (scores["log_mean_exp"] < scores["max"]).all()


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_by_its_formula(gamma):
    rng = np.random.default_rng(0)
    targets, logits = np.eye(4)[rng.integers(0, 4, 6)], rng.normal(0, 2, (6, 4))
    p = sigmoid(logits)
    pt, at = np.where(targets == 1, p, 1 - p), np.where(targets == 1, 0.25, 0.75)
    expected = (-at * (1 - pt) ** gamma * np.log(pt)).mean(axis=1)
    np.testing.assert_allclose(compute("focal", targets, logits, gamma=gamma), expected, rtol=1e-4)
    own = softmax(logits)[np.arange(6), targets.argmax(axis=1)]
    found = losses_of(Part("focal", {"gamma": gamma, "alpha": 1.0, "activation": "softmax"}), targets, logits[:, None])
    np.testing.assert_allclose(found, -((1 - own) ** gamma) * np.log(own), rtol=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_focal_has_gradients_where_a_segment_is_certain(gamma, activation):
    """(1 - p)^gamma has an infinite derivative at p = 1 if gamma is below 1."""
    tensorflow = pytest.importorskip("tensorflow")
    loss = open_loss(Part("focal", {"gamma": gamma, "activation": activation}))
    logits = tensorflow.Variable([[200.0, -200.0, 0.0], [-200.0, 200.0, 200.0]])
    with tensorflow.GradientTape() as tape:
        value = loss.over_batch(np.eye(3, dtype=np.float32)[:2], logits, 1)
    assert np.isfinite(ops.convert_to_numpy(value)).all()
    assert np.isfinite(ops.convert_to_numpy(tape.gradient(value, logits))).all()


def test_class_weights_by_hand():
    assert class_weights("none", [1, 2]) is None
    np.testing.assert_allclose(class_weights("ten_over_n", [5, 40]), [2, 0.25])
    np.testing.assert_allclose(class_weights("inverse", [5, 20]), [25 / 2 / 5, 25 / 2 / 20])
    n = np.array([5, 1000])
    effective = (1 - 0.999) / (1 - 0.999**n)
    np.testing.assert_allclose(class_weights("effective", n), effective * 1005 / (effective @ n), rtol=1e-6)
    for how in ("inverse", "effective"):
        assert class_weights(how, [3, 9, 700]) @ [3, 9, 700] == pytest.approx(712, rel=1e-5)


def test_weights_multiply_the_loss_of_their_class(bags):
    targets, logits = bags[0].astype("f"), bags[1][:, 0].astype("f")
    weights = np.array([1, 2, 3, 4], np.float32)
    plain = open_loss(Part("categorical_crossentropy")).over_batch(targets, logits, 1)
    found = open_loss(Part("categorical_crossentropy"), weights=weights).over_batch(targets, logits, 1)
    np.testing.assert_allclose(found, ops.convert_to_numpy(plain) * weights[targets.argmax(axis=1)], rtol=1e-6)


def test_over_batch_cuts_bags(bags):
    targets, logits = (array.astype("f") for array in bags)
    loss = open_loss(Part("pooled"))
    found = loss.over_batch(np.repeat(targets, 5, axis=0), logits.reshape(30, 4), 5)
    np.testing.assert_allclose(found, losses_of(Part("pooled"), *bags), rtol=1e-5)


def test_the_noise_class_is_no_species(bags):
    loss = open_loss(Part("categorical_crossentropy"), noise_class=True)
    logits = bags[1][0].astype("f")
    np.testing.assert_allclose(loss.segment_scores(logits), softmax(bags[1][0])[:, :3], rtol=1e-5)
    np.testing.assert_allclose(loss.recording_scores(logits), softmax(bags[1][0])[:, :3].mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_pooled_smooths_its_targets(activation):
    """Two segments of two classes; the mean of their scores against targets of 0.9 and 0.1, with a smoothing of 0.2."""
    logits, targets = np.array([[[2.0, -1.0], [0.5, 0.25]]]), np.array([[1.0, 0.0]])
    of = sigmoid if activation == "sigmoid" else softmax
    pooled = of(logits[0]).mean(axis=0)
    wanted = np.array([0.9, 0.1])
    if activation == "sigmoid":
        expected = -(wanted * np.log(pooled) + (1 - wanted) * np.log(1 - pooled)).mean()
    else:
        expected = -(wanted * np.log(pooled)).sum()
    loss = open_loss(Part("pooled", {"activation": activation, "label_smoothing": 0.2}))
    found = loss.compute(targets.astype(np.float32), logits.astype(np.float32))
    np.testing.assert_allclose(ops.convert_to_numpy(found), [expected], rtol=1e-5)


@pytest.mark.parametrize("sharpness", [0.5, 20.0])
def test_sharpness_of_log_mean_exp(sharpness):
    logits = np.array([[-2.0], [0.0], [1.0]])
    loss = open_loss(Part("pooled", {"pool": "log_mean_exp", "sharpness": sharpness}))
    expected = np.log(np.mean(np.exp(sharpness * sigmoid(logits)))) / sharpness
    np.testing.assert_allclose(loss.recording_scores(logits.astype(np.float32)), [expected], rtol=1e-5)


def test_best_frame_smooths_its_targets():
    """The second segment has the larger logit of class 0."""
    logits, targets = np.array([[[0.0, 1.0, 0.0], [2.0, 0.0, 1.0]]]), np.array([[1.0, 0.0, 0.0]])
    expected = -(np.array([0.8, 0.1, 0.1]) * np.log(softmax(logits[0])[1])).sum()
    loss = open_loss(Part("best_frame", {"label_smoothing": 0.3}))
    found = loss.compute(targets.astype(np.float32), logits.astype(np.float32))
    np.testing.assert_allclose(ops.convert_to_numpy(found), [expected], rtol=1e-5)


def test_a_weight_is_the_mean_of_those_of_a_segments_species():
    """With background species at 0.5, the weights of 3 and 1 count as 2 : 1."""
    plain, weighed = (open_loss(Part("binary_crossentropy"), weights=w) for w in (None, np.array([3, 1], np.float32)))
    targets, logits = np.array([[1, 0.5]], np.float32), np.array([[0.3, -0.2]], np.float32)
    ratio = ops.convert_to_numpy(weighed.over_batch(targets, logits, 1)) / plain.over_batch(targets, logits, 1)
    np.testing.assert_allclose(ratio, (3 * 1 + 1 * 0.5) / 1.5, rtol=1e-5)


def test_scores_of_focal_are_those_of_its_activation():
    logits = np.array([[1.0, -1.0, 0.5]], np.float32)
    np.testing.assert_allclose(
        open_loss(Part("focal", {"activation": "softmax"})).segment_scores(logits), softmax(logits), rtol=1e-5
    )


def test_classes_without_training_recordings_have_a_finite_weight():
    assert np.isfinite(class_weights("inverse", [0, 3])).all()
