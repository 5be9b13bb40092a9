"""What commands that need torch say where it is not installed."""

from __future__ import annotations

import importlib.util

from abnn_serve.errors import ConfigError


def require_lab() -> None:
    """ConfigError unless the extra `lab` is installed, and the package is whole: a bento leaves training out."""
    if importlib.util.find_spec("abnn_serve.lab") is None:
        raise ConfigError("this copy of abnn_serve cannot train, evaluate or export; install abnn_serve[lab]")
    for package in ("torch", "torchvision", "timm", "onnx", "onnxscript", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"this command needs {package}; install it with: pip install 'abnn_serve[lab]'")
