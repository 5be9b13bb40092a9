from __future__ import annotations

import os
import stat

import pytest
from starlette.datastructures import Headers

from abnn_serve.errors import ConfigError
from abnn_serve.service.auth import KeyRing, append_key, new_key
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
    [
        ("", "has no key"),
        ("# nobody\n", "has no key"),
        ("alice 1234", "line 1 is not"),
        ("# x\nalice sha256:12", "line 2 is not"),
        (f"a sha256:{'0' * 64}\nb sha256:{'1' * 64}\na sha256:{'2' * 64}", "lines 1, 3 share the name 'a'"),
        ("#" * 300_000, "regular file of at most"),
    ],
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


def _admits(ring: KeyRing, key: str) -> bool:
    try:
        ring.check(Headers({"x-api-key": key}))
    except UnauthorizedError:
        return False
    return True


@pytest.mark.parametrize("damage", ["empty", "comments", "deleted", "folder", "fifo", "binary", "large"])
def test_a_file_that_holds_no_key_any_more_admits_nobody_and_is_an_error_in_the_log(tmp_path, damage, caplog):
    path = tmp_path / "keys"
    key = append_key(path, "alice")
    ring = KeyRing(path)
    assert _admits(ring, key)
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "fifo":
        os.mkfifo(path)
    elif damage != "deleted":
        path.write_bytes({"empty": b"", "comments": b"# all\n", "binary": b"\xff\xfe", "large": b"#" * 300_000}[damage])
    assert not _admits(ring, key)
    assert [record.levelname for record in caplog.records if "has no key" in record.getMessage()] == ["ERROR"]


def test_a_revoked_key_is_out_even_if_another_line_is_damaged_and_the_others_stay(tmp_path, caplog):
    path = tmp_path / "keys"
    alice, bob = append_key(path, "alice"), append_key(path, "bob")
    ring = KeyRing(path)
    path.write_text(path.read_text().splitlines()[1] + "\nalice sha256:12\n")
    assert (_admits(ring, alice), _admits(ring, bob)) == (False, True)
    assert "line 2 is not `NAME sha256:HEX`" in caplog.text


def test_two_lines_with_one_name_admit_nobody_while_the_service_runs(tmp_path):
    path = tmp_path / "keys"
    first = append_key(path, "alice")
    ring = KeyRing(path)
    second, line = new_key("alice")
    path.write_text(f"{path.read_text()}{line}\n")
    assert not _admits(ring, first)
    assert not _admits(ring, second)


def test_an_edit_that_keeps_size_and_modification_time_counts(tmp_path):
    path = tmp_path / "keys"
    key = append_key(path, "alice")
    ring, before = KeyRing(path), path.stat()
    with path.open("r+") as file:
        file.write("#lice")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not _admits(ring, key)


def test_a_key_is_appended_to_a_file_without_a_final_newline_and_its_name_is_unique(tmp_path):
    path = tmp_path / "keys"
    _, line = new_key("alice")
    path.write_text(f"# keys\n{line}")
    path.chmod(0o644)
    inode = path.stat().st_ino
    key = append_key(path, "bob")
    assert KeyRing(path).check(Headers({"x-api-key": key})) == "bob"
    assert (path.stat().st_ino, stat.S_IMODE(path.stat().st_mode)) == (inode, 0o644)
    with pytest.raises(ConfigError, match="already has a key named 'alice'"):
        append_key(path, "alice")
    path.write_text("nonsense\n")
    with pytest.raises(ConfigError, match="line 1 is not"):
        append_key(path, "carol")


def test_a_new_key_file_is_for_its_owner_only(tmp_path):
    append_key(tmp_path / "keys", "alice")
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600
