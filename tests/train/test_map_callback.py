"""The validation figures against an independent computation from single predictions."""

import tracemalloc

import keras
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, label_ranking_average_precision_score, log_loss, top_k_accuracy_score

from config import Part, Predict
from preprocess.segments import SegmentReader
from tests.train.conftest import derived
from train.losses import open_loss
from train.MAPCallback import MAPCallback
from train.network import build_model, fit_statistics

CLASSES = 7
RECORDINGS = np.array([1, 4, 5, 6, 9, 10])
LABELS = np.array([0, 3, 6, 2, 2, 1])


@pytest.fixture(scope="module")
def reader(reader):
    """Short segments, so that recordings have different numbers of them."""
    return SegmentReader(reader.shards, 130, reader.mask, reader.drop_columns)


@pytest.fixture(scope="module")
def config(corpus, tmp_path_factory):
    return derived(corpus, tmp_path_factory.mktemp("runs"), "features.segment_frames=130")


@pytest.fixture(scope="module")
def model(config, reader):
    """An untrained network whose logits are spread out."""
    keras.utils.set_random_seed(5)
    model = build_model(config, reader.encoding, reader.shape, CLASSES)
    fit_statistics(model, reader, (np.arange(12), np.zeros(12, int)), "bin", 0)
    return model


@pytest.fixture
def background():
    background = np.zeros((len(RECORDINGS), CLASSES), bool)
    background[0, [2, 5]] = background[2, 0] = background[5, [0, 3]] = True
    return background


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def predictions(model, reader) -> list[np.ndarray]:
    """Return the logits of each recording's segments, one segment at a time."""
    return [
        np.concatenate([model.predict_on_batch(reader.read([i], [start])) for start in reader.segment_starts(int(i))])
        for i in RECORDINGS
    ]


