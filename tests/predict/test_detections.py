"""Rankings and detections from scores of segments, by hand and by properties."""

import tracemalloc
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from config import Predict
from predict.detections import POOLS, conclude, detect, lay_onto, on_grid, smooth
from predict.scores import judge
from preprocess.recordings import Recording
from tests.predict.test_formats import result

SCORES = np.array([[0.9, 0.1, 0.2], [0.5, 0.3, 0.2], [0.1, 0.8, 0.4]])
SECONDS = np.array([[0.0, 5.0], [5.0, 10.0], [10.0, 15.0]])
HALF = np.full(3, 0.5)


def found(*arguments, **options):
    return [(d.start, d.end, d.species, d.score) for d in detect(*arguments, Predict(**options))]


@pytest.mark.parametrize(
    ("pool", "value"),
    [
        ("mean", [1.5 / 3, 1.2 / 3, 0.8 / 3]),
        ("max", [0.9, 0.8, 0.4]),
        ("squared", [1.07 / 3, 0.74 / 3, 0.24 / 3]),
        ("share", [1.07 / 2.05, 0.74 / 2.05, 0.24 / 2.05]),
        ("log_mean_exp", [np.log((np.exp(4.5) + np.exp(2.5) + np.exp(0.5)) / 3) / 5, None, None]),
    ],
)
def test_pools_by_hand(pool, value):
    pooled = POOLS[pool](SCORES)
    known = [i for i, own in enumerate(value) if own is not None]
    np.testing.assert_allclose(pooled[known], [value[i] for i in known], rtol=1e-12)


def test_the_share_of_the_three_best_is_one():
    scores = np.random.default_rng(0).random((7, 9))
    pooled = POOLS["share"](scores)
    assert np.sort(pooled)[-3:].sum() == pytest.approx(1)
    assert np.argsort(pooled).tolist() == np.argsort((scores**2).sum(axis=0)).tolist()
    assert (POOLS["share"](np.zeros((2, 4))) == 0).all()


def test_log_mean_exp_lies_between_mean_and_maximum():
    scores = np.random.default_rng(0).random((7, 9))
    pooled = POOLS["log_mean_exp"](scores)
    assert (pooled > scores.mean(axis=0)).all()
    assert (pooled < scores.max(axis=0)).all()


def test_log_mean_exp_of_next_to_nothing_is_no_less_than_nothing():
    """Whatever the logarithms are rounded to, which depends on the number of segments."""
    rng = np.random.default_rng(0)
    for segments in range(1, 20):
        scores = 10.0 ** -rng.uniform(12, 22, (segments, 300))
        assert POOLS["log_mean_exp"](scores).min() >= 0


def test_scores_are_no_more_than_one():
    """Sums of 32-bit numbers may be 1 + 1e-7, which no run file may hold."""
    logits = np.array([[10.0, -10.0], [100.0, 0.0]], np.float32)
    loss = SimpleNamespace(
        whole=True,
        segment_scores=lambda given: np.where(given > 0, np.float32(1.0000001), -1e-17),
        recording_scores=lambda given: np.array([1.0000001, -1e-17], np.float32),
    )
    scores, ranking = judge(loss, logits)
    assert scores.tolist() == [[1, 0], [1, 0]]
    assert ranking.tolist() == [1, 0]


def test_the_rule_of_a_loss_ranks_recordings():
    """Where it has one for whole recordings; else they have the mean of their segments."""
    logits = np.array([[1.0, -1.0], [3.0, 0.5]])
    loss = SimpleNamespace(whole=True, segment_scores=expit, recording_scores=lambda given: expit(given.max(axis=0)))
    np.testing.assert_allclose(judge(loss, logits)[1], expit([3.0, 0.5]))
    loss.whole = False
    scores, ranking = judge(loss, logits)
    np.testing.assert_allclose(ranking, (expit([1.0, -1.0]) + expit([3.0, 0.5])) / 2)
    np.testing.assert_array_equal(scores, expit(logits))


