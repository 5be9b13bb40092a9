"""The HTTP service: `bentoml serve abnn_serve.service:AbnnService`; BentoML is imported when the class is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abnn_serve.service.bento import AbnnService

__all__ = ["AbnnService"]


def __getattr__(name: str) -> Any:
    if name != "AbnnService":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from abnn_serve.service.bento import AbnnService

    return AbnnService
