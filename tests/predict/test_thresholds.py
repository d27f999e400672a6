"""Thresholds and calibration against counting by hand, scikit-learn and known distributions."""

import csv
import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_score, recall_score
from sklearn.model_selection import StratifiedKFold

from config import PipelineError
from predict.predict import predict
from predict.scores import load_run
from predict.thresholds import (
    Samples,
    Thresholds,
    by_false_positives,
    by_precision,
    calibrate,
    caveats,
    find_thresholds,
    join,
    rates,
    read_thresholds,
    reliability,
    samples_of_review,
    samples_of_run,
    to_logit,
)
from preprocess.loadData import features_folder
from preprocess.segments import open_shards, open_view
from tests.conftest import run_script
from tests.predict.test_predict import copied
from train.run import MONITORS

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
PRESENT = np.array([1, 0, 1, 1, 0, 0, 1, 0], bool)


@pytest.mark.parametrize(("rate", "positives"), [(0.0, 1), (0.24, 1), (0.25, 3), (0.5, 3), (0.75, 4), (1.0, 4)])
def test_false_positives_by_hand(rate, positives):
    threshold = by_false_positives(SCORES, PRESENT, rate)
    above = threshold <= SCORES
    assert (above & ~PRESENT).sum() == int(rate * 4)
    assert (above & PRESENT).sum() == positives


def test_a_share_of_false_positives_that_is_a_whole_number_is_used_up():
    """In floating point 0.29 times 100 is 28.999999999999996."""
    scores = np.arange(100) / 100
    assert (scores >= by_false_positives(scores, np.zeros(100, bool), 0.29)).sum() == 29


@pytest.mark.parametrize(("precision", "threshold"), [(1.0, 0.9), (0.75, 0.6), (0.6, 0.5), (0.5, 0.2), (0.57, 0.3)])
def test_precision_by_hand(precision, threshold):
    assert by_precision(SCORES, PRESENT, precision) == threshold


def test_a_precision_that_is_never_reached():
    assert by_precision(SCORES, ~PRESENT, 0.9) > 1
    assert by_precision(SCORES, np.zeros(8, bool), 0.1) > 1


@given(st.integers(2, 60), st.integers(0, 999), st.floats(0, 1))
def test_no_lower_threshold_would_do(count, seed, target):
    rng = np.random.default_rng(seed)
    scores, present = rng.integers(0, 9, count) / 9, rng.random(count) < 0.4  # with ties
    threshold = by_false_positives(scores, present, target)
    if (~present).any():
        assert (scores[~present] >= threshold).mean() <= target + 1e-9
        lower = scores[scores < threshold]
        if len(lower):
            assert (scores[~present] >= lower.max()).mean() > target - 1e-9
    threshold = by_precision(scores, present, target)
    if threshold <= 1:
        assert precision_score(present, scores >= threshold, zero_division=1) >= target
        for lower in {*scores[scores < threshold]}:
            assert precision_score(present, scores >= lower) < target


def test_rates_are_those_of_sklearn():
    found = rates(SCORES, PRESENT, 0.5)
    above = SCORES >= 0.5
    assert found == {
        "n": 8,
        "positives": 4,
        "threshold": 0.5,
        "fpr": 0.5,
        "tpr": recall_score(PRESENT, above),
        "precision": precision_score(PRESENT, above),
    }
    nothing = rates(SCORES, np.zeros(8, bool), 0.95)
    assert nothing["fpr"] == 0
    assert np.isnan(nothing["tpr"])
    assert np.isnan(nothing["precision"])


