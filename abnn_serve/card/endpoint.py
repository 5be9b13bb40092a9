"""The service that was asked, for a model behind an endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EndpointProtocol = Literal["v2", "classify", "callable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointUse:
    """A service that was evaluated by queries, and what it was asked.

    Attributes:
        address: of the service, without keys, or `module:function`.
        protocol: `v2`, `classify` or `callable`.
        scores: what it answers: `logits`, `probabilities` or `labels`.
        repeats: answers to each image of which the mean was taken.
        queries: images that were sent.
        requests: HTTP requests, or calls.
        answers: requests by HTTP status, `timeout` or `no connection`.
        waited: seconds that it asked to wait, in all.
    """

    address: str
    protocol: EndpointProtocol
    scores: Literal["logits", "probabilities", "labels"]
    repeats: int
    queries: int
    requests: int
    answers: dict[str, int]
    waited: float
