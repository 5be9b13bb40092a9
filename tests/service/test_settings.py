from __future__ import annotations

import pytest

from abnn_serve.errors import ConfigError
from abnn_serve.service.settings import ServiceSettings


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_key_file_is_an_error_and_not_a_service_without_keys(blank):
    with pytest.raises(ConfigError, match="ABNN_API_KEY_FILE is blank"):
        ServiceSettings.from_environment({"ABNN_API_KEY_FILE": blank})


def test_lists_are_split_and_addresses_are_checked():
    settings = ServiceSettings.from_environment(
        {"ABNN_ALLOWED_HOSTS": " A.example, b.example,", "ABNN_TRUSTED_PROXIES": "10.0.0.0/8,::1"}
    )
    assert settings.allowed_hosts == ("a.example", "b.example")
    assert settings.trusted_proxies == ("10.0.0.0/8", "::1/128")
    with pytest.raises(ConfigError, match="ABNN_TRUSTED_PROXIES has 'proxy'"):
        ServiceSettings.from_environment({"ABNN_TRUSTED_PROXIES": "proxy"})
