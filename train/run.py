"""The run directory: everything of one training run, and all that prediction needs.

config.toml                     resolved
classes.csv                     in the order of the outputs
features.json                   recipe, encoding and shape; fingerprint of the shards it was trained on
split.csv                       which recordings were for training, validation and holdout
places.csv                      where and when those for training were made, as far as that is known
best_val_{map,loss,acc}.weights.h5, last.weights.h5: train.monitor says which are used
epoch_0010.weights.h5           every train.checkpoint_every epochs
state.h5                        weights, optimizer and history of the last epoch, to resume from
history.csv, metrics.json, learning_curves.png, tensorboard/, report.html
per_class.csv                   precision, recall and F1 of every species by the weights that are used
holdout.csv                     the scores of the recordings that were held out
predicted.json                  which run file of the test part is by these weights
test_scorings.csv               every time that holdout or test part were scored
hardware.csv                    what the machine did meanwhile
mlflow.json                     which MLflow run this is, where train.mlflow is on
"""

import csv
import datetime
import json
import math
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import config as configuration
from config import Config, PipelineError, Train, bind, check_choice
from config.commandline import log
from preprocess.alone import TURN, alone_in
from preprocess.audio import is_audio
from preprocess.manifest import digest
from preprocess.recipes import Encoding, open_recipe
from preprocess.recordings import Recording, Species, read_table, write_table
from preprocess.seals import TABLE as SEALS
from preprocess.seals import check_content, is_intact, read_seals, seal, seal_content, write_seals
from preprocess.split import SPLITS
from preprocess.whole import make_room, whole_file
from train.averaging import averaged
from train.metrics import without_nan

MONITORS = {"val_map": max, "val_loss": min, "val_acc": max, "last": None}  # what weights are kept by
# What may differ when a run goes on: where things lie, how long it trains, what it keeps, and what prediction does.
FREE = frozenset(  # settings that may change while a run goes on
    (
        "data.root",
        "data.folder",
        "train.folder",
        "train.epochs",
        "train.patience",
        "train.checkpoint_every",
        "train.devices",
        "train.hardware_log",
        "train.histograms",
        "train.mlflow",
        "predict.top",
        "predict.pool",
        "predict.smooth",
        "predict.minimum",
        "predict.merge",
        "predict.batch_size",
    )
)
MAX_STATE_BYTES = 1 << 36


class DivergedError(PipelineError):
    """The training failed before there were weights to keep."""


@dataclass(frozen=True)
class FeatureStamp:
    """What the network was trained on."""

    recipe: str  # JSON of the resolved recipe
    encoding: Encoding
    shape: tuple[int, ...]  # of a frame: bins, or bins and channels
    fingerprint: str  # of the inputs of all training shards


