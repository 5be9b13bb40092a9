"""abnn key: generate an API key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def key(
    name: Annotated[str, typer.Argument(help="name of the key's user; it appears in the logs")],
    file: Annotated[Path, typer.Option(help="key file to append to; the service reads it from ABNN_API_KEY_FILE")],
) -> None:
    """Generate an API key, print it once, and append its hash to the key file.

    A running service reloads the file, so no restart is needed. To revoke the key, delete its line.

    Example: abnn key alice --file keys.txt
    """
    from abnn_serve.service.auth import append_key

    typer.echo(append_key(file, name))
