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

from abnn_serve.cli.terminal import echo
from abnn_serve.errors import InputError
from abnn_serve.media.container import is_video
from abnn_serve.runtime.prediction_json import DIGITS, prediction_json, video_prediction_json
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Settings

Answer = dict[str, Any]


def predict(
    files: Annotated[list[Path], typer.Argument(help="image or video files")],
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="bundle directory; default: ABNN_BUNDLE (videos: ABNN_VIDEO_BUNDLE), or else the default bundles"
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(help="number of classes to print for each file", min=1)] = 5,
    certify: Annotated[
        bool, typer.Option("--certify", help="print what is proved of each answer; the bundle needs an answer rule")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object per line")] = False,
) -> None:
    """Classify image and video files. Files that cannot be read are reported on stderr; the exit status is then 1.

    Example: abnn predict cat.png clip.mp4 --top-k 3
    """
    failed = False
    for path, result in zip(files, _answers(files, _Predictors(bundle), top_k, certify=certify), strict=True):
        if isinstance(result, InputError):
            echo(f"abnn: {path}: {result}", err=True)
            failed = True
        elif as_json:
            typer.echo(json.dumps({"file": str(path), **result}))
        else:
            classes = "  ".join(f"{row['label']} {row['probability']:.{DIGITS}f}" for row in result["top"])
            echo(f"{path}: {classes}" + _proof(result))
    if failed:
        sys.exit(1)


class _Predictors:
    """Predictors by file type: of `bundle` if given, otherwise of the default bundles; each opened on first use."""

    def __init__(self, bundle: Path | None) -> None:
        self._settings, self._bundle = Settings.from_environment(), bundle
        self._opened: dict[Path, Predictor] = {}

    def for_file(self, data: bytes) -> Predictor:
        """The predictor for a file with this content."""
        settings = self._settings
        if self._bundle:
            settings = replace(settings, bundle=self._bundle)
        elif is_video(data):
            settings = settings.for_video()
        if settings.bundle not in self._opened:
            self._opened[settings.bundle] = Predictor.from_settings(settings)
        return self._opened[settings.bundle]


def _proof(result: Answer) -> str:
    if "certificate" not in result:
        return ""
    proof = result["certificate"]
    if not proof["certified"]:
        return "  nothing is proved"
    if proof["kind"] == "masks":
        return "  proof against any patch of {} x {} pixels of the model's input".format(*proof["patch"])
    return f"  proof in L2 up to {proof['radius']:.3f}, confidence {proof['confidence']}"


def _answers(files: list[Path], predictors: _Predictors, top_k: int, *, certify: bool) -> Iterator[Answer | InputError]:
    """Yield the answer for each file, or the error; decodes the next file while the current one is classified."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        decoding = pool.submit(_decode, files[0], predictors)
        for next_file in [*files[1:], None]:
            classify = decoding.result()
            if next_file is not None:
                decoding = pool.submit(_decode, next_file, predictors)
            yield classify if isinstance(classify, InputError) else classify(top_k, certify)


def _decode(path: Path, predictors: _Predictors) -> Callable[[int, bool], Answer] | InputError:
    """Decode a file; returns a function from `top_k` and `certify` to its answer."""
    try:
        data = _read(path)
        predictor = predictors.for_file(data)
        if predictor.bundle.manifest.input.modality == "image":
            image = predictor.decode(data)
            return lambda top_k, certify: prediction_json(
                predictor.predict(image[None], top_k=top_k, certify=certify)[0]
            )
        video = predictor.decode_video(data)
        return lambda top_k, certify: video_prediction_json(
            predictor.predict_video(video, top_k=top_k, certify=certify), video
        )
    except InputError as error:
        return error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from error
