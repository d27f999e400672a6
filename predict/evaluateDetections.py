#!/usr/bin/env python3
"""Score detections with a time against annotations: precision, recall, F1 and average precision of every species.

./predict.sh site/ --format csv --minimum 0.01 --no-merge --output detections.csv
python predict/evaluateDetections.py detections.csv --truth annotations/          # Raven selection tables
python predict/evaluateDetections.py detections.csv --truth truth.csv --step 3 --output evaluation

Recordings are cut into cells of --step seconds. A cell holds a species if an annotation covers at least a tenth of it,
or if most of an annotation lies in it; its score is the best of the detections that cover as much. Only recordings that
the truth names are scored: to the others nobody has listened. A low --minimum lets the whole curve be seen.

Truth: Raven selection tables (.txt; a folder of them, or one with Begin File or Begin Path), or a CSV with the columns
file, start, end, class_id, or those of the annotated soundscapes on Zenodo; an empty class_id, or nocall, says that a
recording was listened to and holds nothing. Species are matched by class id, scientific or vernacular name. Writes
species.csv, thresholds.csv, confusion.csv, detections.png.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config import PipelineError
from config.commandline import log, run
from predict.drawing import MAX_MATRIX
from predict.formats import plain_text
from preprocess.annotations import (
    MOST_SECONDS,
    Event,
    lies_in,
    match_files,
    read_annotations,
    read_table,
    stretches_of,
)
from preprocess.metadata import fold
from preprocess.plots import open_pyplot
from train.metrics import without_nan
from train.run import write_rows

GRID = np.round(np.arange(0.05, 1.0, 0.05), 2)  # thresholds of thresholds.csv


@dataclass(frozen=True)
class Cells:
    """What is in the cells of all files that were listened to, and what was found there."""

    truth: np.ndarray  # bool [cells, species]
    scores: np.ndarray  # float64 [cells, species]; 0: not detected


# Reading


def read_detections(path: Path) -> tuple[list[Event], dict[str, str], dict[str, float]]:
    """Return the detections of a tidy CSV, class ids by every name of a species, and the lengths of files in s.

    Raises:
        PipelineError: if it cannot be read or lacks a column.
    """
    names: dict[str, str] = {}
    lengths: dict[str, float] = {}
    events = []
    for row in read_table_of_detections(path):
        events.append(Event(row["file"], float(row["start"]), float(row["end"]), row["class_id"], float(row["score"])))
        lengths[row["file"]] = float(row.get("duration") or 0)
        for key in ("class_id", "scientific_name", "vernacular_name"):
            names.setdefault(fold(row.get(key) or ""), row["class_id"])
    names.pop("", None)
    return events, names, lengths


def read_table_of_detections(path: Path) -> list[dict[str, str]]:
    """Return the rows of a tidy CSV of detections.

    Raises:
        PipelineError: if it cannot be read or lacks a column, or a time or score is no number.
    """
    header, rows = read_table(path)
    missing = [name for name in ("file", "start", "end", "class_id", "score") if name not in header]
    if missing:
        raise PipelineError(f"{path} has no column {missing[0]!r}.")
    found = []
    for line, cells in rows:
        row = dict.fromkeys(header, "") | cells
        if not found and row.get("merge") == "True":
            log(
                f"warning: the detections of {path} are merged: all of one has the score of its best segment. Predict "
                "with --no-merge."
            )
        for name in ("start", "end", "score", *(["duration"] if row.get("duration") else [])):
            try:
                within = abs(float(row[name])) <= MOST_SECONDS
            except ValueError:
                within = False
            if not within:
                raise PipelineError(f"{path}, line {line}: {name} is no time or score: {row[name][:40]!r}.")
        found.append(row)
    return found


# Cells


def into_cells(
    truth: Sequence[Event], detections: Sequence[Event], lengths: dict[str, float], classes: Sequence[str], step: float
) -> Cells:
    """Cut the files of the truth into cells.

    Args:
        truth: annotations; labels are classes, or empty.
        detections: with scores.
        lengths: of files in s, where they are known.
        classes: labels in the order of the columns.
        step: length of a cell in s.
    """
    column = {name: i for i, name in enumerate(classes)}
    listened = list(dict.fromkeys(event.file for event in truth))
    ends = dict.fromkeys(listened, 0.0)
    for event in (*truth, *detections):
        if event.file in ends:
            ends[event.file] = max(ends[event.file], event.end, lengths.get(event.file, 0.0))
    counts = [max(1, int(np.ceil(ends[file] / step - 1e-9))) for file in listened]
    counts_of = dict(zip(listened, counts, strict=True))
    first = dict(zip(listened, np.cumsum([0, *counts]).tolist(), strict=False))
    held, scores = np.zeros((sum(counts), len(classes)), bool), np.zeros((sum(counts), len(classes)))
    for events, is_truth in ((truth, True), (detections, False)):
        for event in events:
            if event.file not in ends or not event.label:
                continue
            start, end = max(event.start, 0.0), max(event.end, 0.0)
            count, inside = counts_of[event.file], stretches_of(start, end, step)
            for cell in range(min(inside.start, count - 1), min(inside.stop, count)):
                if lies_in(start, end, cell * step, (cell + 1) * step):
                    at = first[event.file] + cell, column[event.label]
                    if is_truth:
                        held[at] = True
                    else:
                        scores[at] = max(scores[at], event.score)
    return Cells(held, scores)


# Figures


def figures(truth: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, Any]:
    """Return the counts, precision, recall and F1 of cells at a threshold; what is not defined is NaN."""
    found = scores >= max(threshold, np.nextafter(0, 1))
    hits, alarms, missed = (int(np.sum(a & b)) for a, b in ((found, truth), (found, ~truth), (~found, truth)))
    precision = hits / (hits + alarms) if hits + alarms else float("nan")
    recall = hits / (hits + missed) if hits + missed else float("nan")
    f1 = 2 * hits / (2 * hits + alarms + missed) if hits + alarms + missed else float("nan")
    return {"hits": hits, "false_alarms": alarms, "missed": missed, "precision": precision, "recall": recall, "f1": f1}


def detection_ap(truth: np.ndarray, scores: np.ndarray) -> float:
    """Return the average precision of cells; those without a detection are never found. NaN without any positive."""
    if not truth.any():
        return float("nan")
    found = np.sort(scores[truth & (scores > 0)])
    everything = np.sort(scores[scores > 0])
    hits = len(found) - np.searchsorted(found, found)  # with at least this score; ties count
    taken = len(everything) - np.searchsorted(everything, found)
    return float((hits / taken).sum() / truth.sum())


def confusion(cells: Cells, threshold: float) -> np.ndarray:
    """Return how often each species was taken for each, int [species + 1, species + 1]; the last one is nothing.

    Only cells with at most one species in truth are counted; what was taken is the best one that reaches the threshold.
    """
    single = cells.truth.sum(axis=1) <= 1
    truth, scores = cells.truth[single], cells.scores[single]
    count = truth.shape[1]
    held = np.where(truth.any(axis=1), truth.argmax(axis=1), count)
    reaches = scores.max(axis=1, initial=0) >= max(threshold, np.nextafter(0, 1))
    taken = np.where(reaches, scores.argmax(axis=1), count)
    matrix = np.zeros((count + 1, count + 1), int)
    np.add.at(matrix, (held, taken), 1)
    return matrix


def evaluate(cells: Cells, classes: Sequence[str], threshold: float) -> tuple[list[dict], list[dict]]:
    """Return a row per species with a row for all of them, and a row per threshold."""
    rows = []
    for i, name in enumerate(classes):
        own = cells.truth[:, i], cells.scores[:, i]
        rows.append(
            {"class_id": name, "cells": int(own[0].sum()), "ap": detection_ap(*own), **figures(*own, threshold)}
        )
    known = [row["ap"] for row in rows if row["ap"] == row["ap"]]
    together = {
        "class_id": "all",
        "cells": int(cells.truth.sum()),
        "ap": float(np.mean(known)) if known else float("nan"),
    }
    rows.append(together | figures(cells.truth, cells.scores, threshold))
    over = []
    for t in GRID.tolist():
        each = [
            figures(cells.truth[:, i], cells.scores[:, i], t)["f1"] for i in np.flatnonzero(cells.truth.any(axis=0))
        ]
        macro = float(np.mean(each)) if each else float("nan")
        over.append({"threshold": t, **figures(cells.truth, cells.scores, t), "macro_f1": macro})
    return rows, over


def draw(path: Path, cells: Cells, over: Sequence[dict], matrix: np.ndarray, classes: Sequence[str]) -> None:
    """Draw precision, recall and F1 over the threshold, their curve, and the confusions."""
    pyplot = open_pyplot()

    if len(classes) > MAX_MATRIX:  # a picture of a thousand species takes 30 GB, and nobody can read it
        most = np.sort(np.argsort(-matrix[:-1].sum(axis=1), kind="stable")[:MAX_MATRIX])
        classes, matrix = [classes[i] for i in most], matrix[np.ix_([*most, len(classes)], [*most, len(classes)])]
    names = [*classes, "nothing"]
    side = max(4.0, 0.28 * len(names))
    figure, axes = pyplot.subplots(1, 3, figsize=(8 + side, side), width_ratios=(4, 4, side), layout="constrained")
    for key in ("precision", "recall", "f1", "macro_f1"):
        axes[0].plot([row["threshold"] for row in over], [row[key] for row in over], label=key.replace("_", " "))
    axes[0].set(xlabel="threshold", ylim=(0, 1.02), title="All species together")
    axes[0].legend()
    steps = np.unique(cells.scores[cells.scores > 0])
    steps = steps[:: max(1, len(steps) // 300)]
    points = [figures(cells.truth, cells.scores, t) for t in steps]
    axes[1].plot([p["recall"] for p in points], [p["precision"] for p in points])
    axes[1].set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="Precision and recall")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes[2].imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes[2].set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes[2].set_yticks(range(len(names)), names, fontsize=7)
    axes[2].set(xlabel="taken for", ylabel="is", title="Confusions, share of a row")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table for people."""
    lines = [f"{'species':24}{'cells':>7}{'hits':>7}{'alarms':>8}{'precision':>11}{'recall':>8}{'F1':>8}{'AP':>8}"]
    for row in rows:
        shares = "".join(
            f"{row[key]:{width}.3f}" if row[key] == row[key] else " " * width
            for key, width in (("precision", 11), ("recall", 8), ("f1", 8), ("ap", 8))
        )
        lines.append(f"{row['class_id'][:23]:24}{row['cells']:>7}{row['hits']:>7}{row['false_alarms']:>8}{shares}")
    return "\n".join(lines)


