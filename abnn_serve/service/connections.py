"""Connection limits that uvicorn lacks: makes uvicorn use the protocol class of `protocol.py`.

BentoML's workers take no uvicorn options, so `guard_connections` replaces the protocol class that uvicorn looks up. It
relies on uvicorn's internals: `compatibility.py` has the allowed versions, the tests run the oldest and the newest of
them, and `check_uvicorn` fails at start-up if those internals have changed.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http import auto as uvicorn_auto
from uvicorn.server import ServerState

from abnn_serve.service.compatibility import incompatible
from abnn_serve.service.peers import Peers
from abnn_serve.service.protocol import ATTRIBUTES, HOOKS, GuardedProtocol
from abnn_serve.service.settings import ServiceSettings
from abnn_serve.service.worker import WorkerState


def guard_connections(limits: ServiceSettings, state: WorkerState) -> None:
    """Make uvicorn use the guarded protocol in this process.

    Raises:
        ConfigError: the installed uvicorn is not compatible.
    """
    check_uvicorn()
    options = {"limits": limits, "peers": Peers(limits), "service": state}
    protocol = type("GuardedProtocol", (GuardedProtocol, _looked_up_protocol()), options)
    uvicorn_auto.AutoHTTPProtocol = protocol
    if _looked_up_protocol() is not protocol:
        raise incompatible("uvicorn", "it does not look up uvicorn.protocols.http.auto.AutoHTTPProtocol")


def check_uvicorn() -> None:
    """Check that uvicorn looks up a protocol class with every hook and attribute that the guard uses.

    Raises:
        ConfigError: it does not.
    """
    protocol: Any = _looked_up_protocol()
    if not issubclass(protocol, getattr(uvicorn_auto, "HttpToolsProtocol", ())):
        raise incompatible(
            "uvicorn", f"it looks up {protocol.__name__} instead of HttpToolsProtocol, which needs httptools"
        )
    if missing := [name for name in HOOKS if not callable(getattr(protocol, name, None))]:
        raise incompatible("uvicorn", f"its HttpToolsProtocol has no method {missing[0]}")
    loop = asyncio.new_event_loop()
    try:
        instance = protocol(config=_config(), server_state=ServerState(), app_state={}, _loop=loop)
    except TypeError as error:
        raise incompatible("uvicorn", f"its HttpToolsProtocol takes other arguments: {error}") from error
    finally:
        loop.close()
    if missing := [name for name in ATTRIBUTES if not hasattr(instance, name)]:
        raise incompatible("uvicorn", f"its HttpToolsProtocol has no attribute {missing[0]}")


def _looked_up_protocol() -> type[asyncio.Protocol]:
    return _config().http_protocol_class


def _config() -> uvicorn.Config:
    config = uvicorn.Config(_no_app, log_config=None)
    config.load()
    return config


async def _no_app(_scope: object, _receive: object, _send: object) -> None:
    """Stands for the application, which the check never calls."""