class Run:
    """A run directory."""

    def __init__(self, folder: Path) -> None:
        """Point at a folder, which need not exist yet."""
        self.folder = folder if folder.name not in ("", "..") else folder.resolve()  # a run has a name

    def best_weights(self, monitor: str = "val_map") -> Path:
        """Return the path of the best weights by val_map, val_loss or val_acc, or of the last ones."""
        return self.folder / f"{'' if monitor == 'last' else 'best_'}{monitor}.weights.h5"

    def find_weights(self, monitor: str) -> Path:
        """Return the path of the best weights.

        Raises:
            PipelineError: if they are missing.
        """
        path = self.best_weights(monitor)
        if not path.exists():
            raise PipelineError(f"{path} is missing; the run has not finished an epoch, or it was removed.")
        return path

    # Starting and resuming

    def has_state(self) -> bool:
        """Tell whether an epoch is done, so that training resumes."""
        return (self.folder / "state.h5").exists()

    def start(self, config: Config, species: Sequence[Species], stamp: FeatureStamp, split: dict[str, str]) -> None:
        """Write what identifies the run, or check that an earlier start wrote the same.

        Raises:
            PipelineError: if the folder holds a run with other settings or other features.
        """
        if self.has_state():  # before the first epoch is done there is nothing to mix up
            self.check_same(config)
            self.check_stamp(stamp)
            if (self.folder / "metrics.json").exists():  # the figures of a finished run go only if it can go on
                with self._open_state():
                    pass
            if self.read_split() != split:  # such as after a change of groups, which the features do not depend on
                raise PipelineError(
                    f"The sides of the recordings have changed since {self.folder} was started, so that it would be "
                    "validated on what it was trained on. "
                    "Start another run with --set train.run=NAME, or remove that folder."
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (SEALS, "metrics.json"):  # until it is finished again
            (self.folder / name).unlink(missing_ok=True)
        write_table(self.folder / "classes.csv", Species, species)
        write_text(self.folder / "features.json", json.dumps(asdict(stamp), indent=1))
        rows = [{"media_id": media_id, "side": side} for media_id, side in split.items()]
        write_rows(self.folder / "split.csv", rows)
        write_text(self.folder / "config.toml", configuration.to_toml(config))

    def note_places(self, recordings: Iterable[Recording]) -> None:
        """Keep where and when recordings were made, as far as that is known, in places.csv."""
        names = ("class_id", "latitude", "longitude", "date")
        rows = [{name: getattr(row, name) for name in names} for row in recordings if row.latitude and row.longitude]
        if rows:
            write_rows(self.folder / "places.csv", rows)

    def check_stamp(self, stamp: FeatureStamp) -> None:
        """Raise a PipelineError if the run was trained on other features."""
        if self.read_stamp() != stamp:
            raise PipelineError(
                f"The recordings or features have changed since {self.folder} was started. "
                "Start another run with --set train.run=NAME, or remove that folder."
            )

    def check_same(self, config: Config) -> None:
        """Raise a PipelineError that names the settings in which the run differs from config.

        An option that did not exist when the run was started has its default, by which nothing changes.
        """
        old, new = (identity(resolve(settings)) for settings in (self.read_config(), config))
        keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        others = {key.removesuffix(".name") for key in keys if key.endswith(".name")}  # whose options are others, too
        keys = [key for key in keys if key.endswith(".name") or key.rpartition(".")[0] not in others]
        if keys:
            changes = ", ".join(f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys)
            raise PipelineError(
                f"{self.folder} was started with other settings ({changes}). "
                "Start another run with --set train.run=NAME, or remove that folder."
            )

    def take_prediction(self, config: Config) -> None:
        """Take over the settings of [predict], which a finished run may change."""
        known = self.read_config()
        if known.predict != config.predict:
            changed = replace(known, predict=config.predict)
            write_text(self.folder / "config.toml", configuration.to_toml(changed))
            log(f"{self.folder} predicts by the settings of [predict] as they are now")

    def is_finished(self, config: Config) -> bool:
        """Tell whether the run has trained as long as config asks for, nothing else differs, and its files are whole.

        Raises:
            PipelineError: if it is of other settings, or a file was changed that cannot be made again.
        """
        sealed = read_seals(self.folder)
        has_config = (self.folder / "config.toml").exists()
        if not sealed and not (has_config and (self.folder / "metrics.json").exists()):
            return False
        again = ("classes.csv", "history.csv", "metrics.json") if self.has_state() else ()  # what can be made again
        changed = [self.folder / name for name, known in sealed.items() if not is_intact(self.folder / name, known)]
        changed += [] if has_config else [self.folder / "config.toml"]
        for path in changed:
            if path.name not in again:
                raise PipelineError(
                    f"{path} was changed or removed since the run was finished. Bring it back from a copy, or remove "
                    f"{self.folder} to train again."
                )
        for path in changed:
            path.unlink(missing_ok=True)  # or what is left of it would be read
        if changed:
            log(f"made again, as they are not what was written: {', '.join(map(str, changed))}")
            return False
        self.check_same(config)
        return is_over(self.read_history(), config.train.epochs, config.train.patience)

    # Reading

    def read_config(self) -> Config:
        """Return the configuration that the run was trained with.

        Raises:
            PipelineError: if this is no run directory.
        """
        if not (self.folder / "config.toml").exists():
            raise PipelineError(f"{self.folder} is no run directory. Train first: ./doall.sh")
        return configuration.load(self.folder / "config.toml")

    def read_species(self) -> list[Species]:
        """Return the classes in the order of the outputs."""
        return read_table(self.folder / "classes.csv", Species)

    def read_stamp(self) -> FeatureStamp:
        """Return what the network was trained on."""
        path = self.folder / "features.json"
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            encoding, shape = Encoding(**facts["encoding"]), tuple(map(int, facts["shape"]))
            return FeatureStamp(**(facts | {"encoding": encoding, "shape": shape}))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PipelineError(f"{path} is missing or damaged: {error}") from None

    def read_split(self) -> dict[str, str]:
        """Return media id -> train, validation or holdout."""
        with (self.folder / "split.csv").open(newline="", encoding="utf-8") as stream:
            return {row["media_id"]: row["side"] for row in csv.DictReader(stream)}

    def trained_on(self, media_ids: Iterable[str]) -> set[str]:
        """Return those of some recordings that are on the training side, by media id or the name of their file."""
        if not (self.folder / "split.csv").exists():
            return set()
        known = {media_id for media_id, side in self.read_split().items() if side == "train"}
        return {name for name in media_ids if name in known or (is_audio(Path(name)) and Path(name).stem in known)}

    def read_history(self) -> list[dict[str, float]]:
        """Return one dictionary of figures per epoch.

        Raises:
            PipelineError: if history.csv is damaged.
        """
        path = self.folder / "history.csv"
        try:
            return [{name: float(value) for name, value in row.items() if value} for row in _read_rows(path)]
        except (ValueError, TypeError, csv.Error):  # a row of another width has a list of what is too much
            raise PipelineError(
                f"{path} is damaged. Remove it; where there is a state.h5, training writes it again."
            ) from None

    def read_metrics(self) -> dict[str, Any]:
        """Return the final figures."""
        return json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))

    # Writing

    def load_best(self, model: Any, monitor: str = "val_map") -> None:
        """Load the best weights into a model.

        Raises:
            PipelineError: if they are missing, damaged or of another network.
        """
        path = self.find_weights(monitor)
        try:
            with h5py.File(path, "r") as file:
                check_content(file)
            with warnings.catch_warnings(action="ignore"):  # Keras' own about what does not fit; the error says it
                model.load_weights(path)
        except (OSError, ValueError, KeyError) as error:
            said = [line for line in str(error).splitlines() if line] or [type(error).__name__]
            reason = " ".join(said[: 2 if said[0].endswith(":") else 1]).partition(" Target variable: ")[0]
            raise PipelineError(f"{path} is damaged or of another network: {reason}") from None

    def save_epoch(self, model: Any, trainer: Any, history: list[dict[str, float]], checkpoint_every: int = 0) -> None:
        """Keep the best weights and the state after an epoch; a kill in between costs that epoch only.

        The history decides what is best, so that best values and patience survive any interruption. Every
        `checkpoint_every` epochs the weights are kept for good; 0: never.
        """
        wanted = [
            self.best_weights(monitor) for monitor, better in MONITORS.items() if is_best(history, monitor, better)
        ]
        if checkpoint_every and len(history) % checkpoint_every == 0:
            wanted.append(self.folder / f"epoch_{len(history):04d}.weights.h5")
        first = None
        with averaged(trainer):  # the weights that were scored
            for path in wanted:
                partial = path.with_name("part." + path.name)
                partial.unlink(missing_ok=True)
                if first is None:
                    make_room(partial, size_of(model.weights))
                    model.save_weights(partial)
                    with h5py.File(partial, "r+") as file:
                        seal_content(file)
                else:
                    _link(first, partial)
                partial.replace(path)
                first = first or path
        self._save_state(trainer, history)
        self.keep_history(history)

    def keep_history(self, history: list[dict[str, float]]) -> None:
        """Write history.csv."""
        write_rows(self.folder / "history.csv", history)

    def _save_state(self, trainer: Any, history: list[dict[str, float]]) -> None:
        groups = _state_variables(trainer)
        with whole_file(self.folder / "state.h5") as partial:
            make_room(partial, size_of([variable for group in groups.values() for variable in group]))
            with h5py.File(partial, "w", libver="latest") as file:  # before, no attribute holds more than 64 KB
                for group, variables in groups.items():
                    for i, variable in enumerate(variables):
                        file[f"{group}/{i:04d}"] = variable.numpy()
                file.attrs["history"] = np.void(json.dumps(history).encode())
                file.attrs["complete"] = 1
                seal_content(file)
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())

    def restore(self, trainer: Any) -> list[dict[str, float]]:
        """Load the state of the last epoch, if there is one, into a compiled model and return the history.

        Raises:
            PipelineError: if the state is damaged or belongs to another network.
        """
        if not self.has_state():
            return []
        with self._open_state() as file:
            for group, variables in _state_variables(trainer).items():
                if len(file[group]) != len(variables):
                    raise ValueError(f"{len(file[group])} {group} instead of {len(variables)}")
                for i, variable in enumerate(variables):
                    dataset = file[f"{group}/{i:04d}"]
                    if dataset.shape != tuple(variable.shape) or dataset.is_virtual or dataset.external:
                        raise ValueError(f"{group} {variable.path} has another shape")
                    variable.assign(dataset[()])
            return json.loads(bytes(file.attrs["history"]))

    @contextmanager
    def _open_state(self) -> Iterator[h5py.File]:
        """Give state.h5 if it is whole; what goes wrong inside is a PipelineError."""
        path = self.folder / "state.h5"
        try:
            with h5py.File(path, "r") as file:
                if file.attrs.get("complete") != 1:
                    raise ValueError("incomplete")
                check_content(file)
                yield file
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PipelineError(f"{path} cannot be resumed from: {error}. Remove it to train from the start.") from None

    def note_scoring(self, scored: str, recordings: int, figures: dict[str, float]) -> None:
        """Append to test_scorings.csv that recordings which chose nothing were scored: what, how many, the figures.

        Whoever looks at a test part often enough chooses by it; this file says how often that was.
        """
        path = self.folder / "test_scorings.csv"
        rows = _read_rows(path)
        now = datetime.datetime.now().isoformat(timespec="seconds")
        row = {"time": now, "scored": scored, "recordings": recordings, "epochs": len(self.read_history())}
        write_rows(path, [*rows, row | {name: round(value, 5) for name, value in figures.items()}])

    def note_prediction(self, run_file: Path, monitor: str) -> None:
        """Write predicted.json: this run file of the test part is by the weights that the run has now."""
        write_text(self.folder / "predicted.json", json.dumps(self._prediction(run_file, monitor)))

    def has_predicted(self, run_file: Path, monitor: str) -> bool:
        """Tell whether a run file is what `note_prediction` saw, by the same weights."""
        path = self.folder / "predicted.json"
        try:
            return path.exists() and json.loads(path.read_text(encoding="utf-8")) == self._prediction(run_file, monitor)
        except ValueError:
            return False

    def _prediction(self, run_file: Path, monitor: str) -> dict[str, str]:
        """Return the checksums of a run file and of weights."""
        settings = json.dumps(asdict(self.read_config().predict), sort_keys=True)
        return {"run_file": digest(run_file), "weights": digest(self.find_weights(monitor)), "predict": settings}

    def finish(self, metrics: dict[str, Any], log_row: dict[str, Any]) -> None:
        """Write the final figures, and one line about the run into log.csv beside it."""
        log = self.folder.parent / "log.csv"
        with alone_in(log.parent, TURN):  # trainings at the same time, of a search or of folds, all add to it
            rows = [row for row in _read_rows(log) if row.get("run") != self.folder.name]
            rows.append({name: str(value) for name, value in log_row.items()})
            write_rows(log, rows)
        write_text(self.folder / "metrics.json", json.dumps(without_nan(metrics), indent=1))
        names = ("classes.csv", "features.json", "split.csv", "history.csv", "metrics.json")
        paths = [*(self.folder / name for name in names), *map(self.best_weights, MONITORS)]
        write_seals(self.folder, {path.name: seal(path, content=True) for path in paths if path.exists()})


