"""The HTTP service: `bentoml serve abnn_serve.service:AbnnService`."""

from abnn_serve.service.bento import AbnnService

__all__ = ["AbnnService"]
