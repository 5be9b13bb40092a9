"""abnn serve: check the bundles, then run `bentoml serve`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from abnn_serve.cli.terminal import echo
from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Settings


def serve(
    bundle: Annotated[
        str | None,
        typer.Option(help="bundle, folder of bundles, bento:TAG, or a comma-separated list; default: ABNN_BUNDLE"),
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on", min=1, max=65_535)] = 3000,
) -> None:
    """Serve bundles over HTTP until interrupted. The first bundle is the default model.

    ABNN_* environment variables set devices and limits; docs/configuration.md lists them.

    Example: abnn serve --bundle models/cifar10-abnn-robust --port 3000
    """
    from abnn_serve.service.auth import KeyRing
    from abnn_serve.service.catalog import candidate_settings
    from abnn_serve.service.connections import check_uvicorn
    from abnn_serve.service.settings import ServiceSettings
    from abnn_serve.service.sources import (
        bundle_path,
        check_noise_key,
        check_video,
        find_bundles,
        find_sources,
        resolve,
    )

    check_uvicorn()
    environment = {"BENTOML_DO_NOT_TRACK": "True", **os.environ}
    if bundle:
        environment["ABNN_BUNDLE"] = bundle
    settings, limits = Settings.from_environment(environment), ServiceSettings.from_environment(environment)
    for source, source_settings in find_sources(settings).items():
        # Loading each bundle here, too, reports errors in one line instead of from a worker.
        predictor = Predictor.from_settings(replace(source_settings, bundle=bundle_path(source)))
        manifest = predictor.bundle.manifest
        check_noise_key(settings, predictor)
        check_video(settings, source, manifest.input.modality)
        echo(f"serving {manifest.name} version {manifest.version} on http://{host}:{port}", err=True)
    for candidate in limits.candidates:
        own_settings = candidate_settings(settings, limits, candidate)
        predictor = Predictor.from_settings(replace(own_settings, bundle=bundle_path(candidate.source)))
        manifest = predictor.bundle.manifest
        check_noise_key(settings, predictor)
        echo(f"{candidate.role} of {candidate.name}: {manifest.name} version {manifest.version}", err=True)
        environment[candidate.variable] = candidate.text(resolve(candidate.source))
    if limits.api_key_file:
        KeyRing(limits.api_key_file)
        environment["ABNN_API_KEY_FILE"] = str(limits.api_key_file.resolve())
    if settings.require_signature:
        environment["ABNN_REQUIRE_SIGNATURE"] = ",".join(str(path.resolve()) for path in settings.require_signature)
    if settings.noise_key:
        environment["ABNN_NOISE_KEY_FILE"] = str(Path(environment["ABNN_NOISE_KEY_FILE"]).resolve())
    environment["ABNN_BUNDLE"] = ",".join(map(resolve, find_bundles(settings.bundle)))
    if settings.video_bundle:  # with ABNN_BUNDLE set, the service has no default video bundle
        environment["ABNN_VIDEO_BUNDLE"] = resolve(str(settings.video_bundle))
    service = "abnn_serve.service:AbnnService"
    arguments = [sys.executable, "-m", "bentoml", "serve", service, "--host", host, "--port", str(port)]
    os.execve(sys.executable, arguments, environment)  # noqa: S606