def last_run(folder: Path) -> Run:
    """Return the run that was finished last, by log.csv.

    Raises:
        PipelineError: if there is none.
    """
    log = folder / "log.csv"
    for row in reversed(_read_rows(log)):
        if (folder / Path(row["run"]).name / "metrics.json").exists():
            return Run(folder / Path(row["run"]).name)
    raise PipelineError(f"There is no finished run in {folder}. Train one first: ./doall.sh")


def is_best(history: list[dict[str, float]], monitor: str, better: Any) -> bool:
    """Tell whether the last epoch is strictly the best so far; NaN never is, but the first epoch always is.

    By the monitor "last" every epoch is that did not diverge.
    """
    if len(history) == 1:
        return True
    if monitor == "last":
        return not diverged(history)
    value = history[-1][monitor]
    earlier = [row[monitor] for row in history[:-1] if row[monitor] == row[monitor]]
    return value == value and (not earlier or (better(earlier) != value and better([*earlier, value]) == value))


def best_epoch(history: list[dict[str, float]], monitor: str = "val_map") -> int:
    """Return the number of the epoch, from 0, whose weights are kept for a monitor."""
    better, kept, best = MONITORS[monitor], 0, math.nan
    for i, row in enumerate(history):
        if monitor == "last":
            kept = kept if diverged([row]) else i
        elif row[monitor] == row[monitor] and (best != best or better([best, row[monitor]]) != best):
            kept, best = i, row[monitor]
    return kept


