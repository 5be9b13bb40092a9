"""Those who leave: a server on SIGTERM answers what it accepted, and a client that goes leaves nothing behind."""

from __future__ import annotations

import signal
import socket
import struct
import time

import httpx
import numpy as np
import pytest

from tests.drawing import draw_shape, png
from tests.service.server import serving, serving_process, wait_until

PICTURE = png(draw_shape(1, np.random.default_rng(3), 50))


@pytest.mark.slow
def test_an_upload_that_has_begun_is_answered_after_sigterm_and_then_the_server_ends_with_0(bundle, tmp_path):
    with serving_process(bundle.path, tmp_path / "log", ABNN_DRAIN_SECONDS="2") as (client, process):
        url = client.base_url
        head = "POST /classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\n"
        head += f"content-length: {len(PICTURE)}\r\n\r\n"
        with socket.create_connection((url.host, url.port), timeout=20) as begun:
            begun.sendall(head.encode() + PICTURE[:100])
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 503, seconds=10)
            late = httpx.post(f"{url}/classify", files={"image": PICTURE})
            assert (late.status_code, late.headers["connection"]) == (200, "close")
            time.sleep(2.5)  # past the time to leave: nobody new is let in
            begun.sendall(PICTURE[100:])
            answer = b""
            while part := begun.recv(65_536):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200")
        assert process.wait(timeout=30) == 0


def test_the_bytes_of_a_client_that_leaves_in_the_middle_of_an_upload_are_free_at_once(bundle, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    limits = {"ABNN_MAX_BUFFERED_BYTES": "60000", "ABNN_UPLOAD_SECONDS": "30", "TMPDIR": str(scratch)}
    whole = png(draw_shape(1, np.random.default_rng(5))).ljust(45_000, b"\0")
    with serving(bundle.path, tmp_path / "log", **limits) as client:
        url, before = client.base_url, sorted(scratch.rglob("*"))
        head = "POST /classify HTTP/1.1\r\nhost: localhost\r\ncontent-type: {}\r\ncontent-length: 50000\r\n\r\n"

        def answered() -> int:
            return client.post("/classify", content=whole, headers={"content-type": "image/png"}).status_code

        part = b'--x\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        for kind, begin in (("image/png", b""), ("multipart/form-data; boundary=x", part)):
            for linger in (struct.pack("ii", 0, 0), struct.pack("ii", 1, 0)):  # goes in good order, or just goes
                with socket.create_connection((url.host, url.port), timeout=10) as connection:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    connection.sendall(head.format(kind).encode() + begin + b"\x89PNG" + bytes(40_000))
                    time.sleep(1)
                    assert answered() == 503
                wait_until(lambda: answered() == 200, seconds=2)
        assert sorted(scratch.rglob("*")) == before
