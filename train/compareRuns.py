#!/usr/bin/env python3
"""One self-contained page over many runs: bars of MAP and top-1, learning curves, and the settings that differ.

python train/compareRuns.py                                  # all of runs/
python train/compareRuns.py /disk/runs runs/demo-residual    # folders of runs, or single runs
python train/compareRuns.py --output comparison.html

Figures are those of the validation recordings with the weights that train.monitor names; runs on different corpora, or
with another split, are not to be compared. The page filters by network, corpus and recipe.
"""

if not __package__:  # run as a file: import from the project, in its environment
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1])
    import environment  # noqa: F401

import argparse
import html
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import config as configuration
from config import PROJECT, Config, PipelineError
from config.commandline import log, run
from preprocess.page import page, table
from train.run import Run, best_epoch, flat_settings, write_text

FILTERS = ("network", "corpus", "recipe")
CURVES = (("val_map", "MAP of validation recordings"), ("val_loss", "validation loss"), ("loss", "training loss"))
# Distinct in both colour schemes and for the colour-blind (Okabe and Ito 2008), then repeated with another dash.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
DASHES = ("", "6 3", "2 3", "8 3 2 3")
MAX_CURVE_POINTS = 400
WIDTH, HEIGHT, LEFT, BOTTOM = 420, 240, 46, 28  # of a plot, in SVG units
STYLE = """<style>
.bars { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr 1fr; gap: .3rem 1rem; align-items: center; }
.bars .run { display: contents; } .bars .run[hidden] { display: none; } .bars b { font-weight: 600; }
.bars svg { width: 100%; height: 1.6rem; display: block; } .bars .name { overflow-wrap: anywhere; }
.bars text { fill: var(--ink); font: 12px system-ui, sans-serif; }
@media (max-width: 640px) { .bars { grid-template-columns: 1fr; } .bars .head { display: none; }
  .bars .name { margin-top: .6rem; font-weight: 600; } .bars .bar::before { content: attr(data-measure); } }
.swatch { display: inline-block; width: 1.6rem; height: .5rem; vertical-align: middle; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
.curves svg { width: 100%; } .curves text { fill: var(--ink); font: 11px system-ui, sans-serif; }
.curves .axis { stroke: var(--line); fill: none; } .curves path { fill: none; stroke-width: 1.6; }
.filters label { margin-right: 1.5rem; } .filters select { font: inherit; }
[hidden] { display: none; }
</style>"""
SCRIPT = """
const selects = [...document.querySelectorAll('.filters select')];
function update() {
  let shown = 0;
  for (const item of document.querySelectorAll('[data-network]')) {
    item.toggleAttribute('hidden', !selects.every(s => !s.value || item.dataset[s.name] === s.value));
    if (item.classList.contains('run') && !item.hasAttribute('hidden')) shown++;
  }
  document.getElementById('shown').textContent = shown;
}
selects.forEach(s => s.addEventListener('change', update));
update();
"""


@dataclass(frozen=True)
class Result:
    """What the page shows of a run."""

    name: str
    config: Config
    history: list[dict[str, float]]
    metrics: dict[str, Any]  # empty while it is not finished

    @property
    def facts(self) -> dict[str, str]:
        """Return what the filters choose by."""
        return {
            "network": self.config.model.network,
            "corpus": self.config.corpus_dir.name,
            "recipe": self.config.features.recipe,
        }

    @property
    def epoch(self) -> int:
        """Return the number of the epoch, from 0, whose weights count."""
        return best_epoch(self.history, self.config.train.monitor)

    def value(self, name: str) -> float | None:
        """Return a figure of the epoch whose weights count, or None where it is not known."""
        figures = self.metrics["validation"] if "validation" in self.metrics else self.history[self.epoch]
        given = figures.get(name)
        return float(given) if isinstance(given, int | float) and math.isfinite(given) else None

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a figure where the run has one."""
        given = self.metrics.get("intervals", {}).get(name)
        known = isinstance(given, list) and len(given) == 2 and all(isinstance(limit, int | float) for limit in given)
        return (float(given[0]), float(given[1])) if known else None


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the run directories among folders and in them, in the order of their names."""
    found = set()
    for folder in folders:
        candidates = [folder, *folder.iterdir()] if folder.is_dir() else []
        found |= {path.resolve() for path in candidates if os.access(path / "config.toml", os.R_OK)}
    return sorted(found, key=lambda path: (path.name, str(path)))


