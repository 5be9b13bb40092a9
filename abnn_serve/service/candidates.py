"""Candidates: a bundle that runs beside a served model (shadow), or answers a share of its requests (canary)."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from abnn_serve.errors import ConfigError

Role = Literal["shadow", "canary"]
Arm = Literal["stable", "canary"]  # which of the two models answers a request
_SHARE = r"0(\.\d+)?|1(\.0+)?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A bundle that may replace a served model.

    Attributes:
        role: what it does.
        name: name of the served model.
        source: the candidate's bundle, a path or `bento:TAG`.
        share: of a canary, the share of the callers that it answers, 0 to 1.
    """

    role: Role
    name: str
    source: str
    share: float = 1.0

    @property
    def variable(self) -> str:
        """The environment variable that names it."""
        return f"ABNN_{self.role.upper()}"

    def text(self, source: str) -> str:
        """The value of its variable, with another source."""
        return f"{self.name}:{source}" + (f":{self.share:.12f}" if self.role == "canary" else "")

    def takes(self, caller: str) -> bool:
        """Whether a canary answers this caller: the same callers always, whichever worker or replica is asked."""
        return _point(self.name, caller) < self.share * 2**64


@lru_cache(maxsize=1024)
def _point(name: str, caller: str) -> int:
    """A point from 0 to 2**64 - 1 for each caller of a model."""
    digest = hashlib.sha256(f"{name}\0{caller}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def read_share(name: str, text: str) -> float:
    """Read a share from a variable.

    Raises:
        ConfigError: not a number from 0 to 1.
    """
    if not re.fullmatch(_SHARE, text):
        raise ConfigError(f"{name} is {text!r}, expected a number from 0 to 1")
    return float(text)


def read_shadow(text: str) -> Candidate:
    """Read ABNN_SHADOW, `NAME:BUNDLE`.

    Raises:
        ConfigError: another form.
    """
    name, _, source = text.partition(":")
    if not name or not source:
        raise ConfigError(f"ABNN_SHADOW is {text!r}, expected NAME:BUNDLE, such as cifar10-abnn:models/new")
    return Candidate(role="shadow", name=name, source=source)


def read_canary(text: str) -> Candidate:
    """Read ABNN_CANARY, `NAME:BUNDLE:SHARE`.

    Raises:
        ConfigError: another form.
    """
    name, _, rest = text.partition(":")
    source, _, share = rest.rpartition(":")
    if not name or not source or not re.fullmatch(_SHARE, share):
        raise ConfigError(
            f"ABNN_CANARY is {text!r}, expected NAME:BUNDLE:SHARE with a share from 0 to 1, such as "
            "cifar10-abnn:models/new:0.05"
        )
    return Candidate(role="canary", name=name, source=source, share=float(share))
