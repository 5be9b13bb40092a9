"""A model server of the tests that speaks the Open Inference Protocol, over the standard library's HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from numpy.typing import NDArray

Scores = Callable[[NDArray[np.uint8]], "NDArray[np.float32] | None"]


@dataclass
class Behaviour:
    """What the server does; a test may change it while it runs.

    Attributes:
        scores: uint8 (n, H, W, 3) to scores (n, classes) or labels, int64 (n,); None closes the connection.
        key: required API key.
        delay: seconds before each answer.
        busy: statuses to answer with instead, in turn, each with its Retry-After or None.
        input: name, datatype and shape.
        extra_outputs: more outputs that the metadata names.
        redirect: where each request is sent on to.
        is_described: the server answers at /v2; if not, only at its model.
    """

    scores: Scores
    key: str | None = None
    delay: float = 0.0
    busy: list[tuple[int, str | None]] = field(default_factory=list)
    input: dict[str, object] = field(
        default_factory=lambda: {"name": "pixels", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}
    )
    extra_outputs: list[dict[str, object]] = field(default_factory=list)
    redirect: str | None = None
    is_described: bool = True
    images: int = 0
    in_flight: int = 0
    most_in_flight: int = 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour, self.lock = behaviour, threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        if self._admitted():
            missing = self.path == "/v2" and not self.server.behaviour.is_described
            self._send(*((404, {"error": "not found"}) if missing else (200, self._describe())))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._admitted():
            return
        behaviour = self.server.behaviour
        with self.server.lock:
            busy = behaviour.busy.pop(0) if behaviour.busy else None
            behaviour.in_flight += 1
            behaviour.most_in_flight = max(behaviour.most_in_flight, behaviour.in_flight)
        time.sleep(behaviour.delay)
        try:
            if busy:
                self._send(busy[0], {"error": "busy"}, {"Retry-After": busy[1]} if busy[1] else {})
            elif (answer := self._infer(json.loads(body))) is None:
                self.close_connection = True  # as a service that has died
            else:
                self._send(200, answer)
        finally:
            with self.server.lock:
                behaviour.in_flight -= 1

    def _admitted(self) -> bool:
        behaviour = self.server.behaviour
        if behaviour.redirect:
            self._send(302, {}, {"Location": behaviour.redirect})
        elif behaviour.key and self.headers.get("Authorization") != f"Bearer {behaviour.key}":
            self._send(401, {"error": "no key"})
        else:
            return True
        return False

    def _describe(self) -> dict[str, object]:
        if self.path == "/v2":
            return {"name": "tests", "version": "1"}
        behaviour = self.server.behaviour
        output = {"name": "scores", "datatype": "FP32", "shape": [-1, -1]}
        return {"name": "tiny", "inputs": [behaviour.input], "outputs": [output, *behaviour.extra_outputs]}

    def _infer(self, request: dict[str, list[dict[str, object]]]) -> dict[str, object] | None:
        (tensor,) = request["inputs"]
        values = np.array(tensor["data"], np.float64).reshape(tensor["shape"])
        pixels = (values if tensor["datatype"] == "UINT8" else values * 255).round().astype(np.uint8)
        pixels = pixels.transpose(0, 2, 3, 1) if pixels.shape[1] == 3 else pixels
        with self.server.lock:
            self.server.behaviour.images += len(pixels)
            scores = self.server.behaviour.scores(pixels)
        if scores is None:
            return None
        datatype = "INT64" if scores.ndim == 1 else "FP32"
        output = {"name": "scores", "datatype": datatype, "shape": list(scores.shape), "data": scores.ravel().tolist()}
        return {"model_name": "tiny", "outputs": [output]}

    def _send(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, content in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, content)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def v2_server(behaviour: Behaviour) -> Iterator[str]:
    """Serve /v2/models/tiny until the block ends; its address."""
    with _Server(behaviour) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v2/models/tiny"
        finally:
            server.shutdown()
            thread.join()
