"""API keys: a file of names and SHA-256 hashes, reloaded when it changes.

A key is 256 random bits, so an unsalted hash is as hard to invert as the key is to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
from pathlib import Path

from starlette.datastructures import Headers

from abnn_serve.errors import ConfigError
from abnn_serve.service.errors import UnauthorizedError

log = logging.getLogger("abnn_serve")

_LINE = re.compile(r"([A-Za-z0-9._-]{1,64}) sha256:([0-9a-f]{64})")
_MAX_BYTES = 200_000  # about 2,000 keys, read in two milliseconds


def new_key(name: str) -> tuple[str, str]:
    """Generate a key.

    Returns:
        The key, to hand to its user, and the line to add to the key file.

    Raises:
        ConfigError: `name` is not a valid key name.
    """
    key = f"abnn_{secrets.token_urlsafe(32)}"
    line = f"{name} sha256:{_digest(key)}"
    if not _LINE.fullmatch(line):
        raise ConfigError(f"key name is {name!r}, expected at most 64 letters, digits, '.', '_' or '-'")
    return key, line


def append_key(path: Path, name: str) -> str:
    """Generate a key, append its hash to the key file, and return the key.

    A new file is readable by its owner only. An existing file is appended to in place, so that a container that mounts
    it sees the new line; a missing final newline is added.

    Raises:
        ConfigError: `name` is not a valid key name or already has a key, or a line of the file is invalid.
    """
    key, line = new_key(name)
    text = _read_text(path) if path.exists() else ""
    digests, problems = _parse(path, text)
    if problems:
        raise ConfigError(problems[0])
    if name in digests:
        raise ConfigError(f"{path} already has a key named {name!r}; delete its line first, or choose another name")
    newline = "" if not text or text.endswith("\n") else "\n"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a") as file:
        file.write(f"{newline}{line}\n")
    return key


class KeyRing:
    """The keys in a key file: one `NAME sha256:HEX` per line; empty lines and lines that start with # are ignored.

    A request is checked against what the file holds at that time. A file that is missing, unreadable or without keys
    admits nobody, and neither does an invalid line or a name that appears twice; each is logged as an error.

    Raises:
        ConfigError: at start-up, the file is missing, unreadable, without keys or has an invalid line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._current_stamp()
        self._digests, problems = _parse(path, _read_text(path))
        if not self._digests and not problems:
            problems = [_no_key(path)]
        if problems:
            raise ConfigError(problems[0])

    def check(self, headers: Headers) -> str:
        """Return the name of the key in `Authorization: Bearer KEY` or `X-API-Key: KEY`.

        Raises:
            UnauthorizedError: the key is missing or unknown.
        """
        self._reload_if_changed()
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        key = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest, match = _digest(key), None
        for name, known_digest in self._digests.items():  # compare with every key, so that timing reveals nothing
            if hmac.compare_digest(digest, known_digest):
                match = name
        if match is None:
            problem = "unknown API key" if key else "missing API key"
            raise UnauthorizedError(f"{problem}; send Authorization: Bearer KEY", field="authorization")
        return match

    def _reload_if_changed(self) -> None:
        stamp = self._current_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._digests, problems = _parse(self._path, _read_text(self._path))
        except ConfigError as error:
            self._digests, problems = {}, [str(error)]
        if not self._digests:
            problems.append(f"{_no_key(self._path)}; every request that needs a key is refused")
        for problem in problems[:10]:
            log.error(problem)
        log.info("reloaded the API keys: %d are valid", len(self._digests))

    def _current_stamp(self) -> tuple[int, ...] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _no_key(path: Path) -> str:
    return f"the API key file {path} has no key; add one with `abnn key`"


def _read_text(path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise ConfigError(f"the API key file {path} is not a regular file of at most {_MAX_BYTES:,} bytes")
        return path.read_text()
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the API key file {path} ({error}); create it with `abnn key`") from error


def _parse(path: Path, text: str) -> tuple[dict[str, str], list[str]]:
    """Digest by name, and one message for each line that admits nobody."""
    lines: dict[str, list[tuple[int, str]]] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if match := _LINE.fullmatch(line.strip()):
            lines.setdefault(match[1], []).append((number, match[2]))
        else:
            problems.append(f"{path} line {number} is not `NAME sha256:HEX`; correct or delete it")
    for name, entries in lines.items():
        if len(entries) > 1:
            numbers = ", ".join(str(number) for number, _ in entries)
            problems.append(f"{path} lines {numbers} share the name {name!r}, so none is valid; delete all but one")
    return {name: entries[0][1] for name, entries in lines.items() if len(entries) == 1}, problems
