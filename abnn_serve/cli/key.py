"""abnn key: generate or revoke an API key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abnn_serve.errors import ConfigError


def key(
    name: Annotated[str, typer.Argument(help="name of the key's user; it appears in the logs")],
    file: Annotated[Path, typer.Option(help="key file to change; the service reads it from ABNN_API_KEY_FILE")],
    requests: Annotated[int | None, typer.Option(help="requests a minute", min=1, max=999_999_999)] = None,
    burst: Annotated[
        int | None, typer.Option(help="requests at once; default: those of a minute", min=1, max=999_999_999)
    ] = None,
    megabytes: Annotated[
        int | None, typer.Option(help="megabytes of request bodies a minute", min=1, max=999_999)
    ] = None,
    similar: Annotated[
        int | None,
        typer.Option(help="near-duplicates from which on inputs are suspicious; above 512: never", min=1, max=999_999),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="date or time from which the key is refused, such as 2027-01-31")
    ] = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="revoke the key instead")] = False,
) -> None:
    """Generate an API key, or revoke one.

    A new key is printed once; the key file gets its hash. A running service reloads the file, so no restart is
    needed. --revoke turns the key's line into a comment.

    Example: abnn key alice --file keys.txt --requests 600 --burst 50 --expires 2027-01-31
    """
    from abnn_serve.service.key_file import KeyTerms, append_key, read_expiry, revoke_key

    if revoke:
        if any((requests, burst, megabytes, similar, expires)):
            raise ConfigError("--revoke takes no limits; give only NAME and --file")
        revoke_key(file, name)
        return
    terms = KeyTerms(
        requests=requests,
        megabytes=megabytes,
        burst=burst,
        similar=similar,
        expires=read_expiry(expires) if expires else None,
    )
    typer.echo(append_key(file, name, terms))
