"""Text for a terminal: names from bundles, files and lists may hold control sequences."""

from __future__ import annotations

import typer


def printable(text: str) -> str:
    """Escape characters that are not printable, such as escape sequences, line breaks and bidirectional overrides."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def echo(text: str, *, err: bool = False) -> None:
    """Print one line to stdout or stderr, escaped by `printable`."""
    typer.echo(printable(text), err=err)
