"""What the pages that we write share: one file of HTML that needs nothing else."""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

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


def write_page(path: Path, title: str, body: str, script: str = "") -> None:
    """Write a page at once; the title is text, the body HTML, the script JavaScript for the end of the page."""
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body><main><h1>{html.escape(title)}</h1>{body}</main>{f'<script>{script}</script>' if script else ''}"
        "</body></html>"
    )
    partial = path.with_name(path.name + ".part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
