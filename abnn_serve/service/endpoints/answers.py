"""What an answer tells: the threshold that a request sets, and answers that are cut down to their label."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request

from abnn_serve.service.errors import BadRequestError

LABEL_ONLY = "label_only"
_NUMBER = r"[-+]?[0-9]{1,20}(\.[0-9]{1,20})?([eE][-+]?[0-9]{1,3})?"


def read_abstain_below(request: Request) -> float | None:
    """Read `abstain_below` from the query; None if it is missing.

    Raises:
        BadRequestError: not a number from 0 to 1.
    """
    text = request.query_params.get("abstain_below")
    if text is None:
        return None
    if not re.fullmatch(_NUMBER, text) or not 0 <= float(text) <= 1:
        raise BadRequestError(
            f"abstain_below is {text[:40]!r}, expected a number from 0 to 1, such as 0.6", field="abstain_below"
        )
    return float(text)


def complete(row: dict[str, Any], further: dict[str, Any]) -> dict[str, Any]:
    """An answer as JSON with the keys of `conclude`, or the label alone where these say so."""
    if further.get(LABEL_ONLY):
        return {"label": row["label"], "index": row["index"], LABEL_ONLY: True}
    return {**row, **further}
