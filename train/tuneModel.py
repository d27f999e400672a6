#!/usr/bin/env python3
"""Search for better settings: Optuna's TPE chooses them, Hyperband (Li et al. 2018) ends poor trials early.

python train/tuneModel.py --config config/demo-tune.toml
python train/tuneModel.py --config config/demo-tune.toml --set tune.trials=50    # a finished search goes on

The search space is part of the experiment:

    [tune]
    trials = 30
    [tune.space]
    "train.optimizer.learning_rate" = {low = 1e-5, high = 1e-2, log = true}
    "model.dropout" = {low = 0.0, high = 0.6, step = 0.1}
    "train.augment.mixup.alpha" = [0.1, 0.2, 0.4]

Every trial is a run of its own, runs/<study>-0007. The study is a database, runs/<study>/study.sqlite3: the same
command goes on after any interruption, with the trial that was interrupted, and several machines that see the folder
(or share tune.storage) search together. The best settings go to runs/<study>/best.toml, which doall.sh can run.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import dataclasses
import itertools
import os
import socket
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

import config as configuration
from config import Config, ConfigError, PipelineError, Tune, from_project, toml_value
from config.commandline import add_config_arguments, load_config, log, run
from preprocess.loadData import features_folder
from preprocess.recipes import open_recipe
from preprocess.segments import open_shards
from preprocess.whole import whole_file
from train.run import FREE, DivergedError, Run, best_epoch, flat_settings, resolve, write_rows
from train.trainModel import train

MAX_FAILURES = 3  # trials that fail one after the other before the search gives up
# Features that are views of the same shards; the others would need stages 2 and 3 for every trial.
_FREE_FEATURES = ("features.mask", "features.drop_columns", "features.segment_frames", "features.padding")
_OWN = ("train.run", "train.folder", "train.epochs")  # set by the search itself
_RANGE = {"low", "high", "log", "step"}


@dataclass(frozen=True)
class Dimension:
    """One key of the search space: a list of choices, or a range of numbers."""

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None

    def suggest(self, trial: Any) -> Any:
        """Return the value that an Optuna trial chooses."""
        if self.choices:
            plain = {self.label(choice): choice for choice in self.choices}
            return plain[trial.suggest_categorical(self.key, list(plain))]
        if isinstance(self.low, int):
            return trial.suggest_int(self.key, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    @staticmethod
    def label(choice: Any) -> str | float | int | bool:
        """Return how the study names a choice: tables and lists by their TOML."""
        return choice if isinstance(choice, str | int | float) else toml_value(choice)


def parse_space(space: dict[str, Any], prefix: str = "") -> list[Dimension]:
    """Return the dimensions of a search space; keys may be written with quotes or as nested tables.

    Raises:
        ConfigError: naming the key that is wrong.
    """
    found = []
    for name, value in space.items():
        key = prefix + name
        if isinstance(value, dict) and not value.keys() & _RANGE:
            found += parse_space(value, f"{key}.")
        else:
            found.append(_parse_dimension(key, value))
    if not prefix and not found:
        raise ConfigError(
            "tune.space is empty. Expected: keys such as "
            '"train.optimizer.learning_rate" = {low = 1e-5, high = 1e-2, log = true}.'
        )
    return sorted(found, key=lambda dimension: dimension.key)


def _parse_dimension(key: str, value: Any) -> Dimension:
    where = f"tune.space.{key}"
    section = key.partition(".")[0]
    if key in _OWN or (section not in ("model", "train") and key not in _FREE_FEATURES):
        raise ConfigError(
            f"Unknown key {where}. A search accepts keys of model and train (but {', '.join(_OWN)}), and "
            f"{', '.join(_FREE_FEATURES)}."
        )
    if isinstance(value, list) and value:
        if len({(type(Dimension.label(choice)), Dimension.label(choice)) for choice in value}) < len(value):
            raise ConfigError(f"Invalid value for {where}. Received: {value!r}. Expected: choices that differ.")
        return Dimension(key, tuple(value))
    wanted = "a list of choices, or {low = ..., high = ..., log = true or step = ...} with low < high"
    problem = ConfigError(f"Invalid value for {where}. Received: {value!r}. Expected: {wanted}.")
    if not isinstance(value, dict) or not {"low", "high"} <= value.keys() <= _RANGE:
        raise problem
    low, high, log_scale, step = value["low"], value["high"], value.get("log", False), value.get("step")
    numbers = [low, high] + ([step] if step is not None else [])
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        raise problem
    if not isinstance(log_scale, bool) or not low < high or (log_scale and (low <= 0 or step is not None)):
        raise problem
    if not all(abs(number) < float("inf") for number in numbers) or (step is not None and step <= 0):
        raise problem
    if not all(isinstance(number, int) for number in numbers):
        low, high, step = float(low), float(high), None if step is None else float(step)
    return Dimension(key, (), low, high, log_scale, step)


@dataclass(frozen=True)
class Search:
    """A search: where it lies, its space, and how an experiment is made from chosen values."""

    config: Config  # without overrides by the search
    name: str
    space: Sequence[Dimension]
    override: Callable[[Sequence[str]], Config]  # section.key=value overrides -> experiment

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        return from_project(self.config.train.folder) / self.name

    @property
    def epochs(self) -> int:
        """Epochs of a trial that is not pruned."""
        return self.config.tune.max_epochs or self.config.train.epochs

    def experiment(self, values: dict[str, Any], name: str, epochs: int) -> Config:
        """Return the experiment of chosen values, as a run of a name."""
        chosen = self.override([f"{key}={toml_value(value)}" for key, value in values.items()])
        return dataclasses.replace(
            chosen, train=dataclasses.replace(chosen.train, run=name, epochs=epochs), tune=Tune()
        )

    def identity(self) -> str:
        """Return what may not change while a study goes on, as TOML."""
        tune = dataclasses.replace(self.config.tune, trials=1, storage="", study="")
        options = {key: value for key, value in self.config.data.options.items() if key != "root"}
        data = dataclasses.replace(self.config.data, folder="", corpus=self.config.corpus_dir.name, options=options)
        settings = dataclasses.replace(self.config.train, folder="")
        return configuration.to_toml(dataclasses.replace(self.config, data=data, train=settings, tune=tune))


def differences(old: str, new: str) -> list[str]:
    """Return in words how two identities of a study differ; keys that came later had their defaults."""
    default = flat_settings(configuration.to_dict(Config()))
    before, now = (default | flat_settings(tomllib.loads(text)) for text in (old, new))
    free = FREE - {"train.epochs", "train.patience"}
    keys = sorted(key for key in before | now if key not in free and before.get(key) != now.get(key))
    return [f"{key}: {before.get(key)} -> {now.get(key)}" for key in keys]


def open_search(config: Config, override: Callable[[Sequence[str]], Config]) -> Search:
    """Check a search before it starts.

    Raises:
        ConfigError: if the space is empty or wrong, or the Optuna package is missing.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError("The search needs the optuna package. Install it: pip install optuna") from None
    name = config.tune.study or f"tune-{config.corpus_dir.name}-{config.model.network}"
    search = Search(config, name, parse_space(config.tune.space), override)
    if config.tune.min_epochs > search.epochs:
        raise ConfigError(
            f"Invalid value for tune.min_epochs. Received: {config.tune.min_epochs}. "
            f"Expected: at most the {search.epochs} epochs of a trial."
        )
    for dimension in search.space:
        for value in dimension.choices or (dimension.low, dimension.high):
            check_parts(search.experiment({dimension.key: value}, name, search.epochs))
    return search


