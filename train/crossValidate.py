#!/usr/bin/env python3
"""Cross-validation: train an experiment once per fold and seed, and score each network on the fold it never saw.

python train/crossValidate.py --config config/best.toml --set data.root=/data/recordings --seeds 3
python train/crossValidate.py --config config/best.toml --set data.source=esc50 --set data.root=/data/ESC-50

Needs stages 1 to 3 (./doall.sh --stop-stage 3). The folds are the official ones of the corpus where it has some,
else --folds stratified ones that keep every recordist together. Within the other folds, train.validation of the
recordings choose what there is to choose. The test part of the corpus is not touched.

Writes <train.folder>/cv-<run>/: a run directory per fold and seed, folds.csv, summary.json, and scores.csv, the scores
that each recording got from the networks that did not see it (another training can learn from them: train.teacher). The
same command resumes an interrupted run; runs that are finished are not trained again.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import dataclasses
import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from config import Config, ConfigError, Part, PipelineError
from config.commandline import add_config_arguments, load_config, log, run
from preprocess.alone import TURN, alone_in
from preprocess.recordings import Recording, read_table
from preprocess.split import choose_sides
from train.metrics import bootstrap_interval
from train.run import Run, resolve, write_rows, write_text
from train.scored import ensemble, read_scored, write_scored
from train.trainModel import train

FIGURES = {"top1": "top-1 accuracy", "map": "MAP, main species"}


@dataclass(frozen=True)
class Trial:
    """One training of a cross-validation."""

    fold: str
    seed: int
    config: Config


def plan(config: Config, folds: int | None, seeds: int, group_by: str) -> list[Trial]:
    """Return the trainings, seed by seed.

    Args:
        config: the experiment; its split is replaced.
        folds: number of folds; None: the official ones, or 5 where the corpus has none.
        seeds: how many seeds, from train.seed on.
        group_by: what stays together where the folds are not official: "recordist" or "observation".

    Raises:
        ConfigError: if there are fewer than two folds, or there is a teacher.
        PipelineError: if the manifest is missing.
    """
    if config.train.teacher:
        raise ConfigError(
            "train.teacher cannot be cross-validated: the teacher's networks were trained on the folds that its "
            "student would be scored on. Train the student on the training part and score it on the test part."
        )
    official = sorted({row.fold for row in training_rows(config) if row.fold})
    if folds is None and len(official) > 1:
        splits = {name: Part("folds", {"validation": "", "holdout": name}) for name in official}
    else:
        count = 5 if folds is None else folds
        if count < 2:
            raise ConfigError(f"Invalid value for --folds. Received: {count}. Expected: at least 2.")
        splits = {str(k + 1): Part("kfold", {"k": count, "fold": k, "holdout": True}) for k in range(count)}
    folder = f"{config.train.folder}/cv-{config.run_dir.name}"
    return [
        Trial(
            fold,
            seed,
            dataclasses.replace(
                config,
                train=dataclasses.replace(
                    config.train,
                    split=part,
                    group_by=group_by,
                    seed=seed,
                    folder=folder,
                    run=f"fold{quote(fold, safe=' ')}-seed{seed}",  # the name of a folder, whatever the fold's is
                ),
            ),
        )
        for seed in range(config.train.seed, config.train.seed + seeds)
        for fold, part in splits.items()
    ]


def check_sides(trials: Sequence[Trial]) -> None:
    """See before the first training that every one has recordings on all sides.

    Raises:
        PipelineError: naming the fold that has not.
    """
    if not trials:
        return
    rows = training_rows(trials[0].config)
    log(f"checking the sides of {len(trials)} trainings of {len(rows)} recordings")
    for trial in trials:
        try:
            choose_sides(rows, trial.config.train)
        except PipelineError as error:
            raise PipelineError(f"Fold {trial.fold}, seed {trial.seed}: {error}") from None


def training_rows(config: Config) -> list[Recording]:
    """Return the recordings of the training part of a corpus."""
    return [row for row in read_table(config.corpus_dir / "recordings.csv", Recording) if row.part == "train"]


def fold_row(trial: Trial) -> dict[str, Any]:
    """Return the line of folds.csv of a finished training."""
    target = Run(trial.config.run_dir)
    metrics, figures = target.read_metrics(), read_scored(target.folder / "holdout.csv").figures()
    return {
        "fold": trial.fold,
        "seed": trial.seed,
        "recordings": len(figures["top1"]),
        **{name: round(float(values.mean()), 5) for name, values in figures.items()},
        **{name: round(metrics["validation"][name], 5) for name in ("val_top1", "val_map")},
        "epochs": metrics["epochs"],
        "seconds": round(metrics["seconds"], 1),
    }


def summarise(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the figures of finished trainings over all their folds.

    For top1 and map: value, the mean over recordings and seeds; interval, its 95 % bootstrap interval over
    recordings; seeds, the value of each seed, and deviation, their standard deviation where there are several;
    ensemble, value and interval of the mean scores of all seeds.
    """
    seeds = sorted({trial.seed for trial in trials})
    folds = list(dict.fromkeys(trial.fold for trial in trials))
    scored = {(trial.fold, trial.seed): read_scored(trial.config.run_dir / "holdout.csv") for trial in trials}
    summary: dict[str, Any] = {"folds": folds, "seeds": seeds}
    for name in FIGURES:
        by_seed = np.array([np.concatenate([scored[fold, seed].figures()[name] for fold in folds]) for seed in seeds])
        each = by_seed.mean(axis=1).tolist()
        summary[name] = {
            "value": float(by_seed.mean()),
            "interval": bootstrap_interval(by_seed.mean(axis=0)),
            "seeds": each,
        }
        if len(seeds) > 1:
            together = np.concatenate([ensemble([scored[fold, s] for s in seeds]).figures()[name] for fold in folds])
            summary[name]["deviation"] = statistics.stdev(each)
            summary[name]["ensemble"] = {"value": float(together.mean()), "interval": bootstrap_interval(together)}
    summary["recordings"] = by_seed.shape[1]
    return summary


