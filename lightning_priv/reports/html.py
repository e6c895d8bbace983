"""Parts of HTML pages that need no other file, no network and no script."""

import base64
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_priv.reports.tables import Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["cell_text", "document", "figure_image", "picture", "plain"]

_STYLE = """
:root { color-scheme: light; --ink: #1b2430; --soft: #5b6675; --line: #dde2e8; --accent: #1f5a96; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  color: var(--ink); background: #f5f6f8; }
main { max-width: 56rem; margin: 0 auto; padding: 1.2rem; background: #fff; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.4rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.3rem; border-top: 1px solid var(--line);
  padding-top: 1.2rem; }
h3 { font-size: 1.02rem; margin: 1.6rem 0 0.2rem; color: var(--accent); }
p { margin: 0.4rem 0; overflow-wrap: anywhere; } .soft { color: var(--soft); font-size: 0.92rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: 0.7rem; margin: 1.1rem 0; }
.card { border: 1px solid var(--line); border-radius: 0.5rem; padding: 0.6rem 0.8rem; }
.card b { display: block; font-size: 1.45rem; color: var(--accent); }
.card span { font-size: 0.85rem; color: var(--soft); }
ul.short { padding-left: 1.2rem; } ul.short li { margin: 0.35rem 0; }
.note { border-left: 4px solid #d9822b; padding: 0.3rem 0.8rem; background: #fdf6ec;
  margin: 0.5rem 0; font-size: 0.94rem; }
img { max-width: 100%; }
.good { border-left-color: #2e7d32; background: #eef7ef; }
.bad { border-left-color: #b3261e; background: #fdeeee; }
figure { margin: 0.6rem 0 0; } img { width: 100%; height: auto; display: block; }
@media (max-width: 40rem) { figure { overflow-x: auto; } img { width: 34rem; max-width: none; } }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr));
  gap: 0.6rem; } .charts img { width: 100%; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-size: 0.86rem; margin: 0.5rem 0; min-width: 100%; }
th, td { padding: 0.28rem 0.6rem; border-bottom: 1px solid var(--line); text-align: left;
  white-space: nowrap; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.wide { white-space: normal; min-width: 14rem; }
tr.out td { color: var(--soft); }
details summary { cursor: pointer; color: var(--accent); margin: 0.5rem 0; }
pre { font-size: 0.8rem; } pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
@media print { body { background: #fff; } details > * { display: block; } }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """A page of the parts, one after the other.

    Args:
        title: plain text.
        parts: HTML.
    """
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{plain(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def figure_image(figure: "Figure", alternative: str) -> str:
    """A matplotlib figure as an image inside the page.

    Args:
        figure: the figure.
        alternative: what it shows, for readers who cannot see it.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{plain(alternative)}" src="data:image/svg+xml;base64,{data}">'


def picture(file: Path, title: str) -> str:
    """A PNG file as a figure inside the page.

    Args:
        file: the picture.
        title: what it shows, for readers who cannot see it.
    """
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<figure><img alt="{plain(title)}" src="data:image/png;base64,{data}"></figure>'


def cell_text(value: Cell) -> str:
    """A value as readers expect it: four digits, yes and no, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "undefined" if math.isnan(value) else f"{value:.4g}"
    return plain(str(value))


def plain(text: str) -> str:
    """Plain text, safe inside HTML and its attributes."""
    return html.escape(text, quote=True)
