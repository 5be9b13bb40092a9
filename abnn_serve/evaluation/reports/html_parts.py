"""Building blocks of a report in HTML: sections, tables, bars and pictures. Texts are escaped here."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from abnn_serve.card import Accuracy
from abnn_serve.evaluation.reports.words import between, percent


def section(title: str, content: str) -> str:
    """A section with a title, of HTML; "" without content."""
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>" if content else ""


def paragraph(text: str) -> str:
    """A paragraph of text."""
    return f"<p>{escape(text)}</p>"


def bullets(items: Iterable[str]) -> str:
    """A list of texts."""
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str) -> str:
    """A table whose CSS class is `kind`."""
    cells = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="{kind}">\n<thead><tr>{cells}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'


def heat_table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[float]]]) -> str:
    """A table of shares in percent, tinted by their size; each row has a name."""
    cells = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f'<td style="--tint:{60 * share:.0f}%">{100 * share:.0f}</td>' for share in shares)
        + "</tr>"
        for name, shares in rows
    )
    return f'<table class="heat">\n<thead><tr>{cells}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>'


def bar(title: str, words: str, accuracy: Accuracy) -> str:
    """An accuracy as a bar with its 95% interval."""
    low, high = accuracy.interval
    return (
        f'<div class="row"><div><strong>{escape(title)}</strong> <span>{escape(words)}</span></div>'
        f'<div class="figure">{percent(accuracy.value)} of {accuracy.n:,}</div>'
        f'<div class="track" role="img" aria-label="{percent(accuracy.value)}, 95% interval {between((low, high))}">'
        f'<div class="fill" style="width:{100 * accuracy.value:.2f}%"></div>'
        f'<div class="whisker" style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></div></div></div>'
    )


def picture(png: bytes | None, caption: str) -> str:
    """A figure of a PNG file; "" without one."""
    if png is None:
        return ""
    data = base64.b64encode(png).decode()
    return (
        f'<figure><div class="wide"><img src="data:image/png;base64,{data}" alt="{escape(caption)}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
