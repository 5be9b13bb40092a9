"""This package's own service at /classify: one PNG a request, probabilities of all classes."""

from __future__ import annotations

import io
import json
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from abnn_serve.card import EndpointProtocol
from abnn_serve.errors import ConfigError
from abnn_serve.evaluation.endpoints.connection import Connection


class ClassifyEndpoint:
    """See `endpoints.endpoint.Endpoint`; the address is that of /classify, perhaps with `?model=NAME`."""

    protocol: EndpointProtocol = "classify"
    per_request = 1

    def __init__(self, address: str, connection: Connection) -> None:
        parts = urlsplit(address)
        path = parts.path.rstrip("/").removesuffix("/classify")
        self.address = urlunsplit((parts.scheme, parts.netloc, f"{path}/classify", parts.query, ""))
        self._connection = connection
        self._url = self.address + ("&" if parts.query else "?") + "top_k=1000"
        described = connection.get(urlunsplit((parts.scheme, parts.netloc, f"{path}/model", parts.query, "")))
        try:
            self.names = tuple(map(str, described["labels"]))
            self.height, self.width = (int(described["input"][side]) for side in ("height", "width"))
            self.identity = json.dumps([self.address, described["digest"], described["precision"]])
        except (KeyError, TypeError, ValueError):
            raise ConfigError(
                f"{address} does not describe its model at /model as abnn_serve does; give the address of another "
                "service as http://HOST/v2/models/NAME, or write a Python callable"
            ) from None

    def close(self) -> None:
        """See `Endpoint`."""
        self._connection.close()

    def ask(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """See `Endpoint`."""
        scores = np.zeros((len(pixels), len(self.names)))
        for row, image in zip(scores, pixels, strict=True):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            response = self._connection.post(self._url, file.getvalue(), {"Content-Type": "image/png"})
            try:
                for place in response.json()["top"]:
                    row[int(place["index"])] = float(place["probability"])
            except (ValueError, KeyError, TypeError, IndexError):
                raise ConfigError(f"{self.address} does not answer as /classify does: {response.text[:80]!r}") from None
        return scores