def stops_early(history: list[dict[str, float]], patience: int) -> bool:
    """Tell whether val_loss has not become lower for `patience` epochs."""
    return bool(patience and history) and len(history) - 1 - best_epoch(history, "val_loss") >= patience


def diverged(history: list[dict[str, float]]) -> bool:
    """Tell whether the losses of the last epoch are no numbers any more, from which no network recovers."""
    return bool(history) and not all(math.isfinite(history[-1][name]) for name in ("loss", "val_loss"))


def is_over(history: list[dict[str, float]], epochs: int, patience: int) -> bool:
    """Tell whether a run is not trained any further after these epochs."""
    return len(history) >= epochs or stops_early(history, patience) or diverged(history)


def plateau_scale(history: list[dict[str, float]], factor: float, patience: int) -> float:
    """Return what the learning rate is multiplied with after these epochs.

    Once `patience` epochs in a row have not lowered val_loss, it is multiplied with `factor`, and the count begins
    anew (Keras' ReduceLROnPlateau with min_delta 0). It follows from the history alone, so that a run that goes on
    has the learning rate of one that was never interrupted.
    """
    scale, best, waited = 1.0, float("inf"), 0
    for row in history:
        waited += 1
        if row["val_loss"] < best:
            best, waited = row["val_loss"], 0
        if waited == patience:
            scale, waited = scale * factor, 0
    return scale


