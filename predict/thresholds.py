#!/usr/bin/env python3
"""Thresholds and calibration: from which score on a species counts as detected, and what a score means.

python predict/thresholds.py --run runs/demo-residual                        # at most 1 of 1000 false alarms
python predict/thresholds.py --run runs/demo-residual --precision 0.9        # nine of ten detections right
python predict/thresholds.py --run runs/a --folds runs/cv-a                  # from all folds of a cross-validation
python predict/thresholds.py --run runs/a --reviewed review/reviewed.csv     # from clips that a person has judged

Takes recordings that the network was not trained on: the holdout of the run where it has one, else its validation side.
A recording's score is that of its best segment; it is a positive for its main species, counts for nothing for its
background species, and is a negative for all others.

Writes into the run: thresholds.json, which every prediction uses from then on, thresholds.csv (a line per species),
thresholds.png (reliability, and hits and false alarms over the threshold) and roc.png.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, logit

from config import PipelineError
from config.commandline import log, run
from predict.scores import find_run, load_run, open_known
from preprocess.manifest import digest
from preprocess.metadata import decimal, read_rows
from preprocess.plots import open_pyplot
from train.metrics import without_nan
from train.run import Run, write_rows, write_text

FALSE_POSITIVE_RATE = 0.001  # as system 001 has it
FEW = 10  # positives below which a threshold is little more than a guess
ENOUGH = 30  # positives, and negatives, from which on people are told a probability
SMALLEST = 1e-6  # scores are clipped to [SMALLEST, 1 - SMALLEST] before their logit is taken
MAX_CURVES = 60  # species in roc.png; a hundred take a minute to draw, and their names cannot be read
FOLDS = 5  # of the reliability diagram, so that no score is judged by a calibration that has seen it


@dataclass(frozen=True)
class Samples:
    """Scores of species with what is known of them; one row per recording, or per clip that was reviewed."""

    scores: np.ndarray  # float64 [samples, species]
    truth: np.ndarray  # float64 [samples, species]: 1 present, 0 absent, NaN unknown

    def of(self, column: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores and the truth, bool, of one species where it is known."""
        known = ~np.isnan(self.truth[:, column])
        return self.scores[known, column], self.truth[known, column] == 1

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores and the truth, bool, of all species together."""
        known = ~np.isnan(self.truth)
        return self.scores[known], self.truth[known] == 1


@dataclass(frozen=True)
class Thresholds:
    """What thresholds.json holds, for prediction."""

    minimum: np.ndarray  # float64 [species]
    overall: float  # one for all species
    slope: float  # of the calibration: probability = expit(slope * logit(score) + offset)
    offset: float
    judged: int = 0  # positives or negatives that the calibration is from, whichever are fewer; 0: unknown

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities of scores."""
        return expit(self.slope * to_logit(scores) + self.offset)


def read_thresholds(target: Run, monitor: str = "") -> Thresholds | None:
    """Return the thresholds of a run; None if it has none, or they were made for other weights, which is said.

    Args:
        target: the run.
        monitor: which of its weights they are wanted for; empty: by train.monitor of the run.

    Raises:
        PipelineError: if the file is damaged or of other species.
    """
    path = target.folder / "thresholds.json"
    if not path.exists():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        minimum = np.array([float(facts["species"][kind.class_id]["threshold"]) for kind in target.read_species()])
        calibration, overall = facts["calibration"], facts["overall"]
        slope, offset = float(calibration["slope"]), float(calibration["offset"])
        found = Thresholds(minimum, float(overall["threshold"]), slope, offset, count_judged(overall))
        made_for = facts.get("weights")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            f"{path} is damaged or of other species ({type(error).__name__}: {error}). Make it again: "
            "python predict/thresholds.py"
        ) from None
    if made_for is None:  # written by hand
        return found
    usual = target.read_config().train.monitor
    if made_for == digest(target.find_weights(monitor or usual)):
        return found
    remedy = f" Make it again: python predict/thresholds.py --run {target.folder}" if monitor in ("", usual) else ""
    log(f"warning: {path} was made for other weights of the run and is not used.{remedy}")
    return None