def test_a_known_distortion_is_found():
    """Labels are drawn by expit(2 x - 1) of the logits x: the calibration has to find 2 and -1."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, 20_000)
    scores, present = expit(logits), rng.random(20_000) < expit(2 * logits - 1)
    slope, offset, unseen = calibrate(scores, present)
    assert slope == pytest.approx(2, abs=0.1)
    assert offset == pytest.approx(-1, abs=0.1)
    assert reliability(unseen, present)[2] < 0.02 < reliability(scores, present)[2]
    known = Thresholds(np.zeros(1), 0.5, slope, offset)
    np.testing.assert_allclose(known.probability(scores[:9]), expit(slope * logits[:9] + offset))
    assert np.isfinite(to_logit(np.array([0.0, 1.0]))).all()


def test_reliability_by_hand():
    claimed, observed, error = reliability(np.array([0.11, 0.19, 0.95, 1.0]), np.array([0, 1, 1, 1], bool))
    np.testing.assert_allclose(claimed, [0.15, 0.975])
    np.testing.assert_allclose(observed, [0.5, 1])
    assert error == pytest.approx(0.5 * 0.35 + 0.5 * 0.025)


def test_reliability_is_that_of_sklearn():
    """Its bins are of one width; the error weighs them by what they hold (Naeini et al. 2015)."""
    rng = np.random.default_rng(0)
    probabilities = rng.random(3000) ** 2
    present = rng.random(3000) < probabilities**1.5
    claimed, observed, error = reliability(probabilities, present)
    shares, means = calibration_curve(present, probabilities, n_bins=10)
    np.testing.assert_allclose(claimed, means)
    np.testing.assert_allclose(observed, shares)
    counts = np.histogram(probabilities, 10, (0, 1))[0]
    assert error == pytest.approx(np.average(np.abs(means - shares), weights=counts))


def test_no_score_is_judged_by_a_calibration_that_has_seen_it():
    """Of few samples a calibration describes its own better than others, which the error is to say."""
    samples = random_samples(24, 3)
    scores, present = samples.all()
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    unseen = np.empty(len(scores))
    for fitted, left in folds.split(scores, present):
        model = LogisticRegression(C=1e6, max_iter=1000).fit(to_logit(scores[fitted])[:, None], present[fitted])
        unseen[left] = model.predict_proba(to_logit(scores[left])[:, None])[:, 1]
    found = find_thresholds(samples, ["a", "b", "c"], 0.05, None)["calibration"]
    assert found["error_after"] == pytest.approx(reliability(unseen, present)[2])
    seen = expit(found["slope"] * to_logit(scores) + found["offset"])
    assert found["error_after"] != pytest.approx(reliability(seen, present)[2], rel=0.01)


def random_samples(count=400, seed=0) -> Samples:
    """Two species that are told apart, and a third that never occurs."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    truth = np.eye(3)[labels]
    return Samples(expit(rng.normal(2 * truth - 1.5, 0.8)), truth)


def test_thresholds_of_every_species():
    samples = random_samples()
    found = find_thresholds(samples, ["a", "b", "c"], 0.05, None)
    for i, name in enumerate("abc"):
        assert found["species"][name] == pytest.approx(
            rates(*samples.of(i), by_false_positives(*samples.of(i), 0.05)), nan_ok=True
        )
        assert found["species"][name]["fpr"] <= 0.05
    assert found["overall"]["fpr"] <= 0.05
    assert found["overall"]["median"] == np.median([row["threshold"] for row in found["species"].values()])
    precise = find_thresholds(samples, ["a", "b", "c"], 0.05, 0.95)
    assert precise["target"] == {"precision": 0.95}
    assert all(precise["species"][name]["precision"] >= 0.95 for name in "ab")
    assert precise["species"]["c"]["threshold"] == precise["overall"]["threshold"]  # never seen: that of all together


def test_what_is_unknown_counts_for_nothing():
    samples = random_samples()
    truth = samples.truth.copy()
    truth[:50, 0] = np.nan
    scores, present = Samples(samples.scores, truth).of(0)
    assert len(scores) == 350
    assert present.sum() == (samples.truth[50:, 0] == 1).sum()
    assert len(Samples(samples.scores, truth).all()[0]) == 3 * 400 - 50
    assert join([samples, samples]).scores.shape == (800, 3)


def test_too_little_to_calibrate():
    with pytest.raises(PipelineError, match="at least 5 positives and negatives; there are 2 and 6"):
        calibrate(SCORES, np.arange(8) < 2)


def test_scores_that_say_the_opposite_calibrate_nothing():
    """As of clips that were judged at random."""
    scores = np.linspace(0.1, 0.9, 20)
    for present in (scores < 0.5, np.arange(20) % 3 == 0):
        with pytest.raises(PipelineError, match="no calibration and no threshold can be found"):
            calibrate(scores, present)


