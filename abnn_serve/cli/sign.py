"""abnn sign: sign a bundle with a private key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abnn_serve.bundle.signature import sign_bundle
from abnn_serve.bundle.store import load_bundle
from abnn_serve.cli.terminal import echo


def sign(
    bundle: Annotated[Path, typer.Argument(help="bundle directory")],
    key: Annotated[Path, typer.Option(help="PEM file of an elliptic-curve private key (P-256, P-384 or P-521)")],
) -> None:
    """Verify a bundle's files and sign them.

    Writes signature.sigstore into the bundle's directory. The file has the format of OpenSSF model signing. Create
    a key pair with: openssl ecparam -name prime256v1 -genkey -noout -out key.pem; openssl ec -in key.pem -pubout
    -out key.pub. Replacing a bundle removes its signature, and `abnn evaluate` replaces it when it writes the card.

    Example: abnn sign models/mine --key key.pem
    """

    def ask_password() -> str:
        return str(typer.prompt(f"Password of {key}", hide_input=True, err=True))

    loaded = load_bundle(bundle)
    path = sign_bundle(loaded, key, ask_password)
    echo(f"{path}: signed identity {loaded.digest}")