def main() -> None:
    """Score detections with a time against annotations."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("detections", type=Path, help="tidy CSV of ./predict.sh --format csv")
    parser.add_argument("--truth", type=Path, required=True, help="Raven table, folder of tables, or CSV")
    parser.add_argument("--step", type=float, default=5.0, help="seconds of a cell (default: 5)")
    parser.add_argument("--threshold", type=float, default=0.5, help="for precision, recall and F1 (default: 0.5)")
    parser.add_argument("--label-column", default="", help="of Raven tables, with the species")
    parser.add_argument("--output", type=Path, help="folder (default: beside the detections)")
    args = parser.parse_args()
    if not args.step > 0:
        parser.error("--step is more than 0")
    detections, names, lengths = read_detections(args.detections)
    truth = read_annotations(args.truth, args.label_column)
    files = match_files({event.file for event in truth}, lengths)
    classes = sorted({*names.values(), *(event.label for event in detections)})
    unknown = sorted({event.label for event in truth if event.label and fold(event.label) not in names})
    if unknown:
        log(
            f"warning: {len(unknown)} species of the truth were never detected and count as missed: "
            f"{', '.join(unknown[:8])}"
        )
        names |= {fold(label): plain_text(label) for label in unknown}
        classes += dict.fromkeys(map(plain_text, unknown))
    if not truth or not classes:
        raise PipelineError(f"There is nothing to compare: {args.truth} holds {len(truth)} annotations.")
    known = [Event(files[e.file], e.start, e.end, names[fold(e.label)] if e.label else "") for e in truth]
    cells = into_cells(known, detections, lengths, classes, args.step)
    silent = sorted(set(files.values()) - set(lengths))
    if silent:
        log(f"warning: nothing was detected in {len(silent)} files of the truth, such as {silent[0]}")
    rows, over = evaluate(cells, classes, args.threshold)
    folder = args.output or args.detections.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "species.csv", [without_nan(row) for row in rows])
    write_rows(folder / "thresholds.csv", [without_nan(row) for row in over])
    matrix = confusion(cells, args.threshold)
    heads = [*classes, "nothing"]
    table = [
        {"is": name, **dict(zip(heads, own.tolist(), strict=True))} for name, own in zip(heads, matrix, strict=True)
    ]
    write_rows(folder / "confusion.csv", table)
    draw(folder / "detections.png", cells, over, matrix, classes)
    print(as_text(rows))
    best = max((row for row in over if row["f1"] == row["f1"]), key=lambda row: row["f1"], default=None)
    ending = f"; best F1 {best['f1']:.3f} at a threshold of {best['threshold']:g}" if best else ""
    log(f"{len(cells.truth)} cells of {args.step:g} s in {len(files)} files{ending}; written to {folder}")


if __name__ == "__main__":
    run(main)
