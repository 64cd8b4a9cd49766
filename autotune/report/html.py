"""One self-contained HTML file of a comparison: no script, no link, pictures inside."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from autotune.report.comparison import TextTable, accounting, failures, tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.compare.summary import Summary

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem;
       color: #1b1f24; background: #fff }
table { border-collapse: collapse; margin: .4rem 0; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #d0d7de; padding: .25rem .7rem; text-align: right }
th:first-child, td:first-child { text-align: left }
.wide { overflow-x: auto }
.note { color: #57606a; font-size: 13px; max-width: 60rem }
.failed { color: #a40e26 }
img { max-width: 100%; height: auto }
"""


def render(summary: Summary, pictures: Sequence[tuple[str, bytes]]) -> str:
    """Return the report as HTML.

    Parameters
    ----------
    pictures
        Caption and SVG file of each plot; none where matplotlib is missing.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Comparison of search methods</title><style>{_STYLE}</style></head><body>",
        "<h1>Comparison of search methods</h1>",
        f"<p>{escape(accounting(summary))}</p>",
        *(f'<p class="failed">FAILED {escape(line)}</p>' for line in failures(summary)),
        *(_picture(caption, svg) for caption, svg in pictures),
    ]
    if not pictures:
        parts.append('<p class="note">Without plots: matplotlib was not installed.</p>')
    parts += [_table(table) for table in tables(summary)]
    return "\n".join([*parts, "</body></html>", ""])


def _picture(caption: str, svg: bytes) -> str:
    data = base64.b64encode(svg).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption class=note>{escape(caption)}</figcaption></figure>"
    )


def _table(table: TextTable) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return (
        f'<h2>{escape(table.title)}</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>\n{body}\n</tbody></table></div><p class="note">{escape(table.note)}</p>'
    )
