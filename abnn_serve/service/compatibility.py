"""Versions of the packages whose internals the service depends on; a test compares them with the requirements."""

from __future__ import annotations

import importlib.metadata

from abnn_serve.errors import ConfigError

VERSIONS = {
    "uvicorn": ">=0.34,<0.55",  # connections.py replaces its protocol class
    "bentoml": ">=1.4.37,<1.5",  # middleware.py replaces its middleware stack, supervisor.py its endpoints
    "starlette": ">=1.5.1,<2",  # app.py and middleware.py assign `Starlette.middleware_stack`
}


def incompatible(package: str, problem: str) -> ConfigError:
    """The error that stops the service where an installed package lacks what the service depends on."""
    installed = importlib.metadata.version(package)
    return ConfigError(
        f"{package} {installed} is not compatible with abnn_serve: {problem}; "
        f"pip install '{package}{VERSIONS[package]}'"
    )
