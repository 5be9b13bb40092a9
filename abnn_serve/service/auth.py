"""API keys: who may ask, by the key file, which is read again when it changes."""

from __future__ import annotations

import datetime as dt
import hmac
import logging
import time
from collections.abc import Callable
from pathlib import Path

from starlette.datastructures import Headers

from abnn_serve.errors import ConfigError
from abnn_serve.service.errors import UnauthorizedError
from abnn_serve.service.key_file import KeyEntry, KeyTerms, digest_of, parse_keys, read_text
from abnn_serve.service.key_limits import KeyLimits

log = logging.getLogger("abnn_serve")
SECONDS = 0.1  # between two looks at the file, each of which takes longer than the rest of a check
_NO_TERMS = KeyTerms()


class KeyRing:
    """The keys in a key file: one on each line, see `key_file`; empty lines and those that start with # are ignored.

    A request is checked against what the file held at most SECONDS earlier. A file that is missing, unreadable or
    without keys admits nobody, and neither does an invalid line or a name that appears twice; each is logged as an
    error.

    Args:
        path: the key file.
        clock: seconds of a clock that never goes back.

    Raises:
        ConfigError: at start-up, the file is missing, unreadable, without keys or has an invalid line.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock, self._looked_at = path, clock, clock()
        self._stamp = self._current_stamp()
        self._limits: dict[str, KeyLimits] = {}
        self._entries, problems = parse_keys(path, read_text(path))
        if not self._entries and not problems:
            problems = [_no_key(path)]
        if problems:
            raise ConfigError(problems[0])

    def check(self, headers: Headers) -> str:
        """Return the name of the key in `Authorization: Bearer KEY` or `X-API-Key: KEY`.

        Raises:
            UnauthorizedError: the key is missing, unknown or expired.
        """
        self._reload_if_changed()
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        key = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest, match = digest_of(key), None
        for name, entry in self._entries.items():  # compare with every key, so that timing reveals nothing
            if hmac.compare_digest(digest, entry.digest):
                match = name
        if match is None:
            problem = "unknown API key" if key else "missing API key"
            raise UnauthorizedError(f"{problem}; send Authorization: Bearer KEY", field="authorization")
        expires = self._entries[match].terms.expires
        if expires and dt.datetime.now(dt.UTC) >= expires:
            raise UnauthorizedError(
                f"the API key expired at {expires.isoformat()}; ask for a new one", field="authorization"
            )
        return match

    def limits(self, name: str) -> KeyLimits | None:
        """The limits of a key that `check` returned, with what it has used; None for a key without limits."""
        if (limits := self._limits.get(name)) is not None:
            return limits
        entry = self._entries.get(name)
        if entry is None or not (entry.terms.requests or entry.terms.megabytes):
            return None
        limits = self._limits[name] = KeyLimits(entry.terms)
        return limits

    def terms(self, name: str) -> KeyTerms:
        """The terms of a key that `check` returned."""
        return self._entries[name].terms if name in self._entries else _NO_TERMS

    def _reload_if_changed(self) -> None:
        if (now := self._clock()) - self._looked_at < SECONDS:
            return
        self._looked_at, stamp = now, self._current_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        entries: dict[str, KeyEntry] = {}
        try:
            entries, problems = parse_keys(self._path, read_text(self._path))
        except ConfigError as error:
            problems = [str(error)]
        self._entries = entries
        self._limits = {
            name: limits
            for name, limits in self._limits.items()
            if name in entries and limits.terms == entries[name].terms
        }
        if not entries:
            problems.append(f"{_no_key(self._path)}; every request that needs a key is refused")
        for problem in problems[:10]:
            log.error(problem)
        log.info("reloaded the API keys: %d are valid", len(entries))

    def _current_stamp(self) -> tuple[int, ...] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


def _no_key(path: Path) -> str:
    return f"the API key file {path} has no key; add one with `abnn key`"
