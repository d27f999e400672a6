#!/usr/bin/env python3
"""One self-contained page about a corpus: species, lengths, sample rates, places, licences, recordists, rejects.

python preprocess/describeCorpus.py --config config/demo.toml

Needs stage 1 only, and no network. Writes birdclef_data/<corpus>/corpus.html, corpus_lengths.png and corpus_map.png.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import html
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from config import Config
from config.commandline import add_config_arguments, load_config, log, run
from preprocess.manifest import read_description
from preprocess.page import (
    BLUE,
    ORANGE,
    corpus_overview,
    draw_counts_and_lengths,
    picture,
    plt,
    table,
    write_page,
)
from preprocess.recordings import Recording, Reject, Species, read_table
from preprocess.selection import truth_classes
from preprocess.sources import Corpus
from preprocess.whole import whole_file

# Outlines of the land, int16 [points, 2]: longitude and latitude in hundredths of a degree, a row of SEPARATOR after
# each ring; outer rings run against the clock, lakes with it. Natural Earth 1:110m, public domain, from the countries
# that geopandas 0.14 holds: the borders that belong to one country only.
LAND = Path(__file__).with_name("land.npy")
SEPARATOR = 32767
MOST_LISTED = 40  # recordists; all species and licences are listed


def describe_corpus(config: Config) -> Path:
    """Write the page and the pictures of a corpus and return the path of the page.

    Raises:
        PipelineError: if stage 1 has not run.
    """
    folder = config.corpus_dir
    recordings = read_table(folder / "recordings.csv", Recording)
    species = read_table(folder / "classes.csv", Species)
    rejects = read_table(folder / "rejected.csv", Reject) if (folder / "rejected.csv").exists() else []
    truth = folder / "truth.csv"
    labels = truth_classes(Corpus(recordings, species, truth=truth if truth.exists() else None))
    counts = Counter(row.class_id for row in recordings if row.part == "train")
    lengths = np.array([row.duration for row in recordings if row.duration])
    for name, figure in (
        ("corpus_lengths.png", draw_counts_and_lengths(sorted(counts.values(), reverse=True), lengths)),
        ("corpus_map.png", draw_map(*places(recordings))),
    ):
        with whole_file(folder / name) as partial:
            figure.savefig(partial, format="png", dpi=110, bbox_inches="tight")
        plt.close(figure)
    sections = (
        ("Overview", corpus_overview(recordings, rejects)),
        ("Places", section_places(recordings)),
        ("Species", section_species(recordings, species, labels)),
        ("Licences and recordists", section_people(recordings)),
        ("Where it came from", section_origin(folder)),
    )
    write_page(folder / "corpus.html", f"Corpus {folder.name}", sections)
    return folder / "corpus.html"


def places(recordings: Sequence[Recording]) -> tuple[np.ndarray, np.ndarray]:
    """Return longitude and latitude in degrees of the recordings that have both, float64 [n] each."""
    known = [(float(row.longitude), float(row.latitude)) for row in recordings if row.longitude and row.latitude]
    points = np.array(known, np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[:, 0], points[:, 1]


def read_land() -> list[np.ndarray]:
    """Return the outlines of the land, float64 [points, 2] in degrees each."""
    points = np.load(LAND, allow_pickle=False)
    rings = np.split(points, np.flatnonzero(points[:, 0] == SEPARATOR) + 1)
    return [ring[:-1] / 100 for ring in rings if len(ring)]


def draw_map(longitude: np.ndarray, latitude: np.ndarray) -> "plt.Figure":
    """Draw places on a map of the world; degrees of longitude and latitude are equally long (plate carree)."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    figure, axis = plt.subplots(figsize=(11, 5.6))
    land = Outline.make_compound_path(*(Outline(ring, closed=True) for ring in read_land()))
    axis.add_patch(PathPatch(land, facecolor="#e2e8f0", edgecolor="#a0aec0", linewidth=0.5))
    opacity = float(np.clip(30 / np.sqrt(max(1, len(longitude))), 0.15, 0.8))
    axis.scatter(longitude, latitude, s=12, color=ORANGE, alpha=opacity, linewidths=0, zorder=3)
    axis.set(xlim=(-180, 180), ylim=(-90, 90), aspect="equal", xlabel="longitude", ylabel="latitude")
    axis.set(xticks=range(-180, 181, 30), yticks=range(-90, 91, 30))
    axis.grid(alpha=0.3, linewidth=0.5)
    return figure


