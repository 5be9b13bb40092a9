"""One real server for the tests of this folder: three bundles, an API key, small limits."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from abnn_serve.bundle.store import Bundle, load_bundle, write_bundle
from abnn_serve.service.key_file import new_key
from tests.service.server import serving


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running service: a client that has the key, and where its bundles, keys and log lie."""

    client: httpx.Client
    bundles: Path
    key_file: Path
    log: Path


def write_version(bundle: Bundle, path: Path, version: str, name: str = "other") -> Bundle:
    """A bundle under another name and version, in its place in one step."""
    files = {file: bundle.read(file) for file in bundle.manifest.files}
    return write_bundle(
        path, files, lambda entries: replace(bundle.manifest, name=name, version=version, files=entries)
    )


@contextlib.contextmanager
def start_server(bundle: Bundle, video_bundle: Bundle, folder: Path) -> Iterator[Server]:
    """Run a service with three bundles until the block ends."""
    shutil.copytree(bundle.path, folder / "bundles" / "a-shapes")
    write_version(load_bundle(bundle.path), folder / "bundles" / "b-other", "1")
    shutil.copytree(video_bundle.path, folder / "bundles" / "c-videos")
    key, line = new_key("tests")
    (folder / "keys").write_text(f"# keys\n\n{line}\n")
    limits = {
        "ABNN_MAX_UPLOAD_BYTES": "100000",
        "ABNN_MAX_VIDEO_BYTES": "50000",
        "ABNN_MAX_VIDEO_SECONDS": "3",
        "ABNN_UPLOAD_SECONDS": "2",
        "ABNN_HEADER_SECONDS": "1",
        "ABNN_MAX_PARTS": "8",
        "ABNN_RELOAD_SECONDS": "1",
        "ABNN_API_KEY_FILE": str(folder / "keys"),
        "ABNN_NEAR_DUPLICATES": "count",
    }
    with serving(folder / "bundles", folder / "log", **limits) as client:
        client.headers["authorization"] = f"Bearer {key}"
        yield Server(client=client, bundles=folder / "bundles", key_file=folder / "keys", log=folder / "log")


@pytest.fixture(scope="session")
def server(bundle: Bundle, video_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_server(bundle, video_bundle, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def client(server: Server) -> httpx.Client:
    return server.client


@pytest.fixture(scope="session")
def operated(bundle: Bundle, masks_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with everything that helps to operate it: two versions, a shadow, a canary, near-duplicates."""
    folder = tmp_path_factory.mktemp("operated")
    for version in ("1", "2"):
        write_version(load_bundle(bundle.path), folder / "bundles" / version, version, "shapes")
    write_version(load_bundle(bundle.path), folder / "new", "3", "new")
    with serving(
        folder / "bundles",
        folder / "log",
        ABNN_SHADOW=f"shapes:{masks_bundle.path}",
        ABNN_CANARY=f"shapes:{folder / 'new'}:0.5",
        ABNN_NEAR_DUPLICATES="label-only",
    ) as running:
        yield running
