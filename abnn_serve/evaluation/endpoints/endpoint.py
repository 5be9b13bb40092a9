"""The interface of an endpoint, whichever protocol it speaks."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from abnn_serve.card import EndpointProtocol


class Endpoint(Protocol):
    """Something that classifies images.

    Attributes:
        protocol, address: as on the card; without keys.
        names: class names; empty if it does not tell.
        height, width: of its images in pixels.
        per_request: images that `ask` takes, at most.
        identity: tells models apart.
    """

    protocol: EndpointProtocol
    address: str
    names: tuple[str, ...]
    height: int
    width: int
    per_request: int
    identity: str

    def ask(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """uint8 (n, H, W, 3) to scores, float (n, classes), or labels, int (n,)."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...
