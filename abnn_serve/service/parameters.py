"""What the endpoints share: the parameter top_k, and who answers."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request

from abnn_serve.bundle.store import Bundle
from abnn_serve.service.errors import BadRequestError

_MAX_TOP_K = 1000


def read_top_k(request: Request) -> int:
    """How many classes a client wants, 5 if it does not say; BadRequestError for what is no such number."""
    text = request.query_params.get("top_k", "5")
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= _MAX_TOP_K:
        raise BadRequestError(f"top_k is {text[:40]!r}, expected a whole number from 1 to {_MAX_TOP_K}", field="top_k")
    return int(text)


def identity(bundle: Bundle) -> dict[str, Any]:
    """Name, version and digest of a bundle."""
    return {"name": bundle.manifest.name, "version": bundle.manifest.version, "digest": bundle.digest}