def test_smoothing_is_for_detections_and_leaves_the_ranking():
    row, minimum = Recording("x", "x.wav"), np.full(3, 0.6)
    own = conclude(row, Path("x.wav"), SECONDS, SCORES, HALF, minimum, Predict(smooth=True, pool="max"))
    assert own.ranking.tolist() == SCORES.max(axis=0).tolist()
    middle = (0.2 * 0.9 + 0.4 * 0.5 + 0.2 * 0.1) / 0.8
    np.testing.assert_allclose(own.scores[1, 0], middle)
    assert [found.species for found in own.detections] == [0]  # 1 reaches 0.8, and less with its neighbours
    assert conclude(row, Path("x.wav"), SECONDS, SCORES, HALF, minimum, Predict()).ranking is HALF


def test_species_that_are_not_expected_are_not_detected():
    """Whatever the minimum is, and it may be 0."""
    row, weights = Recording("x", "x.wav"), np.array([1.0, 0.0, 0.5])
    minimum, settings = np.zeros(3), Predict(merge=False)
    own = conclude(row, Path("x.wav"), SECONDS, SCORES, SCORES.mean(axis=0), minimum, settings, weights)
    assert {found.species for found in own.detections} == {0, 2}


def test_consecutive_segments_are_one_detection():
    assert found(SECONDS, SCORES, HALF) == [(0.0, 10.0, 0, 0.9), (10.0, 15.0, 1, 0.8)]
    assert found(SECONDS, SCORES, HALF, merge=False) == [(0.0, 5.0, 0, 0.9), (5.0, 10.0, 0, 0.5), (10.0, 15.0, 1, 0.8)]


def test_a_gap_divides_detections():
    """Of time, as where the mask dropped frames, or of a score."""
    apart = np.array([[0.0, 5.0], [7.0, 12.0], [12.0, 17.0]])
    assert found(apart, SCORES, HALF) == [(0.0, 5.0, 0, 0.9), (7.0, 12.0, 0, 0.5), (12.0, 17.0, 1, 0.8)]
    again = SCORES[[0, 2, 0]]
    assert found(SECONDS, again, HALF) == [(0.0, 5.0, 0, 0.9), (5.0, 10.0, 1, 0.8), (10.0, 15.0, 0, 0.9)]


def test_overlapping_segments_are_merged():
    overlapping = np.array([[0.0, 5.0], [2.5, 7.5], [5.0, 10.0]])
    assert found(overlapping, SCORES, np.full(3, 0.1))[0] == (0.0, 10.0, 0, 0.9)
    inside = np.array([[0.0, 10.0], [2.5, 7.5], [8.0, 9.0]])
    assert found(inside, SCORES, np.full(3, 0.1))[0] == (0.0, 10.0, 0, 0.9)


def test_every_species_has_its_minimum_and_the_best_come_first():
    minimum = np.array([0.95, 0.1, 0.2])
    assert found(SECONDS, SCORES, minimum) == [(0.0, 15.0, 2, 0.4), (0.0, 15.0, 1, 0.8)][::-1]
    assert found(SECONDS, SCORES, minimum, top=1) == [(10.0, 15.0, 1, 0.8)]
    assert found(SECONDS, SCORES, np.full(3, 0.15), top=2, merge=False) == [
        (0.0, 5.0, 0, 0.9),
        (0.0, 5.0, 2, 0.2),
        (5.0, 10.0, 0, 0.5),
        (5.0, 10.0, 1, 0.3),
        (10.0, 15.0, 1, 0.8),
        (10.0, 15.0, 2, 0.4),
    ]
    together = [(0.0, 5.0, 2, 0.9), (0.0, 5.0, 0, 0.8), (0.0, 5.0, 1, 0.7), (5.0, 10.0, 1, 0.6)]
    assert found(SECONDS[:2], np.array([[0.8, 0.7, 0.9], [0.1, 0.6, 0.1]]), HALF, merge=False) == together


def test_smoothing_by_hand():
    column = np.array([[1.0], [0.0], [0.0], [0.0], [0.0], [1.0]])
    expected = [0.4 / 0.7, 0.2 / 0.9, 0.1, 0.1, 0.2 / 0.9, 0.4 / 0.7]
    np.testing.assert_allclose(smooth(column)[:, 0], expected)
    np.testing.assert_allclose(smooth(column[:1]), 1)
    np.testing.assert_allclose(smooth(column[:2])[:, 0], [0.4 / 0.6, 0.2 / 0.6])


