"""A bundle's files with some of them replaced, and a manifest that describes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from abnn_serve.bundle.manifest import FileEntry, Manifest
from abnn_serve.bundle.store import Bundle


def contents(bundle: Bundle) -> dict[str, bytes]:
    """All files of a bundle except bundle.json."""
    return {name: bundle.read(name) for name in bundle.manifest.files}


def described(bundle: Bundle, **changes: object) -> Callable[[dict[str, FileEntry]], Manifest]:
    """The manifest of other files, for `write_bundle`."""
    return lambda files: replace(bundle.manifest, files=files, **changes)
