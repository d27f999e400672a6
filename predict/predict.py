#!/usr/bin/env python3
"""Stage 5: rank the species of recordings with a trained run, and find when each is heard.

python predict/predict.py                              # test set of the last run
python predict/predict.py --run runs/demo-residual     # test set of a certain run
python predict/predict.py path/to/recordings --top 5   # folders and files of audio
python predict/predict.py day1 day2 --format csv --format raven   # detections with start and end
python predict/predict.py --run runs/a --run runs/b    # the mean scores of several runs

Writes predict/<run>.csv or predict/<run>-<input>.csv: MediaId;ClassId;probability, best first; or what --format says.
The front end, the mask, the normalisation and the classes are those of the run. The same command goes on after an
interruption; what is scored is kept, so that another format or minimum takes seconds.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import contextlib
import dataclasses
import hashlib
import inspect
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from config import VERSION, Config, Data, PipelineError, Predict, change, require_utf8
from config.commandline import add_jobs_argument, log, run
from predict.detections import POOLS, Result, conclude, lay_onto
from predict.formats import Facts, formats
from predict.outputs import mark_of, named, output_path, places
from predict.scores import Scores, find_run, judge, make_scores, read_scores, scores_folder
from predict.species_filter import Filter, day_of_year, read_list, read_places
from predict.thresholds import read_thresholds
from preprocess.cluster import cluster
from preprocess.fetchData import fetch
from preprocess.loadData import features_folder, load
from preprocess.manifest import RECORDINGS, REJECTED, read_description
from preprocess.recipes import folder_name, open_recipe
from preprocess.recordings import Recording, Reject, read_table, tally
from preprocess.resample import resample, wav_folder, wav_name
from preprocess.segments import open_shards
from preprocess.shards import Shard
from train.run import MONITORS, Run

NOTHING = Filter()  # any species may be expected
SHOWN, NAMED = 3, 3  # recordings whose first species are printed if there are no more; how many species
HEADER_ERROR = 0.5  # s; the header of a variable-rate MP3 may say less than the truth by much more
TABLES = (".csv", ".tsv", ".txt", ".json", ".toml", ".xml", ".xlsx", ".h5")  # endings of what is given by mistake
MARK_BYTES = 1 << 16  # 2 s at 16 kHz


def as_input(config: Config, inputs: Sequence[Path]) -> Config:
    """Return the configuration with folders and files of audio as its corpus, in a working folder of its own."""
    paths = places(inputs)
    for path in paths:
        require_utf8(path)
        if path.suffix.lower() in TABLES and path.is_file():
            raise PipelineError(f"{path} is a table, no recording. Give folders or files of audio.")
    root, options = paths[0], {}
    if len(paths) > 1:
        root = Path(os.path.commonpath(paths))
        options = {"inputs": [str(path.relative_to(root)) for path in paths]}  # as JSON gives it back
    name = f"predict-{named(root)}-{mark_of(inputs)}"
    folder = config.data.folder if config.corpus_dir.parent.is_dir() else Data.folder  # a run may come from elsewhere
    data = Data("folder", name, folder, options={"root": str(root), **options})
    return dataclasses.replace(config, data=data)


def prepare(config: Config, inputs: Sequence[Path], jobs: int = 1) -> Config:
    """Return the configuration of a run, with folders and files of audio as its corpus if there are some.

    They pass the stages up to features; what is there is not made again.
    """
    if inputs:
        config = as_input(config, inputs)
        fetch(config, jobs)
        resample(config, jobs)
        load(config, jobs)
    return config


def open_part(config: Config, recipe: str, part: str = "test") -> list[Shard]:
    """Return the shards of a part of a corpus.

    Raises:
        PipelineError: if they were made by another recipe than that of the run, or hold no recording.
    """
    shards = open_shards(features_folder(config), part)
    if any(shard.recipe != recipe for shard in shards):
        raise PipelineError(f"{features_folder(config)} was made by another recipe than the run was trained with.")
    if not any(shard.media_id for shard in shards):
        raise PipelineError(
            f"{config.corpus_dir} holds no {part} recording. Give files or folders of recordings to predict."
        )
    return shards


def find_trained_on(target: Run, scored: Config) -> set[str]:
    """Return the recordings of a corpus's test part that the network of a run was trained on, by media id.

    In another corpus than that of the run they are found by their sound, as stage 2 left it; where the run's corpus
    has gone, by their names.
    """
    own, rate = target.read_config(), open_recipe(scored.features).sample_rate
    rows = [row for row in read_table(scored.corpus_dir / "recordings.csv", Recording) if row.part == "test"]
    manifest, wavs = own.corpus_dir / "recordings.csv", wav_folder(own.corpus_dir, rate)
    found = target.trained_on(row.media_id for row in rows)
    if scored.corpus_dir == own.corpus_dir or not manifest.exists() or not wavs.is_dir():
        return found
    files = {row.media_id: wav_folder(scored.corpus_dir, rate) / wav_name(row.file) for row in rows}
    known = read_table(manifest, Recording)
    trained = target.trained_on(row.media_id for row in known)
    lengths = {path.stat().st_size for path in files.values() if path.exists()}
    others = [path for row in known if row.media_id in trained and (path := wavs / wav_name(row.file)).exists()]
    if not others:  # removed, such as to save space
        return found
    sounds = {sound_mark(path) for path in others if path.stat().st_size in lengths}
    return {media_id for media_id, path in files.items() if path.exists() and sound_mark(path) in sounds}


def sound_mark(path: Path) -> tuple[int, bytes]:
    """Return what tells the sound of a WAV from others: its size and a hash of up to 64 KiB from its middle."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - MARK_BYTES) // 2)
        return size, hashlib.sha256(stream.read(MARK_BYTES)).digest()


