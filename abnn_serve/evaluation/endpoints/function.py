"""A Python callable that classifies images, such as a client of a service with a protocol of its own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abnn_serve.card import EndpointProtocol
from abnn_serve.errors import ConfigError, one_line
from abnn_serve.evaluation.endpoints.usage import Usage


class CallableEndpoint:
    """See `endpoints.endpoint.Endpoint`.

    The callable takes uint8 (n, H, W, 3) and returns scores, float (n, classes), or labels, int (n,).
    """

    protocol: EndpointProtocol = "callable"
    names: tuple[str, ...] = ()

    def __init__(self, name: str, size: tuple[int, int] | None, per_request: int, usage: Usage) -> None:
        self.address, self.per_request, self._usage = name, per_request, usage
        if size is None:
            raise ConfigError(f"{name} does not say which images it takes; give their size with --size, such as 224")
        self.height, self.width = size
        self._function = _load(name)
        self.identity = name

    def close(self) -> None:
        """See `Endpoint`."""

    def ask(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """See `Endpoint`."""
        try:
            answer = np.asarray(self._function(pixels.copy()))
        except Exception as error:  # a user's code raises anything
            self._usage.answered("error")
            raise ConfigError(f"{self.address} raised {type(error).__name__}: {one_line(error)}") from error
        self._usage.answered("ok")
        return answer


def _load(name: str) -> Callable[[NDArray[np.uint8]], Any]:
    module, _, attribute = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot import {name}: {one_line(error)}") from error
    if not callable(function):
        raise ConfigError(f"{name} is a {type(function).__name__}, expected a function of images")
    return function  # type: ignore[no-any-return]
