"""Malformed and hostile requests, each with the statuses that are correct responses to it."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

_FORM = "multipart/form-data; boundary=x"
KINDS = ("mutated", "spliced", "video", "form", "type", "bomb", "tensor", "text", "cut", "slow")
_WEIGHTS = (0.32, 0.2, 0.06, 0.12, 0.06, 0.06, 0.1, 0.04, 0.035, 0.005)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request.

    Attributes:
        kind: one of `KINDS`. The kinds `cut` and `slow` declare more bytes than they send: `cut` sends the body and
            closes its side, `slow` sends one byte and waits.
        path: may contain `{model}`, the served model's name.
        content_type: of the body.
        body: the bytes to send.
        expected: statuses that are correct responses; -1 is a connection closed without a response.
    """

    kind: str
    path: str
    content_type: str
    body: bytes
    expected: frozenset[int]


def read_media(folder: Path, fallback: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Images and videos of `folder`/odd-media; without any, the fallback images and a truncated MP4."""
    images = [path.read_bytes() for path in sorted((folder / "odd-media" / "images").glob("*"))]
    videos = [path.read_bytes() for path in sorted((folder / "odd-media" / "videos").glob("*"))]
    return images or list(fallback), [v for v in videos if len(v) < 400_000] or [b"\0\0\0\x18ftypmp42" + bytes(4000)]


def make_requests(
    count: int, images: Sequence[bytes], videos: Sequence[bytes], shape: Sequence[int], kind: str | None = None
) -> list[Request]:
    """`count` requests, of random kinds or all of one, the same for the same arguments."""
    rng = np.random.default_rng(11)
    kinds = [kind] * count if kind else rng.choice(KINDS, count, p=_WEIGHTS)
    return [_request(str(kind), rng, images, videos, shape) for kind in kinds]


def _request(  # noqa: C901 - one branch for each kind
    kind: str, rng: np.random.Generator, images: Sequence[bytes], videos: Sequence[bytes], shape: Sequence[int]
) -> Request:
    image = images[int(rng.integers(len(images)))]
    path, content_type, expected = "/classify", "image/png", {200, 400, 413, 415}
    body = image
    if kind == "mutated":
        body = _mutated(rng, image)
    elif kind == "spliced":
        other = images[int(rng.integers(len(images)))]
        body = image[: rng.integers(len(image) + 1)] + other[rng.integers(len(other) + 1) :]
    elif kind == "video":
        path, content_type = "/classify_video", "video/mp4"
        body = _mutated(rng, videos[int(rng.integers(len(videos)))])
    elif kind == "form":
        body, expected = _mutated(rng, _form(image), head=120), {200, 400, 413, 415, 422}
        path, content_type = str(rng.choice(["/classify", "/classify_batch"])), _FORM
        if path == "/classify_batch":
            body = body.replace(b'name="image"', b'name="images"')
    elif kind == "type":
        content_type = str(rng.choice(["text/html", "application/json", "video/mp4", "x", "multipart/mixed"]))
        expected = {415}
    elif kind == "bomb":
        body, expected = _bomb(rng), {413}
    elif kind == "tensor":
        path, content_type, body = "/v2/models/{model}/infer", "application/json", _tensor(rng, shape)
        expected = {200, 400, 413, 415, 422}
    elif kind == "text":
        body = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nhttp://127.0.0.1:1/a.png\r\n--x--\r\n'
        content_type, expected = _FORM, {422}
    elif kind == "cut":
        expected = {-1, 400}
    elif kind == "slow":
        expected = {408}
    return Request(kind=kind, path=path, content_type=content_type, body=body, expected=frozenset(expected))


def _mutated(rng: np.random.Generator, data: bytes, head: int | None = None) -> bytes:
    """Change some bytes (the first `head` only, if given), sometimes delete a slice, sometimes truncate."""
    changed = bytearray(data or b"\0")
    for position in rng.integers(0, min(len(changed), head or len(changed)), rng.integers(1, 12)):
        changed[position] = rng.integers(256)
    if rng.random() < 0.4:
        start = int(rng.integers(len(changed)))
        del changed[start : start + int(rng.integers(1, 64))]
    return bytes(changed[: rng.integers(len(changed) + 1)] if rng.random() < 0.3 else changed)


def _form(data: bytes) -> bytes:
    """A multipart form with one image."""
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    return head + data + b"\r\n--x--\r\n"


def _bomb(rng: np.random.Generator) -> bytes:
    """A PNG or GIF file whose header declares up to 3.6 gigapixels."""
    width, height = (int(v) for v in rng.integers(7000, 60_000, 2))
    if rng.random() < 0.5:
        out = io.BytesIO()
        Image.new("P", (8, 8)).save(out, "GIF")
        data = bytearray(out.getvalue())
        data[6:10] = struct.pack("<HH", width, height)
        return bytes(data)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    pixels = b"IDAT" + zlib.compress(bytes(1000))
    parts = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (chunk, pixels)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _tensor(rng: np.random.Generator, shape: Sequence[int]) -> bytes:
    """A v2 inference request with a wrong shape, data or datatype, or with mutated bytes."""
    count = int(np.prod(shape))
    tensor: dict[str, object] = {"name": "image", "datatype": "UINT8", "shape": [1, *shape], "data": [7] * count}
    changes: list[dict[str, object]] = [
        {"shape": [2, *shape]},
        {"shape": "x"},
        {"data": [[1, 2], [3]]},
        {"data": [1e99] * 3},
        {"datatype": 3},
    ]
    request = json.dumps({"inputs": [{**tensor, **changes[int(rng.integers(len(changes)))]}]}).encode()
    return _mutated(rng, request) if rng.random() < 0.5 else request


async def send_incomplete(host: str, port: int, request: Request, seconds: float) -> int:
    """Send a request of kind `cut` or `slow`; return the response's status, -1 if none arrives in `seconds`."""
    reader, writer = await asyncio.open_connection(host, port)
    head = (
        f"POST {request.path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {request.content_type}\r\n"
        f"content-length: {len(request.body) + 1000}\r\n\r\n"
    )
    try:
        writer.write(head.encode() + request.body[: 1 if request.kind == "slow" else len(request.body)])
        await writer.drain()
        if request.kind == "cut":
            writer.write_eof()
        status_line = await asyncio.wait_for(reader.readline(), seconds)
        return int(status_line.split()[1]) if status_line else -1
    except (OSError, TimeoutError, IndexError):
        return -1
    finally:
        writer.close()
