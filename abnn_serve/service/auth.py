"""API keys: a file of names and SHA-256 hashes, read again when it changes.

Keys are 256 random bits, so one hash without salt is as hard to invert as the key is to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from pathlib import Path

from starlette.datastructures import Headers

from abnn_serve.errors import ConfigError
from abnn_serve.service.errors import UnauthorizedError

log = logging.getLogger("abnn_serve")

_LINE = re.compile(r"([A-Za-z0-9._-]{1,64}) sha256:([0-9a-f]{64})")


def new_key(name: str) -> tuple[str, str]:
    """A key, to be given to whoever will use it, and the line of the key file that lets it in."""
    key = f"abnn_{secrets.token_urlsafe(32)}"
    line = f"{name} sha256:{_digest(key)}"
    if not _LINE.fullmatch(line):
        raise ConfigError(f"key name is {name!r}, expected at most 64 letters, digits, '.', '_' or '-'")
    return key, line


class KeyRing:
    """The keys in a file. A line is `NAME sha256:HEX`; empty lines and those that begin with # are skipped.

    A file that becomes unreadable or damaged while serving leaves the last good keys in force, and says so in the log.

    Raises:
        ConfigError: the file cannot be read at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._stamp()
        self._keys = _read(path)

    def check(self, headers: Headers) -> str:
        """The name of the key in `Authorization: Bearer KEY` or `X-API-Key: KEY`; UnauthorizedError without one."""
        self._refresh()
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        sent = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest, found = _digest(sent), None
        for name, known in self._keys.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(digest, known):
                found = name
        if found is None:
            problem = "the API key is not known" if sent else "an API key is needed"
            raise UnauthorizedError(f"{problem}; send Authorization: Bearer KEY", field="authorization")
        return found

    def _refresh(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = _read(self._path)
        except ConfigError as error:
            log.warning("%s; the keys read before stay in force", error)
        else:
            log.info("read %d API keys again", len(self._keys))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the API key file {path} cannot be read ({error}); make it with `abnn key`") from error
    keys = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if not found:
            raise ConfigError(f"{path} line {number} is not `NAME sha256:HEX`; make it with `abnn key`")
        keys[found[1]] = found[2]
    if not keys:
        raise ConfigError(f"the API key file {path} has no key; make one with `abnn key`")
    return keys