def count_judged(overall: dict[str, Any]) -> int:
    """Return how many positives or negatives, whichever are fewer, figures of `rates` are from; 0 if unknown."""
    positives = int(overall.get("positives", 0))
    return min(positives, int(overall.get("n", 0)) - positives)


def to_logit(scores: np.ndarray) -> np.ndarray:
    """Return ln(p / (1 - p)) of scores, finite."""
    return logit(np.clip(scores, SMALLEST, 1 - SMALLEST))


# Samples


def samples_of_run(target: Run) -> Samples:
    """Score the recordings that a run has held back; a recording's score is that of its best segment.

    Raises:
        PipelineError: if there is none, or the corpus has changed since the run was trained.
    """
    from preprocess.segments import list_segments
    from train.scoring import segment_logits, split

    config, model, loss = load_run(target)
    data = open_known(target, config)
    sides = target.read_split()
    by_side = {
        name: np.array([i for i, media_id in enumerate(data.reader.media_id) if sides.get(media_id) == name], int)
        for name in ("holdout", "validation")
    }
    chosen = by_side["holdout"] if len(by_side["holdout"]) else by_side["validation"]
    if not len(chosen):
        raise PipelineError(f"{target.folder} has held back no recordings of {config.corpus_dir}.")
    owners, starts = list_segments(data.reader, chosen, config.predict.hop)
    logits = segment_logits(model, data.reader, owners, starts, config.predict.batch_size)
    scores = np.stack([loss.segment_scores(own).max(axis=0) for own in split(logits, owners, chosen)])
    truth = np.zeros(scores.shape)
    truth[data.background[chosen].toarray()] = np.nan
    truth[np.arange(len(chosen)), data.labels[chosen]] = 1
    return Samples(scores.astype(np.float64), truth)


def samples_of_folds(folder: Path, class_ids: Sequence[str]) -> Samples:
    """Return the samples of all finished runs of a cross-validation, each scored by the network that did not see it.

    Raises:
        PipelineError: if there is no finished run, or one has other species.
    """
    runs = [Run(path.parent) for path in sorted(folder.glob("fold*-seed*/metrics.json"))]
    if not runs:
        raise PipelineError(f"{folder} holds no finished run of a cross-validation (python train/crossValidate.py).")
    parts = []
    for target in runs:
        if [kind.class_id for kind in target.read_species()] != list(class_ids):
            raise PipelineError(f"{target.folder} knows other species than the run.")
        log(f"scoring what {target.folder} has held back")
        parts.append(samples_of_run(target))
    return join(parts)


def samples_of_review(path: Path, class_ids: Sequence[str]) -> Samples:
    """Return the clips that a person has judged: columns class_id, score, and verdict (right or wrong).

    Raises:
        PipelineError: if the file is missing, damaged, or judges no species of the run.
    """
    column = {name: i for i, name in enumerate(class_ids)}
    try:
        cells = [row for _, row in read_rows(path, ("class_id", "score", "verdict")) if row]
        rows = [row for row in cells if row["verdict"] in ("right", "wrong") and row["class_id"] in column]
        scores, truth = np.zeros((len(rows), len(column))), np.full((len(rows), len(column)), np.nan)
        for i, row in enumerate(rows):
            c = column[row["class_id"]]
            scores[i, c], truth[i, c] = float(decimal(row["score"])), row["verdict"] == "right"
    except (PipelineError, ValueError) as error:
        raise PipelineError(f"{path} is no table of judged clips (class_id, score, verdict): {error}") from None
    if not ((scores >= 0) & (scores <= 1)).all():
        raise PipelineError(f"{path} holds a score that is no number from 0 to 1.")
    if not len(rows):
        raise PipelineError(f"{path} judges no clip of a species of the run as right or wrong.")
    return Samples(scores, truth)


