"""The scores against scikit-learn, hand-computed rankings and Monte Carlo."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score, roc_auc_score

from train.metrics import (
    average_precision,
    bootstrap_interval,
    chance_map,
    class_map,
    in_top,
    macro_auroc,
    padded_class_map,
    per_class,
    present,
)


@st.composite
def rankings(draw: st.DrawFn, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return whole-number scores, with ties or without, and relevant classes, perhaps none in some rows."""
    rows, classes = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    if ties:
        scores = draw(hnp.arrays(np.int64, (rows, classes), elements=st.integers(-3, 3)))
    else:
        scores = np.array([draw(st.permutations(range(classes))) for _ in range(rows)])
    relevant = draw(hnp.arrays(bool, (rows, classes)))
    return scores.astype(float), relevant


# Average precision


@given(rankings(ties=False))
def test_average_precision_is_that_of_scikit_learn(ranking):
    scores, relevant = ranking
    for own, row, is_relevant in zip(average_precision(scores, relevant), scores, relevant, strict=True):
        if is_relevant.any():
            assert own == pytest.approx(average_precision_score(is_relevant, row))


@given(rankings())
def test_with_ties_it_is_the_label_ranking_average_precision(ranking):
    scores, relevant = ranking
    for own, row, is_relevant in zip(average_precision(scores, relevant), scores, relevant, strict=True):
        if is_relevant.any():
            assert own == pytest.approx(label_ranking_average_precision_score(is_relevant[None], row[None]))


@pytest.mark.parametrize(
    ("scores", "relevant", "expected"),
    [
        ([0.9, 0.5, 0.1], [1, 0, 0], 1),
        ([0.9, 0.5, 0.1], [0, 0, 1], 1 / 3),
        ([0.9, 0.5, 0.1], [1, 0, 1], (1 / 1 + 2 / 3) / 2),
        ([0.1, 0.9, 0.3, 0.7, 0.5], [1, 0, 0, 1, 1], (1 / 2 + 2 / 3 + 3 / 5) / 3),
        ([0.2, 0.4], [1, 1], 1),
        ([0.5, 0.5], [1, 0], 1 / 2),  # ties: the worst rank of the group
        ([0.5, 0.5, 0.5, 0.9], [1, 0, 0, 0], 1 / 4),
        ([0.5, 0.5, 0.5, 0.9], [1, 1, 0, 1], (1 / 1 + 3 / 4 + 3 / 4) / 3),
        ([-1, -1, 0.0], [1, 0, 0], 1 / 3),
    ],
)
def test_average_precision_by_hand(scores, relevant, expected):
    assert average_precision(np.array([scores]), np.array([relevant], bool)) == pytest.approx([expected])


@given(st.permutations(range(8)), st.integers(0, 7))
def test_one_relevant_class_scores_one_over_its_rank(scores, which):
    scores = np.array([scores], float)
    rank = 1 + int(np.sum(scores > scores[0, which]))
    assert average_precision(scores, np.arange(8)[None] == which) == pytest.approx([1 / rank])


def test_rows_without_a_relevant_class_are_nan_and_leave_the_others_alone():
    relevant = np.array([[1, 0], [0, 0], [0, 1]], bool)
    found = average_precision(np.array([[0.6, 0.4]] * 3), relevant)
    np.testing.assert_array_equal(np.isnan(found), [False, True, False])
    np.testing.assert_allclose(found[[0, 2]], [1, 0.5])
    assert average_precision(np.zeros((0, 3)), np.zeros((0, 3), bool)).shape == (0,)


def test_more_pairs_than_are_compared_at_once():
    """9,000 relevant pairs come in several blocks; scikit-learn's mean over the rows must still be met."""
    rng = np.random.default_rng(0)
    scores, relevant = rng.integers(0, 12, (900, 25)).astype(float), rng.random((900, 25)) < 0.4
    relevant[:, 0] = True
    expected = label_ranking_average_precision_score(relevant, scores)
    assert relevant.sum() > 2 * 4096
    assert average_precision(scores, relevant).mean() == pytest.approx(expected)


@given(rankings(), st.integers(1, 5), st.integers(-50, 50))
def test_scores_only_count_by_their_order(ranking, power, shift):
    """Strictly increasing functions of whole numbers, which floating point computes exactly, change nothing."""
    scores, relevant = ranking
    other = 7 * scores ** (2 * power - 1) + shift
    labels = np.arange(len(scores)) % scores.shape[1]
    np.testing.assert_array_equal(average_precision(scores, relevant), average_precision(other, relevant))
    for k in range(1, scores.shape[1] + 1):
        np.testing.assert_array_equal(in_top(scores, labels, k), in_top(other, labels, k))
    np.testing.assert_equal(macro_auroc(scores, relevant), macro_auroc(other, relevant))
    np.testing.assert_equal(class_map(scores, relevant), class_map(other, relevant))


