#!/usr/bin/env python3
"""Score a competition's submission as the competition does, against labels of soundscapes or annotations.

./predict.sh soundscapes/ --format kaggle2023 --output submission.csv
python predict/evaluateSubmission.py submission.csv --truth train_soundscapes_labels.csv
python predict/evaluateSubmission.py submission.csv --truth annotations/ --species species.csv   # Raven tables

Files with scores (LifeCLEF 2017 and 2018, 2023 to 2026) get the macro AUROC (2024 to 2026), the padded cmAP (2023),
cmAP (2017, 2018) and the MAP of rows that hold a species; files that say what is there the mean F1 of rows (2020,
2021) and the balanced accuracy of species (2022).

The truth is a file of the same kinds, with 0 and 1 for scores; or train_soundscapes_labels.csv (2026) or
train_soundscape_labels.csv (2021); or Raven tables or a CSV of annotations. Of annotations the rows of the annotated
files are scored, and an annotation counts for a row by the rule of evaluateDetections.py. Rows that the submission
lacks count as nothing found (a competition refuses such a file), and so do species that it lacks; what the truth does
not say, as that of 2022 says nothing of most species in a row, does not count. Intervals are over recordings.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config.commandline import run
from predict.evaluate import HEAD, figure_line
from predict.evaluateDetections import figures
from predict.formats import plain_text
from predict.submission import Table, check_size, read_row_truth, read_submission, recording_of
from train.metrics import (
    average_precision,
    balanced_accuracy,
    bootstrap_interval,
    class_map,
    macro_auroc,
    padded_class_map,
    row_f1,
    without_nan,
)
from train.run import write_rows

TITLES = {
    "macro_auroc": "macro AUROC (2024 to 2026)",
    "padded_cmap": "padded cmAP (2023)",
    "cmap": "cmAP (2017, 2018)",
    "row_map": "MAP of rows with a species",
    "row_f1": "mean F1 of rows (2020, 2021)",
    "balanced_accuracy": "balanced accuracy (2022)",
}


@dataclass(frozen=True)
class Compared:
    """A submission laid beside its truth: the rows of the truth, the species of both."""

    rows: list[str]
    species: list[str]
    scores: np.ndarray  # float64 [rows, species]
    relevant: np.ndarray  # bool [rows, species]
    known: np.ndarray  # bool [rows, species]: what the truth says something about
    decided: bool
    missing: int  # rows of which the submission says nothing, or not all
    surplus: int  # rows that the truth lacks
    unknown: list[str]  # species that the submission lacks


def lay_beside(submission: Table, truth: Table) -> Compared:
    """Return a submission in the rows of its truth; what it does not say is not there."""
    known = set(submission.species)
    unknown = [name for name in truth.species if name not in known]
    species = [*submission.species, *unknown]
    check_size(len(truth.rows), len(species))
    column = {name: i for i, name in enumerate(species)}
    held = np.full((len(truth.rows), len(species)), np.nan if np.isnan(truth.scores).any() else 0.0)
    held[:, [column[name] for name in truth.species]] = truth.scores
    said = np.full(held.shape, np.nan)
    at = {row: i for i, row in enumerate(submission.rows)}
    there = np.array([row in at for row in truth.rows])
    own = slice(len(submission.species))
    said[there, own] = submission.scores[[at[row] for row in truth.rows if row in at]]
    lacks = ~there | (np.isnan(said[:, own]) & ~np.isnan(held[:, own])).any(axis=1)
    return Compared(
        rows=truth.rows,
        species=species,
        scores=np.nan_to_num(said),
        relevant=held == 1,
        known=~np.isnan(held),
        decided=submission.decided,
        missing=int(lacks.sum()),
        surplus=len(at.keys() - set(truth.rows)),
        unknown=unknown,
    )


def interval(rows: list[str], values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of rows, over recordings; NaN rows do not count."""
    _, owner = np.unique([recording_of(row) for row in rows], return_inverse=True)
    sums, counts = (np.bincount(owner, part) for part in (np.nan_to_num(values), ~np.isnan(values)))
    own = np.flatnonzero(counts)
    return bootstrap_interval(own, lambda drawn: sums[drawn].sum() / counts[drawn].sum())


