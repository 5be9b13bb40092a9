"""What a request costs the event loop of a running server, see `watched.py`.

What exceeds a limit is sent twice more, so that other work on the machine does not fail these tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import httpx
import numpy as np
import pytest

from benchmarks.common.images import noise_pngs
from benchmarks.trials.aimed_inputs import Hostile, pipelined, requests, trailers
from benchmarks.trials.requests import KINDS, Request, make_requests, read_media, send_incomplete
from tests.bundle.rewriting import write_repeated
from tests.drawing import draw_shape, encode_video, moving_square, png
from tests.fuzz.requests import head_seeds
from tests.service.server import serving_watched

T = TypeVar("T")
SHAPE = (32, 32, 3)
MAX_PARTS, MAX_TOP_K = 64, 1000
INCOMPLETE = ("cut", "slow")
AIMED = requests(SHAPE)
CONNECTIONS = {
    "S6 pipelined requests": [pipelined("/livez", 100_000)],
    "S7 trailers": [trailers(1_000_000)],
    "S8 clients that do not read": [pipelined("/page/page.js", 500)] * 21,
    "heads that are not HTTP": head_seeds(),
}
PATHS = ("/", "/livez", "/readyz", "/metrics", "/openapi.json", "/model?model=wide", "/models", "/schema.json", "/x")
LIMITS = {
    "ABNN_MAX_VIDEO_BYTES": "25000000",
    "ABNN_MAX_PARTS": str(MAX_PARTS),
    "ABNN_UPLOAD_SECONDS": "3",
    "ABNN_RELOAD_SECONDS": "0",
}


class Block(NamedTuple):
    """The longest blocks of the loop in milliseconds: of its own work, and whatever kept it from its work."""

    busy: float
    late: float


LIMIT = Block(busy=5.0, late=20.0)


@dataclass
class Watched:
    """A running server, and what it has cost since `begin`."""

    client: httpx.Client
    file: Path
    began: float = 0.0

    def begin(self) -> None:
        time.sleep(0.005)  # the loop has written down what came before
        self.began = time.time()

    def block(self) -> Block:
        time.sleep(0.005)
        lines = [tuple(map(float, line.split())) for line in self.file.read_text().splitlines()[-500:]]
        since = [figures for at, *figures in lines if at >= self.began] or [[0.0, 0.0]]
        return Block(*(max(column) for column in zip(*since, strict=True)))


@pytest.fixture(scope="module")
def watched(bundle, video_bundle, tmp_path_factory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    wide = [
        write_repeated(narrow, folder / name, -(-MAX_TOP_K // len(narrow.labels)))
        for name, narrow in (("wide", bundle), ("wide-clips", video_bundle))
    ]
    paths = [bundle.path, *(each.path for each in wide)]
    with serving_watched(paths, folder / "log", folder / "watch", **LIMITS) as (client, _):
        server = Watched(client=client, file=folder / "watch")
        for request in _corpus(30, client):  # what is imported or made on the first use
            _send(client, request)
        for path in PATHS:
            client.get(path)
        yield server


def _corpus(count: int, client: httpx.Client, kind: str | None = None) -> list[Request]:
    images, videos = read_media(Path("../shared/data"), noise_pngs(32))
    return [
        request
        for request in make_requests(count, images, videos, SHAPE, kind)
        if kind or request.kind not in INCOMPLETE
    ]


def _send(client: httpx.Client, request: Request) -> int:
    path, headers = request.path.replace("{model}", "shapes"), {"content-type": request.content_type}
    return client.post(path, content=request.body, headers=headers).status_code


def _check(watched: Watched, act: Callable[[], T], what: object) -> T:
    """Assert that the loop is not blocked while `act` runs, once of up to three times; returns what `act` does."""
    for turn in range(3):
        watched.begin()
        result = act()
        block = watched.block()
        if block.busy <= LIMIT.busy and block.late <= LIMIT.late:
            break
        assert turn < 2, (what, block)
    return result


@pytest.mark.parametrize("count", [10, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in INCOMPLETE])
def test_no_malformed_request_blocks_the_event_loop(kind, count, watched):
    for request in _corpus(count, watched.client, kind):
        what = kind, request.content_type, request.body[:300]
        assert _check(watched, partial(_send, watched.client, request), what) in request.expected


@pytest.mark.parametrize("kind", INCOMPLETE)
def test_no_incomplete_request_blocks_the_event_loop(kind, watched):
    corpus, url = _corpus(10, watched.client, kind), watched.client.base_url

    async def send() -> list[int]:
        return await asyncio.gather(*(send_incomplete(url.host, url.port, request, 10) for request in corpus))

    statuses = _check(watched, lambda: asyncio.run(send()), kind)
    assert all(status in request.expected for status, request in zip(statuses, corpus, strict=True))


@pytest.mark.parametrize("finding", AIMED)
def test_no_aimed_request_blocks_the_event_loop(finding, watched):
    hostile: Hostile = AIMED[finding]
    request = Request(
        kind=finding, path=hostile.path, content_type=hostile.content_type, body=hostile.make(), expected=frozenset()
    )
    assert _check(watched, partial(_send, watched.client, request), finding) in {200, 400, 413, 415, 422}


@pytest.mark.parametrize("finding", CONNECTIONS)
def test_no_aimed_connection_blocks_the_event_loop(finding, watched):
    url = watched.client.base_url

    def send() -> None:
        with contextlib.ExitStack() as stack:
            for data in CONNECTIONS[finding]:
                client = stack.enter_context(socket.create_connection((url.host, url.port), timeout=0.3))
                with contextlib.suppress(OSError):  # the server stops reading, or closes the connection
                    client.sendall(data)

    _check(watched, send, finding)
    assert watched.client.get("/livez").status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_no_page_blocks_the_event_loop(path, watched):
    assert _check(watched, lambda: watched.client.get(path), path).status_code in {200, 404}


@pytest.mark.parametrize("endpoint", ["classify", "classify_batch", "classify_video", "v2"])
def test_no_response_of_many_classes_blocks_the_event_loop(endpoint, watched):
    image = png(draw_shape(1, np.random.default_rng(3), 32))
    tensor = {"name": "image", "datatype": "UINT8", "shape": [MAX_PARTS, *SHAPE]}
    binary = {**tensor, "parameters": {"binary_data_size": MAX_PARTS * 32 * 32 * 3}}
    head = httpx.Request("POST", "http://x", json={"inputs": [binary]}).content
    send = {
        "classify": lambda: _classify("classify", "wide", [("image", image)]),
        "classify_batch": lambda: _classify("classify_batch", "wide", [("images", image)] * MAX_PARTS),
        "classify_video": lambda: _classify("classify_video", "wide-clips", [("video", VIDEO)]),
        "v2": lambda: watched.client.post(
            "/v2/models/wide/infer",
            content=head + bytes(MAX_PARTS * 32 * 32 * 3),
            headers={"inference-header-content-length": str(len(head))},
        ),
    }[endpoint]

    def _classify(path: str, model: str, files: list[tuple[str, bytes]]) -> httpx.Response:
        parts = [(field, ("x", data)) for field, data in files]
        return watched.client.post(f"/{path}?model={model}&top_k={MAX_TOP_K}", files=parts)

    response = [_check(watched, send, endpoint) for _ in range(8)][-1]  # so that garbage is collected
    assert response.status_code == 200
    assert response.text.count("." if endpoint == "v2" else "probability") >= MAX_TOP_K


VIDEO = encode_video(moving_square(12), codec="mpeg4")