def find_recordings(config: Config, shards: Sequence[Shard]) -> list[Recording]:
    """Return the rows of the manifest in the order of the shards.

    Raises:
        PipelineError: if one is missing.
    """
    rows = {row.media_id: row for row in read_table(config.corpus_dir / RECORDINGS, Recording)}
    wanted = [media_id for shard in shards for media_id in shard.media_id]
    missing = [media_id for media_id in wanted if media_id not in rows]
    if missing:
        raise PipelineError(
            f"{config.corpus_dir / RECORDINGS} does not have {missing[0]}, which the features hold. Run stages 1 "
            "to 3 again."
        )
    return [rows[media_id] for media_id in wanted]


def rejects_of(config: Config) -> list[Reject]:
    """Return what any stage has rejected of a corpus."""
    path = config.corpus_dir / REJECTED
    return read_table(path, Reject) if path.exists() else []


def warn_of_trained_on(target: Run, seen: set[str], scored: int) -> None:
    """Say loudly that figures on these recordings are worth nothing."""
    if seen:
        log(
            f"warning: {target.folder.name} was TRAINED on {len(seen)} of these {scored} recordings, such as "
            f"{min(seen)}: figures on them say nothing about other recordings."
        )


@dataclasses.dataclass(frozen=True)
class Member:
    """A run, and where its scores of the recordings are."""

    target: Run
    config: Config  # of the run, with the corpus that is scored
    loss: Any
    shards: list[Shard]
    folder: Path

    @property
    def media_ids(self) -> list[str]:
        """The recordings, in the order of the results."""
        return [media_id for shard in self.shards for media_id in shard.media_id]

    def results(self) -> Iterator[tuple[Scores, np.ndarray, np.ndarray]]:
        """Yield, per recording, its logits, the scores of its segments, and its ranking by the rule of the loss."""
        for found in read_scores(self.folder, self.shards):
            yield found, *judge(self.loss, found.logits)


def open_member(target: Run, inputs: Sequence[Path], settings: Predict, monitor: str = "", jobs: int = 1) -> Member:
    """Let a run score the test part of its corpus or other recordings; what is scored already is not scored again.

    Raises:
        PipelineError: if there is nothing to predict or the run cannot be used.
    """
    config = prepare(dataclasses.replace(target.read_config(), predict=settings), inputs, jobs)
    monitor = monitor or config.train.monitor
    shards = open_part(config, target.read_stamp().recipe)
    warn_of_trained_on(target, find_trained_on(target, config), sum(len(shard.media_id) for shard in shards))
    from train.losses import open_loss

    folder, started = scores_folder(config, target, monitor), time.monotonic()
    count, seconds = make_scores(folder, config, shards, target, monitor)
    if count:
        spent = time.monotonic() - started
        log(
            f"{target.folder.name} ({monitor} weights): {count} segments scored in {spent:.1f} s, "
            f"{seconds / spent:.0f} times real time"
        )
    else:
        log(f"{target.folder.name} ({monitor} weights): everything was scored before")
    return Member(target, config, open_loss(config.train.loss, config.train.noise_class > 0), shards, folder)


