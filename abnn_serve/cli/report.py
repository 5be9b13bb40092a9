"""abnn report: a robustness card as HTML, Markdown, JUnit XML or a CycloneDX bill of materials."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abnn_serve.cli.minimums import read_minimums
from abnn_serve.cli.terminal import echo
from abnn_serve.errors import ConfigError
from abnn_serve.files import atomic_write


def report(
    card: Annotated[Path, typer.Argument(help="a bundle, the folder of an evaluation, or a card.json")],
    html: Annotated[Path | None, typer.Option(help="write one HTML file, which makes no outside requests")] = None,
    markdown: Annotated[Path | None, typer.Option(help="write Markdown, for a pull request's comment")] = None,
    junit: Annotated[Path | None, typer.Option(help="write JUnit XML, for CI")] = None,
    bom: Annotated[Path | None, typer.Option(help="write a CycloneDX 1.6 ML-BOM, as JSON")] = None,
    require: Annotated[
        list[str] | None, typer.Option(help="minimum such as 'whitebox>=0.30' that JUnit reports on; repeatable")
    ] = None,
) -> None:
    """Write a robustness card in forms for people and programs.

    Example: abnn report runs/mine/evaluation --html report.html --markdown comment.md
    """
    from abnn_serve.evaluation.reports.html import to_html
    from abnn_serve.evaluation.reports.junit import to_junit
    from abnn_serve.evaluation.reports.markdown import to_markdown
    from abnn_serve.evaluation.reports.mlbom import to_mlbom
    from abnn_serve.evaluation.reports.source import read_card

    if not (html or markdown or junit or bom):
        raise ConfigError("nothing to write: give --html, --markdown, --junit or --bom with a file name")
    source, minimums = read_card(card), read_minimums(require or ())
    texts = (
        (html, to_html(source)),
        (markdown, to_markdown(source)),
        (junit, to_junit(source, minimums)),
        (bom, to_mlbom(source)),
    )
    for path, text in texts:
        if path:
            with atomic_write(path) as file:
                file.write(text.encode())
            echo(f"{path}: written")
