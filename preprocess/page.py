"""What the reports share: the look of a page, pictures and tables in it, and the overview of a corpus."""

import base64
import html
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from preprocess.plots import open_pyplot
from preprocess.recordings import Recording, Reject
from preprocess.whole import whole_file

plt = open_pyplot()
LOG_AXIS_FROM = 10  # lengths: as many times the median as the longest; 0.5 s to 38 min occur
BLUE, ORANGE, GREY = "#2b6cb0", "#c05621", "#718096"

STYLE = """
:root { color-scheme: light dark; --line: #cbd5e0; --soft: #f7fafc; --ink: #1a202c; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --line: #4a5568; --soft: #2d3748; --ink: #edf2f7; --paper: #1a202c; }
  img.plot { background: #fff; border-radius: 4px; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; }
.big { display: flex; gap: 1rem; flex-wrap: wrap; padding: 0; }
.big li { list-style: none; background: var(--soft); border-radius: 6px; padding: .6rem 1.2rem; }
.big b { display: block; font-size: 1.8rem; } .big small { display: block; }
.shots { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figure img { width: 100%; image-rendering: pixelated; } figcaption { font-size: .9rem; }
img.plot { max-width: 100%; } pre { background: var(--soft); padding: 1rem; overflow-x: auto; } .scroll { overflow-x: auto; }
"""


def picture(figure: Figure, words: str) -> str:
    """Return a plot as an inline image."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return inline(buffer.getvalue(), words, "plot")


def inline(png: bytes, words: str, kind: str = "") -> str:
    """Return PNG bytes as an image element with a text for those who do not see it."""
    data = base64.b64encode(png).decode()
    return f'<img class="{kind}" alt="{html.escape(words)}" src="data:image/png;base64,{data}">'


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], numeric: Sequence[int] = (), attributes: Sequence[str] = ()
) -> str:
    """Return a table; cells are HTML already, columns in `numeric` are aligned to the right.

    `attributes` are those of the rows, each beginning with a blank, or nothing.
    """

    def line(cells: Sequence[object], tag: str, attribute: str = "") -> str:
        marked = (f"<{tag}{' class=n' if i in numeric else ''}>{cell}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr{attribute}>" + "".join(marked) + "</tr>"

    rows = list(rows)
    lines = (line(row, "td", attribute) for row, attribute in zip(rows, attributes or [""] * len(rows), strict=True))
    return '<div class="scroll"><table>' + line(head, "th") + "".join(lines) + "</table></div>"


def page(title: str, sections: Iterable[tuple[str, str]], script: str = "") -> str:
    """Return a page of sections, (heading, HTML); it needs no other file and no network.

    A section without a heading has none on the page either; the script is JavaScript for the end of the page.
    """
    body = "".join(f"<section>{f'<h2>{name}</h2>' if name else ''}{content}</section>" for name, content in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body><main><h1>{html.escape(title)}</h1>{body}</main>{f'<script>{script}</script>' if script else ''}"
        "</body></html>"
    )


def write_page(path: Path, title: str, sections: Iterable[tuple[str, str]], script: str = "") -> None:
    """Write a page, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(page(title, sections, script), encoding="utf-8")


def corpus_overview(
    recordings: Sequence[Recording], rejects: Sequence[Reject], split: Mapping[str, str] | None = None
) -> str:
    """Return recordings per species, lengths, sample rates and rejects as HTML.

    Args:
        recordings: of the manifest.
        rejects: of all stages.
        split: media id -> train, validation, holdout or unused, of a run; None: all of the training part are for it.
    """

    def use(row: Recording) -> str:
        return row.part if split is None or row.part == "test" else split.get(row.media_id, "unused")

    counts = Counter(row.class_id for row in recordings if use(row) == "train")
    lengths = np.array([row.duration for row in recordings if row.duration])
    uses = Counter(map(use, recordings))
    ordered = sorted(counts.values(), reverse=True)
    words = [f"{uses['train']} recordings for training"]
    words += [f"{uses[name]} for {name}" for name in ("validation", "holdout") if uses[name]]
    words += [f"{uses['unused']} not used"] if uses["unused"] else []
    text = f"{', '.join(words)} and {uses['test']} for the test, {len(counts)} species"
    if len(lengths):
        text += f", {lengths.sum() / 3600:.2f} hours"
    facts = [f"{min(ordered)} to {max(ordered)} training recordings per species"] if ordered else []
    if len(lengths):
        facts.append(f"length from {lengths.min():.1f} to {lengths.max():.1f} s, median {np.median(lengths):.1f} s")
    text += f". {'; '.join(facts)}" if facts else ""
    text = f"<p>{text}.</p>" + picture(
        draw_counts_and_lengths(ordered, lengths), "Bar chart of recordings per species and histogram of lengths"
    )
    rates = Counter(row.sample_rate for row in recordings)
    rows = [(f"{rate:,} Hz" if rate else "unknown", count) for rate, count in sorted(rates.items())]
    text += table(["sample rate", "recordings"], rows, [1])
    reasons = Counter((reject.stage, reject.reason) for reject in rejects)
    if not reasons:
        return text + "<p>No file was rejected.</p>"
    rows = [(html.escape(stage), html.escape(reason), count) for (stage, reason), count in sorted(reasons.items())]
    return text + "<p>Rejected files (rejected.csv lists them):</p>" + table(["stage", "reason", "files"], rows, [2])


def draw_counts_and_lengths(counts: Sequence[int], lengths: np.ndarray) -> Figure:
    """Draw the recordings of each species, most first, and the distribution of the lengths in seconds."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3))
    left.bar(range(len(counts)), counts, color=BLUE, width=0.9)
    left.set(
        xlabel="species, by number of recordings",
        ylabel="training recordings",
        title="Recordings per species",
    )
    logarithmic = len(lengths) and lengths.max() > LOG_AXIS_FROM * max(float(np.median(lengths)), 1e-3)
    bins = np.geomspace(max(lengths.min(), 0.01), lengths.max() * 1.001, 41) if logarithmic else 40
    right.hist(lengths, bins=bins, color=BLUE)
    right.set(xlabel="seconds", ylabel="recordings", title="Lengths")
    if logarithmic:
        right.set_xscale("log")
        right.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        right.xaxis.set_major_formatter("{x:g}")  # Matplotlib's own would write powers as formulas
        right.xaxis.set_minor_formatter(NullFormatter())
    return figure