def combine(
    members: Sequence[Member], settings: Predict, minimum: np.ndarray, expected: Filter = NOTHING
) -> Iterator[Result]:
    """Yield the result of every recording: the mean of the members, pooled, smoothed and searched for detections.

    The segments are those of the first member; scores of members with other segments are laid onto them by overlap.
    Scores and ranking are multiplied with the weights of the expected species.
    """
    config = members[0].config
    rows = {row.media_id: row for row in find_recordings(config, members[0].shards)}
    root = Path(read_description(config.corpus_dir).get("root", ""))
    heard = {
        media_id: float(shard.times(i, shard.frame_count[i]))
        for shard in members[0].shards
        for i, media_id in enumerate(shard.media_id)
    }
    for together in zip(*(member.results() for member in members), strict=True):
        found = together[0][0]
        scores = np.mean([lay_onto(found.seconds, other.seconds, own) for other, own, _ in together], axis=0)
        by_rule = np.mean([own for _, _, own in together], axis=0)
        row = with_length(rows[found.media_id], heard[found.media_id])
        weights = expected.weights(row)
        yield conclude(row, root / row.file, found.seconds, scores, by_rule, minimum, settings, weights)


def with_length(row: Recording, seconds: float) -> Recording:
    """Return a recording with the length of its frames where its header says nothing, or far too little."""
    if row.duration and seconds < row.duration + HEADER_ERROR:
        return row
    return dataclasses.replace(row, duration=round(seconds, 3))


