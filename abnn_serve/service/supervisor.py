"""BentoML's supervisor: no control port, and a warning where the service listens without API keys.

BentoML runs circus, which takes commands without authentication on TCP ports of the loopback address: any local user,
and any container of the pod, could run programs as the server's user. Nothing here needs those ports.
"""

from __future__ import annotations

import logging
import secrets
import tempfile
from collections.abc import Iterable
from functools import wraps
from pathlib import Path
from typing import Any

from abnn_serve.service.compatibility import incompatible
from abnn_serve.service.hosts import is_local
from abnn_serve.service.settings import ServiceSettings

log = logging.getLogger("abnn_serve")


def guard_supervisor(limits: ServiceSettings) -> None:
    """Close the control port of the supervisor that this process may become, and warn of listening without keys.

    With `bentoml serve --reload` the port becomes a socket in a folder that only the server's user can open.

    Raises:
        ConfigError: the installed BentoML is not compatible.
    """
    try:
        from bentoml._internal.utils.circus import Arbiter
    except ImportError as error:
        raise incompatible("bentoml", f"its supervisor is not where it was: {error}") from error
    original = Arbiter.__init__
    if getattr(original, "__wrapped__", None):
        return

    @wraps(original)
    def guarded(self: Any, watchers: Any, *arguments: Any, **options: Any) -> None:
        if arguments or not {"endpoint", "pubsub_endpoint"} <= options.keys():
            raise incompatible("bentoml", "it starts its supervisor with other arguments")
        folder = tempfile.TemporaryDirectory(prefix="abnn-") if options.get("plugins") else None
        address = f"ipc://{Path(folder.name)}/" if folder else f"inproc://{secrets.token_hex(8)}-"
        options |= {"endpoint": f"{address}control", "pubsub_endpoint": f"{address}events"}
        original(self, watchers, **options)
        if folder:
            self.exit_stack.callback(folder.cleanup)
        if warning := exposure_warning([str(socket.host) for socket in options.get("sockets") or ()], limits):
            log.warning(warning)

    Arbiter.__init__ = guarded


def exposure_warning(hosts: Iterable[str], limits: ServiceSettings) -> str | None:
    """One line if a host is not a loopback address and no API key is required, else None."""
    exposed = [host for host in hosts if not is_local(host)]
    if not exposed or limits.api_key_file:
        return None
    return (
        f"listening on {exposed[0]} without API keys: everybody who reaches this address can send requests; set "
        "ABNN_API_KEY_FILE to a file written by `abnn key`, or listen on 127.0.0.1"
    )
