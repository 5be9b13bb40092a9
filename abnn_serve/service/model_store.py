"""Bundles in BentoML's model store, served as `bento:NAME:VERSION`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from abnn_serve.bundle.store import Bundle
from abnn_serve.errors import ConfigError, one_line

PREFIX = "bento:"
_FOLDER = "bundle"  # a subdirectory, because BentoML adds a file of its own to the model


def put_in_store(bundle: Bundle) -> str:
    """Copy a bundle into the store.

    Returns:
        Its tag; the tag's version combines the bundle's version and digest.

    Raises:
        ConfigError: the store rejects the tag.
    """
    import bentoml

    version = re.sub(r"[^a-z0-9._-]", "-", bundle.manifest.version.lower())
    tag = f"{bundle.manifest.name}:{version}-{bundle.digest[:12]}"
    try:
        with bentoml.models.create(tag, labels={"digest": bundle.digest[:63]}) as model:
            shutil.copytree(bundle.path, Path(model.path) / _FOLDER)
    except bentoml.exceptions.BentoMLException as error:
        raise ConfigError(f"the BentoML model store rejects {tag}: {one_line(error)}") from error
    return tag


def find_in_store(source: str) -> Path:
    """The directory of the bundle that `bento:TAG` currently refers to.

    Raises:
        ConfigError: the store has no such tag.
    """
    import bentoml

    tag = source.removeprefix(PREFIX)
    try:
        return Path(bentoml.models.get(tag).path) / _FOLDER
    except bentoml.exceptions.BentoMLException as error:
        raise ConfigError(f"the BentoML model store has no {tag!r}; `bentoml models list` lists its tags") from error
