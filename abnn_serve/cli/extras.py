"""A check that the packages needed for training and export are installed."""

from __future__ import annotations

import importlib.util

from abnn_serve.errors import ConfigError


def require_lab() -> None:
    """Raise ConfigError if this copy of abnn_serve has no `lab`, as in a bento, or if the extra `lab` is missing."""
    if importlib.util.find_spec("abnn_serve.lab") is None:
        raise ConfigError(
            "this copy of abnn_serve cannot train, evaluate or export; install one that can: "
            "pip install 'abnn_serve[lab]'"
        )
    for package in ("torch", "torchvision", "timm", "onnx", "onnxscript", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"this command needs {package}; install it with: pip install 'abnn_serve[lab]'")
