"""abnn predict: classify image files."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from abnn_serve.errors import InputError
from abnn_serve.runtime.answer import DIGITS, answer
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Settings


def predict(
    files: Annotated[list[Path], typer.Argument(help="image files")],
    bundle: Annotated[
        Path | None, typer.Option(help="bundle directory; ABNN_BUNDLE or the default bundle if not given")
    ] = None,
    top_k: Annotated[int, typer.Option(help="classes to show for each file", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
) -> None:
    """Classify image files. One that cannot be read is reported on stderr, the others are answered; then exit 1.

    Example: abnn predict cat.png dog.jpg --top-k 3
    """
    settings = Settings.from_environment()
    predictor = Predictor.from_settings(replace(settings, bundle=bundle) if bundle else settings)
    failed = False
    for path in files:
        try:
            image = predictor.decode(_read(path))
        except InputError as error:
            typer.echo(f"abnn: {path}: {error}", err=True)
            failed = True
            continue
        (prediction,) = predictor.predict(image[None], top_k=top_k)
        shown = answer(prediction)
        if as_json:
            typer.echo(json.dumps({"file": str(path), **shown}))
        else:
            classes = "  ".join(f"{row['label']} {row['probability']:.{DIGITS}f}" for row in shown["top"])
            typer.echo(f"{path}: {classes}")
    if failed:
        sys.exit(1)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from error