def resolve(config: Config) -> Config:
    """Return the configuration with every option of recipe, front end and network written out."""
    from train.models import open_network

    features = config.features
    recipe, frontend = asdict(open_recipe(features)), features.frontend
    if frontend.name:
        from train.frontend import frontend_options

        frontend = replace(frontend, options=frontend_options(features))
    _, options = open_network(config.model)
    return replace(
        config,
        data=replace(config.data, corpus=config.corpus_dir.name),
        features=replace(features, options=recipe, frontend=frontend),
        model=replace(config.model, options=options),
        train=replace(config.train, run=config.run_dir.name),
    )


def identity(config: Config) -> dict[str, Any]:
    """Return the settings that may not differ when a run goes on, with keys such as train.loss.name."""
    tree = configuration.to_dict(config)
    tree["train"] |= written_out(config.train)
    settings = flat_settings(tree) | {"train.augment": list(config.train.augment)}  # which act in this order
    return {key: value for key, value in settings.items() if key not in FREE and not key.startswith("tune.")}


def written_out(train: Train) -> dict[str, Any]:
    """Return the parts of a training with all of their options, by field of [train]."""
    from train.augment import AUGMENTATIONS, needs
    from train.losses import LOSSES
    from train.network import OPTIMIZERS

    loss, split, optimizer = train.loss, train.split, train.optimizer
    parts = {"loss": (loss, LOSSES), "split": (split, SPLITS), "optimizer": (optimizer, OPTIMIZERS)}
    options = {}
    for name, (part, known) in parts.items():
        own = part.name if part.name in known else part.name.lower()
        check_choice(own, known, f"train.{name}.name")
        options[name] = {**bind(known[own], part.options, f"train.{name}"), "name": own}
    needs(train.augment)  # which knows what there is
    augment = {name: bind(AUGMENTATIONS[name], own, f"train.augment.{name}") for name, own in train.augment.items()}
    return options | {"augment": augment}


def _state_variables(trainer: Any) -> dict[str, list[Any]]:
    return {"weights": trainer.weights, "optimizer": trainer.optimizer.variables}


def flat_settings(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one dictionary with keys such as train.loss.name."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:  # an empty one says that something is there, with its defaults
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def size_of(variables: Sequence[Any]) -> int:
    """Return how many bytes an HDF5 file of these variables takes at most."""
    return (1 << 16) + sum(4096 + 4 * math.prod(variable.shape) for variable in variables)


def _link(source: Path, destination: Path) -> None:
    try:
        os.link(source, destination)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, destination)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a CSV at once; its columns are the keys of the rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV, none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