def test_species_that_stay_below_their_threshold_are_named():
    """The second one has a negative above all its positives; of the third no recording is known."""
    rng = np.random.default_rng(0)
    scores, truth = np.zeros((90, 3)), np.zeros((90, 3))
    for column in (0, 1):
        truth[:40, column] = 1
        scores[:, column] = np.where(truth[:, column] == 1, rng.uniform(0.5, 0.9, 90), rng.uniform(0.1, 0.4, 90))
    scores[50, 1] = 0.95
    truth[:, 2] = np.nan
    names = ["Merle", "Mönch", "Zilpzalp"]
    few, mute = caveats(find_thresholds(Samples(scores, truth), ["a", "b", "c"], 0.0, None), names)
    assert few.startswith("1 of 3 species have fewer than 10 positives, such as Zilpzalp")
    assert mute.startswith("1 of 3 species stay below their threshold wherever they are, such as Mönch")
    (few,) = caveats(find_thresholds(Samples(scores, truth), ["a", "b", "c"], 0.03, None), names)
    assert "Zilpzalp" in few


def test_reviewed_clips(tmp_path):
    path = tmp_path / "reviewed.csv"
    path.write_text(
        "clip,class_id,score,verdict\n1,a,0.9,right\n2,b,0.8,wrong\n3,b,0.7,\n4,z,0.6,right\n5,a,0.5,unsure\n"
    )
    samples = samples_of_review(path, ["a", "b"])
    np.testing.assert_array_equal(samples.truth, [[1, np.nan], [np.nan, 0]])
    assert samples.of(1)[0].tolist() == [0.8]


def test_reviewed_clips_that_a_spreadsheet_has_saved(tmp_path):
    path = tmp_path / "reviewed.csv"
    path.write_text("Clip;class_id;Score;verdict\nMönch;a;0,9;right\n2;b;0,8;wrong\n", encoding="utf-8-sig")
    samples = samples_of_review(path, ["a", "b"])
    np.testing.assert_array_equal(samples.scores, [[0.9, 0], [0, 0.8]])
    np.testing.assert_array_equal(samples.truth, [[1, np.nan], [np.nan, 0]])
    path.write_text("clip;class_id;score;verdict\nMönch;a;0,9;right\n" * 99, encoding="cp1252")
    with pytest.raises(PipelineError, match="no CSV file in UTF-8") as error:
        samples_of_review(path, ["a", "b"])
    assert len(str(error.value)) < 300 + len(str(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no table of judged clips"),
        ("a,b\n1,2\n", "no table of judged clips"),
        ("class_id,score,verdict\na,high,right\n", "no table of judged clips"),
        ("class_id,score,verdict\nz,1,right\n", "judges no clip"),
        ("class_id,score,verdict\na,nan,right\n", "no number from 0 to 1"),
        ("class_id,score,verdict\na,87,right\n", "no number from 0 to 1"),
        ("class_id,score,verdict\na,0.5,right" + "x" * 200_000, "no table of judged clips"),
    ],
)
def test_what_is_no_review(tmp_path, text, words):
    if text is not None:
        (tmp_path / "r.csv").write_text(text)
    with pytest.raises(PipelineError, match=words):
        samples_of_review(tmp_path / "r.csv", ["a"])