def join(parts: Sequence[Samples]) -> Samples:
    """Return samples one after the other."""
    return Samples(np.concatenate([part.scores for part in parts]), np.concatenate([part.truth for part in parts]))


# Thresholds


def by_false_positives(scores: np.ndarray, present: np.ndarray, rate: float) -> float:
    """Return the lowest threshold that at most a share `rate` of the negatives reaches (scores >= threshold)."""
    negatives = np.sort(scores[~present])[::-1]
    allowed = int(np.floor(rate * len(negatives) + 1e-9))
    return float(np.nextafter(negatives[allowed], np.inf)) if allowed < len(negatives) else 0.0


def by_precision(scores: np.ndarray, present: np.ndarray, precision: float) -> float:
    """Return the lowest threshold at which so many of what reaches it are right; above all scores where none does."""
    from sklearn.metrics import precision_recall_curve  # here, as it takes 2 s that a prediction need not spend

    if not present.any():
        return float(np.nextafter(max(scores.max(initial=0.0), 1.0), np.inf))
    reached, _, values = precision_recall_curve(present, scores)
    good = np.flatnonzero(reached[:-1] >= precision)
    return float(values[good[0]]) if len(good) else float(np.nextafter(max(scores.max(), 1.0), np.inf))


def rates(scores: np.ndarray, present: np.ndarray, threshold: float) -> dict[str, Any]:
    """Return n, positives, threshold, fpr, tpr and precision at a threshold; what is not defined is NaN."""
    above = scores >= threshold

    def share(of: np.ndarray) -> float:
        return float(above[of].mean()) if of.any() else float("nan")

    return {
        "n": len(scores),
        "positives": int(present.sum()),
        "threshold": threshold,
        "fpr": share(~present),
        "tpr": share(present),
        "precision": float(present[above].mean()) if above.any() else float("nan"),
    }


