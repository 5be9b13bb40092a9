from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.supervisor import exposure_warning
from tests.service.server import serving_process


def _listening(process: psutil.Process) -> set[int]:
    connections = process.net_connections(kind="inet")
    return {connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN}


def test_the_supervisor_and_its_worker_listen_on_the_http_port_only(bundle, tmp_path):
    with serving_process(bundle.path, tmp_path / "log") as (client, process):
        supervisor = psutil.Process(process.pid)
        processes = [supervisor, *supervisor.children(recursive=True)]
        assert len(processes) >= 2
        assert set.union(*map(_listening, processes)) == {client.base_url.port}
        named = [c.laddr for p in processes for c in p.net_connections(kind="unix") if c.laddr]
        assert named == []


@pytest.mark.parametrize(
    ("hosts", "key_file", "warns"),
    [
        (["0.0.0.0"], None, True),
        (["::"], None, True),
        (["127.0.0.1", "192.168.1.2"], None, True),
        (["127.0.0.1", "::1", "localhost"], None, False),
        (["0.0.0.0"], Path("keys"), False),
    ],
)
def test_listening_without_keys_beyond_this_machine_is_warned_of(hosts, key_file, warns):
    warning = exposure_warning(hosts, ServiceSettings(api_key_file=key_file))
    assert (warning is not None) == warns
    assert not warns or "without API keys" in warning


def test_the_warning_is_in_the_log_when_the_server_starts(bundle, tmp_path):
    with serving_process(bundle.path, tmp_path / "log", host="0.0.0.0"):
        pass
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    (warning,) = [line for line in lines if "without API keys" in line["message"]]
    assert warning["level"] == "warning"