def read_results(paths: Sequence[Path]) -> list[Result]:
    """Read runs; those that cannot be read, or have no epoch yet, are named and left out.

    Runs of one name in several folders are told apart by as many of these folders as it takes.
    """
    names = short_names(paths)
    results = []
    for path, name in zip(paths, names, strict=True):
        target = Run(path)
        try:
            history = target.read_history()
            if not history:
                raise ValueError("no epoch is finished")
            metrics = target.read_metrics() if (path / "metrics.json").exists() else {}
            result = Result(name, target.read_config(), history, metrics)
            result.value("val_map")  # history and figures have the shape of ours
            results.append(result)
        except (PipelineError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log(f"{path} is left out: {error}")
    return results


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the ends of paths, each as long as needed to differ from all others."""
    names = []
    for path in paths:
        alike = [other.parts for other in paths if other != path]
        size = 1
        while size < len(path.parts) and any(other[-size:] == path.parts[-size:] for other in alike):
            size += 1
        names.append("/".join(path.parts[-size:]))
    return names


def data_attributes(result: Result) -> str:
    """Return the attributes that the filters choose an element by."""
    return "".join(f' data-{key}="{html.escape(value)}"' for key, value in result.facts.items())


def section_filters(results: Sequence[Result]) -> str:
    """Return a choice for every filter, with the values there are."""
    choices = []
    for key in FILTERS:
        values = sorted({result.facts[key] for result in results})
        options = "".join(f'<option value="{html.escape(value)}">{html.escape(value)}</option>' for value in values)
        choices.append(f'<label>{key} <select name="{key}"><option value="">all</option>{options}</select></label>')
    return f'<p class="filters">{"".join(choices)} <span id="shown">{len(results)}</span> of {len(results)} runs</p>'


def colour_of(index: int) -> tuple[str, str]:
    """Return colour and dashes of a run."""
    return COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]


def bar(value: float | None, interval: tuple[float, float] | None, colour: str, words: str) -> str:
    """Return a bar from 0 to 1 with its interval and its figure."""
    if value is None:
        return f'<svg viewBox="0 0 300 20" role="img" aria-label="{words}: unknown"><text x="2" y="14">-</text></svg>'
    text = f"{value:.3f}" + (f" ({interval[0]:.3f} - {interval[1]:.3f})" if interval else "")
    scale = 160
    line = ""
    end = value * scale
    if interval:
        low, high = (limit * scale for limit in interval)
        line = f'<path d="M{low:.1f} 10H{high:.1f}M{low:.1f} 6V14M{high:.1f} 6V14" stroke="currentColor" fill="none"/>'
        end = max(end, high)
    return (
        f'<svg viewBox="0 0 300 20" preserveAspectRatio="xMinYMid meet" role="img" aria-label="{words}: {text}">'
        f'<rect x="0" y="3" width="{value * scale:.1f}" height="14" fill="{colour}" opacity=".75"/>{line}'
        f'<text x="{end + 5:.1f}" y="14">{text}</text></svg>'
    )


def section_bars(results: Sequence[Result]) -> str:
    """Return the bars of MAP and top-1, best first."""
    rows = ['<span class="head"></span><b class="head">MAP, main species</b><b class="head">top-1 accuracy</b>']
    colours = {id(result): colour_of(i)[0] for i, result in enumerate(results)}
    for result in sorted(results, key=lambda result: -(result.value("val_map") or 0)):
        colour = colours[id(result)]
        bars = "".join(
            f'<div class="bar" data-measure="{words}">'
            f"{bar(result.value(name), result.interval(name), colour, words)}</div>"
            for name, words in (("val_map", "MAP"), ("val_top1", "top-1"))
        )
        name = html.escape(result.name) + ("" if result.metrics else " <small>(not finished)</small>")
        rows.append(f'<div class="run"{data_attributes(result)}><span class="name">{name}</span>{bars}</div>')
    return f'<div class="bars">{"".join(rows)}</div>'


def ticks(low: float, high: float) -> list[float]:
    """Return up to six round numbers between two limits."""
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / 5))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def curve_plot(results: Sequence[Result], name: str, title: str) -> str:
    """Return one plot with the curve of every run over the epochs."""
    lines = []
    for result in results:
        points = [(row["epoch"], row[name]) for row in result.history if math.isfinite(row.get(name, math.nan))]
        lines.append(points[:: -(-len(points) // MAX_CURVE_POINTS)] if points else [])
    values = sorted(value for points in lines for _, value in points)
    if not values:
        return ""
    low, high = (0.0, 1.0) if name == "val_map" else (0.0, values[min(len(values) - 1, int(0.99 * len(values)))])
    high = high if high > low else low + 1
    epochs = max(2, *(epoch for points in lines for epoch, _ in points))

    def place(epoch: float, value: float) -> str:
        x = LEFT + (epoch - 1) / (epochs - 1) * (WIDTH - LEFT - 8)
        y = HEIGHT - BOTTOM - (min(max(value, low), high) - low) / (high - low) * (HEIGHT - BOTTOM - 8)
        return f"{x:.1f} {y:.1f}"

    parts = [f'<path class="axis" d="M{LEFT} 8V{HEIGHT - BOTTOM}H{WIDTH - 8}"/>']
    for tick in ticks(low, high):
        x, y = place(1, tick).split()
        parts.append(f'<path class="axis" d="M{LEFT} {y}H{WIDTH - 8}" opacity=".5"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{float(y) + 4:.1f}" text-anchor="end">{tick:.3g}</text>')
    for tick in ticks(1, epochs):
        if tick == int(tick):
            x, _ = place(tick, low).split()
            parts.append(f'<text x="{x}" y="{HEIGHT - 12}" text-anchor="middle">{tick:.0f}</text>')
    parts.append(f'<text x="{WIDTH - 8}" y="{HEIGHT - 1}" text-anchor="end">epoch</text>')
    for i, (result, points) in enumerate(zip(results, lines, strict=True)):
        if not points:
            continue
        colour, dashes = colour_of(i)
        route = "L".join(place(*point) for point in points)
        dot = f"M{route}" + ("h.01" if len(points) == 1 else "")
        parts.append(
            f'<g{data_attributes(result)}><path d="{dot}" stroke="{colour}" stroke-dasharray="{dashes}" '
            f'stroke-linecap="round"><title>{html.escape(result.name)}</title></path></g>'
        )
    return (
        f'<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{title} over the epochs">{"".join(parts)}</svg></figure>'
    )


def section_curves(results: Sequence[Result]) -> str:
    """Return the learning curves with their legend."""
    legend = []
    for i, result in enumerate(results):
        colour, dashes = colour_of(i)
        line = f'<path d="M0 4H26" stroke="{colour}" stroke-width="3" stroke-dasharray="{dashes}"/>'
        mark = f'<svg class="swatch" viewBox="0 0 26 8" aria-hidden="true">{line}</svg>'
        legend.append(f"<span{data_attributes(result)}>{mark} {html.escape(result.name)} &ensp;</span>")
    plots = "".join(curve_plot(results, name, title) for name, title in CURVES)
    return f'<p>{"".join(legend)}</p><div class="curves">{plots}</div>'


def section_figures(results: Sequence[Result]) -> str:
    """Return the figures of every run."""
    rows = []
    for result in results:
        seconds = sum(row.get("seconds", 0) for row in result.history)
        cells = [html.escape(result.name), *map(html.escape, result.facts.values())]
        cells += [str(len(result.history)), str(result.epoch + 1)]
        for name in ("val_map", "val_top1", "val_top3", "val_top5", "val_auc", "val_loss"):
            value = result.value(name)
            cells.append("" if value is None else f"{value:.3f}")
        held = result.metrics.get("holdout", {}).get("holdout_map")
        cells += [f"{held:.3f}" if isinstance(held, float) else "", f"{seconds / 60:.1f}"]
        rows.append(cells)
    head = ["run", *FILTERS, "epochs", "best", "MAP", "top-1", "top-3", "top-5", "AUC", "loss", "holdout MAP", "min"]
    return table(head, rows, range(4, len(head)), [data_attributes(result) for result in results])


def section_settings(results: Sequence[Result]) -> str:
    """Return the settings in which the runs differ, a row per run."""
    trees = [configuration.to_dict(result.config) for result in results]
    settings = [flat_settings({key: value for key, value in tree.items() if key != "tune"}) for tree in trees]
    keys = [key for key in dict.fromkeys(key for own in settings for key in own) if key not in ("train.run",)]
    differing = [key for key in keys if len({json.dumps(own.get(key)) for own in settings}) > 1]
    if not differing:
        return "<p>There are none.</p>"
    rows = []
    for result, own in zip(results, settings, strict=True):
        shown = [html.escape(configuration.toml_value(own[key])) if key in own else "" for key in differing]
        rows.append([html.escape(result.name), *shown])
    return table(["run", *map(html.escape, differing)], rows, (), [data_attributes(result) for result in results])


def comparison(folders: Sequence[Path]) -> str:
    """Return the page over all runs in some folders.

    Raises:
        PipelineError: if there is no run with an epoch.
    """
    results = read_results(find_runs(folders))
    if not results:
        places = ", ".join(map(str, folders))
        raise PipelineError(f"There is no run with a finished epoch in {places}. Train one first: ./doall.sh")
    sections = (
        ("MAP and accuracy", section_bars(results)),
        ("Learning curves", section_curves(results)),
        ("Figures", section_figures(results)),
        ("Settings that differ", section_settings(results)),
    )
    body = STYLE + section_filters(results)
    body += (
        "<p>Validation recordings, by the weights that each run is used with; lines are 95 % bootstrap intervals over "
        "recordings, where a run has them.</p>"
    )
    body += "".join(f"<section><h2>{name}</h2>{content}</section>" for name, content in sections)
    return page(f"Comparison of {len(results)} runs", [("", body)], SCRIPT)


def main() -> None:
    """Compare runs on one page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folders", nargs="*", type=Path, help="runs, or folders of runs (default: runs/)")
    parser.add_argument("--output", type=Path, help="page to write (default: compare.html in the first folder)")
    args = parser.parse_args()
    folders = args.folders or [PROJECT / "runs"]
    for folder in folders:
        if not folder.is_dir():
            raise PipelineError(f"{folder} is no folder of runs.")
    output = args.output or folders[0] / "compare.html"
    write_text(output, comparison(folders))
    log(f"{output} is written")


if __name__ == "__main__":
    run(main)