def as_text(rows: Sequence[dict[str, Any]], summary: dict[str, Any]) -> str:
    """Return the table for people."""
    lines = [f"{'fold':>8}{'seed':>6}{'recordings':>12}{'top-1':>9}{'MAP':>9}{'epochs':>8}{'minutes':>9}"]
    lines += [
        f"{row['fold']:>8}{row['seed']:>6}{row['recordings']:>12}{row['top1']:>9.4f}{row['map']:>9.4f}"
        f"{row['epochs']:>8}{row['seconds'] / 60:>9.1f}"
        for row in rows
    ]
    for name, title in FIGURES.items():
        found = summary[name]
        low, high = found["interval"]
        text = f"{title}: {found['value']:.4f} ({low:.4f} - {high:.4f}) over {summary['recordings']} recordings"
        if "ensemble" in found:
            low, high = found["ensemble"]["interval"]
            text += (
                f"; deviation between {len(summary['seeds'])} seeds {found['deviation']:.4f}; "
                f"their ensemble {found['ensemble']['value']:.4f} ({low:.4f} - {high:.4f})"
            )
        lines.append(text)
    return "\n".join(lines)


def cross_validate(trials: Sequence[Trial], chosen: Sequence[str] = ()) -> None:
    """Train what is missing, and write and print the table of what is finished.

    Args:
        trials: from `plan`.
        chosen: names of the folds to train; empty: all.

    Raises:
        ConfigError: if a chosen fold is not known.
        PipelineError: if a training cannot be done.
    """
    import keras

    trials = [dataclasses.replace(trial, config=resolve(trial.config)) for trial in trials]
    known = list(dict.fromkeys(trial.fold for trial in trials))
    for name in chosen:
        if name not in known:
            raise ConfigError(f"Unknown fold {name}. The folds are: {', '.join(known)}.")
    wanted = [trial for trial in trials if not chosen or trial.fold in chosen]
    check_sides([trial for trial in wanted if not Run(trial.config.run_dir).is_finished(trial.config)])
    for number, trial in enumerate(wanted, 1):
        log(f"training {number} of {len(wanted)}: fold {trial.fold}, seed {trial.seed}")
        keras.backend.clear_session()
        train(trial.config)
        with alone_in(trial.config.run_dir.parent, TURN):  # other machines may train other folds
            report([done for done in trials if Run(done.config.run_dir).is_finished(done.config)])


def report(finished: Sequence[Trial]) -> None:
    """Write folds.csv, summary.json and scores.csv of the finished trainings and print the first two.

    Seeds that lack a fold that others have are left out of the summary and the scores.
    """
    folder = finished[0].config.run_dir.parent
    rows = [fold_row(trial) for trial in finished]
    write_rows(folder / "folds.csv", rows)
    folds = list(dict.fromkeys(trial.fold for trial in finished))
    seen = {seed: {t.fold for t in finished if t.seed == seed} for seed in {t.seed for t in finished}}
    whole = [trial for trial in finished if len(seen[trial.seed]) == len(folds)]
    check_same_folds(finished)
    if not whole:
        log("no seed has all of these folds yet, so that there is no summary")
        return
    summary = summarise(whole)
    write_text(folder / "summary.json", json.dumps(summary, indent=1))
    by_fold = [[read_scored(t.config.run_dir / "holdout.csv") for t in whole if t.fold == name] for name in folds]
    write_scored(folder / "scores.csv", [ensemble(members) for members in by_fold])
    print(as_text(rows, summary), flush=True)


def check_same_folds(trials: Sequence[Trial]) -> None:
    """See that trainings are of one partition of one corpus.

    Raises:
        PipelineError: naming those that are not.
    """
    scored = [(trial, set(read_scored(trial.config.run_dir / "holdout.csv").media_ids)) for trial in trials]
    for (a, own), (b, others) in itertools.combinations(scored, 2):
        if (a.fold == b.fold and own != others) or (a.fold != b.fold and own & others):
            raise PipelineError(
                f"{a.config.run_dir} and {b.config.run_dir} are of other partitions of the recordings, as after a "
                "change of the corpus. Remove the older ones, or take another name: --set train.run=NAME."
            )


def main() -> None:
    """Train an experiment once per fold and seed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add_config_arguments(parser)
    parser.add_argument("--folds", type=int, help="number of folds (default: the corpus's official ones, else 5)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings per fold, from train.seed on (default: 1)")
    parser.add_argument("--fold", action="append", default=[], metavar="NAME", help="only this fold; may be repeated")
    parser.add_argument(
        "--group-by",
        choices=("recordist", "observation"),
        default="recordist",
        help="what stays together where the folds are not official (default: recordist)",
    )
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error("--seeds is at least 1")
    cross_validate(plan(load_config(args), args.folds, args.seeds, args.group_by), args.fold)


if __name__ == "__main__":
    run(main)
