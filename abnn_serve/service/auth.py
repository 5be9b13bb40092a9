"""API keys: a file of names and SHA-256 hashes, reloaded when it changes.

A key is 256 random bits, so an unsalted hash is as hard to invert as the key is to guess.
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


class KeyRing:
    """The keys in a key file: one `NAME sha256:HEX` per line; empty lines and lines that start with # are ignored.

    If the file becomes unreadable or invalid while the service runs, the last valid keys stay in use and a warning is
    logged.

    Raises:
        ConfigError: the file is unreadable or invalid at start-up.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._current_stamp()
        self._digests = _read(path)

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
            self._digests = _read(self._path)
        except ConfigError as error:
            log.warning("%s; the previous keys stay in use", error)
        else:
            log.info("reloaded %d API keys", len(self._digests))

    def _current_stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the API key file {path} ({error}); create it with `abnn key`") from error
    digests = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if not match:
            raise ConfigError(f"{path} line {number} is not `NAME sha256:HEX`; create it with `abnn key`")
        digests[match[1]] = match[2]
    if not digests:
        raise ConfigError(f"the API key file {path} has no key; add one with `abnn key`")
    return digests
