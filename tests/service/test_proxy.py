"""deploy/nginx.conf in front of a real server, where nginx is installed."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.service.server import serving, wait_until

CONFIG = Path(__file__).parents[2] / "deploy" / "nginx.conf"
pytestmark = pytest.mark.skipif(
    not (shutil.which("nginx") and shutil.which("openssl")), reason="needs the programs nginx and openssl"
)


@contextlib.contextmanager
def _proxy(port: int, folder: Path) -> Iterator[httpx.Client]:
    """Run nginx with the configuration of deploy/, on a free port and with a certificate of its own."""
    certificate = ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt"), "-subj", "/CN=localhost"]
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", *certificate], check=True, capture_output=True
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own = free.getsockname()[1]
    text = (
        CONFIG.read_text()
        .replace("127.0.0.1:3000", f"127.0.0.1:{port}")
        .replace("8443", f"127.0.0.1:{own}")
        .replace("rate=50r", "rate=1r")
    )
    (folder / "nginx.conf").write_text(re.sub(r" (/etc/abnn|/tmp)/", f" {folder}/", text))
    command = ["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off;"]
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"https://localhost:{own}", verify=False, timeout=30) as client:
            wait_until(lambda: _answers(client) or process.poll() is not None)
            assert process.poll() is None, (folder / "nginx.log").read_text()
            yield client
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/livez").status_code == 200
    return False


def test_nginx_passes_requests_on_with_their_address_and_limits_each_client(bundle, tmp_path):
    log = tmp_path / "log"
    trusted = {"ABNN_TRUSTED_PROXIES": "127.0.0.1", "ABNN_ALLOWED_HOSTS": "localhost"}
    with serving(bundle.path, log, **trusted) as direct, _proxy(direct.base_url.port, tmp_path) as client:
        answer = client.get("/model", headers={"x-forwarded-for": "192.0.2.9", "x-request-id": "proxied"})
        assert answer.status_code == 200
        wait_until(lambda: "proxied" in log.read_text())
        (line,) = [json.loads(line) for line in log.read_text().splitlines() if '"request_id": "proxied"' in line]
        assert line["client"] == "127.0.0.1"
        assert client.post("/classify", content=bytes(60_000_000)).status_code == 413
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda _: client.get("/livez").status_code, range(300)))
        assert set(statuses) == {200, 429}
        assert direct.get("/livez").status_code == 200