def section_places(recordings: Sequence[Recording]) -> str:
    """Return the map and how many recordings are on it."""
    longitude, latitude = places(recordings)
    if not len(longitude):
        return "<p>No recording has coordinates.</p>"
    text = (
        f"<p>{len(longitude)} of {len(recordings)} recordings have coordinates: latitude {latitude.min():.1f} to "
        f"{latitude.max():.1f}, longitude {longitude.min():.1f} to {longitude.max():.1f} degrees. "
        "Land: Natural Earth.</p>"
    )
    return text + picture(draw_map(longitude, latitude), "World map of the recording places")


def section_species(recordings: Sequence[Recording], species: Sequence[Species], labels: dict[str, str]) -> str:
    """Return a table of all species, most training recordings first, with a chart; labels are those of the test."""
    of_class: dict[str, list[Recording]] = {}
    for row in recordings:
        of_class.setdefault(row.class_id or labels.get(row.media_id, ""), []).append(row)
    rows = []
    for kind in species:
        own = of_class.get(kind.class_id, [])
        train = [row for row in own if row.part == "train"]
        rows.append(
            (
                kind.class_id,
                html.escape(kind.scientific_name),
                html.escape(kind.vernacular_name),
                len(train),
                len(own) - len(train),
                len({row.author for row in own if row.author}),
                f"{sum(row.duration for row in own) / 60:.1f}",
            )
        )
    rows.sort(key=lambda row: (-row[3], row[0]))
    head = ["class", "scientific name", "name", "for training", "for the test", "recordists", "minutes"]
    figure, axis = plt.subplots(figsize=(9, 1 + 0.22 * len(rows)) if len(rows) <= 60 else (11, 3))
    if len(rows) <= 60:
        axis.barh([row[0] for row in rows], [row[3] for row in rows], color=BLUE)
        axis.invert_yaxis()
        axis.set(xlabel="training recordings")
        axis.margins(y=0.01)
    else:  # names would not be readable
        axis.plot(np.cumsum([row[3] for row in rows]) / max(1, sum(row[3] for row in rows)), color=BLUE)
        axis.set(xlabel="species, most recordings first", ylabel="share of all recordings", ylim=(0, 1))
    shown = [(html.escape(row[0]), *row[1:]) for row in rows]
    return picture(figure, "Training recordings of each species") + table(head, shown, [3, 4, 5, 6])


def section_people(recordings: Sequence[Recording]) -> str:
    """Return recordings by licence and the most frequent recordists."""
    licences = Counter(row.licence or "unknown" for row in recordings)
    authors = Counter(row.author for row in recordings if row.author)
    unknown = sum(not row.author for row in recordings)
    text = table(["licence", "recordings"], [(html.escape(name), count) for name, count in _ranked(licences)], [1]) + (
        f"<p>{len(authors)} recordists; {unknown} recordings name none.</p>"
    )
    if not authors:
        return text
    rows = [(html.escape(name), count) for name, count in _ranked(authors)[:MOST_LISTED]]
    return text + table(["recordist", "recordings"], rows, [1])


def section_origin(folder: Path) -> str:
    """Return the options that the corpus was made with."""
    options = read_description(folder).get("options", {})
    rows = [(html.escape(key), html.escape(str(value))) for key, value in sorted(options.items())]
    return table(["data", "value"], rows) if rows else "<p>There is no corpus.json.</p>"


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def main() -> None:
    """Describe a corpus on one page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    add_config_arguments(parser)
    log(f"{describe_corpus(load_config(parser.parse_args()))}")


if __name__ == "__main__":
    run(main)