@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_smoothing_keeps_what_is_constant_and_the_limits(segments, species, seed):
    scores = np.random.default_rng(seed).random((segments, species))
    smoothed = smooth(scores)
    assert (smoothed >= scores.min(axis=0) - 1e-12).all()
    assert (smoothed <= scores.max(axis=0) + 1e-12).all()
    np.testing.assert_allclose(smooth(np.full((segments, species), 0.3)), 0.3)


def test_scores_of_other_segments_are_laid_on_by_overlap():
    wanted = np.array([[0.0, 4.0], [4.0, 8.0], [30.0, 34.0]])
    np.testing.assert_allclose(lay_onto(wanted, SECONDS, SCORES)[:, 0], [0.9, (0.9 + 3 * 0.5) / 4, 0])
    assert lay_onto(SECONDS, SECONDS, SCORES) is SCORES


@pytest.mark.parametrize(
    ("duration", "ends"),
    [
        (15.0, [5, 10, 15]),
        (14.2, [5, 10, 15]),
        (15.1, [5, 10, 15, 20]),
        (15.02, [5, 10, 15, 20]),
        (15.002, [5, 10, 15]),
        (2.0, [5]),
    ],
)
def test_the_grid_of_competitions(duration, ends):
    seconds = np.clip(SECONDS, 0, duration)[: len(ends)]
    found_ends, scores = on_grid(result(duration=duration, seconds=seconds, scores=SCORES[: len(seconds)]), 5.0)
    assert found_ends.tolist() == ends
    np.testing.assert_allclose(scores[:3], SCORES[: len(ends)])
    if len(ends) == 4:
        np.testing.assert_allclose(scores[3], 0)


def test_the_grid_covers_what_was_heard_beyond_the_length_in_a_header():
    ends, scores = on_grid(result(duration=9.8, seconds=SECONDS, scores=SCORES), 5.0)
    assert ends.tolist() == [5, 10, 15]
    np.testing.assert_allclose(scores, SCORES)


@given(st.integers(1, 12), st.integers(0, 99))
def test_detections_cover_exactly_the_segments_that_reach_the_minimum(segments, seed):
    rng = np.random.default_rng(seed)
    starts = np.cumsum(rng.choice([1.0, 2.5, 5.0, 8.0], segments))
    seconds, scores = np.stack([starts, starts + 5], axis=1), rng.random((segments, 2))
    detections = detect(seconds, scores, HALF[:2], Predict())
    for species in range(2):
        own = [d for d in detections if d.species == species]
        for (start, end), score in zip(seconds, scores[:, species], strict=True):
            inside = [d for d in own if d.start <= start and end <= d.end and d.score >= score]
            assert len(inside) == (score >= 0.5) or (score < 0.5 and len(inside) <= 1)
        assert all(a.end < b.start for a, b in pairwise(own))
        assert all(d.score == pytest.approx(scores[:, species][scores[:, species] <= d.score].max()) for d in own)


def test_laying_long_recordings_onto_others_by_a_plain_loop():
    """More stretches than are laid on at once, segments of another length, and gaps."""
    rng = np.random.default_rng(0)
    first = np.sort(rng.uniform(0, 4000, 700))
    seconds = np.stack([first, first + rng.uniform(1, 9, 700)], axis=1)
    scores = rng.random((700, 2))
    ends = 3.0 * np.arange(1, 1400)
    wanted = np.stack([ends - 3, ends], axis=1)
    expected = np.zeros((len(wanted), 2))
    for i, (low, high) in enumerate(wanted):
        overlap = np.array([max(0.0, min(high, b) - max(low, a)) for a, b in seconds])
        if overlap.sum():
            expected[i] = (overlap[:, None] * scores).sum(axis=0) / overlap.sum()
    np.testing.assert_allclose(lay_onto(wanted, seconds, scores), expected, rtol=1e-12)


def test_laying_on_a_day_takes_little_memory():
    """All at once it took 7 GB."""
    first = np.arange(0, 86_400, 2.5)
    seconds = np.stack([first, first + 5], axis=1)
    cells = np.stack([np.arange(0, 86_400, 5.0), np.arange(5, 86_405, 5.0)], axis=1)
    tracemalloc.start()
    found = lay_onto(cells, seconds, np.ones((len(first), 3)))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found == 1).all()
    assert most < 50e6
