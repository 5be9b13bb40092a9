"""abnn serve: check the bundle, then hand over to `bentoml serve`."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from abnn_serve.runtime.predictor import Predictor
from abnn_serve.runtime.settings import Settings


def serve(
    bundle: Annotated[
        Path | None, typer.Option(help="bundle directory; ABNN_BUNDLE or the default bundle if not given")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on", min=1, max=65_535)] = 3000,
) -> None:
    """Serve a bundle over HTTP until interrupted. ABNN_DEVICE, ABNN_THREADS and the ABNN_MAX_* limits apply.

    Example: abnn serve --bundle models/cifar10-abnn --port 3000
    """
    settings = Settings.from_environment()
    settings = replace(settings, bundle=(bundle or settings.bundle).resolve())
    found = Predictor.from_settings(settings).bundle  # a device or bundle that cannot serve is said here, in one line
    typer.echo(f"serving {found.manifest.name} version {found.manifest.version} on http://{host}:{port}", err=True)
    environment = {
        "BENTOML_DO_NOT_TRACK": "True",
        **os.environ,
        "ABNN_BUNDLE": str(settings.bundle),
        "ABNN_BUNDLE_DIGEST": found.digest,
    }
    service = "abnn_serve.service:AbnnService"
    arguments = [sys.executable, "-m", "bentoml", "serve", service, "--host", host, "--port", str(port)]
    os.execve(sys.executable, arguments, environment)  # noqa: S606