def check_parts(config: Config) -> None:
    """Raise a ConfigError if a part of the training, or an option of one, is not known or has a bad value."""
    from train.augment import open_augmentations
    from train.losses import open_loss
    from train.network import open_optimizer

    resolve(config)
    open_loss(config.train.loss)
    open_augmentations(config.train.augment, open_recipe(config.features))
    open_optimizer(config, 1)


def tune(search: Search) -> Path:
    """Run trials until there are as many as asked for, and return the path of the best settings.

    Raises:
        PipelineError: if the study was made with other settings, or trial after trial fails.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search.folder.mkdir(parents=True, exist_ok=True)
    address = search.config.tune.storage or f"sqlite:///{search.folder / 'study.sqlite3'}"
    try:
        study = open_study(search, address)
        resume_interrupted(study)
        failures = 0
        while count_done(study) < search.config.tune.trials:
            failures = 0 if run_trial(search, study) else failures + 1
            if failures == MAX_FAILURES:
                raise PipelineError(f"{failures} trials failed one after the other; the lines above say why.")
        return write_best(search, study)
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error).splitlines()[0][:200]
        raise PipelineError(f"The study {address} cannot be used: {reason}") from None


def open_study(search: Search, address: str) -> Any:
    """Create the study, or open it if it exists.

    Raises:
        PipelineError: if it was made with other settings.
    """
    import optuna

    settings = search.config.tune
    patient = {"connect_args": {"timeout": 60}} if address.startswith("sqlite") else {}  # other machines write too
    study = optuna.create_study(
        study_name=search.name,
        storage=optuna.storages.RDBStorage(address, engine_kwargs=patient),
        direction="minimize" if settings.metric == "val_loss" else "maximize",
        sampler=open_sampler(0),
        pruner=optuna.pruners.HyperbandPruner(settings.min_epochs, search.epochs, settings.reduction_factor),
        load_if_exists=True,
    )
    known = study.user_attrs.get("settings")
    if known is None:
        study.set_user_attr("settings", search.identity())
    elif changes := "; ".join(differences(known, search.identity())):
        raise PipelineError(
            f"The study {search.name} was started with other settings ({changes[:300]}). "
            f"Start another with --set tune.study=NAME, or remove {search.folder}."
        )
    return study


def open_sampler(seed: int) -> Any:
    """Return the sampler: every dimension by itself, drawn when it is asked for; running trials count as poor."""
    import optuna

    return optuna.samplers.TPESampler(seed=seed, multivariate=False, constant_liar=True)


def resume_interrupted(study: Any) -> None:
    """Put the trials of processes of this machine that have gone back into the queue, with their run folders."""
    import optuna

    queued = {t.user_attrs.get("run") for t in study.get_trials(states=[optuna.trial.TrialState.WAITING])}
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        owner = trial.user_attrs.get("owner")
        if owner is None or owner[0] != socket.gethostname() or _is_alive(owner):
            continue
        try:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        except ValueError:  # another process, started at the same time, has told
            continue
        if trial.user_attrs.get("run") not in queued:
            study.enqueue_trial(trial.params, user_attrs={"run": trial.user_attrs["run"]})


def _owner() -> list[Any]:
    return [socket.gethostname(), os.getpid(), psutil.Process().create_time()]


def _is_alive(owner: Sequence[Any]) -> bool:
    try:
        return abs(psutil.Process(int(owner[1])).create_time() - float(owner[2])) < 1
    except psutil.Error:
        return False


def count_done(study: Any) -> int:
    """Return how many trials were finished or pruned."""
    import optuna

    return len(study.get_trials(states=[optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED]))


def run_trial(search: Search, study: Any) -> bool:
    """Run one trial and tell the study; return whether it gave a figure."""
    import keras
    import optuna

    trial = study.ask()
    # A seed of its own for every trial: machines that search together do not repeat each other.
    study.sampler = open_sampler((search.config.train.seed * 100_003 + trial.number) % 2**32)
    values = {dimension.key: dimension.suggest(trial) for dimension in search.space}
    name = trial.user_attrs.get("run") or new_run(search, trial.number)
    trial.set_user_attr("run", name)
    trial.set_user_attr("owner", _owner())
    log(f"trial {trial.number}: {', '.join(f'{key}={toml_value(value)}' for key, value in values.items())}")
    reported, pruned, monitor = 0, False, search.config.train.monitor

    def stops(history: list[dict[str, float]]) -> bool:
        nonlocal reported, pruned
        for epochs in range(reported + 1, len(history) + 1):  # also those before an interruption
            trial.report(kept_value(history[:epochs], search.config.tune.metric, monitor), epochs)
        reported = len(history)
        pruned = reported < search.epochs and trial.should_prune()
        return pruned

    keras.backend.clear_session()
    try:
        config = search.experiment(values, name, search.epochs)
        train(config, stops)
    except DivergedError as error:  # as bad as can be, but a result
        log(f"trial {trial.number} diverged: {error}")
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return True
    except Exception as error:  # such as a network that does not fit into the memory of the device
        what = str(error) if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}"
        log(f"trial {trial.number} failed: {' '.join(what.split())[:300]}")
        trial.set_user_attr("error", what[:500])
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return False
    value = kept_value(Run(config.run_dir).read_history(), search.config.tune.metric, monitor)
    if pruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, value)
    what = f"pruned after epoch {len(Run(config.run_dir).read_history())}" if pruned else "finished"
    log(f"trial {trial.number} {what}: {search.config.tune.metric} {value:.4f} ({name})")
    return True


def new_run(search: Search, number: int) -> str:
    """Return the name of the run of a trial; those of a study that was removed may still be there."""
    name, folder = f"{search.name}-{number:04d}", search.folder.parent
    again = (f"{name}-{k}" for k in itertools.count(2))
    return next(own for own in itertools.chain([name], again) if not (folder / own).exists())


def kept_value(history: list[dict[str, float]], metric: str, monitor: str) -> float:
    """Return the figure of the weights that a training would keep now; the worst possible one where it is no number."""
    value = history[best_epoch(history, monitor)][metric]
    if value == value:
        return value
    return float("inf") if metric == "val_loss" else 0.0


def write_best(search: Search, study: Any) -> Path:
    """Write best.toml, a whole experiment with the best settings, and trials.csv, and return the path of the former.

    Raises:
        PipelineError: if every trial was pruned.
    """
    import optuna

    done = study.get_trials(states=[optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED])
    rows = [
        {
            "trial": trial.number,
            "run": trial.user_attrs.get("run", ""),
            "state": trial.state.name.lower(),
            "epochs": max(trial.intermediate_values, default=0),
            search.config.tune.metric: trial.value,
            **trial.params,
        }
        for trial in done
    ]
    write_rows(search.folder / "trials.csv", rows)
    if not any(trial.state == optuna.trial.TrialState.COMPLETE for trial in done):
        raise PipelineError("Every trial was pruned. Raise tune.trials.")
    best = study.best_trial
    choices = {dimension.key: {dimension.label(c): c for c in dimension.choices} for dimension in search.space}
    values = {key: choices[key].get(value, value) for key, value in best.params.items()}
    config = search.experiment(values, f"{search.name}-best", search.config.train.epochs)
    path = search.folder / "best.toml"
    head = (
        f"# Trial {best.number} of {len(done)} of the search {search.name}: "
        f"{search.config.tune.metric} {best.value:.4f} (run {best.user_attrs['run']}).\n\n"
    )
    with whole_file(path) as partial:
        partial.write_text(head + configuration.to_toml(config), encoding="utf-8")
    log(
        f"best of {len(done)} trials: number {best.number}, {search.config.tune.metric} {best.value:.4f}. "
        f"Train it in full: ./doall.sh --config {path}"
    )
    return path


def main() -> None:
    """Search for better settings of an experiment."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add_config_arguments(parser)
    args = parser.parse_args()

    def override(overrides: Sequence[str]) -> Config:
        return configuration.load(args.config, args.set, args.mini, overrides)  # a trial has what it tries

    config = load_config(args)
    open_shards(features_folder(config), "train")  # else trial after trial would fail
    print(tune(open_search(config, override)))


if __name__ == "__main__":
    run(main)