def calibrate(scores: np.ndarray, present: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Fit the logistic calibration of Platt (1999) to the logits of scores.

    Returns:
        Slope, offset, and the probabilities of the same samples by calibrations that had not seen them.

    Raises:
        PipelineError: if there are not enough samples with and without the species.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    if min(present.sum(), (~present).sum()) < FOLDS:
        raise PipelineError(
            f"Calibration needs at least {FOLDS} positives and negatives; there are {int(present.sum())} and "
            f"{int((~present).sum())}. Hold back more recordings (train.validation), or use --folds."
        )
    model = LogisticRegression(C=1e6, max_iter=1000)
    values = to_logit(scores)[:, None]
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    unseen = cross_val_predict(model, values, present, cv=folds, method="predict_proba")[:, 1]
    model.fit(values, present)
    if model.coef_[0, 0] <= 0:
        raise PipelineError(
            "Recordings with the species have no higher scores than those without it, so that no calibration and no "
            "threshold can be found. Judge more clips, or look whether the classes are those of the run."
        )
    return float(model.coef_[0, 0]), float(model.intercept_[0]), unseen


def reliability(probabilities: np.ndarray, present: np.ndarray, bins: int = 10) -> tuple[np.ndarray, np.ndarray, float]:
    """Return mean probability and share of positives per bin with samples, and the expected calibration error."""
    which = np.minimum((probabilities * bins).astype(int), bins - 1)
    counts = np.bincount(which, minlength=bins)
    filled = counts > 0
    claimed = np.bincount(which, probabilities, minlength=bins)[filled] / counts[filled]
    observed = np.bincount(which, present, minlength=bins)[filled] / counts[filled]
    return claimed, observed, float(np.sum(counts[filled] * np.abs(claimed - observed)) / counts.sum())


def find_thresholds(samples: Samples, class_ids: Sequence[str], rate: float, precision: float | None) -> dict[str, Any]:
    """Return what thresholds.json holds.

    A species of which nothing is known gets the threshold of all together.

    Raises:
        PipelineError: if there are too few samples.
    """

    def choose(scores: np.ndarray, present: np.ndarray) -> float:
        if precision is not None:
            return by_precision(scores, present, precision)
        return by_false_positives(scores, present, rate)

    scores, present = samples.all()
    slope, offset, unseen = calibrate(scores, present)
    overall = rates(scores, present, choose(scores, present))
    species = {}
    for i, class_id in enumerate(class_ids):
        own, truth = samples.of(i)
        usable = len(own) and (truth.any() or precision is None) and not truth.all()
        species[class_id] = rates(own, truth, choose(own, truth) if usable else overall["threshold"])
    return {
        "target": {"precision": precision} if precision is not None else {"fpr": rate},
        "overall": overall | {"median": float(np.median([row["threshold"] for row in species.values()]))},
        "species": species,
        "calibration": {
            "slope": slope,
            "offset": offset,
            "error_before": reliability(scores, present)[2],
            "error_after": reliability(unseen, present)[2],
        },
    }


# Pictures


def draw(folder: Path, samples: Samples, found: dict[str, Any], names: Sequence[str]) -> None:
    """Write thresholds.png and roc.png."""
    pyplot = open_pyplot()
    from sklearn.metrics import roc_curve

    scores, present = samples.all()
    _, _, unseen = calibrate(scores, present)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    left.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for values, label in ((scores, "score"), (unseen, "calibrated")):
        claimed, observed, error = reliability(values, present)
        left.plot(claimed, observed, marker="o", label=f"{label}, error {error:.3f}")
    left.set(xlabel="what it says", ylabel="share that is right", title="Reliability", xlim=(0, 1), ylim=(0, 1))
    left.legend()
    grid = np.linspace(0, 1, 201)
    hits = [(scores[present] >= t).mean() for t in grid]
    alarms = [(scores[~present] >= t).mean() for t in grid]
    right.plot(grid, hits, label="hits (TPR)")
    right.plot(grid, alarms, label="false alarms (FPR)")
    right.set(xlabel="threshold", ylabel="share", title="All species together", xlim=(0, 1), ylim=(0, 1.02))
    if found["overall"]["threshold"] <= 1:
        right.axvline(found["overall"]["threshold"], color="0.5", linestyle="--", label="threshold")
    right.legend()
    figure.savefig(folder / "thresholds.png", dpi=110)
    pyplot.close(figure)

    present_in = np.array([row["positives"] for row in found["species"].values()])
    most = np.sort(np.argsort(-present_in, kind="stable")[:MAX_CURVES])
    rows = list(found["species"].values())
    columns = min(6, len(most))
    lines = -(-len(most) // columns)
    figure, axes = pyplot.subplots(
        lines,
        columns,
        figsize=(2 * columns, 2.1 * lines),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for axis in axes.flat[len(most) :]:
        axis.set_visible(False)
    for axis, i in zip(axes.flat, most, strict=False):
        name, row, (own, truth) = names[i], rows[i], samples.of(i)
        if truth.any() and not truth.all():
            alarms, hits, _ = roc_curve(truth, own)
            axis.plot(alarms, hits)
            axis.plot(row["fpr"], row["tpr"], marker="o", color="tab:red")
        else:
            axis.text(0.5, 0.5, "no curve", ha="center", va="center", color="0.5", fontsize=8)
        axis.set_title(f"{name}\nn = {row['positives']}", fontsize=7)
        axis.tick_params(labelsize=6)
    figure.supxlabel("false alarms", fontsize=8)
    figure.supylabel("hits", fontsize=8)
    figure.savefig(folder / "roc.png", dpi=90)
    pyplot.close(figure)


def as_text(found: dict[str, Any], names: Sequence[str]) -> str:
    """Return the table for people."""

    def line(name: str, row: dict[str, Any]) -> str:
        shares = "".join(
            f"{row[key]:10.4f}" if row[key] == row[key] else f"{'':10}" for key in ("fpr", "tpr", "precision")
        )
        threshold = f"{row['threshold']:.4f}" if row["threshold"] <= 1 else "never"
        return f"{name[:32]:34}{row['positives']:>6}{threshold:>11}{shares}"

    head = f"{'species':34}{'n':>6}{'threshold':>11}{'FPR':>10}{'TPR':>10}{'precision':>10}"
    rows = [line(name, row) for name, row in zip(names, found["species"].values(), strict=True)]
    calibration = found["calibration"]
    return "\n".join(
        [
            head,
            *rows,
            line("all together", found["overall"]),
            f"calibration: probability = expit({calibration['slope']:.3f} * logit(score) {calibration['offset']:+.3f})",
            f"expected error {calibration['error_before']:.3f} before, {calibration['error_after']:.3f} after",
        ]
    )


def caveats(found: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Return what one should know before one relies on thresholds."""
    texts = []
    rows = list(zip(names, found["species"].values(), strict=True))
    few = [name for name, row in rows if row["positives"] < FEW]
    if few:
        texts.append(
            f"{len(few)} of {len(names)} species have fewer than {FEW} positives, such as {few[0]}: their "
            "thresholds are guesses. Hold back more recordings, or use --folds of a cross-validation."
        )
    mute = [name for name, row in rows if row["tpr"] == 0]
    if mute:
        texts.append(
            f"{len(mute)} of {len(names)} species stay below their threshold wherever they are, such as {mute[0]}: "
            "predictions will hardly ever report them. Allow more false alarms: a larger --fpr, or a lower --precision."
        )
    judged = count_judged(found["overall"])
    if judged < ENOUGH:
        texts.append(
            f"calibrated by {judged} positives or negatives only; below {ENOUGH} the service states no probability"
        )
    return texts


def main() -> None:
    """Find the thresholds and the calibration of a run."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", type=Path, help="run directory (default: the one finished last)")
    parser.add_argument(
        "--fpr",
        type=float,
        default=FALSE_POSITIVE_RATE,
        help=f"share of the negatives that may reach the threshold (default: {FALSE_POSITIVE_RATE})",
    )
    parser.add_argument("--precision", type=float, help="instead: share of what reaches the threshold that is right")
    parser.add_argument("--folds", type=Path, help="folder of a cross-validation: take what its runs have held back")
    parser.add_argument("--reviewed", type=Path, help="CSV of judged clips: class_id, score, verdict")
    args = parser.parse_args()
    for name in ("fpr", "precision"):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            parser.error(f"--{name} is a share, from 0 to 1")
    if args.folds and args.reviewed:
        parser.error("--folds and --reviewed exclude each other")
    target = find_run(args.run)
    species = target.read_species()
    ids = [kind.class_id for kind in species]
    names = [kind.vernacular_name or kind.scientific_name or kind.class_id for kind in species]
    if args.reviewed:
        samples, source = samples_of_review(args.reviewed, ids), str(args.reviewed)
    elif args.folds:
        samples, source = samples_of_folds(args.folds, ids), str(args.folds)
    else:
        samples, source = samples_of_run(target), "recordings held back by the run"
    weights = digest(target.find_weights(target.read_config().train.monitor))
    found = {"from": source, "weights": weights} | find_thresholds(samples, ids, args.fpr, args.precision)
    rows = [{"class_id": name, **without_nan(row)} for name, row in found["species"].items()]
    write_rows(target.folder / "thresholds.csv", rows)
    print(as_text(found, names))
    for text in caveats(found, names):
        log(f"warning: {text}")
    draw(target.folder, samples, found, names)
    write_text(target.folder / "thresholds.json", json.dumps(without_nan(found), indent=1))  # last: it is in force now
    log(f"{target.folder / 'thresholds.json'}: used by every prediction with this run from now on")


if __name__ == "__main__":
    run(main)
