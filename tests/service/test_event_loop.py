"""What a malformed request costs the event loop of a running server.

A block is measured as the CPU time of the event loop's thread. What exceeds a limit is sent twice more, so that other
work on the machine does not fail these tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from benchmarks.common.images import noise_pngs
from benchmarks.trials.requests import KINDS, Request, make_requests, read_media
from tests.service.server import serving_watched

T = TypeVar("T")
BLOCK_MS = 5.0
VIDEO_BYTES = 25_000_000
SENDABLE = [kind for kind in KINDS if kind not in {"cut", "slow"}]  # those differ by what is not sent


@dataclass
class Watched:
    """A running server, and what it has cost since `begin`."""

    client: httpx.Client
    file: Path
    began: float = 0.0

    def begin(self) -> None:
        time.sleep(0.005)  # the loop has written down what came before
        self.began = time.time()

    def block(self) -> float:
        """Milliseconds of the longest block of the loop."""
        time.sleep(0.005)
        lines = [line.split() for line in self.file.read_text().splitlines()[-500:]]
        return max((float(ms) for at, ms in lines if float(at) >= self.began), default=0.0)


@pytest.fixture(scope="module")
def watched(bundle, video_bundle, tmp_path_factory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    limits = {"ABNN_MAX_VIDEO_BYTES": str(VIDEO_BYTES), "ABNN_RELOAD_SECONDS": "0"}
    with serving_watched([bundle.path, video_bundle.path], folder / "log", folder / "watch", **limits) as running:
        client, _ = running
        server = Watched(client=client, file=folder / "watch")
        for request in _corpus(30, client):  # what is imported or made on the first use
            _send(client, request)
        for path in ("/", "/metrics", "/openapi.json", "/model", "/schema.json", "/nothing"):
            client.get(path)
        yield server


def _corpus(count: int, client: httpx.Client, kind: str | None = None) -> list[Request]:
    images, videos = read_media(Path("../shared/data"), noise_pngs(32))
    (shape,) = [tensor["shape"][1:] for tensor in client.get("/v2/models/shapes").json()["inputs"]]
    return make_requests(count, images, videos, shape, kind)


def _send(client: httpx.Client, request: Request) -> int:
    path, headers = request.path.replace("{model}", "shapes"), {"content-type": request.content_type}
    return client.post(path, content=request.body, headers=headers).status_code


def _block_of(watched: Watched, act: Callable[[], T]) -> tuple[float, T]:
    """Milliseconds of the longest block while `act` runs, the least of up to three times; and what `act` returns."""
    blocks = []
    for _ in range(3):
        watched.begin()
        result = act()
        blocks.append(watched.block())
        if blocks[-1] <= BLOCK_MS:
            break
    return min(blocks), result


@pytest.mark.parametrize("count", [10, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", SENDABLE)
def test_no_malformed_request_blocks_the_event_loop(kind, count, watched):
    for request in _corpus(count, watched.client, kind):
        block, status = _block_of(watched, partial(_send, watched.client, request))
        assert block <= BLOCK_MS, (kind, request.content_type, request.body[:300])
        assert status in request.expected
