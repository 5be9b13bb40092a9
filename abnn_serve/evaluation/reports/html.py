"""A card as one HTML file: no scripts, no outside requests, light and dark, and it prints."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from abnn_serve.card import Accuracy, RobustnessCard
from abnn_serve.evaluation.reports.source import CardSource
from abnn_serve.evaluation.reports.words import THREATS, asked, between, budget, percent, verdict
from abnn_serve.version import __version__

_CAPTIONS = {
    "samples.png": "Clean images, attacked images, ten times their difference; above each its class and the answer.",
    "curves.png": "White-box accuracy as the attack's budget and its number of steps grow.",
    "corruptions.png": "Accuracy by corruption and severity, in percent.",
}


def to_html(source: CardSource) -> str:
    """The report of a card as a complete HTML document."""
    card, name = source.card, escape(source.name)
    style = resources.files("abnn_serve.evaluation.reports").joinpath("report.css").read_text(encoding="utf-8")
    pictures = source.pictures()
    parts = [
        f"<h1>Robustness of {name}</h1>",
        f'<p class="verdict">{escape(verdict(card))}</p>',
        _section("Accuracy", _bars(card)),
        *(_section("Samples", _picture("samples.png", pictures)) if "samples.png" in pictures else "",),
        _section("Attacks", _attacks(card)) if card.attacks else "",
        _section("Curves", _picture("curves.png", pictures)) if "curves.png" in pictures else "",
        _section("Corruptions", _corruptions(card) + _picture("corruptions.png", pictures)) if card.corruptions else "",
        _section("Sanity checks", _sanity(card)) if card.sanity else "",
        _section("How to read this", _limits(card)),
        _section("How it was measured", _measured(source)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Robustness of {name}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{cells}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _bars(card: RobustnessCard) -> str:
    rows = [_bar("No attack", "clean images", card.clean)] if card.clean else []
    rows += [_bar(*THREATS[name], card.worst[name]) for name in THREATS if name in card.worst]
    rows += [
        _bar("White-box, patch", f"{row.attack}, {budget(row.norm, row.eps)}", row.accuracy)
        for row in card.attacks
        if row.norm == "patch" and row.threat_model == "whitebox"
    ]
    return (
        '<div class="bars">\n'
        + "\n".join(rows)
        + "\n</div>"
        + ("<p>Each threat model: the worst of its attacks for each image, patches apart. The line: 95% interval.</p>")
    )


def _bar(title: str, words: str, accuracy: Accuracy) -> str:
    low, high = accuracy.interval
    return (
        f'<div class="row"><div><strong>{escape(title)}</strong> <span>{escape(words)}</span></div>'
        f'<div class="figure">{percent(accuracy.value)} of {accuracy.n:,}</div>'
        f'<div class="track" role="img" aria-label="{percent(accuracy.value)}, 95% interval {between((low, high))}">'
        f'<div class="fill" style="width:{100 * accuracy.value:.2f}%"></div>'
        f'<div class="whisker" style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></div></div></div>'
    )


def _attacks(card: RobustnessCard) -> str:
    rows = [
        (
            THREATS[row.threat_model][0],
            row.attack,
            budget(row.norm, row.eps),
            percent(row.accuracy.value),
            between(row.accuracy.interval),
            f"{row.accuracy.n:,}",
            f"{row.seconds:,.0f}",
        )
        for row in card.attacks
    ]
    return _table(("threat model", "attack", "budget", "accuracy", "95% interval", "images", "seconds"), rows)


def _corruptions(card: RobustnessCard) -> str:
    measured = card.corruptions
    if measured is None:
        return ""
    relative = "" if measured.mce is None else f" mCE is {percent(measured.mce)} of the undefended twin's error."
    mean = f"{percent(measured.mean)} (95%: {between(measured.interval)})"
    lead = f"Mean accuracy {mean}, with {measured.constants}'s constants.{relative}"
    names = dict.fromkeys(result.corruption for result in measured.results)
    rows = []
    for name in names:
        shares = [result.accuracy.value for result in measured.results if result.corruption == name]
        rows.append((name, *map(percent, shares), percent(sum(shares) / len(shares))))
    return f"<p>{escape(lead)}</p>" + _table(("corruption", *(f"severity {i}" for i in range(1, 6)), "mean"), rows)


def _sanity(card: RobustnessCard) -> str:
    items = []
    for check in sorted(card.sanity, key=lambda check: check.passed):
        word = "Passed" if check.passed else "Failed"
        text = f"<strong>{word}:</strong> {escape(check.name)}. <span>{escape(check.detail)}</span>"
        items.append(f'<li class="{word.lower()}">{text}</li>')
    return f'<ul class="checks">{"".join(items)}</ul>'


def _limits(card: RobustnessCard) -> str:
    return "<ul>" + "".join(f"<li>{escape(limit)}</li>" for limit in card.sentences) + "</ul>"


def _measured(source: CardSource) -> str:
    card = source.card
    rows = [("data", card.data), ("data digest", card.data_digest), ("model sha256", card.model_sha256)]
    rows += asked(card.endpoint) if card.endpoint else []
    rows += [("seed", str(seed)) for seed in sorted({row.seed for row in card.attacks})]
    rows.append(("written by", f"abnn_serve {__version__}"))
    table = _table(("", ""), rows).replace("<table>", '<table class="facts">')
    return table + (f"<pre>{escape(source.command)}</pre>" if source.command else "")


def _picture(name: str, pictures: dict[str, bytes]) -> str:
    if name not in pictures:
        return ""
    data = base64.b64encode(pictures[name]).decode()
    caption = _CAPTIONS[name]
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    )
