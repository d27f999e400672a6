#!/usr/bin/env python3
"""Stage 4: train a network on the shards of a corpus.

python train/trainModel.py                                               # the demo
python train/trainModel.py --config config/birdclef2016.toml --set model.network=birdclef
python train/trainModel.py --set train.epochs=40                         # a finished run goes on to 40 epochs

Writes runs/<name>/ after every epoch; the same command resumes an interrupted run.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from config import Config, PipelineError, Train, from_project
from config.commandline import add_config_arguments, core_count, load_config, log, run
from preprocess.alone import alone
from preprocess.loadData import features_folder
from preprocess.recipes import describe, open_recipe
from preprocess.recordings import Recording, Species, read_table
from preprocess.segments import SegmentReader, has_shards, open_shards, open_view
from preprocess.shards import Shard, read_stamp
from preprocess.split import held_back, split
from train.metrics import per_class, without_nan
from train.run import (
    DivergedError,
    FeatureStamp,
    Run,
    best_epoch,
    diverged,
    identity,
    is_over,
    plateau_scale,
    resolve,
    stops_early,
    write_rows,
)
from train.scored import Scored, soften, write_scored
from train.workers import agree, joined, of_the_first, without_tensorflow

# Recordings that validate where every one is a class of its own; time and memory go by the square of how many.
MOST_TOLD_APART = 1000


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The training part of a corpus as the network gets it; arrays are in the order of the reader."""

    reader: SegmentReader
    species: list[Species]
    labels: np.ndarray  # int [recordings]
    background: csr_array  # bool [recordings, classes]; whole corpora would not fit into memory as dense arrays
    sides: np.ndarray  # str [recordings]: train, validation, holdout or unused
    validating: np.ndarray | None = None  # indices of those that validate, where there is no such side

    def side(self, name: str) -> np.ndarray:
        """Return the indices of one side."""
        if name == "validation" and self.validating is not None:
            return self.validating
        return np.flatnonzero(self.sides == name)

    def targets(self, train: Train) -> csr_array:
        """Return float32 [recordings, classes]: 1 for the main species, train.background_weight for background species.

        With a teacher they are mixed with its scores; with a noise class there is one more column, 0 for all of them.

        Raises:
            PipelineError: if the teacher cannot be used.
        """
        count = len(self.labels)
        main = csr_array((np.ones(count, np.float32), self.labels, np.arange(count + 1)), self.background.shape)
        targets = main + self.background.astype(np.float32) * np.float32(train.background_weight)
        if train.teacher:
            classes = [kind.class_id for kind in self.species]
            targets = soften(targets, self.reader.media_id, classes, from_project(train.teacher), train.teacher_weight)
        targets.resize(count, len(self.species) + int(train.noise_class > 0))
        return targets


def open_dataset(config: Config, shards: Sequence[Shard]) -> Dataset:
    """Join the shards with the manifest and split them.

    Raises:
        PipelineError: if shards and manifest do not fit together, or a side would be empty.
    """
    features = config.features
    reader = open_view(shards, features)
    by_id = {row.media_id: row for row in read_table(config.corpus_dir / "recordings.csv", Recording)}
    try:
        rows = [by_id[media_id] for media_id in reader.media_id]
    except KeyError as error:
        raise PipelineError(f"The features hold recording {error}, the manifest does not. Run stage 3 again.") from None
    present = {row.class_id for row in rows}
    species = [kind for kind in read_table(config.corpus_dir / "classes.csv", Species) if kind.class_id in present]
    column = {kind.class_id: i for i, kind in enumerate(species)}
    if config.train.target == "recording":
        return tell_recordings_apart(reader, held_back(rows, config.train))
    if len(column) < 2:
        raise PipelineError(f"Training needs at least two species with usable recordings, found {len(column)}.")
    heard = {
        (i, column[class_id])
        for i, row in enumerate(rows)
        for class_id in row.background_ids
        if class_id in column and class_id != row.class_id
    }
    where = np.array(sorted(heard), int).reshape(-1, 2).T
    background = csr_array((np.ones(len(heard), bool), where), (len(rows), len(species)))
    split_sides = split(rows, config.train)
    sides = np.array([split_sides[row.media_id] for row in rows])
    labels = np.array([column[row.class_id] for row in rows])
    return Dataset(reader, species, labels, background, sides)


