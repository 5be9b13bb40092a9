"""A server with everything of docs/monitoring.md on."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from abnn_serve.bundle.store import Bundle, load_bundle, write_bundle
from abnn_serve.service.key_file import KeyTerms, append_key
from benchmarks.common.collector import collecting

_TERMS = KeyTerms(requests=100_000_000, megabytes=999_999)


def everything(folder: Path, bundle: Path, collector: str | None) -> tuple[str, dict[str, str]]:
    """An API key, and the environment of a server of a bundle with everything of docs/monitoring.md on.

    Args:
        folder: for the key file and copies of the bundle.
        bundle: what it serves, beside a second version, an int8 shadow and a canary.
        collector: URL that spans are sent to; None sends none.
    """
    source = load_bundle(bundle)
    shutil.copytree(source.path, folder / "bundles" / source.manifest.name)
    _copy(source, folder / "bundles" / "second", source.manifest.name)
    _copy(source, folder / "canary", "canary")
    name = source.manifest.name
    environment = {
        "ABNN_BUNDLE": str(folder / "bundles"),
        "ABNN_API_KEY_FILE": str(folder / "keys"),
        "ABNN_NEAR_DUPLICATES": "count",
        "ABNN_DRIFT_SAMPLE": "0.05",
        "ABNN_SHADOW": f"{name}:{source.path}",
        "ABNN_SHADOW_PRECISION": "int8",
        "ABNN_SHADOW_SAMPLE": "0.05",
        "ABNN_TRACE_SAMPLE": "0.05",
        "ABNN_CANARY": f"{name}:{folder / 'canary'}:0.05",
        **({"ABNN_OTLP_ENDPOINT": collector} if collector else {}),
    }
    return append_key(folder / "keys", "benchmark", _TERMS), environment


def _copy(bundle: Bundle, path: Path, name: str) -> None:
    """The bundle as another version of `name`."""
    files = {file: bundle.read(file) for file in bundle.manifest.files}
    write_bundle(path, files, lambda entries: replace(bundle.manifest, name=name, version="other", files=entries))


@contextlib.contextmanager
def discarding_collector() -> Iterator[str | None]:
    """The URL of a collector that discards spans; None without the extra `traces`."""
    if importlib.util.find_spec("opentelemetry.exporter") is None:
        print("spans are off: they need the extra traces")
        yield None
        return

    with collecting(lambda *_: None) as url:
        yield url