@given(rankings(), st.randoms(use_true_random=False))
def test_the_order_of_classes_and_recordings_does_not_matter(ranking, random):
    scores, relevant = ranking
    rows, columns = list(range(scores.shape[0])), list(range(scores.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    swapped, also = scores[rows][:, columns], relevant[rows][:, columns]
    np.testing.assert_allclose(average_precision(swapped, also), average_precision(scores, relevant)[rows])
    labels = np.arange(len(scores)) % scores.shape[1]
    moved = np.argsort(columns)[labels[rows]]
    np.testing.assert_array_equal(in_top(swapped, moved, 2), in_top(scores, labels, 2)[rows])
    np.testing.assert_allclose(macro_auroc(swapped, also), macro_auroc(scores, relevant))
    np.testing.assert_allclose(class_map(swapped, also), class_map(scores, relevant))


# The k best


def test_in_top_by_hand():
    scores = np.array([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0, 0, 0]])
    labels = np.array([0, 1, 2, 0, 0])
    np.testing.assert_array_equal(in_top(scores, labels, 1), [True, False, False, False, False])
    np.testing.assert_array_equal(in_top(scores, labels, 2), [True, True, False, True, False])
    np.testing.assert_array_equal(in_top(scores, labels, 3), [True] * 5)


@given(rankings(), st.integers(1, 9))
def test_in_top_k_is_one_over_the_average_precision_at_most_k(ranking, k):
    scores, _ = ranking
    labels = np.arange(len(scores)) % scores.shape[1]
    main = np.arange(scores.shape[1])[None] == labels[:, None]
    rank = np.round(1 / average_precision(scores, main))
    np.testing.assert_array_equal(in_top(scores, labels, k), rank <= k)


# Per class


def auroc_by_pairs(positive: np.ndarray, negative: np.ndarray) -> float:
    """The chance that a positive beats a negative, ties counting one half."""
    beats = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    return float(beats.mean())


def average_precision_by_steps(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Sum of precision times the rise of recall, from the highest threshold to the lowest."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        taken = scores >= threshold
        recall = (taken & relevant).sum() / relevant.sum()
        total += (recall - before) * (taken & relevant).sum() / taken.sum()
        before = recall
    return total


@given(rankings())
def test_class_figures_by_hand_over_the_classes_with_positives_and_negatives(ranking):
    scores, relevant = ranking
    usable = [c for c in range(relevant.shape[1]) if 0 < relevant[:, c].sum() < len(relevant)]
    np.testing.assert_array_equal(present(relevant), usable)
    if not usable:
        assert math.isnan(macro_auroc(scores, relevant))
        assert math.isnan(class_map(scores, relevant))
        return
    aurocs = [auroc_by_pairs(scores[relevant[:, c], c], scores[~relevant[:, c], c]) for c in usable]
    precisions = [average_precision_by_steps(scores[:, c], relevant[:, c]) for c in usable]
    assert macro_auroc(scores, relevant) == pytest.approx(np.mean(aurocs))
    assert class_map(scores, relevant) == pytest.approx(np.mean(precisions))


@pytest.mark.parametrize("at_once", [2, 128])
def test_class_figures_are_those_of_scikit_learn(monkeypatch, at_once):
    monkeypatch.setattr("train.metrics._CLASSES_AT_ONCE", at_once)
    rng = np.random.default_rng(3)
    scores, relevant = rng.random((60, 7)), rng.random((60, 7)) < 0.3
    relevant[:, 2], relevant[:, 5] = False, True  # absent, and without negatives: both are left out
    used = [0, 1, 3, 4, 6]
    assert macro_auroc(scores, relevant) == pytest.approx(
        np.mean([roc_auc_score(relevant[:, c], scores[:, c]) for c in used])
    )
    assert class_map(scores, relevant) == pytest.approx(
        np.mean([average_precision_score(relevant[:, c], scores[:, c]) for c in used])
    )


# Chance


def test_chance_of_one_among_999():
    harmonic = math.fsum(1 / k for k in range(1, 1000))
    assert chance_map(np.ones(10), 999) == pytest.approx(harmonic / 999)
    assert round(chance_map(np.ones(10), 999), 4) == 0.0075


def test_chance_by_hand_for_three_classes():
    """Of 3 classes: one relevant (1 + 1/2 + 1/3) / 3; two relevant at ranks 12, 13, 23: (1 + 5/6 + 7/12) / 3."""
    assert chance_map(np.array([1]), 3) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert chance_map(np.array([2]), 3) == pytest.approx((1 + 5 / 6 + 7 / 12) / 3)
    assert chance_map(np.array([3]), 3) == pytest.approx(1)
    assert chance_map(np.array([1, 2, 3]), 3) == pytest.approx(np.mean([11 / 18, 29 / 36, 1]))


def test_chance_leaves_out_recordings_without_a_relevant_class():
    assert chance_map(np.array([0, 1, 0]), 3) == chance_map(np.array([1]), 3)
    assert math.isnan(chance_map(np.array([0, 0]), 3))
    assert chance_map(np.array([1]), 1) == 1


@pytest.mark.parametrize(("counts", "classes"), [((1,), 12), ((1, 3, 5), 12), ((4,), 50)])
def test_chance_by_monte_carlo(counts, classes):
    rng = np.random.default_rng(0)
    draws = 20_000
    relevant = np.tile(np.arange(classes) < np.array(counts)[:, None], (draws // len(counts), 1))
    found = average_precision(rng.random(relevant.shape), relevant)
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - chance_map(np.array(counts), classes)) < 4 * error


# Bootstrap


def test_interval_of_a_mean_is_close_to_the_normal_one():
    values = np.random.default_rng(1).beta(2, 5, 400)
    low, high = bootstrap_interval(values)
    half = scipy.stats.norm.ppf(0.975) * values.std() / np.sqrt(len(values))
    assert (high - low) / 2 == pytest.approx(half, rel=0.08)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.1 * half)


def test_interval_covers_the_truth_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr("train.metrics.BOOTSTRAP_ROUNDS", 400)
    rng = np.random.default_rng(2)
    bounds = [bootstrap_interval(rng.random(50)) for _ in range(60)]
    covered = sum(low <= 0.5 <= high for low, high in bounds)
    # 95 % of 60 is 57; fewer than 51 would happen by chance less than once in 200.
    assert scipy.stats.binom.cdf(50, 60, 0.95) < 0.005
    assert covered >= 51


def test_interval_leaves_out_nan_and_repeats():
    values = np.array([0.1, np.nan, 0.9, 0.5, np.nan, 0.3])
    assert bootstrap_interval(values) == bootstrap_interval(values[~np.isnan(values)])
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(np.array([0.25] * 5)) == (0.25, 0.25)
    assert all(map(math.isnan, bootstrap_interval(np.array([np.nan]))))


@settings(max_examples=10)
@given(hnp.arrays(float, st.integers(1, 12), elements=st.floats(0, 1)))
def test_interval_lies_within_the_values(values):
    low, high = bootstrap_interval(values)
    assert values.min() - 1e-12 <= low <= high <= values.max() + 1e-12


# Per class


@pytest.mark.parametrize("scale", [0.1, 1.0, 40.0])
def test_hits_are_added_above_every_score_whatever_its_scale(scale):
    """A perfect ranking stays one; of the third class the only row is the last of three: (5 + 6 / 8) / 6."""
    scores = scale * np.array([[5.0, 2.0, 1.5], [3.0, 4.0, 2.0], [1.0, 1.0, 1.0]])
    relevant = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], bool)
    assert padded_class_map(scores[:, :2], relevant[:, :2]) == pytest.approx(1)
    assert padded_class_map(scores, relevant) == pytest.approx((1 + 1 + (5 + 6 / 8) / 6) / 3)


