"""The file of API keys: one line for each, with its name, the SHA-256 of the key, its limits and its last day.

A key is 256 random bits, so an unsalted hash is as hard to invert as the key is to guess.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
import secrets
import stat
from dataclasses import dataclass, fields
from pathlib import Path

from abnn_serve.errors import ConfigError

_LINE = re.compile(r"([A-Za-z0-9._-]{1,64}) sha256:([0-9a-f]{64})((?: [a-z]+=\S+)*)")
_LIMIT = re.compile(r"[1-9][0-9]{0,8}")
_FORM = "`NAME sha256:HEX`, optionally with requests=N, megabytes=N, burst=N, similar=N and expires=TIME"
_MAX_BYTES = 200_000  # about 2,000 keys, read in two milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTerms:
    """What a key may do; None for no limit.

    Attributes:
        requests: requests a minute.
        megabytes: megabytes (10^6 bytes) of request bodies a minute.
        burst: requests at once; None allows those of a minute.
        similar: near-duplicates from which on its inputs are suspicious; None takes ABNN_NEAR_DUPLICATES_ALARM.
        expires: time from which the key is refused, with a time zone.
    """

    requests: int | None = None
    megabytes: int | None = None
    burst: int | None = None
    similar: int | None = None
    expires: dt.datetime | None = None

    def __post_init__(self) -> None:
        if self.burst and not self.requests:
            raise ConfigError("burst limits requests at once and needs the limit on requests a minute, too")

    def __str__(self) -> str:
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return "".join(f" {name}={_text(value)}" for name, value in values if value is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEntry:
    """One key: SHA-256 in lower-case hexadecimal, and terms."""

    digest: str
    terms: KeyTerms


def new_key(name: str, terms: KeyTerms | None = None) -> tuple[str, str]:
    """Generate a key.

    Returns:
        The key, to hand to its user, and the line to add to the key file.

    Raises:
        ConfigError: `name` is not a valid key name.
    """
    key = f"abnn_{secrets.token_urlsafe(32)}"
    line = f"{name} sha256:{digest_of(key)}{terms or ''}"
    if not _LINE.fullmatch(line):
        raise ConfigError(f"key name is {name!r}, expected at most 64 letters, digits, '.', '_' or '-'")
    return key, line


def append_key(path: Path, name: str, terms: KeyTerms | None = None) -> str:
    """Generate a key, append its hash to the key file, and return the key.

    A new file is readable by its owner only. An existing file is appended to in place, so that a container that mounts
    it sees the new line; a missing final newline is added.

    Raises:
        ConfigError: `name` is not a valid key name or already has a key, or a line of the file is invalid.
    """
    key, line = new_key(name, terms)
    text = read_text(path) if path.exists() else ""
    entries, problems = parse_keys(path, text)
    if problems:
        raise ConfigError(problems[0])
    if name in entries:
        raise ConfigError(f"{path} already has a key named {name!r}; revoke it first, or choose another name")
    newline = "" if not text or text.endswith("\n") else "\n"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a") as file:
        file.write(f"{newline}{line}\n")
    return key


def revoke_key(path: Path, name: str) -> None:
    """Turn every line of this name into a comment, in place: one byte of it, so no reader sees half a change.

    Raises:
        ConfigError: the file cannot be read or has no such key.
    """
    read_text(path)
    position, places = 0, []
    for line in path.read_bytes().splitlines(keepends=True):
        if line.split()[:1] == [name.encode()]:
            places.append(position)
        position += len(line)
    if not places:
        raise ConfigError(f"{path} has no key named {name!r}")
    with path.open("r+b", buffering=0) as file:
        for place in places:
            file.seek(place)
            file.write(b"#")


def digest_of(key: str) -> str:
    """SHA-256 of a key in lower-case hexadecimal."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_text(path: Path) -> str:
    """The text of a key file.

    Raises:
        ConfigError: not a readable, regular file of the size of a key file.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise ConfigError(f"the API key file {path} is not a regular file of at most {_MAX_BYTES:,} bytes")
        return path.read_text()
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the API key file {path} ({error}); create it with `abnn key`") from error


def parse_keys(path: Path, text: str) -> tuple[dict[str, KeyEntry], list[str]]:
    """Keys by name, and one message for each line that admits nobody."""
    lines: dict[str, list[tuple[int, KeyEntry]]] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        terms = _read_terms(match[3]) if match else None
        if match and terms:
            lines.setdefault(match[1], []).append((number, KeyEntry(digest=match[2], terms=terms)))
        else:
            problems.append(f"{path} line {number} is not {_FORM}; correct or delete it")
    for name, entries in lines.items():
        if len(entries) > 1:
            numbers = ", ".join(str(number) for number, _ in entries)
            problems.append(f"{path} lines {numbers} share the name {name!r}, so none is valid; delete all but one")
    return {name: entries[0][1] for name, entries in lines.items() if len(entries) == 1}, problems


def read_expiry(text: str) -> dt.datetime:
    """A date, which expires as it begins in UTC, or a time with a time zone, in ISO 8601.

    Raises:
        ConfigError: another form.
    """
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"expiry is {text[:40]!r}, expected a date such as 2027-01-31 ({error})") from error
    if time.tzinfo is None:
        if len(text) > len("2027-01-31"):
            raise ConfigError(f"expiry is {text[:40]!r}, expected a time zone, such as 2027-01-31T12:00Z")
        time = time.replace(tzinfo=dt.UTC)
    return time


def _read_terms(text: str) -> KeyTerms | None:
    """The terms at the end of a line; None if one is unknown, twice or malformed."""
    pairs = [part.split("=", 1) for part in text.split()]
    values = dict(pairs)
    try:
        expires = read_expiry(values.pop("expires")) if "expires" in values else None
        if len(values) + (expires is not None) != len(pairs) or not all(map(_LIMIT.fullmatch, values.values())):
            return None
        return KeyTerms(expires=expires, **{name: int(value) for name, value in values.items()})
    except (ConfigError, TypeError):  # TypeError: an unknown name
        return None


def _text(value: int | dt.datetime) -> str:
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)
