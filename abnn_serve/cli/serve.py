"""abnn serve: check the bundles, then hand over to `bentoml serve`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Settings
from abnn_serve.service.model_store import PREFIX


def serve(
    bundle: Annotated[
        str | None,
        typer.Option(help="bundle, folder of bundles, several with commas, or bento:TAG; else ABNN_BUNDLE"),
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on", min=1, max=65_535)] = 3000,
) -> None:
    """Serve bundles over HTTP until interrupted; the first is the default. The README lists the ABNN_* variables.

    Example: abnn serve --bundle models/cifar10-abnn-robust --port 3000
    """
    from abnn_serve.service.auth import KeyRing
    from abnn_serve.service.catalog import check_video, find_bundles, find_sources, locate
    from abnn_serve.service.settings import ServiceSettings

    environment = {"BENTOML_DO_NOT_TRACK": "True", **os.environ}
    if bundle:
        environment["ABNN_BUNDLE"] = bundle
    settings, limits = Settings.from_environment(environment), ServiceSettings.from_environment(environment)
    for source, own in find_sources(settings).items():
        # What cannot serve is said here, in one line.
        found = Predictor.from_settings(replace(own, bundle=locate(source))).bundle.manifest
        check_video(settings, source, found.input.modality)
        typer.echo(f"serving {found.name} version {found.version} on http://{host}:{port}", err=True)
    if limits.api_key_file:
        KeyRing(limits.api_key_file)
        environment["ABNN_API_KEY_FILE"] = str(limits.api_key_file.resolve())
    environment["ABNN_BUNDLE"] = ",".join(map(_resolved, find_bundles(settings.bundle)))
    if settings.video_bundle:  # the service has none by itself where ABNN_BUNDLE is set
        environment["ABNN_VIDEO_BUNDLE"] = _resolved(str(settings.video_bundle))
    service = "abnn_serve.service:AbnnService"
    arguments = [sys.executable, "-m", "bentoml", "serve", service, "--host", host, "--port", str(port)]
    os.execve(sys.executable, arguments, environment)  # noqa: S606


def _resolved(source: str) -> str:
    return source if source.startswith(PREFIX) else str(Path(source).resolve())
