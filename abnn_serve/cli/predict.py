"""abnn predict: classify image and video files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from abnn_serve.errors import InputError
from abnn_serve.media.container import is_video
from abnn_serve.runtime.answer import DIGITS, answer, video_answer
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Settings

Answer = dict[str, Any]


def predict(
    files: Annotated[list[Path], typer.Argument(help="image or video files")],
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="bundle directory; if not given ABNN_BUNDLE, for videos ABNN_VIDEO_BUNDLE, or the default bundles"
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(help="classes to show for each file", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
) -> None:
    """Classify images and videos. One that cannot be read is reported on stderr, the others are answered; then exit 1.

    Example: abnn predict cat.png clip.mp4 --top-k 3
    """
    failed = False
    for path, shown in zip(files, _answers(files, _Predictors(bundle), top_k), strict=True):
        if isinstance(shown, InputError):
            typer.echo(f"abnn: {path}: {shown}", err=True)
            failed = True
        elif as_json:
            typer.echo(json.dumps({"file": str(path), **shown}))
        else:
            classes = "  ".join(f"{row['label']} {row['probability']:.{DIGITS}f}" for row in shown["top"])
            typer.echo(f"{path}: {classes}")
    if failed:
        sys.exit(1)


class _Predictors:
    """The bundle that was named, or the default one for pictures and that for videos; opened when first needed."""

    def __init__(self, bundle: Path | None) -> None:
        self._settings, self._named = Settings.from_environment(), bundle
        self._opened: dict[Path, Predictor] = {}

    def of(self, data: bytes) -> Predictor:
        """The one that classifies such a file."""
        settings = self._settings
        if self._named:
            settings = replace(settings, bundle=self._named)
        elif is_video(data):
            settings = settings.for_video()
        if settings.bundle not in self._opened:
            self._opened[settings.bundle] = Predictor.from_settings(settings)
        return self._opened[settings.bundle]


def _answers(files: list[Path], predictors: _Predictors, top_k: int) -> Iterator[Answer | InputError]:
    """Each file's answer, or what is wrong with it; the next file is decoded while one is classified."""
    with ThreadPoolExecutor(max_workers=1) as decoding:
        ahead = decoding.submit(_decoded, files[0], predictors)
        for following in [*files[1:], None]:
            current = ahead.result()
            if following is not None:
                ahead = decoding.submit(_decoded, following, predictors)
            yield current if isinstance(current, InputError) else current(top_k)


def _decoded(path: Path, predictors: _Predictors) -> Callable[[int], Answer] | InputError:
    """What classifies a file that was decoded."""
    try:
        data = _read(path)
        predictor = predictors.of(data)
        if predictor.bundle.manifest.input.modality == "image":
            image = predictor.decode(data)
            return lambda top_k: answer(predictor.predict(image[None], top_k=top_k)[0])
        video = predictor.decode_video(data)
        return lambda top_k: video_answer(predictor.predict_video(video, top_k=top_k), video)
    except InputError as error:
        return error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from error
