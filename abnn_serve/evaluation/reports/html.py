"""A card as one HTML file: no scripts, no outside requests, light and dark, and it prints."""

from __future__ import annotations

from html import escape
from importlib import resources

from abnn_serve.card import RobustnessCard
from abnn_serve.evaluation.reports.html_parts import bar, bullets, heat_table, paragraph, picture, section, table
from abnn_serve.evaluation.reports.source import CardSource
from abnn_serve.evaluation.reports.words import (
    THREATS,
    asked,
    attacks_in_words,
    between,
    budget,
    budgets_in_words,
    calibration_in_words,
    percent,
    verdict,
)
from abnn_serve.version import __version__

_SAMPLES = "Clean samples, attacked samples, and ten times their difference. Above each: its class, and the answer."
_CURVES = "White-box accuracy as the attack's budget and its number of steps grow."


def to_html(source: CardSource) -> str:
    """The report of a card as a complete HTML document."""
    card, name = source.card, escape(source.name)
    style = resources.files("abnn_serve.evaluation.reports").joinpath("report.css").read_text(encoding="utf-8")
    pictures = source.pictures()
    parts = [
        f"<h1>Robustness of {name}</h1>",
        f'<p class="verdict">{escape(verdict(card))}</p>',
        section("Accuracy", _bars(card)),
        section("Samples", picture(pictures.get("samples.png"), _SAMPLES)),
        section("Attacks", _attacks(card)),
        section("Curves", picture(pictures.get("curves.png"), _CURVES)),
        section("Corruptions", _corruptions(card)),
        section("Probabilities", paragraph(calibration_in_words(card)) if card.calibration else ""),
        section("Sanity checks", _sanity(card)),
        section("How to read this", bullets([*card.sentences, *budgets_in_words(card)])),
        section("How it was measured", _measured(source)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Robustness of {name}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body>\n</html>\n"
    )


def _bars(card: RobustnessCard) -> str:
    rows = [bar("No attack", "clean samples", card.clean)] if card.clean else []
    rows += [bar(*THREATS[name], card.worst[name]) for name in THREATS if name in card.worst]
    rows += [
        bar("White-box, patch", f"{row.attack}, {budget(row.norm, row.eps)}", row.accuracy)
        for row in card.attacks
        if row.norm == "patch" and row.threat_model == "whitebox"
    ]
    explained = "Under attack, a sample counts only if it survives every attack of its threat model, patches apart. "
    return (
        '<div class="bars">\n'
        + "\n".join(rows)
        + "\n</div>\n"
        + paragraph((explained if card.worst else "") + "The thin line is the 95% interval.")
    )


def _attacks(card: RobustnessCard) -> str:
    if not card.attacks:
        return ""
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
    head = ("threat model", "attack", "budget", "accuracy", "95% interval", "samples", "seconds")
    return table(head, rows, "attacks") + bullets(attacks_in_words(card))


def _corruptions(card: RobustnessCard) -> str:
    measured = card.corruptions
    if measured is None:
        return ""
    mean = f"{percent(measured.mean)} (95%: {between(measured.interval)})"
    lead = (
        f"Mean accuracy is {mean}, with {measured.constants}'s constants. "
        "The table has the accuracy in percent, by severity from 1 (mild) to 5 (severe)."
    )
    if measured.mce is not None:
        lead += f" The errors are {percent(measured.mce)} of those of the undefended twin (mCE)."
    shares: dict[str, list[float]] = {}
    for result in measured.results:
        shares.setdefault(result.corruption, []).append(result.accuracy.value)
    rows = [(name, [*values, sum(values) / len(values)]) for name, values in shares.items()]
    return paragraph(lead) + heat_table(("corruption", "1", "2", "3", "4", "5", "mean"), rows)


def _sanity(card: RobustnessCard) -> str:
    items = []
    for check in sorted(card.sanity, key=lambda check: check.passed):
        word = "Passed" if check.passed else "Failed"
        text = f"<strong>{word}:</strong> {escape(check.name)}. <span>{escape(check.detail)}</span>"
        items.append(f'<li class="{word.lower()}">{text}</li>')
    return f'<ul class="checks">{"".join(items)}</ul>' if items else ""


def _measured(source: CardSource) -> str:
    card = source.card
    rows = [("data", card.data), ("data digest", card.data_digest), ("model sha256", card.model_sha256)]
    rows += asked(card.endpoint) if card.endpoint else []
    rows += [("seed", str(seed)) for seed in sorted({row.seed for row in card.attacks})]
    rows.append(("written by", f"abnn_serve {__version__}"))
    return table(("", ""), rows, "facts") + (f"<pre>{escape(source.command)}</pre>" if source.command else "")
