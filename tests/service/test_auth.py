from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from abnn_serve.errors import ConfigError
from abnn_serve.service.auth import SECONDS, KeyRing
from abnn_serve.service.errors import TooManyRequestsError, UnauthorizedError
from abnn_serve.service.key_file import KeyTerms, append_key, new_key, read_expiry, revoke_key
from abnn_serve.service.key_limits import KeyLimits


def _ring(path: Path) -> KeyRing:
    """A key ring that looks at its file for every request."""
    return KeyRing(path, itertools.count().__next__)


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
    ring = _ring(path)
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
    ring = _ring(path)
    path.write_text(path.read_text().splitlines()[1] + "\nalice sha256:12\n")
    assert (_admits(ring, alice), _admits(ring, bob)) == (False, True)
    assert "line 2 is not `NAME sha256:HEX`" in caplog.text


def test_two_lines_with_one_name_admit_nobody_while_the_service_runs(tmp_path):
    path = tmp_path / "keys"
    first = append_key(path, "alice")
    ring = _ring(path)
    second, line = new_key("alice")
    path.write_text(f"{path.read_text()}{line}\n")
    assert not _admits(ring, first)
    assert not _admits(ring, second)


def test_an_edit_that_keeps_size_and_modification_time_counts(tmp_path):
    path = tmp_path / "keys"
    key = append_key(path, "alice")
    ring, before = _ring(path), path.stat()
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


def test_a_line_may_have_limits_and_an_expiry_in_any_order_and_keys_without_them_stay_valid(tmp_path):
    path = tmp_path / "keys"
    terms = KeyTerms(requests=600, megabytes=50, burst=20, similar=64, expires=read_expiry("2099-01-31"))
    keys = append_key(path, "alice", terms), append_key(path, "bob")
    assert "requests=600 megabytes=50 burst=20 similar=64 expires=2099-01-31T00:00:00+00:00\n" in path.read_text()
    ring = _ring(path)
    assert all(_admits(ring, key) for key in keys)
    assert ring.limits("alice").terms == terms
    assert ring.limits("bob") is ring.limits("nobody") is None
    assert (ring.terms("alice").similar, ring.terms("bob").similar) == (64, None)
    path.write_text(
        path.read_text().replace("requests=600 megabytes=50 burst=20", "burst=20 requests=600 megabytes=50")
    )
    assert _admits(ring, keys[0])


@pytest.mark.parametrize(
    "end",
    [
        "requests=0",
        "requests=x",
        "request=5",
        "requests=5 requests=6",
        "burst=5",
        "expires=tomorrow",
        "expires=2099-01-01T10:00",
        "expires=2099-01-01 expires=2099-01-01",
        "requests=5 ",
        "5",
        "megabytes=1e3",
    ],
)
def test_a_line_with_unknown_or_malformed_terms_admits_nobody(tmp_path, end):
    _, line = new_key("alice")
    (tmp_path / "keys").write_text(f"{line} {end}x\n" if end.endswith(" ") else f"{line} {end}\n")
    with pytest.raises(ConfigError, match="line 1 is not `NAME sha256:HEX`, optionally with requests=N"):
        _ring(tmp_path / "keys")


def test_an_expired_key_is_refused_and_says_so(tmp_path):
    path = tmp_path / "keys"
    key = append_key(path, "alice", KeyTerms(expires=read_expiry("2020-01-01T12:00+02:00")))
    with pytest.raises(UnauthorizedError, match=r"expired at 2020-01-01T12:00:00\+02:00"):
        KeyRing(path).check(Headers({"x-api-key": key}))


def test_a_change_of_the_file_is_seen_within_a_tenth_of_a_second(tmp_path):
    now, path = [0.0], tmp_path / "keys"
    key = append_key(path, "alice")
    ring = KeyRing(path, lambda: now[0])
    revoke_key(path, "alice")
    now[0] += SECONDS
    assert SECONDS <= 0.1
    assert not _admits(ring, key)


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_revoked_key_becomes_a_comment_in_place_and_its_name_is_free(tmp_path, ending):
    path = tmp_path / "keys"
    (alice, one), (bob, two) = new_key("alice"), new_key("bob")
    path.write_bytes(f"# é\n{one}{ending}  {two}{ending}".encode())
    ring, inode = _ring(path), path.stat().st_ino
    revoke_key(path, "alice")
    assert (_admits(ring, alice), _admits(ring, bob)) == (False, True)
    assert path.stat().st_ino == inode
    again = append_key(path, "alice")
    revoke_key(path, "bob")
    assert (_admits(ring, again), _admits(ring, bob)) == (True, False)
    with pytest.raises(ConfigError, match="has no key named 'bob'"):
        revoke_key(path, "bob")


def _limits(**terms: int) -> tuple[KeyLimits, list[float]]:
    now = [100.0]
    return KeyLimits(KeyTerms(**terms), lambda: now[0]), now


def test_a_key_may_ask_a_burst_at_once_and_its_rate_after_that():
    limits, now = _limits(requests=60, burst=5)
    for _ in range(5):
        limits.admit("")
    with pytest.raises(TooManyRequestsError, match="60 requests a minute, 5 at once; retry after 1 s") as refused:
        limits.admit("")
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
    assert limits.headers() == [
        (b"ratelimit-policy", b'"requests";q=60;w=60;qu="requests"'),
        (b"ratelimit", b'"requests";r=0;t=5'),
    ]
    admitted = 0
    for _ in range(600):
        now[0] += 0.1
        try:
            limits.admit("")
            admitted += 1
        except TooManyRequestsError:
            pass
    assert admitted in (59, 60)  # the clock's steps are not exact
    now[0] += 1000
    assert dict(limits.headers())[b"ratelimit"] == b'"requests";r=5;t=0'


def test_bytes_count_as_they_arrive_and_a_body_without_a_length_counts_too():
    import asyncio

    limits, now = _limits(megabytes=1)
    messages = iter([{"type": "http.request", "body": b"x" * 600_000}, {"type": "http.disconnect"}])

    async def receive():
        return next(messages)

    limits.admit("")
    asyncio.run(limits.counting(receive)())
    assert dict(limits.headers())[b"ratelimit"] == b'"content-bytes";r=400000;t=36'
    limits.admit("400000")
    with pytest.raises(TooManyRequestsError, match=r"1 MB a minute; retry after 6 s"):
        limits.admit("500000")
    with pytest.raises(TooManyRequestsError, match=r"retry after 36 s"):
        limits.admit("9000000")  # more than a minute's: admitted while nothing is used
    now[0] += 36
    limits.admit("9000000")


def test_a_changed_limit_counts_from_then_on_and_an_unchanged_one_keeps_its_count(tmp_path):
    path = tmp_path / "keys"
    append_key(path, "alice", KeyTerms(requests=2))
    ring = _ring(path)
    ring.limits("alice").admit("")
    append_key(path, "bob")
    ring._reload_if_changed()
    ring.limits("alice").admit("")
    with pytest.raises(TooManyRequestsError):
        ring.limits("alice").admit("")
    path.write_text(path.read_text().replace("requests=2", "requests=3"))
    ring._reload_if_changed()
    ring.limits("alice").admit("")


@pytest.mark.parametrize("length", ["9" * 5000, "-1", "1e9", "\xb2"])
def test_a_content_length_that_is_none_counts_as_nothing(length):
    limits, _ = _limits(megabytes=1)
    limits.admit("")
    limits.admit(length)
    assert dict(limits.headers())[b"ratelimit"] == b'"content-bytes";r=1000000;t=0'
