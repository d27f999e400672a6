#!/usr/bin/env python3
"""Stage 6: one self-contained page about a run: corpus, spectrograms, learning curves, figures, confusions, cost.

python predict/makeReport.py                         # the last run
python predict/makeReport.py --run runs/demo-residual

Writes runs/<name>/report.html and learning_curves.png. Results are those of the test part where its truth is
known and it was predicted (stage 5), else those of the validation recordings.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import csv
import html
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import config as configuration
from config import PREDICTIONS, Config, PipelineError
from config.commandline import log, run
from predict.drawing import MAX_MATRIX
from predict.evaluate import TITLES, best_species, evaluate, per_recording
from predict.runfile import Ranking, compare, read_run_file
from predict.scores import find_run, load_run, open_known
from preprocess.loadData import features_folder
from preprocess.metadata import read_truth
from preprocess.page import BLUE, GREY, ORANGE, corpus_overview, inline, picture, plt, table, write_page
from preprocess.recipes import open_recipe
from preprocess.recordings import Recording, Reject, Species, read_table
from preprocess.segments import SegmentReader, open_shards, open_view
from train.generateImages import GAP, draw, draw_beside_raw, is_changed
from train.hardware_log import read_hardware_log
from train.metrics import average_precision, main_species
from train.run import Run

EXAMPLES = 12  # spectrograms on the page
MIN_ROWS = 128  # of a spectrogram; few bins become several rows each
WORST = 15  # confusions and recordings listed
MOST_COMPARED = 24  # segments of a recording
MAX_POINTS = 600  # of a curve of the hardware; more are averaged


@dataclass(frozen=True)
class Facts:
    """What the sections of the page are made from."""

    target: Run
    config: Config
    recordings: list[Recording]
    species: list[Species]
    rejects: list[Reject]
    split: dict[str, str]  # media id -> side in the run
    history: list[dict[str, float]]
    ranking: Ranking
    part: str  # train or test, whose recordings the ranking covers
    scored: str  # that in words
    linear: Ranking | None  # of the linear baseline

    def name(self, class_id: str) -> str:
        """Return the names of a class, escaped."""
        for kind in self.species:
            if kind.class_id == class_id:
                words = (
                    f"{kind.vernacular_name} ({kind.scientific_name})" if kind.vernacular_name else kind.scientific_name
                )
                return html.escape(words or class_id)
        return html.escape(class_id)


def gather(target: Run) -> Facts:
    """Read everything about a run."""
    config = target.read_config()
    corpus = config.corpus_dir
    predictions = PREDICTIONS / f"{target.folder.name}.csv"
    linear = PREDICTIONS / f"{target.folder.name}-linear.csv"
    recordings = read_table(corpus / "recordings.csv", Recording)
    baseline = None
    known = (corpus / "truth.csv").exists()
    if known and predictions.exists() and target.has_predicted(predictions, config.train.monitor):
        warn_of_changes(target, config)
        truth = read_truth(corpus / "truth.csv")
        ranking = compare(read_run_file(predictions), truth)
        part, scored = "test", f"{len(truth)} test recordings"
        baseline = compare(read_run_file(linear), truth) if linear.exists() else None
    else:
        ranking = score_validation(target, recordings)
        part = "train"
        why = "there is no test part with a known truth"
        if known:
            why = f"{predictions.name} is not by these weights and settings; predict with --run {target.folder.name} first"
            log(f"warning: {predictions} is not there, or not what this run predicts: validation recordings are shown")
        scored = f"{len(ranking.media_ids)} validation recordings ({why})"
    rejected = corpus / "rejected.csv"
    return Facts(
        target,
        config,
        recordings,
        target.read_species(),
        read_table(rejected, Reject) if rejected.exists() else [],
        target.read_split(),
        target.read_history(),
        ranking,
        part,
        scored,
        baseline,
    )


def warn_of_changes(target: Run, config: Config) -> None:
    """Say that a page shows other recordings, features or species than the run was trained on."""
    try:
        open_known(target, config)
    except PipelineError as error:
        log(f"warning: {error}")


def score_validation(target: Run, recordings: Sequence[Recording]) -> Ranking:
    """Score the validation recordings of a run with its best weights.

    Raises:
        PipelineError: if there are none, or the corpus has changed since the run was trained.
    """
    from train.scoring import score_recordings

    config, model, loss = load_run(target)
    reader = open_known(target, config).reader
    split = target.read_split()
    chosen = [i for i, media_id in enumerate(reader.media_id) if split.get(media_id) == "validation"]
    if not chosen:
        raise PipelineError(f"{target.folder} held no recording back, and no test part has been predicted.")
    scores = score_recordings(model, loss, reader, chosen, config.predict)
    classes = [kind.class_id for kind in target.read_species()]
    row_of = {row.media_id: row for row in recordings}
    media_ids = [reader.media_id[i] for i in chosen]
    predictions = {m: dict(zip(classes, own.tolist(), strict=True)) for m, own in zip(media_ids, scores, strict=True)}
    return compare(predictions, {m: (row_of[m].class_id, row_of[m].background_ids) for m in media_ids})


def section_result(facts: Facts) -> str:
    """Return the main figures."""
    result = evaluate(facts.ranking)
    tiles = []
    for name in ("map_main", "map_background", "top1", "top5"):
        low, high = result[name]["interval"]
        tiles.append(
            f"<li>{TITLES[name]}<b>{result[name]['value']:.3f}</b><small>95 % interval {low:.3f} to {high:.3f}, "
            f"chance {result['chance'][name]:.3f}</small></li>"
        )
    rows = [("network", *(f"{result[name]['value']:.3f}" for name in TITLES))]
    if facts.linear:
        linear = evaluate(facts.linear)
        rows.append(("linear classifier on mean spectra", *(f"{linear[name]['value']:.3f}" for name in TITLES)))
    rows.append(("chance", *(f"{result['chance'][name]:.3f}" for name in TITLES)))
    metrics, monitor = facts.target.read_metrics(), facts.config.train.monitor
    words = "the last" if monitor == "last" else f"best {monitor}"
    holdout = ""
    if "holdout" in metrics:
        held = metrics["holdout"]
        holdout = (
            f"<p>Holdout: MAP {held['holdout_map']:.3f} over {held['recordings']} recordings that chose nothing.</p>"
        )
    return (
        f"<p>On {html.escape(facts.scored)}, with the weights of epoch {metrics['best_epoch']} ({words}).</p>"
        f'<ul class="big">{"".join(tiles)}</ul>' + table(["", *TITLES.values()], rows, range(1, 7)) + holdout
    )


def open_views(config: Config, part: str) -> tuple[SegmentReader, SegmentReader]:
    """Return the view of a part that the network gets, and the raw one."""
    features = config.features
    shards = open_shards(features_folder(config), part)
    return (
        open_view(shards, features),
        SegmentReader(shards, features.segment_frames, mask=False, drop_columns=False),
    )


def spectrogram(config: Config, views: tuple[SegmentReader, SegmentReader], i: int, start: int, caption: str) -> str:
    """Return a segment of a recording as a figure in HTML, below what was recorded where that differs."""
    view, buffer = views[0], io.BytesIO()
    changed = is_changed(view, config)
    drawn = draw_beside_raw(*views, i, start, config) if changed else draw(view, i, start, config)
    rows = (len(drawn) - GAP) // 2 if changed else len(drawn)
    tall = np.repeat(drawn, max(1, MIN_ROWS // rows), axis=0)
    Image.fromarray(tall).save(buffer, "PNG", optimize=True)
    shot = inline(buffer.getvalue(), "Spectrogram as the network sees it")
    return f"<figure>{shot}<figcaption>{caption}</figcaption></figure>"


def section_spectrograms(facts: Facts) -> str:
    """Return examples, as recorded above where that differs, of as many species as there is room for."""
    features = facts.config.features
    views = open_views(facts.config, "train")
    view = views[0]
    class_of = {row.media_id: row.class_id for row in facts.recordings}
    examples: dict[str, int] = {}
    for i, media_id in enumerate(view.media_id):
        if view.lengths[i] >= (1 if view.repeat else features.segment_frames):
            examples.setdefault(class_of.get(media_id, ""), i)
    shots = [
        spectrogram(facts.config, views, i, 0, f"{facts.name(class_id)}, recording {html.escape(view.media_id[i])}")
        for class_id, i in sorted(examples.items())[:EXAMPLES]
    ]
    seconds = features.segment_frames / open_recipe(features).frame_rate
    words = "Above as recorded, below as the network sees it; " if is_changed(view, facts.config) else ""
    words += "the stripe is what sounds all the time; " if facts.config.model.normalise == "both" else ""
    return (
        f"<p>{words}{seconds:.1f} s from left to right, low frequencies at the bottom.</p>"
        f'<div class="shots">{"".join(shots)}</div>'
    )


def learning_curves(history: list[dict[str, float]]) -> Figure:
    """Return loss, accuracy and MAP over the epochs."""
    epochs = [row["epoch"] for row in history]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2))
    for axis, title, lines in (
        (axes[0], "loss", (("loss", "training", BLUE), ("val_loss", "validation", ORANGE))),
        (axes[1], "accuracy of segments", (("acc", "training", BLUE), ("val_acc", "validation", ORANGE))),
        (
            axes[2],
            "recordings",
            (
                ("val_map", "MAP", ORANGE),
                ("val_map_background", "MAP with background", GREY),
                ("val_top1", "top-1", BLUE),
            ),
        ),
    ):
        for name, words, colour in lines:
            axis.plot(
                epochs,
                [row[name] for row in history],
                color=colour,
                label=words,
                marker="." if len(history) < 30 else "",
            )
        axis.set(xlabel="epoch", title=title)
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    return figure


def section_training(facts: Facts, curves: Figure) -> str:
    """Return the learning curves, and what the machine did meanwhile where that was kept."""
    waiting = 100 * np.array([row["waiting_share"] for row in facts.history])
    text = picture(curves, "Loss, accuracy and mean average precision over the epochs")
    text += (
        f"<p>Share of the time spent waiting for data: {waiting.mean():.1f} % on average, {waiting.max():.1f} % in the "
        "worst epoch.</p>"
    )
    devices = read_hardware_log(facts.target.folder / "hardware.csv")
    if devices:
        text += "<h3>Use of the machine</h3>"
        text += picture(hardware_curves(devices), "Use, memory and temperature of the devices over time")
    return text


def hardware_curves(devices: dict[str, list[dict[str, float]]]) -> Figure:
    """Return use, memory and, where a device reports it, temperature over the time of training."""
    hot = any(np.isfinite(row["temperature_c"]) for rows in devices.values() for row in rows)
    figure, axes = plt.subplots(1, 3 if hot else 2, figsize=(12, 2.8))
    plots = [("use_percent", "use, % of a core or card", 1), ("memory_mb", "memory in use, GB", 1024)]
    plots += [("temperature_c", "temperature, degrees Celsius", 1)] if hot else []
    for axis, (name, title, unit) in zip(axes, plots, strict=True):
        for device, rows in sorted(devices.items()):
            values = np.array([row[name] for row in rows]) / unit
            minutes = np.array([row["seconds"] for row in rows]) / 60
            parts = min(len(rows), MAX_POINTS)
            means = [[part.mean() for part in np.array_split(line, parts)] for line in (minutes, values)]
            if np.isfinite(values).any():
                axis.plot(*means, label="all cores" if device == "cpu" else device, marker="." if parts < 30 else "")
        axis.set(xlabel="minutes of training", title=title, ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    return figure


def section_species(facts: Facts) -> str:
    """Return figures per species, the confusion matrix and the worst confusions."""
    ranking, classes = facts.ranking, facts.ranking.classes
    own = per_recording(ranking)
    best = best_species(ranking)
    confusion = np.zeros((len(classes), len(classes)), int)
    predicted = best >= 0
    np.add.at(confusion, (ranking.labels[predicted], best[predicted]), 1)
    precision = average_precision(ranking.scores.T, main_species(ranking.labels, len(ranking.classes)).T)
    trained = Counter(row.class_id for row in facts.recordings if facts.split.get(row.media_id) == "train")
    rows = []
    for c in np.unique(ranking.labels):
        of_class = ranking.labels == c
        mistakes = confusion[c].copy()
        mistakes[c] = 0
        worst = facts.name(classes[int(np.argmax(mistakes))]) if mistakes.any() else ""
        rows.append(
            (
                facts.name(classes[c]),
                trained[classes[c]],
                int(of_class.sum()),
                f"{precision[c]:.3f}",
                f"{own['map_main'][of_class].mean():.3f}",
                f"{own['top1'][of_class].mean():.3f}",
                worst,
            )
        )
    rows.sort(key=lambda row: row[3])
    head = ["species", "trained on", "scored", "average precision", "MAP", "top-1", "most often taken for"]
    text = table(head, rows, [1, 2, 3, 4, 5])
    shown = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    if len(shown) <= MAX_MATRIX:
        figure, axis = plt.subplots(figsize=(2 + 0.32 * len(shown), 1.6 + 0.32 * len(shown)))
        part = confusion[np.ix_(shown, shown)]
        axis.imshow(part / np.maximum(part.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        for (i, j), count in np.ndenumerate(part):
            if count:
                axis.text(
                    j,
                    i,
                    count,
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if count > part[i].sum() / 2 else "black",
                )
        names = [classes[c] for c in shown]
        axis.set_xticks(range(len(names)), names, rotation=90)
        axis.set_yticks(range(len(names)), names)
        axis.set(xlabel="predicted", ylabel="true species")
        text += "<h3>Confusion matrix</h3>" + picture(figure, "Confusion matrix of true and predicted species")
    off = confusion.copy()
    np.fill_diagonal(off, 0)
    pairs = [(int(off[i, j]), i, j) for i, j in zip(*np.nonzero(off), strict=True)]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    rows = [(facts.name(classes[i]), facts.name(classes[j]), count) for count, i, j in pairs[:WORST]]
    return (
        text
        + "<h3>Worst confusions</h3>"
        + (table(["true species", "taken for", "recordings"], rows, [2]) if rows else "<p>There are none.</p>")
    )


def section_mistakes(facts: Facts) -> str:
    """Return the recordings that the network was most wrong about, with the loudest segment of each."""
    ranking, classes = facts.ranking, facts.ranking.classes
    rows = np.arange(len(ranking.labels))
    best, own = np.argmax(ranking.scores, axis=1), ranking.scores[rows, ranking.labels]
    lead = ranking.scores[rows, best] - own
    wrong = [i for i in np.argsort(-lead, kind="stable") if lead[i] > 0 and ranking.media_ids[i] not in ranking.missing]
    if not wrong:
        return "<p>The species of every recording came first.</p>"
    views = open_views(facts.config, facts.part)
    position = {media_id: i for i, media_id in enumerate(views[0].media_id)}
    shots = []
    for i in wrong[:EXAMPLES]:
        media_id = ranking.media_ids[i]
        place = int((ranking.scores[i] >= own[i]).sum())
        score = f"{own[i]:.2f}, place {place}" if own[i] >= 0 else "not listed"
        caption = (
            f"<b>{html.escape(media_id)}</b>: {facts.name(classes[ranking.labels[i]])} ({score}) was taken for "
            f"{facts.name(classes[best[i]])} ({ranking.scores[i, best[i]]:.2f})"
        )
        if media_id in position:
            start = loudest_segment(views[0], position[media_id])
            shots.append(spectrogram(facts.config, views, position[media_id], start, caption))
        else:
            shots.append(f"<figure><figcaption>{caption}</figcaption></figure>")
    return (
        f"<p>{len(wrong)} of {facts.scored} have another species first. Those with the greatest lead of the wrong "
        f'species:</p><div class="shots">{"".join(shots)}</div>'
    )


def loudest_segment(view: SegmentReader, recording: int) -> int:
    """Return the first frame of the segment of a recording with the highest mean level, of at most `MOST_COMPARED`."""
    starts = view.segment_starts(recording)[:MOST_COMPARED]
    codes = view.read([recording] * len(starts), starts).astype(np.float32)
    codes = np.abs(codes) if view.encoding.dtype == "int16" else codes
    return starts[int(np.argmax(codes.reshape(len(starts), -1).mean(axis=1)))]


def section_cost(facts: Facts) -> str:
    """Return hardware, time per stage and what the network is."""
    stages: dict[str, float] = {}
    path = facts.config.corpus_dir / "stages.csv"
    if path.exists():
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.reader(stream):
                if len(row) == 5 and (row[4] == facts.target.folder.name or int(row[1]) < 4):
                    stages[f"{row[1]} {row[2]}"] = stages.get(f"{row[1]} {row[2]}", 0) + float(row[3])
    metrics = facts.target.read_metrics()
    waiting = np.mean([row["waiting_share"] for row in facts.history])
    text = (
        f"<p>{html.escape(metrics['hardware'])}. Training took {metrics['seconds']:.0f} s for {metrics['epochs']} epochs; "
        f"{100 * waiting:.1f} % of it was spent waiting for data.</p>"
    )
    if stages:
        rows = [(html.escape(name), f"{seconds:.0f}") for name, seconds in sorted(stages.items())]
        text += table(["stage", "seconds, all starts together"], rows, [1])
    return text + f"<h3>Configuration</h3><pre>{html.escape(configuration.to_toml(facts.config))}</pre>"


def make_report(target: Run) -> Path:
    """Write report.html of a run and return its path."""
    facts = gather(target)
    curves = learning_curves(facts.history)
    curves.savefig(target.folder / "learning_curves.png", dpi=110, bbox_inches="tight")
    sections = (
        ("Result", section_result(facts)),
        ("Corpus", corpus_overview(facts.recordings, facts.rejects, facts.split)),
        ("Spectrograms", section_spectrograms(facts)),
        ("Learning curves", section_training(facts, curves)),
        ("Species", section_species(facts)),
        ("Most wrong", section_mistakes(facts)),
        ("Hardware, time and configuration", section_cost(facts)),
    )
    title = f"{target.folder.name}: {facts.config.model.network} on {facts.config.corpus_dir.name}"
    path = target.folder / "report.html"
    write_page(path, title, sections)
    return path


def main() -> None:
    """Write the report of a run."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run", type=Path, help="run directory (default: the one finished last)")
    args = parser.parse_args()
    target = find_run(args.run)
    log(f"{make_report(target)}")


if __name__ == "__main__":
    run(main)