def tell_recordings_apart(reader: SegmentReader, held: set[str]) -> Dataset:
    """Return the data set in which every recording is a class of its own, apart from those that are held back.

    Which recording a segment is of needs no labels (Dosovitskiy et al. 2014, arXiv 1406.6909; the source prediction of
    Perch 2.0, arXiv 2508.04665). Nothing is held back for validation, as no other recording has these classes: of those
    that are trained on up to MOST_TOLD_APART, evenly spread, validate.

    Raises:
        PipelineError: if there are fewer than two recordings.
    """
    ids = np.array(reader.media_id)
    used = np.flatnonzero(~np.isin(ids, sorted(held)))
    if len(used) < 2:
        raise PipelineError(f"Telling recordings apart needs at least two usable recordings, found {len(used)}.")
    labels = np.zeros(len(ids), int)
    labels[used] = np.arange(len(used))
    species = [Species(media_id, media_id) for media_id in ids[used].tolist()]
    sides = np.full(len(ids), "unused")
    sides[used] = "train"
    validating = used[np.unique(np.linspace(0, len(used) - 1, MOST_TOLD_APART).astype(int))]
    return Dataset(reader, species, labels, csr_array((len(ids), len(used)), dtype=bool), sides, validating)


def open_stamped(config: Config) -> tuple[Dataset, FeatureStamp]:
    """Return what `open_dataset` makes of the training shards, and what a run keeps of them."""
    shards = open_shards(features_folder(config), "train")
    data = open_dataset(config, shards)
    return data, stamp_features(config, shards, data.reader)


@alone(lambda config: config.run_dir)
def train(config: Config, stops: Callable[[list[dict[str, float]]], bool] = lambda history: False) -> None:
    """Train, or go on training, the network of a configuration, and write its run directory.

    Args:
        config: the experiment.
        stops: is given the history after every epoch; where it returns True the training ends there.

    Raises:
        PipelineError: if the features are missing or the run directory holds another run.
        DivergedError: if the losses of the very first epoch are no numbers.
    """
    config = resolve(config)
    target = Run(config.run_dir)
    finished = target.is_finished(config)
    agree(identity(config), config.train.epochs, config.train.patience, finished)
    if finished:
        moved = target.read_config().data.options.get("root") != config.data.options.get("root")
        if moved or has_shards(features_folder(config), "train"):
            shards = open_shards(features_folder(config), "train")
            target.check_stamp(stamp_features(config, shards, open_view(shards, config.features)))
        target.take_prediction(config)
        log(f"{target.folder} is finished: {summary(target.read_metrics())}")
        return
    data, stamp = open_stamped(config)
    sides = dict(zip(data.reader.media_id, data.sides.tolist(), strict=True))
    agree(stamp, sides, target.read_history())
    from train.devices import data_parallel
    from train.mlflow_log import require_mlflow

    def start() -> None:
        target.start(config, data.species, stamp, sides)
        rows = read_table(config.corpus_dir / "recordings.csv", Recording)
        target.note_places(row for row in rows if sides.get(row.media_id) == "train")

    require_mlflow(config)
    with data_parallel(config):
        fit(config, target, data, start, stops)