def predict(
    targets: Sequence[Run],
    inputs: Sequence[Path] = (),
    output: Path | None = None,
    names: Sequence[str] = ("birdclef2016",),
    monitor: str = "",
    jobs: int = 1,
    thresholds: Literal["", "species", "overall", "none"] = "",
    expected: Filter = NOTHING,
    rows: Path | None = None,
    discard: bool = False,
    **settings: Any,
) -> list[Path]:
    """Write predictions for a test part, or for folders and files of audio.

    Args:
        targets: runs whose scores are averaged; all of the same species.
        inputs: folders and files of audio; none: the test part of the first run's corpus.
        output: the file, or with several formats the folder of the files; None: predict/<runs>[-<input>].csv.
        names: formats, see `predict.formats`.
        monitor: which weights; empty: by train.monitor of each run.
        jobs: processes.
        thresholds: of a single run that has some: that of each species, one for all, or predict.minimum; a minimum in
            the settings takes their place. Empty: that of each species where there are some.
        expected: which species to expect.
        rows: test.csv or sample_submission.csv of a competition.
        discard: remove the working folder of the inputs afterwards.
        settings: fields of `config.Predict` in place of those of the first run.

    Returns:
        The files.

    Raises:
        PipelineError: if there is nothing to predict, or the runs cannot be used, alone or together.
    """
    first = targets[0]
    chosen = change(first.read_config().predict, "predict", **settings)
    species = first.read_species()
    known = read_thresholds(first, monitor) if len(targets) == 1 else None
    if thresholds in ("species", "overall") and not known:
        raise PipelineError(
            f"--thresholds {thresholds} is for one run that has some. Make them: python predict/thresholds.py --run "
            f"{first.folder}"
        )
    if rows and not rows.is_file():
        raise PipelineError(f"--rows {rows} is no file.")
    paths = {name: output_path(output, targets, inputs, name, formats()[name][1], len(names)) for name in names}
    for target in targets:
        if [kind.class_id for kind in target.read_species()] != [kind.class_id for kind in species]:
            raise PipelineError(f"{first.folder} and {target.folder} know other species; they have no common ranking.")
    members: list[Member] = []
    for target in targets:
        members.append(open_member(target, inputs, chosen, monitor, jobs))
        if members[-1].media_ids != members[0].media_ids:
            raise PipelineError(f"{first.folder} and {target.folder} were made for the test parts of other corpora.")
    recipe = open_recipe(members[0].config.features)
    minimum = np.full(len(species), chosen.minimum)
    if known and thresholds != "none" and "minimum" not in settings:
        minimum = np.full(len(species), known.overall) if thresholds == "overall" else known.minimum
        log(f"detections by the thresholds of {first.folder / 'thresholds.json'} ({thresholds or 'species'})")
    facts = Facts(
        species,
        model="+".join(target.folder.name for target in targets),
        recipe=folder_name(recipe, members[0].config.features.recipe),
        options=members[0].shards[0].recipe,
        version=VERSION,
        settings=chosen,
        minimum=minimum,
        highest=recipe.sample_rate / 2,
        probability=(lambda score: float(known.probability(np.float64(score)))) if known else None,
        rows=rows,
    )
    rest = [row for row in read_table(members[0].config.corpus_dir / "recordings.csv", Recording) if row.part == "test"]
    unplaced = sum(expected.lacks_place(row) for row in rest)
    if unplaced:
        log(
            f"warning: {unplaced} of {len(rest)} recordings have no place; for them any species is expected. Give one: "
            "--place LATITUDE LONGITUDE"
        )
    count = Tally()
    written = []
    for name in names:
        write, path = formats()[name][0], paths[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        write(count.over(combine(members, chosen, minimum, expected)), path, facts)
        written.append(path)
        if name == "birdclef2016" and len(targets) == 1 and not (inputs or settings or monitor or expected):
            with contextlib.suppress(OSError):  # a run may be read-only
                first.note_prediction(path, members[0].config.train.monitor)
    discard = discard and bool(inputs)
    report(members[0].config, facts, count, written, discard)
    if discard:
        for member in members:
            shutil.rmtree(member.config.corpus_dir, ignore_errors=True)
    return written


@dataclasses.dataclass
class Tally:
    """What was found, counted while it is written."""

    recordings: int = 0
    detections: int = 0
    species: set[int] = dataclasses.field(default_factory=set)
    best: float = 0.0  # score of any segment
    first: list[Result] = dataclasses.field(default_factory=list)  # SHOWN of them

    def over(self, results: Iterator[Result]) -> Iterator[Result]:
        """Yield results and count them anew."""
        self.recordings = self.detections = 0
        self.first.clear()
        for result in results:
            if len(self.first) < SHOWN:
                self.first.append(result)
            self.recordings += 1
            self.detections += len(result.detections)
            self.species |= {found.species for found in result.detections}
            self.best = max(self.best, float(result.scores.max(initial=0.0)))
            yield result


def report(config: Config, facts: Facts, count: Tally, written: Sequence[Path], discard: bool) -> None:
    """Say what was written, what was left out, and loudly if nothing was detected."""
    rejects = rejects_of(config)
    for path in written:
        log(f"{path}: {count.recordings} recordings x {len(facts.species)} species by {facts.model}")
    least, most = facts.minimum.min(), facts.minimum.max()
    minimum = f"{least:.3g}" + (f" to {most:.3g}, by species" if most > least else "")
    log(
        f"{tally(count.recordings, rejects)}; {count.detections} detections of {len(count.species)} species, least "
        f"score {minimum}"
    )
    report_rejects(config, rejects, discard)
    if count.recordings == len(count.first):
        for result in count.first:
            best = np.argsort(-result.ranking, kind="stable")[:NAMED]
            names = ", ".join(f"{facts.name(c)} {result.ranking[c]:.3f}" for c in best)
            log(f"{result.recording.file}: {names}")
    if count.recordings and not count.best:
        log("warning: every score is 0: --species or --occurrence expects none of the species of the run there")
    elif not count.detections:
        log(
            f"warning: NOTHING was detected: the best score of any segment is {count.best:.3f}, the least that counts "
            f"{minimum} (--minimum)"
        )


def report_rejects(config: Config, rejects: Sequence[Reject], discard: bool) -> None:
    """Say where what was rejected is listed; list it where that is about to be removed."""
    if discard:
        for row in rejects:
            log(f"rejected: {row.file}: {row.reason} {row.detail}".rstrip())
    elif rejects:
        log(f"what was rejected is listed in {config.corpus_dir / REJECTED}")


def main() -> None:
    """Rank the species of recordings, and find when they are heard, with trained runs."""
    parser = argparse.ArgumentParser(
        description=main.__doc__, epilog=formats_help(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        type=Path,
        metavar="INPUT",
        help="folders (all depths) and files of audio (default: the test part of the run's corpus)",
    )
    parser.add_argument(
        "--run",
        type=Path,
        action="append",
        help="run directory (default: the one finished last); given several times, the scores are averaged",
    )
    parser.add_argument(
        "--format", choices=[*formats()], action="append", metavar="NAME", help="see below; may be given several times"
    )
    parser.add_argument(
        "--output", type=Path, help="file, or folder for several formats (default: predict/<run>[-<input>]...)"
    )
    parser.add_argument("--top", type=int, help="species per recording and segment, 0: all")
    parser.add_argument("--pool", choices=[*POOLS], help="how segments make the score of a recording")
    parser.add_argument("--hop", type=float, help="seconds from segment to segment, 0: their length")
    parser.add_argument("--smooth", action=argparse.BooleanOptionalAction, help="average with neighbours in time")
    parser.add_argument("--minimum", type=float, help="least score of a detection")
    parser.add_argument(
        "--thresholds",
        choices=("species", "overall", "none"),
        default="",
        help="what to use of the thresholds that predict/thresholds.py has put into the run (default: species, if any)",
    )
    parser.add_argument("--merge", action=argparse.BooleanOptionalAction, help="join consecutive detections")
    parser.add_argument("--species", type=Path, help="list of the only species to expect: a class id or name per line")
    parser.add_argument(
        "--occurrence",
        choices=("soft", "strict"),
        help="weigh scores by what was recorded nearby at that time of the year, or leave out what was not",
    )
    parser.add_argument(
        "--place",
        nargs=2,
        type=float,
        metavar=("LATITUDE", "LONGITUDE"),
        help="for --occurrence, in degrees, of recordings without a place of their own",
    )
    parser.add_argument("--date", default="", help="the same: YYYY-MM-DD")
    parser.add_argument("--rows", type=Path, help="test.csv or sample_submission.csv, for the formats kaggle20..")
    parser.add_argument(
        "--weights", choices=[*MONITORS], default="", help="best by (default: train.monitor of the run)"
    )
    parser.add_argument(
        "--discard", action="store_true", help="remove the working folder of the inputs at the end; it is not resumed"
    )
    add_jobs_argument(parser, scheduler=True)
    args = parser.parse_args()
    if (args.place or args.date) and not args.occurrence:
        parser.error("--place and --date are for --occurrence")
    if args.rows and not any(name.startswith("kaggle") for name in args.format or []):
        parser.error("--rows is for the formats kaggle20..")
    if args.date and np.isnan(day_of_year(args.date)):
        parser.error("--date is YYYY-MM-DD")
    if args.place and not (abs(args.place[0]) <= 90 and abs(args.place[1]) <= 180):
        parser.error("--place is a latitude from -90 to 90 and a longitude from -180 to 180")
    if args.thresholds in ("species", "overall") and args.minimum is not None:
        parser.error("--minimum takes the place of all thresholds")
    targets = [find_run(named) for named in args.run or [None]]
    settings = {name: getattr(args, name) for name in ("top", "pool", "hop", "smooth", "minimum", "merge")}
    settings = {name: value for name, value in settings.items() if value is not None}
    expected = Filter(
        read_list(args.species, targets[0].read_species()) if args.species else None,
        read_places(targets[0]) if args.occurrence else None,
        tuple(args.place) if args.place else None,
        args.date,
        args.occurrence == "strict",
    )
    with cluster(args.scheduler):
        predict(
            targets,
            args.inputs,
            args.output,
            list(dict.fromkeys(args.format or ["birdclef2016"])),
            args.weights,
            args.jobs,
            args.thresholds,
            expected,
            args.rows,
            args.discard,
            **settings,
        )


def formats_help() -> str:
    """Return the table of formats for --help."""
    lines = [f"  {name:26}{inspect.getdoc(write).splitlines()[0]}" for name, (write, _) in formats().items()]
    return "formats:\n" + "\n".join(lines)


if __name__ == "__main__":
    run(main)
