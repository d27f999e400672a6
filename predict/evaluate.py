#!/usr/bin/env python3
"""Score a prediction CSV against a ground truth, by the rules of BirdCLEF 2016.

python predict/evaluate.py predict/demo-residual.csv --truth birdclef_data/demo/truth.csv
python predict/evaluate.py run.csv --truth truth.csv --json
python predict/evaluate.py run.csv --truth truth.csv --run runs/demo-residual  # was it trained on some of them?

The truth has the columns MediaId, ClassId, BackgroundClassIds (separated by commas, may be empty).

Rules where the task gives none: species with equal scores all take the worst rank of their group; species that a
file does not list for a recording share the last place; a recording without any prediction counts 0; predictions
for recordings outside the truth are left out, and so are background species that are no class of the run. cmAP
and AUROC are means over the classes with positives and negatives, by main species.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from config.commandline import run
from predict.formats import plain_text
from predict.runfile import Ranking, compare, read_run_file
from predict.scores import find_run
from preprocess.metadata import read_truth
from train.metrics import (
    average_precision,
    bootstrap_interval,
    chance_map,
    class_map,
    in_top,
    macro_auroc,
    main_species,
    present,
    without_nan,
)
from train.run import write_rows


def per_recording(ranking: Ranking) -> dict[str, np.ndarray]:
    """Return the figures of every recording: map_main, map_background, top1, top5, float64 [recordings]."""
    main = main_species(ranking.labels, len(ranking.classes))
    values = {
        "map_main": average_precision(ranking.scores, main),
        "map_background": average_precision(ranking.scores, ranking.relevant),
        "top1": in_top(ranking.scores, ranking.labels, 1).astype(float),
        "top5": in_top(ranking.scores, ranking.labels, 5).astype(float),
    }
    absent = np.isin(ranking.media_ids, ranking.missing)
    return {name: np.where(absent, 0.0, value) for name, value in values.items()}


def evaluate(ranking: Ranking) -> dict[str, Any]:
    """Return all figures with their 95 % bootstrap intervals over recordings."""
    main = main_species(ranking.labels, len(ranking.classes))
    classes = len(ranking.classes)
    result: dict[str, Any] = {
        name: {"value": float(values.mean()), "interval": bootstrap_interval(values)}
        for name, values in per_recording(ranking).items()
    }
    result["macro_auroc"] = {"value": macro_auroc(ranking.scores, main)}
    result["cmap"] = {"value": class_map(ranking.scores, main)}
    result["chance"] = {
        "map_main": chance_map(main.sum(axis=1), classes),
        "map_background": chance_map(ranking.relevant.sum(axis=1), classes),
        "top1": 1 / classes,
        "top5": min(1.0, 5 / classes),
        "macro_auroc": 0.5,
        "cmap": chance_map(main.sum(axis=0)[present(main)], len(main)),  # recordings ranked within a class
    }
    result["recordings"] = len(ranking.media_ids)
    result["classes"] = classes
    result["classes_present"] = int(main.any(axis=0).sum())
    result["missing_recordings"] = len(ranking.missing)
    result["surplus_recordings"] = ranking.surplus
    result["unknown_background_species"] = ranking.unknown_background
    return result


def best_species(ranking: Ranking) -> np.ndarray:
    """Return the first species of every recording, int columns [recordings]; -1 where there is no prediction."""
    return np.where(np.isin(ranking.media_ids, ranking.missing), -1, np.argmax(ranking.scores, axis=1))


def per_species(ranking: Ranking) -> list[dict[str, Any]]:
    """Return a row per species: counts, precision, recall and F1 of first species, and its average precision.

    What is not defined is NaN: precision where a species never came first, recall and average precision where none of
    the recordings has it.
    """
    best, count = best_species(ranking), len(ranking.classes)
    own, first = np.bincount(ranking.labels, minlength=count), np.bincount(best[best >= 0], minlength=count)
    hits = np.bincount(best[best == ranking.labels], minlength=count)
    ranked = average_precision(ranking.scores.T, main_species(ranking.labels, count).T)
    with np.errstate(invalid="ignore"):
        columns = {"precision": hits / first, "recall": hits / own, "f1": 2 * hits / (own + first), "ap": ranked}
    counts = {"recordings": own, "predicted": first, "hits": hits}
    return [
        {"class_id": plain_text(name)}
        | {key: int(values[c]) for key, values in counts.items()}
        | {key: round(float(values[c]), 5) for key, values in columns.items()}
        for c, name in enumerate(ranking.classes)
    ]


def confusions(ranking: Ranking) -> list[dict[str, Any]]:
    """Return how often each species came first for each: rows of is, taken_for and recordings, the most first."""
    pairs = Counter(zip(ranking.labels.tolist(), best_species(ranking).tolist(), strict=True))
    names = [*map(plain_text, ranking.classes), "nothing"]  # -1 is the last
    found = [{"is": names[is_], "taken_for": names[best], "recordings": count} for (is_, best), count in pairs.items()]
    return sorted(found, key=lambda row: (-row["recordings"], row["is"], row["taken_for"]))


TITLES = {
    "map_main": "MAP, main species",
    "map_background": "MAP, main and background species",
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "macro_auroc": "macro AUROC",
    "cmap": "cmAP",
}


HEAD = f"{'':34}{'value':>8}  {'95 % interval':>17}"


def figure_line(title: str, entry: dict[str, Any]) -> str:
    """Return a figure and its interval, if it has one, below `HEAD`."""
    low, high = entry.get("interval", (None, None))
    interval = "" if low is None else f"{low:.4f} - {high:.4f}"
    return f"{title:34}{entry['value']:8.4f}  {interval:>17}"


def as_text(result: dict[str, Any]) -> str:
    """Return the figures as a table for people."""
    lines = [f"{HEAD}  {'chance':>7}"]
    lines += [f"{figure_line(title, result[name])}  {result['chance'][name]:7.4f}" for name, title in TITLES.items()]
    lines.append(
        f"{result['recordings']} recordings, {result['classes_present']} of {result['classes']} species present"
    )
    for name, words in (
        ("missing_recordings", "recordings of the truth have no prediction and count 0"),
        ("surplus_recordings", "predicted recordings are not in the truth and were left out"),
        ("unknown_background_species", "background species are no class of the run and were left out"),
        ("trained_on", "recordings are among those that the run was TRAINED on: these figures are worth nothing"),
    ):
        if result.get(name):
            lines.append(f"{result[name]} {words}")
    return "\n".join(lines)


def main() -> None:
    """Score a prediction CSV against a ground truth."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("predictions", type=Path, help="run file: MediaId;ClassId;probability")
    parser.add_argument("--truth", type=Path, required=True, help="CSV: MediaId,ClassId,BackgroundClassIds")
    parser.add_argument(
        "--run",
        type=Path,
        help="run directory: tell how many recordings it was trained on, note the scoring in its test_scorings.csv",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--species", type=Path, help="CSV to write with the figures of every species")
    parser.add_argument("--confusions", type=Path, help="CSV to write with how often each species came first for each")
    args = parser.parse_args()
    ranking = compare(read_run_file(args.predictions), read_truth(args.truth))
    result = evaluate(ranking)
    if args.run:
        target, figures = find_run(args.run), {"map": result["map_main"]["value"], "top1": result["top1"]["value"]}
        target.read_config()  # which says so where the folder is no run
        result["trained_on"] = len(target.trained_on(ranking.media_ids))
        with contextlib.suppress(OSError):  # a run may be read-only
            target.note_scoring(str(args.predictions), result["recordings"], figures)
    for path, rows in ((args.species, per_species), (args.confusions, confusions)):
        if path:
            write_rows(path, [without_nan(row) for row in rows(ranking)])
    print(json.dumps(without_nan(result), indent=1) if args.json else as_text(result))


if __name__ == "__main__":
    run(main)