def of_species(beside: Compared, column: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of a species and where it is, both [rows, 1], in the rows of which the truth says that."""
    known = beside.known[:, column]
    return beside.scores[known, column : column + 1], beside.relevant[known, column : column + 1]


def mean_of(figure: Callable[..., float], columns: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the mean of a figure over species, without those for which it is NaN."""
    values = np.array([figure(*column) for column in columns])
    return float(np.nanmean(values)) if (~np.isnan(values)).any() else float("nan")


def evaluate(beside: Compared) -> dict[str, Any]:
    """Return the figures that fit the submission's kind."""
    scores, relevant = beside.scores, beside.relevant
    if beside.decided:
        by_row = {"row_f1": row_f1(scores == 1, relevant)} if beside.known.all() else {}
        of_all = {"balanced_accuracy": balanced_accuracy(scores == 1, relevant, beside.known)}
    else:
        by_row = {"row_map": average_precision(np.where(beside.known, scores, -np.inf), relevant)}
        columns = [of_species(beside, c) for c in np.flatnonzero(beside.known.any(axis=0))]
        of_all = {
            "macro_auroc": mean_of(macro_auroc, columns),
            "padded_cmap": mean_of(padded_class_map, columns),
            "cmap": mean_of(class_map, columns),
        }
    result: dict[str, Any] = {name: {"value": value} for name, value in of_all.items()}
    for name, values in by_row.items():
        some = (~np.isnan(values)).any()
        value = float(np.nanmean(values)) if some else float("nan")
        result[name] = {"value": value, "interval": interval(beside.rows, values)}
    result["rows"] = len(beside.rows)
    result["rows_with_species"] = int(relevant.any(axis=1).sum())
    result["recordings"] = len(set(map(recording_of, beside.rows)))
    result["species"] = len(beside.species)
    result["species_present"] = int(relevant.any(axis=0).sum())
    result["missing_rows"], result["surplus_rows"] = beside.missing, beside.surplus
    result["unknown_species"] = [plain_text(name) for name in beside.unknown]
    return result


def per_species(beside: Compared) -> list[dict[str, Any]]:
    """Return a row per species: how many rows hold it, AUROC and AP of its scores, or hits, alarms and misses."""
    rows = []
    for c, name in enumerate(beside.species):
        scores, relevant = of_species(beside, c)
        row: dict[str, Any] = {"class_id": plain_text(name), "rows": int(relevant.sum())}
        if beside.decided:
            counts = figures(relevant, scores, 1.0)
            row |= {name: counts[name] for name in ("hits", "false_alarms", "missed")}
        else:
            row |= {"auroc": macro_auroc(scores, relevant), "ap": class_map(scores, relevant)}
        rows.append(row)
    return rows


def as_text(result: dict[str, Any]) -> str:
    """Return the figures as a table for people."""
    lines = [HEAD, *(figure_line(title, result[name]) for name, title in TITLES.items() if name in result)]
    lines.append(
        f"{result['rows']} rows of {result['recordings']} recordings, {result['rows_with_species']} of them with a "
        f"species; {result['species_present']} of {result['species']} species present"
    )
    if result["surplus_rows"]:
        lines.append(f"{result['surplus_rows']} rows of the submission are not in the truth and were left out")
    if result["missing_rows"]:
        lines.append(f"{result['missing_rows']} rows of the truth are not in the submission: a competition refuses it")
    if unknown := result["unknown_species"]:
        lines.append(f"{len(unknown)} species of the truth are none of the submission: {', '.join(unknown[:8])}")
    return "\n".join(lines)


def main() -> None:
    """Score a competition's submission against labels of soundscapes or annotations."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "submission", type=Path, help="file of ./predict.sh --format kaggle20.. or birdclef2018-soundscapes"
    )
    parser.add_argument("--truth", type=Path, required=True, help="file of the same kinds, Raven tables, or CSV")
    parser.add_argument("--label-column", default="", help="of annotations, with the species")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--species", type=Path, help="CSV to write with the figures of every species")
    args = parser.parse_args()
    submission = read_submission(args.submission)
    beside = lay_beside(submission, read_row_truth(args.truth, submission, args.label_column))
    result = evaluate(beside)
    if args.species:
        write_rows(args.species, [without_nan(row) for row in per_species(beside)])
    print(json.dumps(without_nan(result), indent=1) if args.json else as_text(result))


if __name__ == "__main__":
    run(main)