def fit(
    config: Config,
    target: Run,
    data: Dataset,
    start: Callable[[], None],
    stops: Callable[[list[dict[str, float]]], bool],
) -> None:
    """Run the epochs that are missing and write the final figures; start is called once the model is built."""
    import keras

    from train.devices import release, restartable
    from train.hardware_log import HardwareLog
    from train.losses import class_weights, open_loss
    from train.MAPCallback import MAPCallback
    from train.mlflow_log import open_tracking
    from train.network import build_model, build_trainer, fit_statistics
    from train.start_weights import prepare

    with without_tensorflow():
        keras.utils.set_random_seed(config.train.seed)
    reader, training, validation = data.reader, data.side("train"), data.side("validation")
    noise_class = config.train.noise_class > 0
    counts = [*np.bincount(data.labels[training], minlength=len(data.species)), *[len(training)] * noise_class]
    loss = open_loss(config.train.loss, noise_class, class_weights(config.train.class_weights, counts))
    batches = open_batches(config, data)
    model = build_model(config, reader.encoding, reader.shape, len(data.species) + noise_class)
    outputs = [kind.class_id for kind in data.species] + ["noise"] * noise_class
    prepare(config.model, model.layers[-1], outputs, load=not target.has_state())
    warn_of_start(config, data)
    fit_statistics(model, reader, (batches.owners, batches.starts), config.model.normalise, config.train.seed)
    trainer = build_trainer(config, model, loss, batches.steps)
    trainer.optimizer.build(trainer.trainable_variables)
    start()
    tracking = open_tracking(config, target.folder)
    history = target.restore(trainer)
    log(
        f"{len(training)} recordings for training ({len(batches.owners)} segments, {batches.steps} steps of "
        f"{config.train.batch_size}), {len(validation)} for validation, {len(data.species)} species; "
        f"{model.name} with {model.count_params():,} parameters; {hardware()}"
    )
    if history:
        target.keep_history(history)
        log(f"resuming after epoch {len(history)}: {figures(history[-1])}")
    scoring = MAPCallback(
        model,
        loss,
        reader,
        validation,
        data.labels[validation],
        data.background[validation].toarray(),
        config.predict,
    )
    first = len(history)
    recorder = recorder_callback(keras, config, target, model, batches, history, tracking, stops)
    if not is_over(history, config.train.epochs, config.train.patience):
        with (
            HardwareLog(target.folder / "hardware.csv", config.train.hardware_log),
            contextlib.ExitStack() as at_the_end,
        ):
            at_the_end.callback(batches.stop)
            trainer.fit(
                restartable(trainer, lambda: batches.stream(first), batches.batch_size),
                steps_per_epoch=batches.steps,
                epochs=config.train.epochs,
                initial_epoch=first,
                callbacks=[scoring, recorder],
                shuffle=False,  # the stream comes in its final order
                verbose=0,
            )
    metrics = final_metrics(config, target, model, scoring, data, history)
    row = {
        "finished": datetime.datetime.now().isoformat(timespec="seconds"),
        "run": target.folder.name,
        "corpus": config.corpus_dir.name,
        "network": model.name,
        "parameters": model.count_params(),
        "species": len(data.species),
        "recordings": len(training),
        "epochs": len(history),
        "best_epoch": metrics["best_epoch"],
        **{name: round(metrics["validation"][name], 5) for name in ("val_map", "val_loss", "val_acc")},
        "seconds": round(sum(entry["seconds"] for entry in history), 1),
        "optimizer": config.train.optimizer.name,
        "hardware": hardware(),
    }
    target.finish(metrics, row)
    if tracking:
        tracking.log_epochs(history)
        tracking.finish()
    log(f"{target.folder}: {summary(metrics)}")
    release(trainer)


def warn_of_start(config: Config, data: Dataset) -> None:
    """Say loudly if the starting weights have learnt the species of recordings that are held back here."""
    from train.start_weights import start_path

    folder = start_path(config.model)
    run = Run(folder if folder.is_dir() else folder.parent)
    if not config.model.start or not (run.folder / "config.toml").exists():
        return
    before = run.read_config()
    if before.corpus_dir != config.corpus_dir or before.train.target != "species":
        return
    ids = np.array(data.reader.media_id)
    for side in ("validation", "holdout"):
        held = set(ids[data.sides == side].tolist())
        seen = run.trained_on(held)
        if seen:
            log(
                f"warning: {run.folder.name}, whose weights this training starts from, was TRAINED on {len(seen)} of "
                f"the {len(held)} recordings of the {side} side: its figures say nothing about other recordings."
            )


def open_batches(config: Config, data: Dataset) -> Any:
    """Return the `Batches` of the training side, with what the augmentations need beside it."""
    from train.augment import needs
    from train.batches import Batches

    noise_class, frames = config.train.noise_class > 0, config.features.segment_frames
    wanted = needs(config.train.augment)
    noise = None
    if noise_class or "noise" in wanted:
        noise = SegmentReader(data.reader.shards, frames, mask=False, drop_columns=True, noise=True)
    return Batches(
        data.reader, data.side("train"), data.labels, data.targets(config.train), config.train, wanted, noise
    )


