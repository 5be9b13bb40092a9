from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from abnn_serve.errors import ConfigError
from abnn_serve.service.auth import KeyRing, new_key
from abnn_serve.service.errors import UnauthorizedError


def test_a_key_lets_in_under_its_name_and_is_not_in_the_file(tmp_path):
    made = [new_key("alice"), new_key("bob")]
    (tmp_path / "keys").write_text("# who may in\n\n" + "\n".join(line for _, line in made))
    ring = KeyRing(tmp_path / "keys")
    assert ring.check(Headers({"authorization": f"Bearer {made[0][0]}"})) == "alice"
    assert ring.check(Headers({"x-api-key": made[1][0]})) == "bob"
    assert made[0][0] not in (tmp_path / "keys").read_text()
    with pytest.raises(UnauthorizedError, match="missing API key"):
        ring.check(Headers({}))


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "has no key"), ("alice 1234", "line 1 is not"), ("# x\nalice sha256:12", "line 2 is not")],
)
def test_a_file_that_is_no_key_file_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ConfigError, match=message):
        KeyRing(tmp_path / "keys")


def test_a_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="create it with `abnn key`"):
        KeyRing(tmp_path / "none")


def test_a_name_with_blanks_is_refused():
    with pytest.raises(ConfigError, match="key name is 'a b'"):
        new_key("a b")
