"""What commands that need torch say where it is not installed."""

from __future__ import annotations

import importlib.util

from abnn_serve.errors import ConfigError


def require_lab() -> None:
    """ConfigError unless the extra `lab` is installed."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigError("this command needs torch; install it with: pip install 'abnn_serve[lab]'")
