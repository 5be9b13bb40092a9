from __future__ import annotations

import httpx
import pytest
from starlette.datastructures import Headers

from abnn_serve.service.errors import BadRequestError, UnknownHostError
from abnn_serve.service.hosts import HostCheck
from abnn_serve.service.settings import ServiceSettings
from tests.service.server import serving

LOOPBACK, OTHER = ("127.0.0.1", 3000), ("10.1.2.3", 3000)


@pytest.mark.parametrize(
    "host", ["localhost:3000", "LOCALHOST", "a.localhost", "127.0.0.1:1", "[::1]:3000", "10.0.0.9"]
)
def test_a_server_without_keys_answers_on_loopback_under_this_machines_names(host):
    HostCheck(ServiceSettings()).check(Headers({"host": host}), LOOPBACK)


@pytest.mark.parametrize(
    "host", ["evil.example:3000", "localhost.evil.example", "127.0.0.1.evil.example", "", "[evil]"]
)
def test_a_server_without_keys_refuses_other_names_on_loopback(host):
    with pytest.raises(UnknownHostError, match="expected localhost or an IP address"):
        HostCheck(ServiceSettings()).check(Headers({"host": host}), LOOPBACK)


def test_names_are_free_elsewhere_and_with_keys_unless_they_are_listed(tmp_path):
    evil = Headers({"host": "evil.example"})
    HostCheck(ServiceSettings()).check(evil, OTHER)
    HostCheck(ServiceSettings(api_key_file=tmp_path / "keys")).check(evil, LOOPBACK)
    HostCheck(ServiceSettings(allowed_hosts=("*",))).check(evil, LOOPBACK)
    listed = HostCheck(ServiceSettings(allowed_hosts=("api.example",), api_key_file=tmp_path / "keys"))
    listed.check(Headers({"host": "API.example:443"}), OTHER)
    listed.check(Headers({"host": "10.1.2.3:3000"}), OTHER)
    with pytest.raises(UnknownHostError, match=r"expected api\.example; "):
        listed.check(evil, OTHER)


def test_several_host_headers_are_refused():
    with pytest.raises(BadRequestError, match="several Host headers"):
        HostCheck(ServiceSettings()).check(Headers(raw=[(b"host", b"localhost"), (b"host", b"evil")]), LOOPBACK)


def test_a_rebound_page_gets_421_and_a_forged_forwarded_address_is_not_logged(bundle, tmp_path):
    with serving(bundle.path, tmp_path / "log", FORWARDED_ALLOW_IPS="*") as client:
        refused = client.get("/model", headers={"host": "evil.example"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (421, "unknown_host")
        assert client.get("/livez", headers={"host": "evil.example"}).status_code == 200
        client.get("/model", headers={"x-forwarded-for": "6.6.6.6", "forwarded": "for=6.6.6.6"})
    assert "6.6.6.6" not in (tmp_path / "log").read_text()


def test_a_trusted_proxy_names_the_client(bundle, tmp_path):
    with serving(bundle.path, tmp_path / "log", ABNN_TRUSTED_PROXIES="127.0.0.0/8, 10.9.0.1") as client:
        assert httpx.get(f"{client.base_url}/model", headers={"x-forwarded-for": "6.6.6.6, 10.9.0.1"}).is_success
    assert '"client": "6.6.6.6"' in (tmp_path / "log").read_text()