class Pace:
    """How fast steps and epochs go; the first step after a start, in which they are compiled, tells nothing of others.

    All times are seconds of one clock.
    """

    EVERY = 20.0  # s, between lines

    def __init__(self, steps: int) -> None:
        """Of epochs of so many steps."""
        self.steps, self.compiles = steps, True

    def begin(self, now: float) -> None:
        """Begin an epoch."""
        self.started = self.first = self.shown = now

    def step(self, done: int, now: float) -> float:
        """Return the steps per second where it is time to say so, else 0; called before every step of an epoch."""
        if done == 1:
            self.first = now  # its end
        if done < 2 or now - self.shown < self.EVERY:
            return 0.0
        self.shown = now
        return (done - 1) / (now - self.first)

    def epoch(self, now: float) -> float:
        """Return how long an epoch like the one that ends takes."""
        compiling = self.compiles and self.steps > 1
        self.compiles = False
        return (now - self.first) * self.steps / (self.steps - 1) if compiling else now - self.started


def recorder_callback(
    keras: Any,
    config: Config,
    target: Run,
    model: Any,
    batches: Any,
    history: list[dict[str, float]],
    tracking: Any,
    stops: Callable[[list[dict[str, float]]], bool],
) -> Any:
    """Return the callback that prepares an epoch, reports it, keeps its results and stops early."""
    from train.network import set_plateau_scale
    from train.tensorboard_log import TensorBoardLog

    settings = config.train
    board = TensorBoardLog(target.folder / "tensorboard")

    class Recorder(keras.callbacks.Callback):
        def on_train_begin(self, logs: dict | None = None) -> None:
            self.pace = Pace(batches.steps)

        def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
            self.waited = batches.waited
            self.pace.begin(time.monotonic())
            reseed(self.model, settings.seed, epoch)
            set_plateau_scale(self.model, plateau_scale(history, settings.plateau_factor, settings.plateau_patience))

        def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
            # Not at the end of a step, or Keras would wait for the device each time.
            rate = self.pace.step(batch, time.monotonic())
            if rate:
                left = (batches.steps - batch) / rate
                log(f"  step {batch} of {batches.steps}, {rate * batches.batch_size:.3g} segments/s, {left:.0f} s left")

        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            now = time.monotonic()
            seconds = now - self.pace.started
            entry = {
                "epoch": epoch + 1,
                **of_the_first({name: float(value) for name, value in logs.items()}),
                "learning_rate": float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
                "seconds": round(seconds, 2),
                "waiting_share": round((batches.waited - self.waited) / seconds, 4),
            }
            if not all_finite(self.model.trainable_variables):  # a rectifier may have hidden it from the loss
                entry["loss"] = math.nan
            history.append(entry)
            if diverged(history):
                self.give_up(epoch)
            target.save_epoch(model, self.model, history, settings.checkpoint_every)
            board.add(epoch + 1, entry, model.trainable_variables if settings.histograms else ())
            if tracking:
                tracking.log_epochs(history)
            left = (config.train.epochs - epoch - 1) * self.pace.epoch(now)
            log(f"epoch {epoch + 1} of {config.train.epochs}: {figures(entry)}, {seconds:.1f} s, {left:.0f} s left")
            if stops_early(history, config.train.patience):
                log(f"val_loss has not become lower for {config.train.patience} epochs: stopping")
                self.model.stop_training = True
            if stops(history):
                self.model.stop_training = True

        def give_up(self, epoch: int) -> None:
            what = "its loss or its weights are no numbers."
            advice = (
                "Take a lower train.optimizer.learning_rate, another train.optimizer.name (adamw), or "
                'model.normalise = "bin".'
            )
            if epoch == 0:
                raise DivergedError(f"The training diverged in its first epoch: {what} {advice}")
            log(
                f"warning: the training diverged in epoch {epoch + 1}: {what} It stops here; the best weights are "
                f"those of earlier epochs. {advice}"
            )
            self.model.stop_training = True

    return Recorder()


def all_finite(variables: Iterable[Any]) -> bool:
    """Tell whether weights are numbers."""
    return all(np.isfinite(variable.numpy()).all() for variable in variables)


def reseed(model: Any, seed: int, epoch: int) -> None:
    """Set every random generator of the model from (seed, epoch), so that a resumed run draws the same numbers."""
    generators = [variable for variable in model.variables if variable.path.endswith("seed_generator_state")]
    states = np.random.default_rng([seed, 8, epoch]).integers(0, 2**31, (len(generators), 2))
    for variable, state in zip(generators, states, strict=True):
        variable.assign(state.astype(np.uint32))