def test_figures_per_class_by_hand():
    """Class 0: two of three found, one taken for it; class 1: never found; class 2: no recording, never predicted."""
    scores = np.array([[0.9, 0.1, 0.0], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]])
    rows = per_class(scores, np.array([0, 0, 0, 1]))
    assert rows[0] == {
        "recordings": 3,
        "predicted": 3,
        "hits": 2,
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
    }
    assert rows[1] == {"recordings": 1, "predicted": 1, "hits": 0, "precision": 0, "recall": 0, "f1": 0}
    assert (rows[2]["recordings"], rows[2]["predicted"], rows[2]["hits"]) == (0, 0, 0)
    assert all(math.isnan(rows[2][name]) for name in ("precision", "recall", "f1"))


@given(st.integers(1, 12), st.integers(2, 5), st.integers(0, 1000))
def test_figures_per_class_by_counting(recordings, classes, seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.random((recordings, classes)), rng.integers(0, classes, recordings)
    best = [max(range(classes), key=lambda c: row[c]) for row in scores]
    for c, row in enumerate(per_class(scores, labels)):
        hits = sum(b == c == y for b, y in zip(best, labels, strict=True))
        assert (row["recordings"], row["predicted"], row["hits"]) == ((labels == c).sum(), best.count(c), hits)
        assert row["precision"] == pytest.approx(hits / best.count(c) if c in best else math.nan, nan_ok=True)
        assert row["recall"] == pytest.approx(hits / (labels == c).sum() if c in labels else math.nan, nan_ok=True)
