"""Bundles in BentoML's model store: kept by tag, served as `bento:NAME:VERSION`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from abnn_serve.bundle.store import Bundle
from abnn_serve.errors import ConfigError, one_line

PREFIX = "bento:"
_FOLDER = "bundle"  # BentoML puts a file of its own beside it


def put_in_store(bundle: Bundle) -> str:
    """Copy a bundle into the store and return its tag; its version is made of the bundle's and of its identity."""
    import bentoml

    version = re.sub(r"[^a-z0-9._-]", "-", bundle.manifest.version.lower())
    tag = f"{bundle.manifest.name}:{version}-{bundle.digest[:12]}"
    try:
        with bentoml.models.create(tag, labels={"digest": bundle.digest[:63]}) as model:
            shutil.copytree(bundle.path, Path(model.path) / _FOLDER)
    except bentoml.exceptions.BentoMLException as error:
        raise ConfigError(f"the BentoML model store does not take {tag}: {one_line(error)}") from error
    return tag


def find_in_store(source: str) -> Path:
    """The directory of the bundle that `bento:TAG` means now; ConfigError where the store has none."""
    import bentoml

    tag = source.removeprefix(PREFIX)
    try:
        return Path(bentoml.models.get(tag).path) / _FOLDER
    except bentoml.exceptions.BentoMLException as error:
        raise ConfigError(f"the BentoML model store has no {tag!r}; `bentoml models list` shows what it has") from error