@pytest.mark.slow
class TestRun:
    def test_samples_are_what_was_held_back(self, run_of_birds):
        samples = samples_of_run(run_of_birds)
        sides = list(run_of_birds.read_split().values())
        assert samples.scores.shape == (sides.count("holdout") or sides.count("validation"), 3)
        assert (np.nansum(samples.truth, axis=1) == 1).all()
        assert ((samples.scores > 0) & (samples.scores < 1)).all()

    def test_a_recording_has_the_score_of_its_best_segment(self, run_of_birds):
        config, model, _ = load_run(run_of_birds)
        reader = open_view(open_shards(features_folder(config), "train"), config.features)
        sides = run_of_birds.read_split()
        held = [i for i, media_id in enumerate(reader.media_id) if sides[media_id] == "holdout"]
        samples = samples_of_run(run_of_birds)
        assert len(held) == len(samples.scores)
        for i, own in zip(held, samples.scores, strict=True):
            starts = reader.segment_starts(i)
            assert len(starts) > 1
            logits = model.predict(reader.read([i] * len(starts), starts), verbose=0)
            np.testing.assert_allclose(own, softmax(logits.astype(float), axis=1).max(axis=0), rtol=1e-4, atol=1e-7)

    def test_predictions_use_them(self, run_of_birds, tmp_path, capsys):
        target = copied(run_of_birds, tmp_path)
        ids = [kind.class_id for kind in target.read_species()]
        facts = {
            "overall": {"threshold": 0.01},
            "species": {name: {"threshold": 2.0} for name in ids} | {ids[0]: {"threshold": 0.0}},
            "calibration": {"slope": 2.0, "offset": -1.0},
        }
        (target.folder / "thresholds.json").write_text(json.dumps(facts))

        def detected(**options):
            (path,) = predict([target], [], tmp_path / "out.csv", ["csv"], **options)
            with path.open(newline="", encoding="utf-8") as stream:
                return list(csv.DictReader(stream))

        rows = detected()
        assert {row["class_id"] for row in rows} == {ids[0]}
        assert {row["minimum"] for row in rows} == {"0.0"}
        for row in rows:
            score = float(row["score"])
            assert float(row["probability"]) == pytest.approx(expit(2 * np.log(score / (1 - score)) - 1), abs=1e-4)
        assert {row["class_id"] for row in detected(thresholds="overall")} == set(ids)
        assert {row["minimum"] for row in detected(thresholds="none")} == {"0.25"}
        assert {row["minimum"] for row in detected(minimum=0.1)} == {"0.1"}
        assert "detections by the thresholds of" in capsys.readouterr().out
        (path,) = predict([target, run_of_birds], [], tmp_path / "both.csv", ["csv"])
        with path.open(newline="", encoding="utf-8") as stream:  # those of one run say nothing of the mean of several
            assert {(row["minimum"], row["probability"]) for row in csv.DictReader(stream)} == {("0.25", "")}

    def test_command(self, run_of_birds, tmp_path, capsys):
        target = copied(run_of_birds, tmp_path)
        rng = np.random.default_rng(0)
        lines = ["clip,class_id,score,verdict"]
        for i in range(90):
            right = rng.random() < 0.5
            name = ["aaaaaa", "bbbbbb", "cccccc"][i % 3]
            lines.append(f"{i},{name},{expit(rng.normal(right * 2 - 1, 1)):.4f},{'right' if right else 'wrong'}")
        (tmp_path / "reviewed.csv").write_text("\n".join(lines) + "\n")
        options = ["--run", target.folder, "--reviewed", tmp_path / "reviewed.csv", "--precision", "0.9"]
        done = run_script("predict/thresholds.py", *options)
        assert done.returncode == 0, done.stderr
        assert "calibration: probability = expit(" in done.stdout
        assert "states no probability" not in done.stdout
        known = read_thresholds(target)
        assert known.judged == min(sum(line.endswith(end) for line in lines) for end in ("right", "wrong"))
        assert known.minimum.shape == (3,)
        assert 0 < known.overall < 1
        assert (target.folder / "thresholds.png").stat().st_size > 10_000
        assert (target.folder / "roc.png").stat().st_size > 5_000
        with (target.folder / "thresholds.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert [row["class_id"] for row in rows] == ["aaaaaa", "bbbbbb", "cccccc"]
        assert all(float(row["precision"]) >= 0.9 for row in rows)
        others = next(name for name in MONITORS if name != target.read_config().train.monitor)
        capsys.readouterr()
        assert read_thresholds(target, others) is None  # they were not made for those
        assert "thresholds.json was made for other weights of the run and is not used" in capsys.readouterr().out
        own = target.find_weights(target.read_config().train.monitor)
        own.unlink()  # a link to that of the other run
        shutil.copy(target.find_weights(others), own)
        assert read_thresholds(target) is None  # as after more epochs
        (target.folder / "thresholds.json").write_text("{}")
        with pytest.raises(PipelineError, match=r"thresholds\.json is damaged"):
            read_thresholds(target)
        (target.folder / "thresholds.json").write_bytes(b"\xff" * 9999)
        with pytest.raises(PipelineError, match="codec can't decode") as error:
            read_thresholds(target)
        assert len(str(error.value)) < 400 + len(str(target.folder))