def final_metrics(
    config: Config, target: Run, model: Any, scoring: Any, data: Dataset, history: list[dict[str, float]]
) -> dict[str, Any]:
    """Return the figures of the weights by train.monitor, on the validation side and the holdout if there is one.

    The scores of the holdout's recordings go to holdout.csv.
    """
    from train.MAPCallback import MAPCallback

    target.load_best(model, config.train.monitor)
    metrics = {
        "best_epoch": best_epoch(history, config.train.monitor) + 1,
        "epochs": len(history),
        "validation": scoring.evaluate() | {"recordings": len(data.side("validation"))},
        "intervals": scoring.intervals(),
        "hardware": hardware(),
        "seconds": sum(entry["seconds"] for entry in history),
    }
    rows = class_rows("validation", data, scoring)
    holdout = data.side("holdout")
    if len(holdout):
        held = MAPCallback(
            model,
            scoring.loss,
            data.reader,
            holdout,
            data.labels[holdout],
            data.background[holdout].toarray(),
            config.predict,
        )
        scored = {name.replace("val_", "holdout_"): value for name, value in held.evaluate().items()}
        metrics["holdout"] = scored | {"recordings": len(holdout)}
        target.note_scoring("holdout", len(holdout), {"map": scored["holdout_map"], "top1": scored["holdout_top1"]})
        rows += class_rows("holdout", data, held)
        ids, classes = [data.reader.media_id[i] for i in holdout], [kind.class_id for kind in data.species]
        write_scored(target.folder / "holdout.csv", [Scored(ids, classes, data.labels[holdout], held.scores)])
    write_rows(target.folder / "per_class.csv", rows)
    return metrics


def class_rows(side: str, data: Dataset, scoring: Any) -> list[dict[str, Any]]:
    """Return the lines of per_class.csv for one side; what is not defined is empty."""
    trained = np.bincount(data.labels[data.side("train")], minlength=len(data.species))
    rows = []
    for kind, count, found in zip(data.species, trained, per_class(scoring.scores, scoring.labels), strict=True):
        shown = {
            name: int(value) if name in ("recordings", "predicted", "hits") else round(value, 5)
            for name, value in found.items()
        }
        names = {"class_id": kind.class_id, "scientific_name": kind.scientific_name}
        rows.append({"side": side, **names, "trained_on": int(count)} | without_nan(shown))
    return rows


def stamp_features(config: Config, shards: Sequence[Shard], reader: SegmentReader) -> FeatureStamp:
    """Return what identifies the features of the training part."""
    digest = hashlib.sha256()
    for shard in shards:
        stamp = read_stamp(shard.path)
        digest.update((stamp[0] if stamp else "").encode())
    recipe = describe(open_recipe(config.features), config.features.recipe)
    return FeatureStamp(recipe, reader.encoding, tuple(map(int, reader.shape)), digest.hexdigest())


def hardware() -> str:
    """Return what the network runs on, in words."""

    import keras

    backend = keras.backend.backend()
    devices = [device for device in keras.distribution.list_devices() if not device.lower().startswith("cpu")]
    what = f"{len(devices)} accelerator(s): {', '.join(devices)}" if devices else f"CPU, {core_count()} cores"
    return f"{what} ({backend} back end)"


def figures(entry: dict[str, float]) -> str:
    """Return the figures of an epoch in a few words."""
    return ", ".join(f"{name} {entry[name]:.4f}" for name in ("loss", "acc", "val_loss", "val_acc", "val_map"))


def summary(metrics: dict[str, Any]) -> str:
    """Return the result of a run in a few words."""
    best = metrics["validation"]
    text = f"val_map {best['val_map']:.4f} by the weights of epoch {metrics['best_epoch']} of {metrics['epochs']}"
    if "holdout" in metrics:
        text += f", holdout MAP {metrics['holdout']['holdout_map']:.4f} ({metrics['holdout']['recordings']} recordings)"
    return text


def main() -> None:
    """Train a network on the shards of a corpus."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add_config_arguments(parser)
    with joined(load_config(parser.parse_args())) as config:
        train(config)


if __name__ == "__main__":
    run(main)
