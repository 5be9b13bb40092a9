"""The demo page at /; it loads nothing from other hosts."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

_FOLDER = Path(__file__).parents[1] / "page"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def index(_: Request) -> Response:
    """The HTML page, with a content security policy that allows only this host."""
    headers = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
    return FileResponse(_FOLDER / "index.html", headers=headers)


def routes() -> list[BaseRoute]:
    """Routes of the page and its files."""
    return [Route("/", index, methods=["GET"]), Mount("/page", StaticFiles(directory=_FOLDER), name="page")]