def pairs_in_order(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the area under the ROC curve as the share of (positive, negative) pairs in the right order."""
    gaps = scores[positive][:, None] - scores[~positive][None, :]
    return float(np.mean(np.where(gaps > 0, 1.0, np.where(gaps == 0, 0.5, 0.0))))


@pytest.mark.parametrize("cells", [1, 5 * CLASSES, 1 << 25])
@pytest.mark.parametrize("part", [Part("categorical_crossentropy"), Part("pooled", {"pool": "max"})])
def test_figures_do_not_depend_on_how_many_recordings_fit_into_memory(
    model, reader, background, monkeypatch, cells, part
):
    loss = open_loss(part)
    expected = MAPCallback(model, loss, reader, RECORDINGS, LABELS, background, Predict()).evaluate()
    monkeypatch.setattr("train.MAPCallback.CELLS_AT_ONCE", cells)
    callback = MAPCallback(model, loss, reader, RECORDINGS, LABELS, background, Predict())
    assert len(callback.parts) == {1: len(RECORDINGS), 1 << 25: 1}.get(cells, len(callback.parts))
    assert callback.evaluate() == pytest.approx(expected, rel=1e-5)


def test_memory_holds_the_scores_once(model, reader, monkeypatch):
    """8 bytes per recording and class, and 3 of what is relevant; before, the second epoch took 33."""
    recordings, classes = 3000, 400
    rng, owners = np.random.default_rng(2), np.arange(recordings)
    monkeypatch.setattr("train.MAPCallback.CELLS_AT_ONCE", 1 << 15)
    monkeypatch.setattr("train.MAPCallback.list_segments", lambda *_: (owners, np.zeros(recordings, int)))
    monkeypatch.setattr("train.metrics._PAIRS_AT_ONCE", 64)
    monkeypatch.setattr("train.metrics._CLASSES_AT_ONCE", 8)
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(classes)])

    def logits(model, reader, owners, starts, batch):
        return rng.standard_normal((len(owners), classes)).astype(np.float32)

    monkeypatch.setattr("train.MAPCallback.segment_logits", logits)
    labels, background = rng.integers(classes, size=recordings), np.zeros((recordings, classes), bool)
    callback = MAPCallback(
        network, open_loss(Part("categorical_crossentropy")), reader, owners, labels, background, Predict()
    )
    callback.evaluate()
    tracemalloc.start()
    callback.evaluate()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 6 * recordings * classes  # beside the scores that are there


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_figures_are_those_of_an_independent_computation(model, reader, background, batch_size):
    loss = open_loss(Part("categorical_crossentropy"))
    callback = MAPCallback(model, loss, reader, RECORDINGS, LABELS, background, Predict(batch_size=batch_size))
    logs = {"loss": 0.5}
    callback.on_epoch_end(0, logs)
    logits = predictions(model, reader)
    assert len({len(own) for own in logits}) > 1  # recordings of different lengths count alike
    segments, owners = softmax(np.concatenate(logits)), np.repeat(LABELS, [len(own) for own in logits])
    scores = np.array([softmax(own).mean(axis=0) for own in logits])
    main = np.eye(CLASSES, dtype=bool)[LABELS]
    ranks = 1 + (scores > scores[np.arange(len(LABELS)), LABELS][:, None]).sum(axis=1)
    expected = {
        "loss": 0.5,
        "val_loss": log_loss(owners, segments, labels=range(CLASSES)),
        "val_acc": accuracy_score(owners, segments.argmax(axis=1)),
        "val_map": np.mean(1 / ranks),
        "val_map_background": label_ranking_average_precision_score(main | background, scores),
        "val_top1": top_k_accuracy_score(LABELS, scores, k=1, labels=range(CLASSES)),
        "val_top3": top_k_accuracy_score(LABELS, scores, k=3, labels=range(CLASSES)),
        "val_top5": top_k_accuracy_score(LABELS, scores, k=5, labels=range(CLASSES)),
        "val_auc": np.mean([pairs_in_order(scores[:, c], main[:, c]) for c in np.unique(LABELS)]),
    }
    assert logs == pytest.approx(expected, rel=1e-4)
    assert logs["val_map"] != pytest.approx(logs["val_map_background"])


def test_species_at_ranks_1_to_6_count_among_the_best_1_3_and_5(model, reader, background):
    scores = np.array([softmax(own).mean(axis=0) for own in predictions(model, reader)])
    labels = np.argsort(-scores, axis=1)[np.arange(6), np.arange(6)]
    loss = open_loss(Part("categorical_crossentropy"))
    found = MAPCallback(model, loss, reader, RECORDINGS, labels, background, Predict()).evaluate()
    assert [found[f"val_top{k}"] for k in (1, 3, 5)] == pytest.approx([1 / 6, 3 / 6, 5 / 6])
    assert found["val_map"] == pytest.approx(np.mean(1 / np.arange(1, 7)))


def test_sigmoid_scores_and_loss(model, reader, background):
    loss = open_loss(Part("binary_crossentropy"))
    found = MAPCallback(model, loss, reader, RECORDINGS, LABELS, background, Predict()).evaluate()
    logits = [own.astype(np.float64) for own in predictions(model, reader)]
    scores = np.array([(1 / (1 + np.exp(-own))).mean(axis=0) for own in logits])
    targets = np.eye(CLASSES)[np.repeat(LABELS, [len(own) for own in logits])]
    chance = 1 / (1 + np.exp(-np.concatenate(logits)))
    expected = -(targets * np.log(chance) + (1 - targets) * np.log(1 - chance)).mean()
    assert found["val_loss"] == pytest.approx(expected, rel=1e-4)
    relevant = np.eye(CLASSES, dtype=bool)[LABELS] | background
    assert found["val_map_background"] == pytest.approx(label_ranking_average_precision_score(relevant, scores))


def test_the_loss_of_whole_recordings_is_a_mean_over_recordings(model, reader, background):
    """However many segments each has; pooled by the largest score of each species."""
    loss = open_loss(Part("pooled", {"pool": "max"}))
    found = MAPCallback(model, loss, reader, RECORDINGS, LABELS, background, Predict()).evaluate()
    chances = [1 / (1 + np.exp(-own.astype(np.float64))) for own in predictions(model, reader)]
    scores = np.array([own.max(axis=0) for own in chances])
    assert found["val_loss"] == pytest.approx(log_loss(np.eye(CLASSES)[LABELS].ravel(), scores.ravel()), rel=1e-4)
    assert found["val_top3"] == pytest.approx(top_k_accuracy_score(LABELS, scores, k=3, labels=range(CLASSES)))


@pytest.mark.parametrize("kind", ["noise class", "attention"])
def test_a_hit_is_the_best_species_whatever_other_outputs_say(config, reader, background, kind):
    """Those are the score of noise, or the weights of attention, here the largest of all."""
    if kind == "attention":
        loss, outputs = open_loss(Part("pooled", {"pool": "attention"})), 2 * CLASSES
    else:
        loss, outputs = open_loss(Part("categorical_crossentropy"), noise_class=True), CLASSES + 1
    keras.utils.set_random_seed(5)
    model = build_model(config, reader.encoding, reader.shape, outputs)
    bias = model.layers[-1].get_layer("logits").bias
    bias.assign(np.where(np.arange(outputs) < CLASSES, 0.0, 50.0))
    found = MAPCallback(model, loss, reader, RECORDINGS, LABELS, background, Predict()).evaluate()
    logits = predictions(model, reader)
    owners = np.repeat(LABELS, [len(own) for own in logits])
    best = np.concatenate(logits)[:, :CLASSES].argmax(axis=1)
    assert 0 < accuracy_score(owners, best) == pytest.approx(found["val_acc"])


def test_averaged_weights_are_scored_where_there_are_some(config, reader, background):
    """The figures of the average of a weight, and afterwards the weight is as it was."""
    keras.utils.set_random_seed(5)
    model = build_model(config, reader.encoding, reader.shape, CLASSES)
    model.compile(keras.optimizers.SGD(0.0, use_ema=True, ema_momentum=0.5), "mse")
    model.optimizer.build(model.trainable_variables)
    callback = MAPCallback(
        model, open_loss(Part("categorical_crossentropy")), reader, RECORDINGS, LABELS, background, Predict()
    )
    callback.set_model(model)
    weights = [np.array(weight) for weight in model.trainable_variables]
    averages = [variable for variable in model.optimizer.variables if variable.path.endswith("_average")]
    plain = callback.evaluate()
    for average, weight in zip(averages, weights, strict=True):
        average.assign(3 * weight)
    logs = {}
    callback.on_epoch_end(0, logs)
    for weight, value in zip(model.trainable_variables, weights, strict=True):
        np.testing.assert_array_equal(np.array(weight), value)
        weight.assign(3 * value)
    assert logs == pytest.approx(callback.evaluate(), rel=1e-5)
    assert logs["val_loss"] != pytest.approx(plain["val_loss"], rel=1e-2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_that_diverged_ranks_everything_last(config, reader, background, value):
    model = build_model(config, reader.encoding, reader.shape, CLASSES)
    for weight in model.trainable_weights:
        weight.assign(np.full(weight.shape, value))
    loss = open_loss(Part("categorical_crossentropy"))
    found = MAPCallback(model, loss, reader, RECORDINGS, LABELS, background, Predict()).evaluate()
    assert np.isnan(found["val_loss"])
    assert found["val_map"] == pytest.approx(1 / CLASSES)
    assert found["val_map_background"] == pytest.approx(((1 + background.sum(axis=1)) / CLASSES).mean())
    assert found["val_top1"] == found["val_top5"] == 0


def test_a_class_whose_score_is_nan_ranks_last(config, reader, background):
    """And only that: with sigmoids the other classes keep their scores."""
    keras.utils.set_random_seed(5)
    model = build_model(config, reader.encoding, reader.shape, CLASSES)
    loss = open_loss(Part("binary_crossentropy"))
    whole = [own.astype(np.float64) for own in predictions(model, reader)]
    bias = model.layers[-1].get_layer("logits").bias
    bias.assign(np.where(np.arange(CLASSES) == 2, np.nan, bias.numpy()))
    found = MAPCallback(model, loss, reader, RECORDINGS, LABELS, background, Predict()).evaluate()
    scores = np.array([(1 / (1 + np.exp(-own))).mean(axis=0) for own in whole])
    scores[:, 2] = -1
    main = np.eye(CLASSES, dtype=bool)[LABELS]
    assert found["val_map"] == pytest.approx(label_ranking_average_precision_score(main, scores))


def test_a_network_that_diverged_hits_no_segment(config, reader):
    """Also not those of the first class, which an argmax over NaN would name."""
    model = build_model(config, reader.encoding, reader.shape, CLASSES)
    for weight in model.trainable_weights:
        weight.assign(np.full(weight.shape, np.nan))
    loss, labels = open_loss(Part("categorical_crossentropy")), np.zeros(len(RECORDINGS), int)
    nothing = np.zeros((len(RECORDINGS), CLASSES), bool)
    assert MAPCallback(model, loss, reader, RECORDINGS, labels, nothing, Predict()).evaluate()["val_acc"] == 0
